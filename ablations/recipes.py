"""Training protocols as data.

A recipe says everything about training that is not the network and not the data set. `quick` is
for a laptop; `paper-cifar` and `paper-imagenet` follow He et al. 2015 (sec. 3.4 and 4.2). Where the
paper leaves something open, `OPEN_CHOICES` names the field and the reason for our choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.errors import UserError
from reszoo.errors import unknown

CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": ("cosine", "steps", "constant"),
    "l2_on": ("all", "kernels"),
    "statistics": ("moving", "population"),
    "selection": ("last", "best_validation"),
    "augmentation": ("crop", "scale"),
}


class RecipeError(UserError):
    """A training protocol that is unknown or contradictory. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training protocol.

    Attributes:
        name: what it is called in tables.
        batch: images a step, over all replicas.
        epochs: passes over the training images; or else `iterations`. The stream runs through
            epoch boundaries, so every image is seen `epochs` times and no batch is short.
        iterations: steps; 0 when `epochs` decides.
        learning_rate: the highest learning rate.
        schedule: "cosine" (to zero at the end), "steps" (divided at `drops`) or "constant".
        drops: steps at which the rate is multiplied by `drop_factor`.
        drop_factor: see `drops`.
        warmup: fraction of the steps over which the rate rises linearly to `learning_rate`.
        warmup_rate: rate used until the training error over the last `warmup_window` steps falls
            below `warmup_error` (sec. 4.2 for 110 layers: 0.01 until below 80 %); 0: none.
        warmup_error: in percent; above 100 the warm-up ends after one window.
        warmup_window: in steps.
        momentum: Caffe's form: v := momentum v + rate g; w := w - v. Not Nesterov.
        l2: added to the gradient as l2 * w (coupled decay, the paper's "weight decay").
        l2_on: "all" trainable tensors or only "kernels".
        augmentation: "crop" (zero padding and a crop of the old size, `crop_padding`) or "scale"
            (ImageNet: shorter side drawn from [256, 480], 224x224 crop, PCA colour; sec. 3.4).
        flip: mirror each image with probability 1/2.
        crop_padding: pixels of zeros on each side from which a crop of the old size is drawn.
        replicas: devices that share a batch where there are so many.
        bn_batch: images over which BN takes its statistics, also where one device holds more
            (fewer replicas then compute the same); 0: all images of a device.
        statistics: BN at test time uses "moving" averages or "population" statistics: the mean of
            the per-batch moments over the un-augmented training set, taken after training.
        mean_images: training images that the per-pixel mean is taken over where decoding all would
            cost an epoch (ImageNet); 0: all.
        test_views: 1 (centre) or 10 (corners and centre, mirrored, softmax averaged; sec. 3.4).
        selection: which weights are tested: those of the "last" step, or those of the epoch with
            the lowest error on the images that a split holds out ("best_validation"; of equal ones
            the earliest). Test images never have a say.
    """

    name: str
    batch: int = 128
    epochs: int = 0
    iterations: int = 0
    learning_rate: float = 0.1
    schedule: str = "cosine"
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.1
    warmup: float = 0.0
    warmup_rate: float = 0.0
    warmup_error: float = 80.0
    warmup_window: int = 100
    momentum: float = 0.9
    l2: float = 1e-4
    l2_on: str = "all"
    augmentation: str = "crop"
    flip: bool = True
    crop_padding: int = 0
    replicas: int = 1
    bn_batch: int = 0
    statistics: str = "moving"
    mean_images: int = 0
    test_views: int = 1
    selection: str = "last"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise RecipeError(unknown(f"recipe.{name}", getattr(self, name), allowed))
        object.__setattr__(self, "drops", tuple(self.drops))
        if (self.epochs > 0) == (self.iterations > 0):
            raise RecipeError(
                f"recipe {self.name}: give epochs or iterations (a positive number), one of the two"
            )
        for name in ("batch", "replicas", "warmup_window"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"recipe.{name} takes a positive integer, not {getattr(self, name)}"
                )
        if self.batch % self.replicas:
            raise RecipeError(
                f"recipe.batch {self.batch} is not divisible by recipe.replicas {self.replicas}"
            )
        if self.bn_batch and (self.batch // self.replicas) % self.bn_batch:
            raise RecipeError(
                f"recipe.bn_batch {self.bn_batch} does not divide the "
                f"{self.batch // self.replicas} images of a replica"
            )
        if self.test_views not in (1, 10):
            raise RecipeError(f"recipe.test_views is 1 or 10, not {self.test_views}")
        ranges = {
            "learning_rate": (0, 1e38),
            "momentum": (0, 1),
            "l2": (0, 1e38),
            "warmup": (0, 1),
            "drop_factor": (0, 1),
            "warmup_rate": (0, 1e38),
            "warmup_error": (0, 1000),
            "crop_padding": (0, 64),
            "bn_batch": (0, self.batch),
            "mean_images": (0, 1 << 40),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise RecipeError(
                    f"recipe.{name} takes a number from {low} to {high}, not {getattr(self, name)}"
                )
        if not all(a < b for a, b in itertools.pairwise((0, *self.drops))):
            raise RecipeError(f"recipe.drops takes rising steps above 0, not {list(self.drops)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            f.name: list(value) if isinstance(value := getattr(self, f.name), tuple) else value
            for f in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` described."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise RecipeError(unknown("recipe field", name, known))
        return cls(**values)

    def replace(self, **overrides: Any) -> Recipe:
        """Return a copy with fields replaced; `epochs` and `iterations` exclude each other."""
        if overrides.get("epochs"):
            overrides.setdefault("iterations", 0)
        if overrides.get("iterations"):
            overrides.setdefault("epochs", 0)
        return Recipe.from_dict({**self.to_dict(), **overrides})

    def steps(self, images: int) -> int:
        """Return the number of steps on a training set of `images` images."""
        return self.iterations or -(-self.epochs * images // self.batch)

    def compile(self, model: Any, images: int = 0) -> Any:
        """Compile a Keras model for `fit` with this recipe's optimizer, schedule and loss.

        Args:
            model: ends in softmax or in logits (its last layer's activation decides).
            images: of the training set; needed where the schedule follows from `epochs`.

        Returns:
            The model.

        Raises:
            RecipeError: the schedule cannot be known before training.
        """
        from ablations.optimizers import compile_model

        return compile_model(self, model, images)

    def rate(self, step: int, steps: int, warm: bool = True) -> float:
        """Return the learning rate of a step.

        Args:
            step: 0 for the first.
            steps: how many there are in all.
            warm: False while the error-triggered warm-up lasts.
        """
        if self.warmup_rate and not warm:
            return self.warmup_rate
        rise = self.warmup * steps
        if step < rise:
            return self.learning_rate * (step + 1) / (math.floor(rise) + 1)
        if self.schedule == "cosine":
            done = (step - rise) / max(1.0, steps - rise)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * self.drop_factor ** sum(step >= drop for drop in self.drops)


#: Where the paper leaves a choice open: field -> what we chose and why.
OPEN_CHOICES = {
    "l2_on": "the paper decays 'weights' and does not name BN's gamma and beta; FAIR's code, whose "
    "authors read it so, decays all",
    "drops": "ImageNet: 'divided by 10 when the error plateaus', up to 60e4 iterations; a rule "
    "that looks at the error would give the arms different schedules, so the drops are fixed where "
    "1603.05027, by the same authors, has them (30 and 60 epochs = 150k and 300k steps), and once "
    "more at 450k",
    "mean_images": "how the ImageNet mean was taken is not said; 10,000 images give it to about "
    "0.3 grey levels, a full pass would cost as much as an epoch",
    "warmup_rate": "sec. 4.2 names it for 110 layers; 1202 are 'trained as described above', which "
    "leaves it open: none",
    "statistics": "the authors' released networks average BN moments over training data after "
    "training instead of moving averages; the paper presets do so",
    "warmup_window": "'until the training error is below 80 % (about 400 iterations)' names no "
    "window; 100 steps of 128 images measure it to about 0.4 points",
}

_PAPER_CIFAR = Recipe(
    name="paper-cifar",
    batch=128,
    iterations=64_000,
    learning_rate=0.1,
    schedule="steps",
    drops=(32_000, 48_000),
    l2=1e-4,
    flip=True,
    crop_padding=4,
    replicas=2,
    bn_batch=64,
    statistics="population",
)

RECIPES: dict[str, Recipe] = {
    "quick": Recipe(name="quick", epochs=3, schedule="cosine", warmup=0.1, l2=0.0),
    "paper-cifar": _PAPER_CIFAR,
    # Sec. 4.2, for 110 layers.
    "paper-cifar-warmup": _PAPER_CIFAR.replace(name="paper-cifar-warmup", warmup_rate=0.01),
    # Sec. 3.4.
    "paper-imagenet": Recipe(
        name="paper-imagenet",
        batch=256,
        iterations=600_000,
        learning_rate=0.1,
        schedule="steps",
        drops=(150_000, 300_000, 450_000),
        l2=1e-4,
        augmentation="scale",
        flip=True,
        replicas=8,
        bn_batch=32,
        statistics="population",
        mean_images=10_000,
        test_views=10,
    ),
}


_WEIGHTS = {
    "last": "those of the last step",
    "best_validation": "those of the epoch with the lowest validation error",
}


def weights_sentence(selections: Sequence[str], held_out: int) -> str:
    """Return the sentence of a table's caption that says which weights were tested.

    Args:
        selections: the recipes' `selection`, of each arm or once.
        held_out: images of the validation part; 0: there is none.
    """
    kinds = list(dict.fromkeys(selections))
    if len(kinds) > 1:
        weights = "; ".join(f"{kind}: {_WEIGHTS[kind]}" for kind in kinds)
    else:
        weights = _WEIGHTS[kinds[0]]
    if not held_out:
        return f"Weights: {weights}; nothing was chosen on test data."
    part = f"{held_out:,} images held out of the training set, the same for all cells"
    if kinds == ["last"]:
        return (
            f"Weights: {weights}; nothing was chosen on test data. Curves: validation error "
            f"({part}); the test set was evaluated once."
        )
    return f"Weights: {weights} ({part}); the test set was evaluated once."


def differences(
    mine: Recipe, paper: Recipe, data: str, replicas: int, images: int, held_out: int = 0
) -> list[str]:
    """Return what separates a training run from the paper's protocol, in sentences.

    Args:
        mine: the recipe that was used.
        paper: the paper's for such a network, "paper-cifar" or "paper-imagenet".
        data: name of the data set.
        replicas: devices that shared a batch.
        images: of the training set, without those held out.
        held_out: of the validation part.
    """
    lines = []
    wanted = "imagenet" if paper.name == "paper-imagenet" else "cifar10"
    if data != wanted:
        lines.append(
            f"data set {data} instead of {'ImageNet' if wanted == 'imagenet' else 'CIFAR-10'}"
        )
    if held_out:
        lines.append(
            f"{held_out:,} of {images + held_out:,} training images held out for validation; the "
            "paper's networks train on all"
        )
    steps = mine.steps(images)
    if (steps, mine.batch) != (paper.iterations, paper.batch):
        passes = steps * mine.batch / images
        lines.append(
            f"{steps:,} steps of {mine.batch} images ({passes:.3g} passes) instead of "
            f"{paper.iterations:,} of {paper.batch}"
        )
    if _unlike(mine, paper, "schedule", "drops", "drop_factor", "learning_rate", "warmup"):
        lines.append(f"learning rate {_schedule(mine)} instead of {_schedule(paper)}")
    elif mine.drops and mine.drops[0] >= steps:
        lines.append(f"it ends before the learning rate's first drop at step {mine.drops[0]:,}")
    if _unlike(mine, paper, "warmup_rate") or (
        mine.warmup_rate and _unlike(mine, paper, "warmup_error", "warmup_window")
    ):
        lines.append(f"{_warm_up(mine)} instead of {_warm_up(paper)}")
    for name, text in (
        ("momentum", "momentum {0:g} instead of {1:g}"),
        ("l2", "weight decay {0:g} instead of {1:g}"),
        ("l2_on", "weight decay on {0} instead of {1}"),
        ("augmentation", "augmentation {0} instead of {1}"),
        ("flip", "mirroring {0} instead of {1}"),
        ("crop_padding", "crops from {0} pixels of padding instead of {1}"),
        ("mean_images", "pixel mean over {0:,} training images instead of {1:,} (0: all)"),
        ("test_views", "test views: {0} instead of {1}"),
        ("selection", "selection of the weights {0} instead of {1}"),
    ):
        # How an image is cut and its mean taken follows from the data set, which is named.
        if _unlike(mine, paper, name) and (data == wanted or name not in _OF_THE_DATA):
            lines.append(text.format(getattr(mine, name), getattr(paper, name)))
    seen = mine.bn_batch or mine.batch // replicas
    if seen != paper.bn_batch:
        lines.append(f"BN sees {seen} images at once instead of {paper.bn_batch}")
    if mine.statistics != paper.statistics:
        lines.append("BN at test time by moving averages instead of population statistics")
    return lines


_OF_THE_DATA = ("augmentation", "mean_images")


def _unlike(mine: Recipe, paper: Recipe, *names: str) -> bool:
    return any(getattr(mine, name) != getattr(paper, name) for name in names)


def _warm_up(recipe: Recipe) -> str:
    if not recipe.warmup_rate:
        return "no warm-up"
    until = f"until the error of {recipe.warmup_window} steps is below {recipe.warmup_error:g} %"
    if recipe.warmup_error > 100:
        until = f"for {recipe.warmup_window} steps"
    return f"warm-up at {recipe.warmup_rate:g} {until}"


def _schedule(recipe: Recipe) -> str:
    start = f"{recipe.learning_rate:g}"
    warm = f" after a linear warm-up over {100 * recipe.warmup:.0f} %" if recipe.warmup else ""
    if recipe.schedule == "cosine":
        return f"{start}, cosine to 0{warm}"
    if recipe.schedule == "steps":
        drops = " and ".join(f"{drop:,}" for drop in recipe.drops)
        return f"{start} times {recipe.drop_factor:g} at steps {drops}{warm}"
    return f"{start}, constant{warm}"


def recipe(name: str, **overrides: Any) -> Recipe:
    """Return a recipe by name, with fields replaced.

    Raises:
        RecipeError: the name or a field is unknown, or the values contradict each other.
    """
    if name not in RECIPES:
        raise RecipeError(unknown("recipe", name, RECIPES))
    return RECIPES[name].replace(**overrides)
