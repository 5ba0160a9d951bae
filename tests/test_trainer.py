"""Replicas, sub-batches and population statistics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import reszoo
from ablations.recipes import Recipe, RecipeError, recipe
from ablations.trainer import Trainer

BATCH = 8
RECIPE = Recipe(name="test", batch=BATCH, iterations=4, schedule="constant", learning_rate=0.05)


def spec(**overrides) -> reszoo.ResNetSpec:
    return reszoo.spec("resnet20", depth=8, width=4, classes=3, input_shape=(8, 8, 2), **overrides)


def feed(steps: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(3)
    return [
        (draw.normal(size=(BATCH, 8, 8, 2)).astype(np.float32),
         draw.integers(0, 3, BATCH).astype(np.int32))
        for _ in range(steps)
    ]  # fmt: skip


def test_sub_batches_are_normalised_on_their_own() -> None:
    """Each half of the batch is normalised with its own moments; the first half's are kept."""
    from reszoo.layers import BatchNormalization

    layer = BatchNormalization(momentum=0.0, epsilon=1e-5)
    layer.sub_batch = 4
    x = np.random.default_rng(0).normal(2, 3, (8, 5, 5, 3)).astype(np.float32)
    x[4:] += 7
    y = np.asarray(layer(x, training=True))
    for half in (slice(0, 4), slice(4, 8)):
        part = x[half].astype(np.float64)
        wanted = (part - part.mean((0, 1, 2))) / np.sqrt(part.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(y[half], wanted, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, x[:4].mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, x[:4].var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("batch", [3, 4, 8, 10, 11])
@pytest.mark.parametrize("known", [True, False])
def test_a_short_last_group_is_one_of_its_own(batch: int, known: bool) -> None:
    """Also while the size of the batch is unknown, as in `fit`; gradients included."""
    import tensorflow as tf

    from reszoo.layers import BatchNormalization

    layer = BatchNormalization(momentum=0.0, epsilon=1e-5)
    layer.build((None, 3, 3, 2))
    layer.sub_batch = 4
    x = np.random.default_rng(1).normal(1, 2, (batch, 3, 3, 2)).astype(np.float32)
    weights = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * weights)
        return y, tape.gradient(loss, x)

    shape = [batch if known else None, 3, 3, 2]
    y, gradient = tf.function(run, input_signature=[tf.TensorSpec(shape)])(x)
    reference = keras.layers.BatchNormalization(epsilon=1e-5)
    for start in range(0, batch, 4):
        part = tf.constant(x[start : start + 4])
        with tf.GradientTape() as tape:
            tape.watch(part)
            wanted = reference(part, training=True)
            loss = tf.reduce_sum(wanted * weights[start : start + 4])
        np.testing.assert_allclose(y[start : start + 4], wanted, atol=1e-5)
        np.testing.assert_allclose(
            gradient[start : start + 4], tape.gradient(loss, part), atol=1e-4
        )
    np.testing.assert_allclose(layer.moving_mean, x[:4].mean((0, 1, 2)), rtol=1e-4)


def test_population_statistics_are_the_mean_of_batch_moments() -> None:
    """Of the first normalisation, computed apart: conv output, moments a batch, mean of them."""
    trainer = Trainer(spec(), RECIPE, seed=0)
    batches = [images for images, _ in feed(5)]
    before = {k: v for k, v in trainer.tensors().items() if "moving" not in k}
    assert trainer.population_statistics(batches) == 5
    conv = keras.Model(trainer.model.input, trainer.model.get_layer("stem_conv").output)
    outputs = [np.asarray(conv(x), np.float64) for x in batches]
    norm = trainer.model.get_layer("stem_norm")
    means = np.mean([o.mean((0, 1, 2)) for o in outputs], axis=0)
    variances = np.mean([o.var((0, 1, 2)) for o in outputs], axis=0)
    np.testing.assert_allclose(norm.moving_mean, means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, variances, rtol=1e-4)
    assert norm.momentum == 0.9
    for name, value in trainer.tensors().items():
        if "moving" not in name:
            np.testing.assert_array_equal(value, before[name])


def test_population_statistics_of_one_batch_reproduce_training_mode() -> None:
    """Normalising a batch by its own moments in inference mode gives the training outputs."""
    trainer = Trainer(spec(), RECIPE, seed=0)
    images = feed(1)[0][0]
    training = np.asarray(trainer.model(images, training=True))
    trainer.population_statistics([images])
    np.testing.assert_allclose(trainer.model(images, training=False), training, atol=2e-4)


REPLICAS = f"""
import sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trainer import BATCH, RECIPE, feed, spec
from ablations.trainer import Trainer, make_strategy

case, out = sys.argv[1:]
frozen = case.endswith("frozen")
strategy, recipe = None, RECIPE
if case.startswith("two"):
    strategy = make_strategy("mirrored", 2, gpus=False)
elif case.startswith("one"):
    strategy = make_strategy("mirrored", 1, gpus=False)
elif case == "sub-batch":
    recipe = RECIPE.replace(bn_batch=BATCH // 2)
trainer = Trainer(spec(), recipe, seed=0, strategy=strategy)
if frozen:
    for layer in trainer.model.layers:
        if "norm" in layer.name:
            layer.trainable = False
    trainer._logits.trainable_variables
losses = [float(trainer.step(x, y, 0.05)[0]) for x, y in feed()]
arrays = {{"t/" + k: v for k, v in trainer.tensors().items()}}
if case in ("two", "sub-batch"):
    share = BATCH // trainer.replicas
    half = [x[:4] for x, _ in feed(6)] + [x[4:] for x, _ in feed(6)]
    trainer.population_statistics(half[:-1])  # an odd number of groups on two replicas
    arrays |= {{"p/" + k: v for k, v in trainer.tensors().items()}}
np.savez(out, losses=losses, **arrays)
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Train four steps under each strategy, in processes of their own (devices are fixed once)."""
    folder = tmp_path_factory.mktemp("replicas")
    found = {}
    for case in ("none", "none-frozen", "one", "two", "two-frozen", "sub-batch"):
        out = folder / f"{case}.npz"
        subprocess.run([sys.executable, "-c", REPLICAS, case, str(out)], check=True, timeout=240)
        with np.load(out) as arrays:
            found[case] = {name: arrays[name] for name in arrays.files}
    return found


def same(a: dict, b: dict, rtol: float, skip: str = "\0") -> None:
    assert set(a) == set(b)
    for name, value in a.items():
        if skip not in name:
            scale = max(np.abs(b[name]).max(), 1e-3)
            assert np.abs(value - b[name]).max() <= rtol * scale, name


def test_one_replica_equals_no_strategy(cases) -> None:
    same(cases["one"], cases["none"], 1e-6)


def test_two_replicas_equal_one_without_batch_statistics(cases) -> None:
    same(cases["two-frozen"], cases["none-frozen"], 1e-5)


def test_with_batch_statistics_two_replicas_differ_from_one(cases) -> None:
    """Each replica normalises its own half: the control for the test above."""
    assert abs(cases["two"]["losses"][1:] - cases["none"]["losses"][1:]).max() > 1e-3


def test_sub_batches_equal_two_replicas(cases) -> None:
    """Losses, weights, velocities and moving statistics (replica 0's half), to float tolerance."""
    same(cases["sub-batch"], cases["two"], 2e-5)


def test_moving_statistics_are_replica_zero_s(cases) -> None:
    """First step, first layer, by hand: the moments of the first half of the batch."""
    trainer = Trainer(spec(), RECIPE, seed=0)
    conv = keras.Model(trainer.model.input, trainer.model.get_layer("stem_conv").output)
    first = np.asarray(conv(feed(1)[0][0][:4]), np.float64)
    code = REPLICAS.replace("in feed()]", "in feed(1)]")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/x.npz"
        subprocess.run([sys.executable, "-c", code, "two", out], check=True, timeout=240)
        with np.load(out) as arrays:
            found = arrays["t/stem_norm/moving_mean"]
    np.testing.assert_allclose(found, 0.1 * first.mean((0, 1, 2)), rtol=1e-4, atol=1e-7)


def test_the_xla_step_equals_the_plain_one() -> None:
    """`--strategy none` on GPUs compiles the step; here on the processor."""
    found = []
    for jit in (False, True):
        trainer = Trainer(spec(), RECIPE.replace(l2=1e-3, bn_batch=4), seed=0, jit=jit)
        losses = [float(trainer.step(x, y, 0.05)[0]) for x, y in feed(3)]
        found.append({"losses": np.array(losses), **trainer.tensors()})
    same(found[1], found[0], 2e-5)


def test_a_batch_that_the_replicas_cannot_share_is_refused() -> None:
    with pytest.raises(RecipeError, match="not divisible"):
        RECIPE.replace(batch=9, replicas=2)


def test_compile_for_a_user_s_own_fit() -> None:
    """fit() with the recipe equals the laboratory's own steps on the same batches."""
    protocol = RECIPE.replace(warmup=0.5, l2=1e-3)
    trainer = Trainer(spec(), protocol, seed=0)
    batches = feed()
    for step, (x, y) in enumerate(batches):
        trainer.step(x, y, protocol.rate(step, 4))
    model = protocol.compile(reszoo.build(spec(), seed=0))
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    wanted = trainer.tensors()
    for variable in model.variables:
        np.testing.assert_allclose(variable, wanted[variable.path], rtol=2e-4, atol=2e-5)


def test_fit_with_groups_and_a_short_last_batch() -> None:
    """50,000 images are no multiple of 128: the last batch of an epoch is short."""
    model = RECIPE.replace(bn_batch=4).compile(reszoo.build(spec(), seed=0))
    x, y = (np.concatenate(part) for part in zip(*feed(3), strict=True))
    history = model.fit(x[:21], y[:21], batch_size=BATCH, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


def test_population_statistics_do_not_depend_on_the_order_of_storage() -> None:
    """Data sets are often stored class by class; the groups must be mixed all the same."""
    from ablations.data import Images
    from ablations.stream import PixelSource, shuffled_groups

    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4, dtype=np.int32), 200)  # sorted by class
    images = draw.integers(0, 60, (800, 8, 8, 2)) + 60 * labels[:, None, None, None]
    mean = np.zeros((8, 8, 2), np.float32)
    found = []
    for rows in (np.arange(800), draw.permutation(800)):
        part = Images(images[rows].astype(np.uint8), labels[rows])
        groups = shuffled_groups(PixelSource(part, RECIPE, 0, mean), 16, seed=0)
        found.append(np.mean([group.var() for group in groups]))
    # Groups of one class would have a variance 14 times smaller.
    assert found[0] == pytest.approx(found[1], rel=0.1)


def test_compile_says_what_it_cannot_schedule() -> None:
    model = reszoo.build(spec())
    with pytest.raises(RecipeError, match="images=len"):
        recipe("quick").compile(model)
    with pytest.raises(RecipeError, match="warms up until"):
        recipe("paper-cifar-warmup").compile(model)
    with pytest.raises(RecipeError, match="portable=False"):
        recipe("paper-cifar").compile(reszoo.build(spec(), portable=True))
    recipe("quick").compile(model, images=1000)
    assert model.optimizer.l2 == 0.0
