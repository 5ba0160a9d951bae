"""Mixed precision, data formats and XLA on TensorFlow: equal outputs, equal after reloading."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from families import FAMILIES, close, images, tiny

import reszoo
from reszoo.layers import BatchNormalization

MODES = {
    "float32": {},
    "float16": {"dtype": "mixed_float16"},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "channels_first": {"data_format": "channels_first"},
}
ALL = [(family, mode) for family in FAMILIES for mode in MODES]
#: Each family in one of the modes; the others are slow.
QUICK = [pair for number, pair in enumerate(ALL) if number % 4 == number // 4 % 4]
SLOW = [pair for pair in ALL if pair not in QUICK]


def reloads(family: str, mode: str, tmp_path) -> None:
    model = tiny(family, **MODES[mode])
    x = images(model)
    expected = model(x)
    assert expected.dtype == "float32" and np.isfinite(expected).all()
    path = tmp_path / "model.keras"
    model.save(path)
    again = reszoo.load(path)
    assert again.spec == model.spec and dict(again.meta) == dict(model.meta)
    assert again.dtype_policy == model.dtype_policy  # it decides about loss scaling
    assert [layer.compute_dtype for layer in again.layers] == [
        layer.compute_dtype for layer in model.layers
    ]
    np.testing.assert_array_equal(again(x), expected)


@pytest.mark.parametrize(("family", "mode"), QUICK)
def test_a_saved_model_reloads_the_same(family: str, mode: str, tmp_path) -> None:
    reloads(family, mode, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mode"), SLOW)
def test_a_saved_model_reloads_the_same_in_the_other_modes(
    family: str, mode: str, tmp_path
) -> None:
    reloads(family, mode, tmp_path)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.slow if number % 2 else ())
        for number, family in enumerate(FAMILIES)
    ],
)
def test_channels_first_computes_the_same(family: str) -> None:
    last, first = tiny(family), tiny(family, data_format="channels_first")
    first.set_weights(last.get_weights())
    x = images(last)
    close(first(np.moveaxis(x, 3, 1)), last(x))


def gradients(model: keras.Model, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the outputs in training and the gradients of a sum that weights every output."""
    with tf.GradientTape() as tape:
        y = model(x, training=True)
        loss = tf.reduce_sum(
            y * np.arange(1, 1 + y.numpy().size, dtype=np.float32).reshape(y.shape)
        )
    grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return np.asarray(y), [np.asarray(g) for g in grads]


@pytest.mark.parametrize("family", ["option A averaged", "keras v2", "rs", "blur", "bit"])
def test_channels_first_trains_the_same(family: str) -> None:
    logits = {"classifier_activation": None}
    last, first = tiny(family, **logits), tiny(family, data_format="channels_first", **logits)
    x = images(last, 3)
    ours, theirs = gradients(first, np.moveaxis(x, 3, 1)), gradients(last, x)
    close(ours[0], theirs[0])
    largest = max(np.abs(g).max() for g in theirs[1])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert np.abs(mine - other).max() <= 1e-4 * max(np.abs(other).max(), 1e-2 * largest)
    for mine, other in zip(first.variables, last.variables, strict=True):
        if mine.name.startswith("moving"):
            close(mine, other)


def slow(*values: str | bool) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("grouped", "float32"),
        ("blur", "channels_first"),
        slow("bit", "float32"),
        slow("bit", "channels_first"),
        slow("eca", "channels_first"),
        slow("dilated", "float32"),
    ],
)
def test_xla_computes_the_same(family: str, mode: str) -> None:
    model = tiny(family, **MODES[mode])
    x = images(model)
    outputs = []
    for jit in (False, True):
        model.compile(jit_compile=jit)
        outputs.append(model.predict(x, verbose=0))
    close(outputs[1], outputs[0])
    assert not np.array_equal(outputs[0], np.zeros_like(outputs[0]))


@pytest.mark.parametrize(
    ("mode", "jit"),
    [
        ("float16", False),
        slow("float16", True),
        ("bfloat16", False),
        slow("bfloat16", True),
        ("channels_first", False),
        slow("channels_first", True),
    ],
)
def test_a_step_of_fit(mode: str, jit: bool) -> None:
    """float16 trains through loss scaling, which Keras adds; every weight moves and is finite."""
    model = tiny("option A", **MODES[mode])
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", jit_compile=jit)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (mode == "float16")
    assert model.dtype_policy.name == MODES[mode].get("dtype", "float32")
    if scaled:
        model.optimizer.initial_scale = 1024.0  # the default, 2^15, may skip the first steps
    losses = model.fit(images(model, 8), np.arange(8) % 5, batch_size=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    for variable, old in zip(model.variables, before, strict=True):
        new = np.asarray(variable)
        assert np.isfinite(new).all() and not np.array_equal(new, old), variable.path


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_the_classifier_ends_in_float32(dtype: str, activation: str | None) -> None:
    model = tiny("basic", dtype=dtype, classifier_activation=activation)
    y = model(images(model))
    assert y.dtype == "float32" and model.layers[-1].compute_dtype == "float32"
    if activation == "softmax":  # probabilities in bfloat16 would miss 1 by up to 4e-3
        np.testing.assert_allclose(np.sum(y, 1), 1, rtol=1e-6)


def test_a_global_policy_is_taken() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny("basic")
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert model(images(model)).dtype == "float32"


CHANNELS_FIRST = """
import reszoo
try:
    model = reszoo.build("resnet20", depth=8, width=4, data_format="channels_first")
except reszoo.SpecError as error:
    print("refused", error)
else:
    print("built", model.input_shape)
"""


def test_channels_first_on_processors_needs_onednn() -> None:
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    shown = subprocess.run(
        [sys.executable, "-c", CHANNELS_FIRST], env=environment, cwd=ROOT, check=True,
        capture_output=True, text=True, timeout=200,
    ).stdout.strip()  # fmt: skip
    assert shown.startswith("refused data_format channels_first")
    assert "TF_ENABLE_ONEDNN_OPTS=1" in shown and "\n" not in shown


def norms(axis: int, dtype: str, **arguments) -> list[keras.layers.Layer]:
    """Return the fused layer over `axis`, and the stock one over the last axis, alike."""
    made = [
        BatchNormalization(axis=axis, dtype=dtype, **arguments),
        keras.layers.BatchNormalization(dtype="float32", **arguments),
    ]
    made[0].build((None, 6, None, None) if axis == 1 else (None, None, None, 6))
    made[1].build((None, None, None, 6))
    draw = np.random.default_rng(3)
    values = [draw.uniform(0.5, 1.5, w.shape) for w in made[0].weights]
    for layer in made:
        layer.set_weights(values)
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-5), ("mixed_float16", 4e-3), ("mixed_bfloat16", 3e-2)],
)
@pytest.mark.parametrize("axis", [1, 3, -1])
def test_fused_norm_in_every_format(
    axis: int, dtype: str, tolerance: float, training: bool
) -> None:
    """Against the stock layer in float32 and channels_last: outputs, gradients and statistics."""
    ours, theirs = norms(axis, dtype)
    x = np.random.default_rng(0).normal(0.5, 2, (4, 5, 7, 6)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    results = []
    for layer, turned in ((ours, axis == 1), (theirs, False)):
        image = tf.constant(np.moveaxis(x, 3, 1) if turned else x)
        with tf.GradientTape() as tape:
            tape.watch(image)
            y = layer(image, training=training)
            y32 = tf.cast(tf.transpose(y, (0, 2, 3, 1)) if turned else y, "float32")
            loss = tf.reduce_sum(y32 * weight)
        grads = tape.gradient(loss, [image, layer.gamma.value, layer.beta.value])
        grads[0] = np.moveaxis(grads[0], 1, 3) if turned else grads[0]
        results.append([y32, *grads])
        assert y.dtype == layer.compute_dtype
    close(*results, tolerance)
    for name in ("moving_mean", "moving_variance"):
        close(getattr(ours, name), getattr(theirs, name), tolerance)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("axis", [1, 3])
def test_sub_batches_in_both_formats(axis: int, known: bool) -> None:
    """Groups of 4, 4 and 2 images are normalised alone; the first enters the statistics."""
    ours, theirs = norms(axis, "float32")
    ours.sub_batch = 4
    x = np.random.default_rng(0).normal(0.5, 2, (10, 5, 7, 6)).astype(np.float32)
    expected, statistics = [], None
    for start in range(0, 10, 4):
        expected.append(np.asarray(theirs(x[start : start + 4], training=True)))
        statistics = statistics or [np.asarray(w) for w in theirs.non_trainable_weights]
    turned = np.moveaxis(x, 3, 1) if axis == 1 else x
    shape = (10 if known else None, *turned.shape[1:])
    run = tf.function(lambda z: ours(z, training=True), input_signature=[tf.TensorSpec(shape)])
    y = np.asarray(run(turned))
    close(np.moveaxis(y, 1, 3) if axis == 1 else y, np.concatenate(expected))
    for mine, other in zip(ours.non_trainable_weights, statistics, strict=True):
        close(mine, other)
