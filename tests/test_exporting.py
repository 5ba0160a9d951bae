"""Folding, SavedModel and ONNX: outputs of the Keras model, whatever the network and the mode."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from families import FAMILIES, close, images, spread, tiny

import reszoo
from reszoo import exporting
from reszoo.exporting import ExportError
from reszoo.specs import CHOICES
from reszoo.weights.readers import WeightFileError

HAVE_ONNX = all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnxruntime"))
NO_ONNX = 'needs tf2onnx and onnxruntime: pip install "reszoo[onnx]"'
FORMATS = [
    "saved_model",
    pytest.param("onnx", marks=pytest.mark.skipif(not HAVE_ONNX, reason=NO_ONNX)),
]
LOGITS = {"classifier_activation": None}  # probabilities of 0 and 1 would hide differences


FOLDED_SLOW = (
    "basic", "plain", "tiered stem", "rs", "legacy se", "dilated", "blur", "exclusive gate",
    "shortcut gate", "scaled", "stochastic depth", "group norm", "eca", "option A averaged",
)  # fmt: skip


def count(model: keras.Model, kind: type) -> int:
    return sum(isinstance(layer, kind) for layer in model.layers)


def folded(model: keras.Model, tolerance: float = 1e-5) -> keras.Model:
    """Fold, and check the outputs and that the given model stays as it was."""
    x = images(model)
    before, weights = model(x), model.get_weights()
    result = reszoo.fold_batch_norm(model)
    close(result(x), before, tolerance)
    close(model(x), before, 0)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return result


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=pytest.mark.slow if f in FOLDED_SLOW else ()) for f in FAMILIES],
)
def test_folding(family: str, tmp_path: Path) -> None:
    """A norm right behind a convolution goes; others stay."""
    model = tiny(family, **LOGITS)
    result = folded(model)
    norms = count(model, keras.layers.BatchNormalization)
    left = count(result, keras.layers.BatchNormalization)
    assert len(result.layers) == len(model.layers) - (norms - left)
    if family in ("bit", "group norm"):
        assert result is model and norms == 0
        return
    order = model.spec.activation_order
    before = {
        layer.name: layer._inbound_nodes[0].parent_nodes[0].operation.name
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    maps = {entry["name"] for entry in model.feature_info}
    behind_convolutions = {
        norm for norm, source in before.items() if "conv" in source and not {norm, source} & maps
    }
    assert norms - left == len(behind_convolutions) > 0
    assert (left == 0) == (order in ("post", "relu_before_add", "relu_only_pre"))
    assert result.meta["folded"] and not model.meta.get("folded")
    result.save(tmp_path / "m.keras")
    again = reszoo.load(tmp_path / "m.keras")
    assert again.spec == model.spec and again.meta["folded"]
    x = images(model)
    np.testing.assert_array_equal(again(x), result(x))


@pytest.mark.parametrize(
    ("family", "arguments", "tolerance"),
    [
        # 16 rows of 16 pixels and 16 filters: stock layers would add the bias along the rows.
        ("option A", {"data_format": "channels_first", "width": 16}, 1e-5),
        ("se", {"data_format": "channels_first"}, 1e-5),
        ("grouped", {"data_format": "channels_first"}, 1e-5),
        ("bottleneck", {"dtype": "mixed_float16"}, 1e-2),
        ("keras v2", {"dtype": "mixed_bfloat16"}, 8e-2),
        ("option A", {"portable": True}, 1e-5),
        ("basic", {"features_only": True, "out_indices": (0, 2)}, 1e-5),
        ("pre-activation", {"include_top": False}, 1e-5),
        ("blur", {"input_shape": (None, None, 3)}, 1e-5),
    ],
)
def test_folding_in_other_modes(family: str, arguments: dict, tolerance: float) -> None:
    no_top = "features_only" in arguments or arguments.get("include_top") is False
    model = tiny(family, **({"classes": None} if no_top else LOGITS), **arguments)
    result = folded(model, tolerance)
    assert len(result.layers) < len(model.layers)
    assert result.dtype_policy == model.dtype_policy


@pytest.mark.parametrize("network", ["plain20", "resnet20", "resnet18"])
@pytest.mark.parametrize("order", CHOICES["activation_order"])
def test_folding_keeps_the_named_maps(order: str, network: str) -> None:
    """What `feature_info` and `pyramid_outputs` name is there and holds what it held."""
    if network == "plain20" and order in ("norm_after_add", "relu_before_add"):
        return  # has no addition
    size = {"depth": 8, "width": 4}
    if network == "resnet18":
        size = {"depths": (1, 1), "widths": (4, 8), "stem_width": 4}
    model = reszoo.build(
        network, activation_order=order, input_shape=(16, 16, 3), classes=2, seed=0, **size
    )
    spread(model)
    result = reszoo.fold_batch_norm(model)
    assert result is not model or order == "norm_after_add"
    assert result.feature_info == model.feature_info
    assert list(result.pyramid_outputs) == list(model.pyramid_outputs) != []
    names = [entry["name"] for entry in model.feature_info]
    x = images(model)
    maps = [
        keras.Model(net.input, [net.get_layer(name).output for name in names])(x)
        for net in (model, result)
    ]
    close(maps[1], maps[0])


def test_folded_portable_models_state_what_they_are(tmp_path: Path) -> None:
    """In their files too: they are nobody's weights, and no torch file."""
    model = tiny("option A", portable=True)
    result = reszoo.fold_batch_norm(model)
    result.save(tmp_path / "m.keras")
    again = reszoo.load(tmp_path / "m.keras")
    assert again.spec == result.spec == model.spec is not None
    x = images(model)
    close(again(x), model(x))
    again.save(tmp_path / "again.keras")
    for name in ("m", "again"):
        with pytest.raises(WeightFileError, match="holds a folded model"):
            reszoo.build("resnet20", tmp_path / f"{name}.keras", depth=8, width=4)
    for net in (result, again):
        with pytest.raises(reszoo.SpecError, match="only an unfolded model"):
            reszoo.export_torch(net)


def test_folding_vgg() -> None:
    model = reszoo.build("vgg11_bn", include_top=False, input_shape=(32, 32, 3))
    spread(model)
    assert count(folded(model), keras.layers.BatchNormalization) == 0


def test_folding_standardised_convolutions() -> None:
    """Weight standardisation with batch normalisation: both become the kernel."""
    model = tiny("basic", weight_standardization=True, **LOGITS)
    result = folded(model)
    assert count(result, keras.layers.BatchNormalization) == 0
    kernel = np.asarray(result.get_layer("stem_conv").kernel)
    assert np.abs(kernel.mean((0, 1, 2))).max() < 1e-6 and result.get_layer("stem_conv").use_bias


def test_folding_a_model_of_keras_applications() -> None:
    model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=7)
    spread(model)
    result = folded(keras.Model(model.input, model.layers[-2].output), 2e-5)
    assert count(result, keras.layers.BatchNormalization) == 0


def test_what_cannot_be_folded_is_left_alone() -> None:
    """Shared layers, outputs before the norm, activations inside, and nested models."""
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    conv, norm = layers.Conv2D(4, 3, name="twice"), layers.BatchNormalization(name="shared")
    one, other = norm(conv(x)), norm(layers.ReLU()(conv(x)))
    third = layers.Conv2D(4, 3, activation="relu", name="active")(x)
    seen = layers.Conv2D(4, 3, name="seen")(x)
    inner = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()], name="inner")
    outputs = [
        one, other, layers.BatchNormalization()(third), seen, layers.BatchNormalization()(seen),
        inner(x),
    ]  # fmt: skip
    model = keras.Model(x, outputs)
    spread(model)
    assert folded(model) is model
    last = layers.BatchNormalization()(layers.Conv2D(2, 1, name="last")(inner(x)))
    more = keras.Model(x, [*outputs, last])
    spread(more)
    assert len(folded(more).layers) == len(more.layers) - 1


@keras.saving.register_keras_serializable("tests")
class Doubling(keras.layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


@keras.saving.register_keras_serializable("tests")
class Shifting(keras.layers.BatchNormalization):
    def call(self, inputs, **kwargs):
        return super().call(inputs, **kwargs) + 1


def test_layers_that_may_compute_something_else_stay() -> None:
    """Subclasses with a call of their own, and kernels with LoRA."""
    x = keras.Input((8, 8, 3))
    y = keras.layers.BatchNormalization()(Doubling(4, 3)(x))
    y = Shifting()(keras.layers.Conv2D(4, 3)(y))
    adapted = keras.layers.Conv2D(4, 3)
    y = keras.layers.BatchNormalization()(adapted(y))
    adapted.enable_lora(2)
    model = keras.Model(x, y)
    spread(model)
    adapted.lora_kernel_b.assign(adapted.lora_kernel_b + 0.1)
    assert folded(model) is model
    last = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 1)(y))
    more = keras.Model(x, last)
    spread(more)
    assert len(folded(more).layers) == len(more.layers) - 1


def test_folding_needs_a_graph() -> None:
    class Own(keras.Model):
        pass

    with pytest.raises(reszoo.SpecError, match="takes a functional Keras model, not Own"):
        reszoo.fold_batch_norm(Own())


# Export


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    """Run a written model with the program it was written for."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: x})
    loaded = tf.saved_model.load(path)
    outputs = loaded.serve(x)
    return [np.asarray(y) for y in (outputs if isinstance(outputs, list) else [outputs])]


def exports(model: keras.Model, kind: str, tmp_path: Path, capsys, twin=None) -> Path:
    """Export; batches of 1 and 3 give what the model (or its float32 twin) gives."""
    path = tmp_path / ("model.onnx" if kind == "onnx" else "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert reszoo.export(model, path, kind) == path
    shown = capsys.readouterr()
    line = (
        rf"{re.escape(str(path))}: largest difference from the Keras model \d\.\de[-+]\d\d of .*\n"
    )
    assert shown.out == "" and re.fullmatch(line, shown.err)
    for batch in (1, 3):
        x = images(model, batch, seed=batch)
        expected = (twin or model)(x)
        expected = expected if isinstance(expected, list) else [expected]
        close(run(path, x), expected, 1e-4)
    return path


SOME = ("grouped", "bit")


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in SOME else pytest.mark.slow) for f in FAMILIES],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_export(family: str, kind: str, tmp_path: Path, capsys) -> None:
    exports(tiny(family, **LOGITS), kind, tmp_path, capsys)


@pytest.mark.parametrize("kind", FORMATS)
def test_export_of_feature_maps(kind: str, tmp_path: Path, capsys) -> None:
    """In the order that was asked for, and of any size."""
    model = tiny("basic", features_only=True, out_indices=(2, 0, 1), input_shape=(None, None, 3))
    path = exports(model, kind, tmp_path, capsys)
    x = np.random.default_rng(0).normal(size=(2, 40, 48, 3)).astype(np.float32)
    found = run(path, x)
    assert [y.shape for y in found] == [(2, 5, 6, 16), (2, 20, 24, 8), (2, 10, 12, 8)]
    close(found, model(x), 1e-4)


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16"])
@pytest.mark.parametrize("kind", FORMATS)
def test_mixed_precision_is_exported_in_float32(
    kind: str, dtype: str, tmp_path: Path, capsys
) -> None:
    model = tiny("option A", dtype=dtype, **LOGITS)
    twin = tiny("option A", **LOGITS)
    twin.set_weights([np.asarray(w, np.float32) for w in model.get_weights()])
    exports(model, kind, tmp_path, capsys, twin)
    assert model.get_layer("stem_conv").compute_dtype in dtype


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "family", ["option A averaged", pytest.param("rs", marks=pytest.mark.slow)]
)
def test_channels_first_is_exported(family: str, kind: str, tmp_path: Path, capsys) -> None:
    exports(tiny(family, data_format="channels_first", **LOGITS), kind, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_deep_plain_net_is_exported(kind: str, tmp_path: Path, capsys) -> None:
    """With blocks of 110 layers in a row, half of Python's recursion limit."""
    model = reszoo.build("plain110", width=4, input_shape=(8, 8, 3), seed=0, **LOGITS)
    exports(model, kind, tmp_path, capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return a file of ours with known preprocessing."""
    model = tiny("option A", **LOGITS)
    model.preprocessing = reszoo.Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    path = tmp_path_factory.mktemp("trained") / "trained.keras"
    model.save(path)
    return path


@pytest.mark.parametrize("dtype", [None, pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", FORMATS)
def test_preprocessing_in_the_graph_is_exported(
    kind: str, dtype: str | None, trained: Path, tmp_path: Path, capsys
) -> None:
    """The written model takes pixels of 0..255."""
    options = {"depth": 8, "width": 4, "input_shape": (16, 16, 3), **LOGITS}
    model = reszoo.build("resnet20", trained, preprocessing="in_graph", dtype=dtype, **options)
    assert model.inputs[0].dtype == "float32"  # half precision would round pixels
    path = exports(model, kind, tmp_path, capsys, reszoo.build(
        "resnet20", trained, preprocessing="in_graph", **options
    ))  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    bare = reszoo.build("resnet20", trained, **options)
    normalised = (pixels / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.25, 0.3)
    close(run(path, pixels), [bare(normalised.astype(np.float32))], 1e-4)


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_as_input_are_exported(kind: str, trained: Path, tmp_path: Path, capsys) -> None:
    """Pixels as uint8, and what any other integers give."""
    model = reszoo.build(
        "resnet20", trained, depth=8, width=4, preprocessing="in_graph",
        input_tensor=keras.Input((16, 16, 3), dtype="uint8"), **LOGITS,
    )  # fmt: skip
    path = tmp_path / ("m.onnx" if kind == "onnx" else "m")
    reszoo.export(model, path, kind)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    close(run(path, pixels), [model(pixels)], 1e-4)


def test_what_does_not_run_is_reported_in_a_line(tmp_path: Path, monkeypatch) -> None:
    def fail(*_args) -> None:
        raise TypeError("two\nlines")

    monkeypatch.setattr(keras.Model, "export", lambda *args, **kwargs: None)
    monkeypatch.setattr(exporting, "_run_saved_model", fail)
    with pytest.raises(ExportError, match=r"m was written but does not run: two lines$"):
        reszoo.export(tiny("option A"), tmp_path / "m")


def test_a_wrong_export_is_refused(tmp_path: Path, monkeypatch) -> None:
    model = tiny("option A")
    real = exporting._run_saved_model
    monkeypatch.setattr(exporting, "_run_saved_model", lambda *a: [y * 1.001 for y in real(*a)])
    with pytest.raises(ExportError, match=r"differs from the model by \d\.\de-\d\d, more than"):
        reszoo.export(model, tmp_path / "m")


def test_a_failing_exporter_is_reported_in_a_line(tmp_path: Path, monkeypatch) -> None:
    def fail(*_args, **_kwargs) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(ExportError, match=r"exporter failed on .*: two lines$"):
        reszoo.export(tiny("option A"), tmp_path / "m")


@pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
def test_missing_packages_are_named(package: str, tmp_path: Path, monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else object()
    )
    with pytest.raises(ExportError) as caught:
        reszoo.export(tiny("option A"), tmp_path / "m.onnx", "onnx")
    monkeypatch.setattr(importlib.util, "find_spec", real)
    assert str(caught.value) == f'ONNX needs {package}: pip install "reszoo[onnx]"'


def test_what_export_refuses(tmp_path: Path, monkeypatch) -> None:
    model = tiny("option A")
    with pytest.raises(reszoo.SpecError, match='"onx"; did you mean "onnx"'):
        reszoo.export(model, tmp_path / "m", "onx")
    two = [keras.Input((4,)), keras.Input((4,))]
    for wrong in (keras.Model(two, keras.layers.Add()(two)), None, "m"):
        with pytest.raises(reszoo.SpecError, match="a functional Keras model of one input"):
            reszoo.export(wrong, tmp_path / "m")
    with pytest.raises(reszoo.SpecError, match="fold takes True or False, not 'no'"):
        reszoo.export(model, tmp_path / "m", fold="no")
    monkeypatch.chdir(tmp_path)
    for write in (reszoo.export, reszoo.export_torch):
        for path in ("", 5, b"m", "a\0b"):
            with pytest.raises(reszoo.SpecError, match="path takes where to write, not") as caught:
                write(model, path)
            assert "\n" not in str(caught.value)
    with pytest.raises(reszoo.SpecError, match="path takes where to write, not None"):
        reszoo.export(model, None)
    foreign = keras.applications.VGG16(weights=None, classes=2, input_shape=(32, 32, 3))
    for wrong in (None, "resnet20", foreign, keras.Sequential()):
        with pytest.raises(reszoo.SpecError, match="built by reszoo"):
            reszoo.export_torch(wrong)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(reszoo.SpecError, match=r"an ONNX file ends in \.onnx, not 'm'"):
        reszoo.export(model, tmp_path / "m", "onnx")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_torch_files_that_cannot_be_written_are_named(suffix: str, tmp_path: Path) -> None:
    if suffix == "pth":
        pytest.importorskip("torch")
    path = tmp_path / ("x" * 300 + f".{suffix}")  # longer than a file's name may be
    with pytest.raises(ExportError) as caught:
        reszoo.export_torch(tiny("option A"), path)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be written: ") and "\n" not in text
    assert text.count(str(tmp_path)) == 1


@pytest.mark.parametrize("portable", [False, True])
def test_a_vgg_of_another_name_has_torchs_names(portable: bool, tmp_path: Path) -> None:
    """And files of it, and one behind layers of the user."""
    start = keras.Input((20, 20, 3))
    tensor = keras.layers.ZeroPadding2D(((6, 6), (22, 22)), name="wider")(start)
    model = reszoo.build("vgg11", name="mine", input_tensor=tensor, classes=3, portable=portable)
    state = reszoo.export_torch(model)
    assert state["classifier.0.weight"].shape == (4096, 512 * 1 * 2)
    assert state["features.0.weight"].shape == (64, 3, 3, 3)
    kernel = np.asarray(model.get_layer("head_dense").kernel)
    np.testing.assert_array_equal(state["classifier.6.weight"], kernel.T)
    if portable:
        model.save(tmp_path / "m.keras")
        again = reszoo.export_torch(reszoo.load(tmp_path / "m.keras"))
        assert all(np.array_equal(again[name], state[name]) for name in state)


def test_only_types_become_float32() -> None:
    """Networks, layers and classes may be called as the types are."""
    model = reszoo.build("resnet20", name="float16", depth=8, width=4, dtype="mixed_bfloat16")
    model.labels = ["float16", "bfloat16", *"abcdefgh"]
    plain = exporting._in_float32(model)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    assert plain.name == "float16" and plain.labels == model.labels


QUIET = """
import sys, reszoo
model = reszoo.build("resnet20", depth=8, width=4)
print("now", file=sys.stderr, flush=True)
reszoo.export(model, sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_export_prints_one_line(kind: str, tmp_path: Path) -> None:
    """As its own process sees it, messages of native code included."""
    path = tmp_path / "m.onnx"
    done = subprocess.run(
        [sys.executable, "-c", QUIET, path, kind], check=True, cwd=ROOT, text=True, timeout=300,
        capture_output=True,
    )  # fmt: skip
    shown = done.stderr.partition("now\n")[2]
    assert done.stdout == "" and len(shown.splitlines()) == 1 and str(path) in shown


def test_the_comparison_does_not_rest_on_a_saturated_softmax(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh deep nets give logits of hundreds: an export with doubled logits must be noticed."""
    model = reszoo.build("resnet20", depth=8, seed=0, input_shape=(32, 32, 3))
    kernel = model.get_layer("head_dense").kernel
    kernel.assign(100 * kernel)
    assert model(exporting._images(model)).numpy().max() > 0.999  # so it must look elsewhere
    reszoo.export(model, tmp_path / "good")
    assert "saturated" not in capsys.readouterr().err
    kernel.assign(1e30 * kernel)  # no image is faint enough
    reszoo.export(model, tmp_path / "hopeless")
    assert "saturated softmax" in capsys.readouterr().err
    kernel.assign(1e-30 * kernel)
    written = exporting._run_saved_model

    def doubled(path: Path, images: np.ndarray) -> list[np.ndarray]:
        (found,) = written(path, images)
        return [np.square(found) / np.square(found).sum(1, keepdims=True)]

    monkeypatch.setattr(exporting, "_run_saved_model", doubled)
    with pytest.raises(ExportError, match="differs from the model"):
        reszoo.export(model, tmp_path / "bad")
