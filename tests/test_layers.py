"""Convolution and pooling layers against torch, numpy formulas and their own other routes."""

from __future__ import annotations

import os
import subprocess
import sys
from math import comb

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from reszoo.layers import capabilities, convolution
from reszoo.layers.convolution import Conv2D
from reszoo.layers.pooling import BlurPool2D, MaxPool2D
from reszoo.layers.shortcuts import SubsamplePad

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[parity]'")
functional = torch.nn.functional

FORMATS = ("channels_last", "channels_first")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def to_keras(x: np.ndarray, data_format: str) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if data_format == "channels_last" else x


def to_torch(y, data_format: str) -> np.ndarray:
    y = np.asarray(y, np.float32)
    return y.transpose(0, 3, 1, 2) if data_format == "channels_last" else y


def made(x: np.ndarray, weights: list[np.ndarray], *args, **kwargs) -> Conv2D:
    layer = Conv2D(*args, **kwargs)
    layer.build(x.shape)
    layer.set_weights(weights)
    return layer


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the layer believe that nothing but plain channels_last convolutions works."""
    monkeypatch.setattr(
        convolution,
        "convolution_works",
        lambda device, dtype, data_format, grouped, dilated: (
            data_format == "channels_last" and not (grouped or dilated)
        ),
    )


@pytest.mark.parametrize("route", ["native", "substitute"])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_convolution_and_gradients_equal_torch(
    route, data_format, groups, stride, dilation, monkeypatch
):
    if route == "substitute":
        refuse(monkeypatch)
    for size, kernel, padding in [
        (9, 3, 1),
        (10, 3, 1),
        (9, 3, 0),
        (8, 3, 2),
        (9, 1, 0),
        (11, 5, 4),
    ]:
        # 12 filters on rows of 12 pixels: Keras' own bias goes wrong there in channels_first.
        x, w, b = draw(2, 8, size, 12), draw(kernel, kernel, 8 // groups, 12), draw(12)
        layer = made(
            to_keras(x, data_format), [w, b], 12, kernel, strides=stride, groups=groups,
            dilation_rate=dilation, explicit_padding=padding, data_format=data_format,
        )  # fmt: skip
        image = tf.constant(to_keras(x, data_format))
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs = layer(image)
            loss = tf.reduce_sum(outputs**2)
        theirs = [torch.tensor(a, requires_grad=True) for a in (x, w.transpose(3, 2, 0, 1), b)]
        expected = functional.conv2d(*theirs, stride, padding, dilation, groups)
        (expected**2).sum().backward()
        assert tuple(outputs.shape) == layer.compute_output_shape(image.shape)
        assert to_torch(outputs, data_format) == pytest.approx(expected.detach().numpy(), abs=1e-4)
        got = tape.gradient(loss, [image, *layer.trainable_variables])
        got = [to_torch(got[0], data_format), got[1].numpy().transpose(3, 2, 0, 1), got[2].numpy()]
        for ours, leaf in zip(got, theirs, strict=True):
            scale = float(leaf.grad.abs().max())
            assert np.abs(ours - leaf.grad.numpy()).max() < 1e-5 * scale


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_routes_agree_on_paddings_of_keras(padding, dilation, monkeypatch):
    x, w = draw(2, 9, 10, 8), draw(4, 3, 2, 12)  # an even kernel: "same" is asymmetric
    options = {"padding": padding, "groups": 4, "dilation_rate": dilation, "use_bias": False}
    layer = made(x, [w], 12, (4, 3), **options)
    native = layer(x).numpy()
    refuse(monkeypatch)
    assert layer(x).numpy() == pytest.approx(native, abs=1e-5)
    one = made(x[..., :2], [w[..., :3]], 3, (4, 3), **{**options, "groups": 1})
    stock = keras.layers.Conv2D(3, (4, 3), padding=padding, dilation_rate=dilation, use_bias=False)
    stock.build(x[..., :2].shape)
    stock.set_weights([w[..., :3]])
    assert one(x[..., :2]).numpy() == pytest.approx(stock(x[..., :2]).numpy(), abs=1e-5)
    assert native[..., :3] == pytest.approx(stock(x[..., :2]).numpy(), abs=1e-5)


def test_route_of_graphics_cards(monkeypatch):
    """The explicit padding that is used there runs on processors too, without groups."""
    monkeypatch.setattr(convolution, "device_kind", lambda: "GPU")
    monkeypatch.setattr(convolution, "convolution_works", lambda *_: True)
    seen = []
    inner = tf.nn.conv2d
    monkeypatch.setattr(tf.nn, "conv2d", lambda *a, **k: seen.append(a[3]) or inner(*a, **k))
    x, w = draw(2, 4, 8, 9), draw(3, 3, 4, 6)
    layer = made(to_keras(x, FORMATS[0]), [w], 6, 3, strides=2, explicit_padding=1, use_bias=False)
    outputs = layer(to_keras(x, FORMATS[0]))
    expected = functional.conv2d(
        torch.tensor(x), torch.tensor(w.transpose(3, 2, 0, 1)), stride=2, padding=1
    )
    assert seen == [[[0, 0], [1, 1], [1, 1], [0, 0]]]
    assert to_torch(outputs, FORMATS[0]) == pytest.approx(expected.numpy(), abs=1e-4)


def test_weights_are_those_of_the_stock_layer():
    stock, ours = (
        kind(12, 3, groups=4, name="c") for kind in (keras.layers.Conv2D, Conv2D)
    )  # fmt: skip
    for layer in (stock, ours):
        layer.build((None, 8, 8, 8))
    assert [(v.path, v.shape) for v in ours.weights] == [(v.path, v.shape) for v in stock.weights]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("jit", [False, True])
def test_standardised_kernel_follows_the_formula(policy, jit):
    x, w = draw(2, 6, 6, 8), 1000 + draw(3, 3, 4, 12)
    layer = made(
        x, [w], 12, 3, explicit_padding=1, groups=2, standardize=0.5, use_bias=False, dtype=policy
    )
    assert layer.kernel.dtype == "float32"
    outputs = tf.function(layer, jit_compile=jit)(tf.constant(x))
    assert outputs.dtype == layer.compute_dtype
    w = w.astype(np.float64)
    w = (w - w.mean((0, 1, 2))) / np.sqrt(w.var((0, 1, 2)) + 0.5)
    expected = functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)).double(),
        torch.tensor(w.transpose(3, 2, 0, 1)), padding=1, groups=2,
    )  # fmt: skip
    # Around 1000, a kernel that passed through 8 or 11 bits would lose all of its values.
    error = np.abs(to_torch(outputs, FORMATS[0]) - expected.numpy()).max()
    assert error < {"float32": 1e-2, "mixed_bfloat16": 0.2, "mixed_float16": 0.03}[policy]
    assert layer.get_weights()[0] == pytest.approx(1000 + draw(3, 3, 4, 12))


@pytest.mark.parametrize(
    "kernel, stride, padding, ceil",
    [(3, 2, 1, False), (3, 2, 0, True), (3, 2, 1, True), (2, 2, 0, True), (3, 1, 1, False)],
)
@pytest.mark.parametrize("data_format", FORMATS)
def test_max_pool_equals_torch(kernel, stride, padding, ceil, data_format):  # fmt: skip
    for height, width in [(7, 8), (9, 10), (8, 11)]:
        x = draw(2, 3, height, width) - 5  # padding by zeros would win
        layer = MaxPool2D(kernel, stride, padding, ceil, data_format=data_format)
        image = tf.constant(to_keras(x, data_format))
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs = layer(image)
            loss = tf.reduce_sum(outputs**2)
        theirs = torch.tensor(x, requires_grad=True)
        expected = functional.max_pool2d(theirs, kernel, stride, padding, ceil_mode=ceil)
        (expected**2).sum().backward()
        assert tuple(outputs.shape) == layer.compute_output_shape(image.shape)
        assert np.array_equal(to_torch(outputs, data_format), expected.detach().numpy())
        gradient = to_torch(tape.gradient(loss, image), data_format)
        assert gradient == pytest.approx(theirs.grad.numpy(), rel=1e-5)


@pytest.mark.parametrize("filters, stride", [(3, 2), (3, 1), (4, 2), (5, 2)])
@pytest.mark.parametrize("data_format", FORMATS)
def test_blur_pool_equals_torch(filters, stride, data_format):
    taps = np.array([comb(filters - 1, k) for k in range(filters)]) / 2 ** (filters - 1)
    kernel = torch.tensor(np.outer(taps, taps).astype(np.float32)).expand(4, 1, filters, filters)
    for height, width in [(8, 9), (11, 10)]:
        x = draw(2, 4, height, width)
        layer = BlurPool2D(filters, stride, data_format=data_format)
        outputs = layer(to_keras(x, data_format))
        pad = (stride - 1 + filters - 1) // 2
        padded = functional.pad(torch.tensor(x), [pad] * 4, mode="reflect")
        expected = functional.conv2d(padded, kernel, stride=stride, groups=4).numpy()
        assert tuple(outputs.shape) == layer.compute_output_shape(to_keras(x, data_format).shape)
        assert to_torch(outputs, data_format) == pytest.approx(expected, abs=1e-6)


def test_blur_pool_says_that_a_map_is_too_small():
    layer = BlurPool2D(name="smooth", data_format="channels_last")
    assert layer(np.zeros((1, 2, 2, 1), np.float32)).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError, match=r"[Pp]adding size"):  # torch reflects no such map either
        functional.pad(torch.zeros(1, 1, 1, 2), [1] * 4, mode="reflect")
    with pytest.raises(ValueError) as error:
        layer(np.zeros((1, 1, 2, 1), np.float32))
    assert "smooth: maps of 1x2 have too few pixels to reflect: at least 2x2" in str(error.value)


@pytest.mark.parametrize("data_format", FORMATS)
def test_stock_average_pools_equal_torch(data_format):
    """Halving shortcuts need no layer of our own; zeros are counted where the stride is 1."""
    stock = keras.layers.AveragePooling2D(2, 2, "same", data_format=data_format)
    pad = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), data_format=data_format)
    dilated = keras.layers.AveragePooling2D(2, 1, data_format=data_format)
    for height, width in [(8, 9), (7, 6)]:
        x = draw(2, 3, height, width)
        image, theirs = to_keras(x, data_format), torch.tensor(x)
        halved = functional.avg_pool2d(theirs, 2, 2, ceil_mode=True, count_include_pad=False)
        assert to_torch(stock(image), data_format) == pytest.approx(halved.numpy(), abs=1e-6)
        kept = functional.avg_pool2d(functional.pad(theirs, [0, 1, 0, 1]), 2, 1)
        assert to_torch(dilated(pad(image)), data_format) == pytest.approx(kept.numpy(), abs=1e-6)


@pytest.mark.parametrize("size", [3, 5])
def test_stock_layers_convolve_along_channels(size):
    """Efficient channel attention (1910.03151) is a Conv1D on channels taken for positions."""
    x, w = draw(4, 1, 1, 16), draw(size, 1, 1)
    inputs = keras.Input((1, 1, 16))
    y = keras.layers.Reshape((16, 1))(inputs)
    layer = keras.layers.Conv1D(
        1, size, padding="same", use_bias=False, data_format="channels_last"
    )
    model = keras.Model(inputs, keras.layers.Reshape((1, 1, 16))(layer(y)))
    layer.set_weights([w])
    expected = functional.conv1d(
        torch.tensor(x[:, 0]), torch.tensor(w.transpose(2, 1, 0)), padding=size // 2
    )
    assert np.asarray(model(x))[:, 0] == pytest.approx(expected.numpy(), abs=1e-6)


def network(data_format: str, size: int | None = 16, **kwargs) -> keras.Model:
    shape = (size, size, 4) if data_format == "channels_last" else (4, size, size)
    inputs = keras.Input(shape)
    common = {"data_format": data_format, **kwargs}
    x = Conv2D(8, 3, strides=2, explicit_padding=1, standardize=1e-8, **common)(inputs)
    x = MaxPool2D(3, 2, 1, **common)(x)
    x = Conv2D(8, 3, explicit_padding=2, groups=4, dilation_rate=2, **common)(x)
    x = BlurPool2D(**common)(x)
    x = keras.layers.GlobalAveragePooling2D(data_format=data_format)(x)
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(x))


@pytest.mark.parametrize("data_format, policy, jit", [
    ("channels_last", "float32", False), ("channels_first", "float32", False),
    ("channels_last", "mixed_bfloat16", False), ("channels_first", "mixed_float16", False),
    ("channels_last", "mixed_float16", True), ("channels_first", "float32", True),
])  # fmt: skip
def test_trains_saves_and_loads(data_format, policy, jit, tmp_path):
    keras.utils.set_random_seed(0)
    model = network(data_format, dtype=policy)
    assert {v.dtype for v in model.weights} == {"float32"}
    x = to_keras(draw(6, 4, 16, 16), data_format)
    y = np.arange(6) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit)
    losses = [float(model.train_on_batch(x, y)) for _ in range(12)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded(x), model(x))
    for ours, theirs in zip(model.layers, loaded.layers, strict=True):
        if type(ours) in (Conv2D, MaxPool2D, BlurPool2D):
            assert type(theirs) is type(ours)
            assert theirs.get_config() == ours.get_config()


def test_unknown_sizes_give_the_same_values():
    keras.utils.set_random_seed(0)
    fixed = network("channels_last")
    free = network("channels_last", size=None)
    free.set_weights(fixed.get_weights())
    x = to_keras(draw(2, 4, 16, 16), "channels_last")
    assert free.predict(x, verbose=0) == pytest.approx(fixed.predict(x, verbose=0), abs=1e-5)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("stride", [1, 2])
def test_subsampling_with_zero_channels_equals_torch(stride, data_format):
    x = draw(2, 3, 7, 8)
    image, pooled = to_keras(x, data_format), functional.avg_pool2d(
        torch.tensor(x), stride, stride, ceil_mode=True, count_include_pad=False
    )  # fmt: skip
    for pool, small in (("subsample", x[:, :, ::stride, ::stride]), ("average", pooled.numpy())):
        for pad, sides in (("end", (0, 3)), ("both", (1, 2))):
            layer = SubsamplePad(6, stride, pad, pool, data_format)
            outputs = layer(image)
            assert tuple(outputs.shape) == layer.compute_output_shape(image.shape)
            expected = np.pad(small, ((0, 0), sides, (0, 0), (0, 0)))
            assert to_torch(outputs, data_format) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("make, words", [
    (lambda: Conv2D(4, 3, explicit_padding=-1), "explicit_padding must be a whole number from 0"),
    (lambda: Conv2D(4, 3, explicit_padding=0.5), "explicit_padding must be a whole number from 0"),
    (lambda: Conv2D(4, 3, explicit_padding=1, padding="same"), 'needs padding "valid"'),
    (lambda: Conv2D(4, 3, standardize=0), "positive epsilon"),
    (lambda: MaxPool2D(3, 2, explicit_padding=2), "at most half"),
    (lambda: MaxPool2D(2, 2, 1, ceil=True), "ceil needs"),
    (lambda: MaxPool2D(0, 2), "pool_size must be a whole number from 1"),
    (lambda: MaxPool2D(3, 2, data_format="NCHW"), "data_format must be"),
    (lambda: MaxPool2D(3, "two"), "strides must be a whole number from 1"),
    (lambda: MaxPool2D(3, 2, ceil="no"), "ceil takes True or False, not 'no'"),
    (lambda: BlurPool2D(1), "filters must be a whole number from 2"),
    (lambda: BlurPool2D(float("inf")), "filters must be a whole number from 2"),
    (lambda: SubsamplePad(0), "filters must be a whole number from 1"),
    (lambda: SubsamplePad(4, 0), "stride must be 1 or 2, not 0"),
    (lambda: SubsamplePad(4, 3), "stride must be 1 or 2, not 3"),
    (lambda: SubsamplePad(4, "two"), "stride must be 1 or 2, not 'two'"),
    (lambda: SubsamplePad(4, pad="ends"), 'unknown pad "ends"; did you mean "end"'),
    (lambda: SubsamplePad(4, pool="averag"), 'did you mean "average"'),
    (lambda: SubsamplePad(4, data_format="NCHW"), "data_format must be"),
    (lambda: SubsamplePad(4)(tf.zeros((1, 2, 2, 5))), "filters 4 of maps of 5 channels"),
    (lambda: SubsamplePad(4)(tf.zeros((1, 2, 4))), "expected ndim=4"),
])  # fmt: skip
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


WITHOUT_ONEDNN = """
import numpy as np, tensorflow as tf
from reszoo.layers import capabilities
from reszoo.layers.convolution import Conv2D
assert not capabilities.onednn_enabled()
assert not capabilities.channels_first_works()
assert not capabilities.convolution_works("CPU", "float32", "channels_last", grouped=True)
for data_format in ("channels_last", "channels_first"):
    layer = Conv2D(8, 3, groups=2, dilation_rate=2, explicit_padding=2, data_format=data_format)
    layer.build((1, 8, 8, 8))
    layer.set_weights([np.sin(np.arange(288.)).reshape(3, 3, 4, 8), np.arange(8.)])
    x = np.cos(np.arange(512.)).reshape(1, 8, 8, 8).astype("float32")
    x = tf.constant(x if data_format == "channels_first" else x.transpose(0, 2, 3, 1))
    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            y = layer(x)
            loss = tf.reduce_sum(y ** 2)
        return y, tape.gradient(loss, layer.trainable_variables)
    y, (kernel, bias) = step(x)
    print(float((y.numpy() ** 2).sum()), float((kernel.numpy() ** 2).sum()))
"""


def test_without_onednn_other_routes_are_taken():
    x = np.cos(np.arange(512.0)).reshape(1, 8, 8, 8)
    w = np.sin(np.arange(288.0)).reshape(3, 3, 4, 8).transpose(3, 2, 0, 1)
    kernel = torch.tensor(w, requires_grad=True)
    outputs = functional.conv2d(
        torch.tensor(x), kernel, torch.arange(8.0).double(), padding=2, dilation=2, groups=2
    )
    outputs.square().sum().backward()
    expected = [outputs.square().sum().item(), kernel.grad.square().sum().item()]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONEDNN], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        assert [float(word) for word in line.split()] == pytest.approx(expected, rel=1e-4)
    assert len(done.stdout.splitlines()) == 2


@tf.function
def gradients(image: tf.Tensor, kernel: tf.Tensor, layout: str) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch([image, kernel])
        outputs = tf.nn.conv2d(image, kernel, 1, "VALID", data_format=layout)
    return tape.gradient(outputs, [image, kernel])


def test_trial_agrees_with_training():
    """What the trial promises for this machine is what a traced training step meets."""
    for dtype in ("float32", "bfloat16", "float16"):
        for data_format in FORMATS:
            layout = {"channels_last": "NHWC", "channels_first": "NCHW"}[data_format]
            image, kernel = tf.ones([2, 8, 8, 8], dtype), tf.ones([3, 3, 4, 8], dtype)

            if capabilities.convolution_works("CPU", dtype, data_format, grouped=True):
                for gradient in gradients(image, kernel, layout):
                    assert np.isfinite(np.asarray(gradient, np.float32)).all()
            else:
                with pytest.raises(tf.errors.OpError):
                    gradients(image, kernel, layout)


OTHER_BACKEND = """
import keras, numpy as np
from reszoo.layers.convolution import Conv2D
from reszoo.layers.pooling import BlurPool2D, MaxPool2D
assert keras.backend.backend() == "torch"
keras.utils.set_random_seed(0)
x = np.cos(np.arange(2 * 8 * 9 * 8.)).reshape(2, 8, 9, 8).astype("float32")
for data_format in ("channels_last", "channels_first"):
    conv = Conv2D(8, 3, 1, groups=2, explicit_padding=1, standardize=1e-6, data_format=data_format)
    model = keras.Sequential([
        conv, MaxPool2D(3, 2, 1, data_format=data_format), BlurPool2D(data_format=data_format)
    ])
    image = x.transpose(0, 3, 1, 2) if data_format == "channels_first" else x
    model.build(image.shape)
    conv.set_weights([np.sin(np.arange(288.)).reshape(3, 3, 4, 8), np.arange(8.)])
    y = keras.ops.convert_to_numpy(model(image))
    print(float((y ** 2).sum()), float(np.abs(y).max()))
"""


def test_another_backend_gives_the_same_values():
    x = tf.constant(np.cos(np.arange(2 * 8 * 9 * 8.0)).reshape(2, 8, 9, 8), tf.float32)
    layer = Conv2D(8, 3, groups=2, explicit_padding=1, standardize=1e-6)
    layer.build(x.shape)
    layer.set_weights([np.sin(np.arange(288.0)).reshape(3, 3, 4, 8), np.arange(8.0)])
    y = BlurPool2D()(MaxPool2D(3, 2, 1)(layer(x))).numpy()
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BACKEND], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2
    for line in done.stdout.splitlines():
        ours = [float((y**2).sum()), float(np.abs(y).max())]
        assert [float(word) for word in line.split()] == pytest.approx(ours, rel=1e-4)
