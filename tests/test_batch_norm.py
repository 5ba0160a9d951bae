"""The fused batch normalisation against keras.layers.BatchNormalization (float32)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from reszoo.layers import BatchNormalization

SHAPES = [(7, 5, 3, 6), (1, 8, 8, 4), (13, 1, 1, 5), (128, 4, 4, 3), (2, 1, 1, 1)]


def pair(channels: int, **arguments):
    ours = BatchNormalization(epsilon=1e-5, momentum=0.9, **arguments)
    theirs = keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, **arguments)
    draw = np.random.default_rng(channels)
    for layer in (ours, theirs):
        layer.build((None, None, None, channels))
    values = [0.5 + draw.random(w.shape) for w in ours.weights]
    ours.set_weights(values)
    theirs.set_weights(values)
    return ours, theirs


def close(a, b) -> None:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1e-30)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("graph", [False, True])
def test_training(shape, graph) -> None:
    ours, theirs = pair(shape[-1])
    draw = np.random.default_rng(0)
    x = tf.constant(draw.normal(0.3, 1.7, shape), tf.float32)
    upstream = tf.constant(draw.normal(size=shape), tf.float32)

    def run(layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * upstream)
        return y, tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])

    function = (lambda layer: tf.function(run)(layer)) if graph else run
    (y, gradients), (y2, gradients2) = function(ours), function(theirs)
    close(y, y2)
    scale = np.abs(gradients2[0]).max()
    # With one or two values a channel the gradient in x cancels to rounding noise in both.
    if shape[0] * shape[1] * shape[2] > 2:
        assert np.abs(gradients[0] - gradients2[0]).max() <= 1e-5 * scale
    close(gradients[1], gradients2[1])
    close(gradients[2], gradients2[2])
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        close(mine, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference(shape) -> None:
    ours, theirs = pair(shape[-1])
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    before = [np.asarray(w) for w in ours.weights]
    close(ours(x), theirs(x))
    for weight, value in zip(ours.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_one_value_a_channel_gives_beta() -> None:
    """The batch is its own mean. (Stock Keras' form loses 5 digits here to cancellation.)"""
    layer, _ = pair(3)
    x = np.full((1, 1, 1, 3), 7.3, np.float32)
    np.testing.assert_array_equal(np.ravel(layer(x, training=True)), layer.beta)
    assert np.all(np.isfinite(layer.moving_variance))


def test_moving_variance_is_biased() -> None:
    """Keras averages the biased variance; the kernel returns n/(n-1) times it."""
    layer = BatchNormalization(epsilon=1e-5, momentum=0.0)
    x = np.random.default_rng(0).normal(size=(5, 1, 1, 2)).astype(np.float32)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_variance, x.var((0, 1, 2), ddof=0), rtol=1e-5)


def test_frozen_layer_infers_and_does_not_move() -> None:
    ours, theirs = pair(3)
    ours.trainable = theirs.trainable = False
    x = np.random.default_rng(2).normal(size=(4, 3, 3, 3)).astype(np.float32)
    before = [np.asarray(w) for w in ours.weights]
    close(ours(x, training=True), theirs(x, training=True))
    for weight, value in zip(ours.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_other_ranks_and_no_scale_fall_back() -> None:
    x = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    ours, theirs = BatchNormalization(), keras.layers.BatchNormalization()
    close(ours(x, training=True), theirs(x, training=True))
    bare, bare2 = pair(4, scale=False, center=False)
    y = np.random.default_rng(4).normal(size=(3, 2, 2, 4)).astype(np.float32)
    close(bare(y, training=True), bare2(y, training=True))


def test_it_is_what_build_uses() -> None:
    import reszoo

    model = reszoo.build("resnet20")
    norms = [x for x in model.layers if "norm" in x.name]
    assert len(norms) == 19 and {type(x) for x in norms} == {BatchNormalization}
    concrete = tf.function(lambda x: model(x, training=True)).get_concrete_function(
        tf.TensorSpec((4, 32, 32, 3))
    )
    kinds = {op.type for op in concrete.graph.get_operations()}
    assert "FusedBatchNormV3" in kinds
