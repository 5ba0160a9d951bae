"""Recipes against the paper's protocol, and their validation."""

from __future__ import annotations

import json

import pytest

from ablations import recipe
from ablations.recipes import OPEN_CHOICES, RECIPES, Recipe, RecipeError, differences


def test_paper_cifar() -> None:
    """Sec. 4.2: batch 128 on two GPUs, 64k iterations, 0.1 divided by 10 at 32k and 48k."""
    paper = recipe("paper-cifar")
    assert (paper.batch, paper.replicas, paper.momentum, paper.l2) == (128, 2, 0.9, 1e-4)
    assert (paper.crop_padding, paper.flip) == (4, True)
    assert paper.steps(50_000) == 64_000
    rates = [paper.rate(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_warm_up_for_110_layers() -> None:
    """Sec. 4.2: 0.01 until the training error is below 80 %, then 0.1."""
    warm = recipe("paper-cifar-warmup")
    assert warm.warmup_error == 80
    assert warm.rate(0, 64_000, warm=False) == 0.01
    assert warm.rate(0, 64_000, warm=True) == 0.1


def test_quick_covers_every_image_in_each_pass() -> None:
    quick = recipe("quick")
    assert quick.steps(10_000) * quick.batch >= 3 * 10_000
    steps = quick.steps(10_000)
    rates = [quick.rate(step, steps) for step in range(steps)]
    assert max(rates) == pytest.approx(0.1, rel=1e-3) and rates[-1] < 1e-4
    assert rates.index(max(rates)) in range(int(0.09 * steps), int(0.11 * steps) + 1)


def test_round_trip_and_replace() -> None:
    for one in RECIPES.values():
        assert Recipe.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert recipe("paper-cifar", epochs=2).iterations == 0
    assert recipe("quick", iterations=7).steps(10_000) == 7


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 1, "iterations": 5}, "one of the two"),
        ({}, "one of the two"),
        ({"epochs": 1, "schedule": "cosin"}, 'did you mean "cosine"'),
        ({"epochs": 1, "batch": 0}, "recipe.batch takes a positive"),
        ({"epochs": 1, "batch": 9, "replicas": 2}, "not divisible"),
        ({"epochs": 1, "bn_batch": 60}, "does not divide"),
        ({"epochs": 1, "momentum": 1.5}, "recipe.momentum takes a number from 0 to 1"),
        ({"epochs": 1, "l2": float("nan")}, "recipe.l2"),
        ({"epochs": 1, "learning_rate": float("inf")}, "recipe.learning_rate takes a number from"),
        ({"epochs": 1, "bn_batch": -8}, "recipe.bn_batch takes a number from 0"),
        ({"epochs": 1, "mean_images": -1}, "recipe.mean_images takes a number from 0"),
        ({"epochs": 1, "schedule": "steps", "drops": (9, 5)}, "recipe.drops takes rising steps"),
        ({"epochs": 1, "schedule": "steps", "drops": (-5,)}, "recipe.drops takes rising steps"),
    ],
)
def test_bad_recipes(values: dict, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(name="test", **values)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(RecipeError, match='unknown recipe "quik"; did you mean "quick"'):
        recipe("quik")
    with pytest.raises(RecipeError, match='unknown recipe field "momentm"; did you mean'):
        Recipe.from_dict({"name": "x", "epochs": 1, "momentm": 0.5})


def test_every_open_choice_is_a_field() -> None:
    assert set(OPEN_CHOICES) <= set(Recipe.__dataclass_fields__)


def test_the_paper_s_own_protocol_has_no_differences() -> None:
    for name, data, images in (
        ("paper-cifar", "cifar10", 50_000), ("paper-imagenet", "imagenet", 1_281_167),
    ):  # fmt: skip
        paper = recipe(name)
        # Fewer devices, with BN over groups of the paper's size, are the same mathematics.
        assert differences(paper, paper, data, 1, images) == []


def test_differences_are_derived_from_what_was_used() -> None:
    paper = recipe("paper-cifar")
    quick = "\n".join(differences(recipe("quick"), paper, "fashion", 1, 10_000))
    for words in (
        "data set fashion instead of CIFAR-10", "235 steps of 128 images (3.01 passes)",
        "cosine", "weight decay 0 instead of 0.0001", "BN sees 128 images at once instead of 64",
        "moving averages", "crops from 0 pixels of padding instead of 4",
    ):  # fmt: skip
        assert words in quick
    decayed = "\n".join(differences(recipe("quick", l2=1e-4), paper, "fashion", 2, 10_000))
    assert "weight decay" not in decayed and "BN sees" not in decayed
    short = differences(recipe("paper-cifar", epochs=5), paper, "cifar10", 2, 50_000)
    assert any("5 passes" in line for line in short)
    assert any("before the learning rate's first drop" in line for line in short)


#: What a run may do otherwise than the paper without a difference being listed, and why.
UNLISTED = {
    "name": "no setting",
    "epochs": "listed as steps",
    "replicas": "the caption says how many shared a batch, and bn_batch what follows",
    "warmup_error": "means nothing without a warm-up",
    "warmup_window": "means nothing without a warm-up",
}
OTHERWISE = {
    "batch": 256, "iterations": 1000, "learning_rate": 0.2, "schedule": "cosine",
    "drops": (1, 2), "drop_factor": 0.2, "warmup": 0.5, "warmup_rate": 0.01, "momentum": 0.8,
    "l2": 1e-3, "l2_on": "kernels", "augmentation": "scale", "flip": False, "crop_padding": 3,
    "bn_batch": 32, "statistics": "moving", "mean_images": 5, "test_views": 10,
    "selection": "best_validation",
}  # fmt: skip


def test_every_field_that_is_changed_is_a_difference() -> None:
    paper = recipe("paper-cifar")
    assert differences(paper, paper, "cifar10", 2, 50_000) == []
    fields = paper.to_dict().keys()
    assert fields == UNLISTED.keys() | OTHERWISE.keys()
    for name, value in OTHERWISE.items():
        lines = differences(paper.replace(**{name: value}), paper, "cifar10", 2, 50_000)
        assert len(lines) == (2 if name == "iterations" else 1), name  # fewer: before the drops
    warm = recipe("paper-cifar-warmup")
    for change in ({"warmup_error": 70.0}, {"warmup_window": 400}):
        assert len(differences(warm.replace(**change), warm, "cifar10", 2, 50_000)) == 1
    # Four times the batch over as many steps is four times the data.
    (line,) = differences(paper.replace(batch=512), paper, "cifar10", 2, 50_000)
    assert line.startswith("64,000 steps of 512 images")
