"""Ten training steps against an independent float64 NumPy implementation, and five sabotages."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_reference import he_normal_std, train

import reszoo
from ablations.recipes import Recipe
from ablations.trainer import Trainer
from reszoo.layers import BatchNormalization

STEPS, BATCH, WIDTH = 10, 8, 6
L2 = 5e-3  # large, so that ten steps show how it is applied
TOLERANCE = 1e-4
# The warm-up (4 of 10 steps) ends inside; then the rate is dropped once, inside too.
RECIPE = Recipe(
    name="test", batch=BATCH, iterations=STEPS, learning_rate=0.05, schedule="steps", drops=(7,),
    warmup=0.4, momentum=0.9, l2=L2,
)  # fmt: skip
#: By hand from the recipe: four rising steps of at most 0.05 in fifths, then 0.05, then 0.005.
RATES = [0.01, 0.02, 0.03, 0.04, 0.05, 0.05, 0.05, 0.005, 0.005, 0.005]


def spec(shortcut: str, **overrides) -> reszoo.ResNetSpec:
    return reszoo.spec(
        "resnet20", depth=8, width=WIDTH, shortcut=shortcut, classes=5, input_shape=(12, 12, 3),
        **overrides,
    )  # fmt: skip


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(11)
    return [
        (draw.normal(size=(BATCH, 12, 12, 3)).astype(np.float32),
         draw.integers(0, 5, BATCH).astype(np.int32))
        for _ in range(STEPS)
    ]  # fmt: skip


def deviations(trainer: Trainer, shortcut: str) -> dict[str, float]:
    """Train both for ten steps; return tensor -> largest relative deviation."""
    initial = {k: v.astype(np.float64) for k, v in trainer.tensors().items() if "optim" not in k}
    found: dict[str, float] = {}
    for name, value in initial.items():
        if name.endswith("kernel"):
            # Widths double at stages 2 and 3: there fan-in and fan-out differ by a factor of two.
            ratio = value.std() / he_normal_std(value.shape)
            found[f"std of {name}"] = 0.0 if abs(ratio - 1) < 4 / np.sqrt(value.size) else 1.0
    feed = batches()
    losses = []
    for (images, labels), step in zip(feed, range(STEPS), strict=True):
        rate = trainer.recipe.rate(step, STEPS)
        losses.append(float(trainer.step(images, labels, rate)[0]) / BATCH)
    wanted = train(
        initial, [(x.astype(np.float64), y) for x, y in feed], RATES, blocks=1, shortcut=shortcut,
        momentum=0.9, l2=L2, bn_momentum=0.9, epsilon=1e-5,
    )  # fmt: skip
    mine = trainer.tensors()

    def relative(a, b) -> float:
        return float(np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), 1e-3))

    found["losses"] = relative(losses, np.array(wanted.losses))
    for name, value in wanted.params.items():
        found[name] = relative(mine[name], value)
    for name, value in wanted.velocities.items():
        # Keras keeps the velocity with the other sign: m := momentum m - rate g; w := w + m.
        slot = mine["optimizer/" + name.replace("/", "_") + "_momentum"]
        found[f"velocity of {name}"] = relative(-slot, value)
    assert set(wanted.params) == {k for k in mine if not k.startswith("optimizer/")}
    return found


@pytest.mark.parametrize("shortcut", ["A", "B", "none", "C"])
def test_ten_steps_equal_the_reference(shortcut: str) -> None:
    assert [RECIPE.rate(step, STEPS) for step in range(STEPS)] == pytest.approx(RATES)
    found = deviations(Trainer(spec(shortcut), RECIPE, seed=0), shortcut)
    assert max(found.values()) < TOLERANCE, max(found, key=found.get)
    assert len(found) > 60


def worst(trainer: Trainer) -> float:
    return max(deviations(trainer, "B").values())


def test_doubled_decay_is_noticed() -> None:
    assert worst(Trainer(spec("B"), RECIPE.replace(l2=2 * L2), seed=0)) > 10 * TOLERANCE


def test_decoupled_decay_is_noticed() -> None:
    """Keras' weight_decay shrinks the weights too, only not through the momentum."""
    norms = {}
    for decay in (None, L2):
        trainer = Trainer(spec("B"), RECIPE.replace(l2=0.0), seed=0)
        trainer.optimizer.weight_decay = decay
        assert worst(trainer) > 10 * TOLERANCE
        norms[decay] = np.linalg.norm(trainer.tensors()["stem_conv/kernel"])
    assert norms[L2] < norms[None] * (1 - 1e-4)  # it did decay


def test_nesterov_is_noticed() -> None:
    trainer = Trainer(spec("B"), RECIPE, seed=0)
    trainer.optimizer.nesterov = True
    assert worst(trainer) > 10 * TOLERANCE


def test_fan_out_initialisation_is_noticed() -> None:
    trainer = Trainer(spec("B", initializer="he_normal_fan_out"), RECIPE, seed=0)
    assert worst(trainer) > 10 * TOLERANCE


def test_unbiased_moving_variance_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(BatchNormalization, "_variance_factor", staticmethod(lambda count: 1.0))
    assert worst(Trainer(spec("B"), RECIPE, seed=0)) > 10 * TOLERANCE


def test_fan_in_and_fan_out_differ_enough_to_be_told_apart() -> None:
    """The check on the initial values accepts 4 standard errors; fan-out is 41 % off."""
    kernel = np.asarray(reszoo.build(spec("B"), seed=0).get_layer("stage3_block1_conv1").kernel)
    assert 4 / np.sqrt(kernel.size) < np.sqrt(2) - 1


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("channels", [3, 12])
def test_narrow_projections_have_the_right_gradient(channels: int, data_format: str) -> None:
    """oneDNN's own filter gradient writes beyond its buffer here, on any number of threads."""
    import keras
    import tensorflow as tf

    last = data_format == "channels_last"
    shape = (56, 56, 3) if last else (3, 56, 56)
    net = reszoo.build(
        "resnet20", depth=8, width=channels, shortcut="B", input_shape=shape,
        data_format=data_format,
    )  # fmt: skip
    (layer,) = [
        one for one in net.layers
        if isinstance(one, keras.layers.Conv2D) and one.kernel.shape[:3] == (1, 1, channels)
    ]  # fmt: skip
    draw = np.random.default_rng(channels)
    x = draw.normal(size=(8, 56, 56, channels)).astype(np.float32)
    sensitivity = draw.normal(size=(8, 28, 28, 2 * channels)).astype(np.float32)
    maps = [np.ascontiguousarray(v if last else v.transpose(0, 3, 1, 2)) for v in (x, sensitivity)]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(maps[0]) * maps[1])
    gradient = tape.gradient(total, layer.kernel)
    expected = np.einsum("nijc,nijd->cd", x[:, ::2, ::2], sensitivity, dtype=np.float64)
    np.testing.assert_allclose(gradient[0, 0], expected, rtol=0, atol=1e-3)
