"""Networks with the weights of others give the outputs of those others.

Against timm and torchvision: the stored outputs in tests/parity (see its README, also for the
tolerance: rounding is below 4e-6, the least of the usual mistakes 4e-5). Against
keras.applications: its own models, built here. Against Facebook's pre-activation nets: their Lua,
written in torch.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import reszoo
from reszoo.errors import SpecError
from reszoo.layers import deep_graph
from reszoo.plans import plan
from reszoo.weights import grammars
from reszoo.weights.loading import WeightsNotice
from reszoo.weights.readers import WeightFileError

PARITY = Path(__file__).with_name("parity")
sys.path.insert(0, str(PARITY))
import formula  # noqa: E402

TOLERANCE = 2e-5
DETAILS = json.loads((PARITY / "timm_details.json").read_text())
ALL = formula.names()
# One of each family; the larger ones are in the slow suite.
QUICK = {
    "torchvision/resnet18": 64,
    "timm/resnet10t": 57,
    "timm/resnet26d": 57,
    "timm/seresnext26t_32x4d": 64,
    "timm/legacy_seresnet18": 57,
    "timm/legacy_seresnext26_32x4d": 64,
    "timm/ecaresnet26t": 57,
    "timm/resnetaa50": 65,
    "timm/resnetblur18": 57,
    "timm/resnet50_gn": 64,
    "timm/resnetrs50": 57,
    "timm/resnetv2_18d": 57,
    "timm/resnetv2_50x1_bit": 64,
    "timm/resnet50@os16": 57,
}
LARGE = 200_000_000


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightsNotice)
        yield


def parts(reference: str) -> tuple[str, dict[str, Any]]:
    """Return the catalogue name and the overrides that a reference stands for."""
    network, _, stride = reference.partition("/")[2].partition("@os")
    return network, {"output_stride": int(stride)} if stride else {}


def grammar_of(network: str) -> str:
    for start, grammar in (
        ("legacy", "legacy_senet"),
        ("resnetv2", "timm_v2"),
        ("vgg", "torchvision_vgg"),
    ):
        if network.startswith(start):
            return grammar
    return "timm_v1"


def shapes_of(network: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in grammars.tensors(plan(network), grammar_of(network)):
        shapes[tensor.name] = tensor.shape
        if tensor.variable == "moving_variance":
            shapes[f"{tensor.name.rpartition('.')[0]}.num_batches_tracked"] = ()
    return shapes


def stage_maps(network: str, model: keras.Model) -> list[Any]:
    if network.startswith("vgg"):
        return [model.get_layer(f"stage{number}_pool").output for number in range(1, 6)]
    return [model.get_layer(entry["name"]).output for entry in model.feature_info]


def compare(references: list[str], sizes: list[int], directory: Path) -> None:
    """Write the formula's weights as a file, build from it, and compare outputs and stages."""
    network, overrides = parts(references[0])
    path = directory / "weights.safetensors"
    save_file(formula.state(shapes_of(network)), path)
    model = None
    for size in sizes:
        if model is None or network.startswith("vgg"):  # VGG needs a known size
            model = reszoo.build(
                network,
                weights=path,
                classifier_activation=None,
                input_shape=(size, size, 3) if network.startswith("vgg") else (None, None, 3),
                **overrides,
            )
            with deep_graph(len(model.layers)):
                both = keras.Model(model.input, [model.output, *stage_maps(network, model)])
        logits, *maps = both(formula.images(2, size, size), training=False)
        for reference in references:
            check(reference, size, np.asarray(logits), [np.asarray(x) for x in maps])
    path.unlink()


def check(reference: str, size: int, logits: np.ndarray, maps: list[np.ndarray]) -> None:
    expected = formula.reference(reference)
    row = expected["sizes"].tolist().index(size)
    error = formula.relative_error(
        formula.kept_logits(logits), expected["logits"][row], expected["logit_max"][row]
    )
    assert error < TOLERANCE, f"{reference} at {size}: logits"
    for stage, array in enumerate(maps):
        found, wanted = formula.stage_numbers(array), expected["stages"][row][:, stage]
        assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max(), (
            f"{reference} at {size}: stage {stage}"
        )


@pytest.mark.parametrize("reference", ALL)
def test_names_and_shapes_are_theirs(reference: str) -> None:
    shapes = shapes_of(parts(reference)[0])
    assert formula.digest(shapes) == formula.reference(reference)["digest"]


@pytest.mark.parametrize(("reference", "size"), QUICK.items())
def test_outputs(reference: str, size: int, tmp_path: Path) -> None:
    compare([reference], [size], tmp_path)


def every_network() -> list[Any]:
    """Return the references of each network: timm and torchvision share some."""
    groups: dict[str, list[str]] = {}
    for name in ALL:
        groups.setdefault(name.partition("/")[2], []).append(name)
    return [
        pytest.param(
            names,
            id=network,
            marks=pytest.mark.full
            if DETAILS[names[0].partition("@")[0]]["parameters"] > LARGE
            else pytest.mark.slow,
        )
        for network, names in groups.items()
    ]


@pytest.mark.parametrize("references", every_network())
def test_outputs_of_every_reference(references: list[str], tmp_path: Path) -> None:
    compare(references, formula.reference(references[0])["sizes"].tolist(), tmp_path)
    keras.utils.clear_session()  # a hundred networks would fill the memory


def test_a_wrong_stride_placement_would_be_noticed(tmp_path: Path) -> None:
    """The paper's strides with torchvision's weights load without an error, and must differ."""
    path = tmp_path / "resnet50.safetensors"
    save_file(formula.state(shapes_of("resnet50")), path)
    expected = formula.reference("torchvision/resnet50")
    errors = {}
    for placement in (None, "1x1"):
        model = reszoo.build(
            "resnet50",
            weights=path,
            classifier_activation=None,
            input_shape=(64, 64, 3),
            stride_placement=placement,
        )
        assert model.spec.stride_placement == (placement or "3x3")
        logits = formula.kept_logits(np.asarray(model(formula.images(2, 64, 64))))
        errors[placement] = formula.relative_error(
            logits, expected["logits"][0], expected["logit_max"][0]
        )
    assert errors[None] < TOLERANCE < 1e-3 < errors["1x1"]


# keras.applications


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give a keras.applications model biases and statistics that are not trivial."""
    draw = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.gamma.shape
            small = 0.3 if layer.name.endswith("_3_bn") else 1.0
            layer.gamma.assign(draw.uniform(0.5, 1.5, count) * small)
            layer.beta.assign(draw.normal(0, 0.3, count))
            layer.moving_mean.assign(draw.normal(0, 0.3, count))
            layer.moving_variance.assign(draw.uniform(0.5, 2, count))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(draw.normal(0, 0.3, layer.bias.shape))
    return model


def write_keras_2(model: keras.Model, path: Path, top: bool = True) -> None:
    """Write the form of keras.applications' published files: a group a layer, names with ":0"."""
    with h5py.File(path, "w") as file:
        layers = [x for x in model.layers if top or x.name != "predictions"]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(name, data=np.asarray(weight))


def applications(name: str, size: int = 64) -> keras.Model:
    make = getattr(keras.applications, name)
    shape = (size, size, 3)
    return make(weights=None, input_shape=shape, classifier_activation=None, classes=100)


def check_application(ours: str, theirs: str, directory: Path) -> None:
    path = directory / f"{ours}.h5"
    original = randomized(applications(theirs))
    write_keras_2(original, path)
    model = reszoo.build(
        ours, weights=path, classifier_activation=None, input_shape=(None, None, 3)
    )
    assert model.output_shape == (None, 100)
    for size in (64, 65):
        if size != 64:
            other = applications(theirs, size)
            other.set_weights(original.get_weights())
            original = other
        images = formula.images(2, size, size)
        expected = np.asarray(original(images, training=False))
        found = np.asarray(model(images, training=False))
        assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()


APPLICATIONS = {
    f"resnet{depth}{version.lower()}": f"ResNet{depth}{version}"
    for version in ("", "V2")
    for depth in (50, 101, 152)
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(*item, marks=() if item[0] in ("resnet50", "resnet50v2") else pytest.mark.slow)
        for item in APPLICATIONS.items()
    ],
)
def test_keras_applications(ours: str, theirs: str, tmp_path: Path) -> None:
    check_application(ours, theirs, tmp_path)


def test_files_that_keras_3_writes_of_keras_applications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have the layers' names; a `.weights.h5` of the first versions only counts them."""
    original = randomized(applications("ResNet50"))
    images = formula.images(2, 64, 64)
    expected = np.asarray(original(images, training=False))
    paths = [tmp_path / name for name in ("whole.h5", "whole.keras", "a.weights.h5")]
    for path in paths[:2]:
        original.save(path)
    original.save_weights(paths[2])
    write_keras_2(original, tmp_path / "notop.h5", top=False)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Keras' loader saw a foreign file")

    for place in ("load_model", "load_weights"):
        monkeypatch.setattr(keras.saving, place, never)
    monkeypatch.setattr(keras.Model, "load_weights", never)
    arguments: dict[str, Any] = {"classifier_activation": None, "input_shape": (64, 64, 3)}
    for path in paths:
        model = reszoo.build("resnet50", weights=path, **arguments)
        found = np.asarray(model(images, training=False))
        assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
    with pytest.raises(SpecError, match=r"contradicts the weights a\.weights\.h5"):
        reszoo.build("resnet50v2", weights=paths[2], **arguments)
    with h5py.File(paths[2], "a") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)
    with pytest.raises(WeightFileError, match=r"number .*; save it as \.keras or \.h5$") as error:
        reszoo.build("resnet50", weights=paths[2], **arguments)
    assert "\n" not in str(error.value)
    features = keras.Model(original.input, original.get_layer("avg_pool").output)
    found = reszoo.build(
        "resnet50", weights=tmp_path / "notop.h5", input_shape=(64, 64, 3), classes=0
    )(images, training=False)
    expected = np.asarray(features(images, training=False))
    assert np.abs(np.asarray(found) - expected).max() < TOLERANCE * np.abs(expected).max()


# Facebook's pre-activation nets


def test_preresnet_is_facebooks() -> None:
    """facebookarchive/fb.resnet.torch, models/preresnet.lua, written with torch's functions."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    sizes = {"depths": (1, 1), "widths": (8, 16), "input_shape": (33, 32, 3), "classes": 5}
    model = reszoo.build("preresnet18", classifier_activation=None, seed=0, **sizes)
    draw = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "beta", "moving_mean"):
            # Scales of both signs tell a maximum before the norm from one after it.
            variable.assign(draw.normal(0, 1, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(draw.uniform(0.5, 2, variable.shape))

    def weights(name: str) -> list[Any]:
        return [torch.tensor(np.asarray(w)) for w in model.get_layer(name).weights]

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        kernel = weights(name)[0].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm_relu(name: str, x: Any) -> Any:
        gamma, beta, mean, variance = weights(name)
        return functional.relu(functional.batch_norm(x, mean, variance, gamma, beta))

    def branch(block: str, x: Any, stride: int) -> Any:
        x = norm_relu(f"{block}_norm2", conv(f"{block}_conv1", x, stride))
        return conv(f"{block}_conv2", x)

    images = formula.images(2, 33, 32)
    x = torch.tensor(images).permute(0, 3, 1, 2)
    x = norm_relu("stem_norm", conv("stem_conv", x, 2))
    x = functional.max_pool2d(x, 3, 2, 1)
    x = x + branch("stage1_block1", x, 1)  # "no_preact"
    x = norm_relu("stage2_block1_norm1", x)  # "both_preact"
    x = conv("stage2_block1_shortcut_conv", x, 2) + branch("stage2_block1", x, 2)
    kernel, bias = weights("head_dense")
    expected = norm_relu("head_norm", x).mean((2, 3)) @ kernel + bias
    found = np.asarray(model(images, training=False))
    assert np.abs(found - expected.numpy()).max() < TOLERANCE * np.abs(found).max()


# BiT

# timm's names in a unit -> big_transfer's: what load_from of google-research/big_transfer
# (bit_pytorch/models.py) and timm's resnetv2.py read. The norm of a letter stands before its
# convolution.
BIT_UNIT = {
    "norm1": "a/group_norm",
    "conv1": "a/standardized_conv2d",
    "norm2": "b/group_norm",
    "conv2": "b/standardized_conv2d",
    "norm3": "c/group_norm",
    "conv3": "c/standardized_conv2d",
    "downsample.conv": "a/proj/standardized_conv2d",
}
BIT_ENDS = {
    "stem.conv.weight": "resnet/root_block/standardized_conv2d/kernel",
    "norm.weight": "resnet/group_norm/gamma",
    "norm.bias": "resnet/group_norm/beta",
    "head.fc.weight": "resnet/head/conv2d/kernel",
    "head.fc.bias": "resnet/head/conv2d/bias",
}


def bit_shapes() -> dict[str, tuple[int, ...]]:
    """Return every tensor of BiT-S-R50x1.npz: ResNet-50 of Table 1, kernels (H, W, in, out)."""
    shapes: dict[str, tuple[int, ...]] = {
        "resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 64),
        "resnet/group_norm/gamma": (2048,),
        "resnet/group_norm/beta": (2048,),
        "resnet/head/conv2d/kernel": (1, 1, 2048, 1000),
        "resnet/head/conv2d/bias": (1000,),
    }
    inputs = 64
    for block, units, width in ((1, 3, 64), (2, 4, 128), (3, 6, 256), (4, 3, 512)):
        for unit in range(1, units + 1):
            tag = f"resnet/block{block}/unit{unit:02d}"
            if unit == 1:
                shapes[f"{tag}/a/proj/standardized_conv2d/kernel"] = (1, 1, inputs, 4 * width)
            for letter, kernel, entering, leaving in (
                ("a", (1, 1), inputs, width),
                ("b", (3, 3), width, width),
                ("c", (1, 1), width, 4 * width),
            ):
                shapes[f"{tag}/{letter}/standardized_conv2d/kernel"] = (*kernel, entering, leaving)
                shapes[f"{tag}/{letter}/group_norm/gamma"] = (entering,)
                shapes[f"{tag}/{letter}/group_norm/beta"] = (entering,)
            inputs = 4 * width
    return shapes


def bit_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return timm's tensors under big_transfer's names and in its layout."""
    renamed = {}
    for name, value in state.items():
        found = BIT_ENDS.get(name)
        if found is None:
            pattern = r"stages\.(\d)\.blocks\.(\d)\.(.+)\.(weight|bias)"
            ((stage, block, part, kind),) = re.findall(pattern, name)
            kind = "beta" if kind == "bias" else "gamma" if "norm" in part else "kernel"
            found = f"resnet/block{int(stage) + 1}/unit{int(block) + 1:02d}/{BIT_UNIT[part]}/{kind}"
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        renamed[found] = np.ascontiguousarray(value)
    return renamed


def test_bit_names_and_shapes_are_the_published_files() -> None:
    ours = grammars.tensors(plan("resnetv2_50x1_bit"), "bit_npz")
    assert {tensor.name: tensor.shape for tensor in ours} == bit_shapes()


def test_bit_files_hold_the_same_network(tmp_path: Path) -> None:
    state = formula.state(shapes_of("resnetv2_50x1_bit"))
    save_file(state, tmp_path / "timm.safetensors")
    renamed = bit_names(state)
    assert {name: value.shape for name, value in renamed.items()} == bit_shapes()
    np.savez(tmp_path / "bit.npz", **renamed)
    arguments: dict[str, Any] = {"classifier_activation": None, "input_shape": (64, 64, 3)}
    first, second = (
        reszoo.build("resnetv2_50x1_bit", weights=tmp_path / name, **arguments)
        for name in ("timm.safetensors", "bit.npz")
    )
    for a, b in zip(first.weights, second.weights, strict=True):
        assert a.path == b.path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    # The epsilon of the standardisation is not in the files: timm's, and big_transfer's.
    assert first.spec.diff(second.spec) == {"weight_epsilon": (1e-8, 1e-10)}
