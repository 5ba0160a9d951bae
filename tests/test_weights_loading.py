"""`build(..., weights=...)`: kinds of files, heads, channels, and what does not fit."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_networks import (
    SMALL_IMAGES,
    TINY,
    damaged,
    images,
    outputs,
    randomized,
    refusal,
    tiny,
    unreachable,
    values,
    write,
)

import reszoo
from reszoo import catalog
from reszoo.comparators import image_size
from reszoo.errors import SpecError
from reszoo.weights import loading
from reszoo.weights.loading import WeightsNotice
from reszoo.weights.readers import WeightFileError, open_weights

pytestmark = pytest.mark.usefixtures("fresh_notices")


@pytest.fixture
def no_loader_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Foreign files are read by our readers only."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Keras' loader saw a weight file")

    monkeypatch.setattr(keras.saving, "load_model", never)
    monkeypatch.setattr(keras.saving, "load_weights", never)
    monkeypatch.setattr(keras.Model, "load_weights", never)


# Sources


KINDS = ("keras", "weights.h5", "safetensors", "pth", "pt", "legacy th", "checkpoint pth")


@pytest.mark.usefixtures("no_loader_of_keras")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(kind: str, trained: keras.Model, tmp_path: Path) -> None:
    path = write(trained, kind, tmp_path)
    for weights in (path, str(path)):
        found = tiny(weights=weights, classifier_activation=None)
        np.testing.assert_array_equal(outputs(found), outputs(trained))
    assert found.meta["weights"] == {"file": path.name}
    assert found.preprocessing is None and found.labels is None


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "option A": ("resnet20", TINY),
    "bottleneck": ("resnet50", SMALL_IMAGES),
    "1x1 strides": ("resnet50", {**SMALL_IMAGES, "stride_placement": "1x1"}),
    "deep": ("resnet50d", {**SMALL_IMAGES, "stem_width": 16}),
    "tiered": ("resnet50t", {**SMALL_IMAGES, "stem_width": 16}),
    "grouped": ("resnext50_32x4d", {**SMALL_IMAGES, "widths": (16, 16, 32, 32)}),
    "SE": ("seresnet50", SMALL_IMAGES),
    "legacy SE": ("legacy_seresnet18", SMALL_IMAGES),
    "ECA": ("ecaresnet50d", {**SMALL_IMAGES, "stem_width": 16}),
    "blurred": ("resnetblur50", SMALL_IMAGES),
    "RS": ("resnetrs50", {**SMALL_IMAGES, "stem_width": 16}),
    "group norm": ("resnet50_gn", {**SMALL_IMAGES, "norm_groups": 4}),
    "pre-activation": ("preresnet18", SMALL_IMAGES),
    "timm's V2": ("resnetv2_50d", {**SMALL_IMAGES, "stem_width": 16}),
    "BiT": ("resnetv2_50x1_bit", {**SMALL_IMAGES, "norm_groups": 4}),
    "Keras' V2": ("resnet50v2", {**SMALL_IMAGES, "stride_placement": "3x3"}),
    "Wide ResNet": ("wrn16-4", {"width": 8}),
    "plain": ("plain20", TINY),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_exported_state_dicts_load_back(family: str, tmp_path: Path) -> None:
    network, fields = FAMILIES[family]
    model = randomized(reszoo.build(network, classifier_activation=None, seed=0, **fields))
    path = tmp_path / "model.safetensors"
    state = reszoo.export_torch(model, path)
    back = reszoo.build(network, weights=path, classifier_activation=None, **fields)
    assert back.spec == model.spec
    np.testing.assert_array_equal(outputs(back), outputs(model))
    counted = sum(v.size for k, v in state.items() if "running" not in k and "num_b" not in k)
    assert counted == reszoo.complexity(network, **fields).parameters
    for name, value in load_file(path).items():
        np.testing.assert_array_equal(value, state[name])


def test_what_cannot_be_exported(trained: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="only an unfolded model"):
        reszoo.export_torch(reszoo.fold_batch_norm(trained))
    with pytest.raises(SpecError, match="only an unfolded model"):
        reszoo.export_torch(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    with pytest.raises(SpecError, match="ends before its stage2_block1_conv1"):
        reszoo.export_torch(tiny(features_only=True, out_indices=(0, 1)))
    with pytest.raises(SpecError, match="safetensors"):
        reszoo.export_torch(trained, tmp_path / "model.bin")


def test_exported_backbones_have_no_classifier(trained: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "headless.safetensors"
    pooled = tiny(classes=0, weights=write(trained, "keras", tmp_path))
    state = reszoo.export_torch(pooled, path)
    assert not any(name.startswith("fc.") for name in state)
    np.testing.assert_array_equal(outputs(tiny(classes=0, weights=path)), outputs(pooled))
    with pytest.warns(WeightsNotice, match="no classifier"):
        model = tiny(weights=path)
    assert model.output_shape == (None, 10)


def test_saved_files_of_every_form(trained: keras.Model, tmp_path: Path) -> None:
    """Portable files and files of parts of the network are read too."""
    torch_file = write(trained, "safetensors", tmp_path)
    portable = tiny(weights=torch_file, portable=True, classifier_activation=None)
    np.testing.assert_allclose(outputs(portable), outputs(trained), rtol=1e-5, atol=1e-6)
    features = {"features_only": True, "out_indices": (0, 1)}
    for name, model in {
        "portable": portable,
        "top": tiny(weights=torch_file, include_top=False),
        "maps": tiny(weights=torch_file, **features),
    }.items():
        for kind in ("keras", "weights.h5"):
            path = tmp_path / f"{name}.{kind}"
            (model.save if kind == "keras" else model.save_weights)(path)
            same = {"portable": {}, "top": {"include_top": False}, "maps": features}[name]
            back = tiny(weights=path, **same)
            for key, value in values(back).items():
                np.testing.assert_array_equal(value, values(trained)[key])
    with pytest.raises(WeightFileError, match=r"missing: stage2_block1_conv1/kernel"):
        tiny(weights=tmp_path / "maps.keras")


def test_weights_behind_layers_of_the_user(trained: keras.Model, tmp_path: Path) -> None:
    """Layers before the network have no part in how the file's layers are counted."""
    start = keras.Input((32, 32, 5))
    mixed = keras.layers.Conv2D(3, 1, name="mine")(start)
    for kind in ("weights.h5", "keras", "safetensors"):
        model = tiny(
            weights=write(trained, kind, tmp_path), input_tensor=mixed, classifier_activation=None
        )
        batch = images(model)
        inner = keras.Model(start, mixed)(batch)
        np.testing.assert_allclose(
            outputs(model, batch), outputs(trained, np.asarray(inner)), rtol=1e-5, atol=1e-6
        )


def test_dtype_policies(trained: keras.Model, checkpoint: Path) -> None:
    for policy in ("mixed_float16", "mixed_bfloat16", "bfloat16"):
        model = tiny(weights=checkpoint, dtype=policy, classifier_activation=None)
        found = outputs(model).astype(np.float32)
        assert np.abs(found - outputs(trained)).max() < 0.05 * np.abs(outputs(trained)).max()
        kernel = model.get_layer("stem_conv").kernel
        assert kernel.dtype == ("bfloat16" if policy == "bfloat16" else "float32")


def test_half_precision_files(trained: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({k: v.astype(np.float16) for k, v in reszoo.export_torch(trained).items()}, path)
    model = tiny(weights=path)
    kernel = np.asarray(model.get_layer("stem_conv").kernel)
    expected = np.asarray(trained.get_layer("stem_conv").kernel).astype(np.float16)
    np.testing.assert_array_equal(kernel, expected.astype(np.float32))


# Heads


def test_another_number_of_classes(trained: keras.Model, checkpoint: Path) -> None:
    with pytest.warns(WeightsNotice, match="10 classes: .* new classifier of 7 classes") as seen:
        model = reszoo.build("resnet20", weights=checkpoint, classes=7, seed=5, **TINY)
    assert len(seen) == 1 and seen[0].filename == str(Path(__file__).parent / Path(__file__).name)
    initial, mine, theirs = values(tiny(classes=7, seed=5)), values(model), values(trained)
    for key in mine:
        expected = initial if key.startswith("head_dense") else theirs
        np.testing.assert_array_equal(mine[key], expected[key])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(weights=checkpoint, classes=7)  # said once


def test_the_classes_of_the_weights_are_the_default(tmp_path: Path) -> None:
    path = write(randomized(tiny(classes=6)), "safetensors", tmp_path)
    assert tiny(weights=path).output_shape == (None, 6)


def test_parts_of_the_network(trained: keras.Model, checkpoint: Path) -> None:
    last = keras.Model(trained.input, trained.get_layer("stage3_block1_relu2").output)
    expected = outputs(last)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(
            outputs(tiny(weights=checkpoint, include_top=False)), expected
        )
        for arguments, reduced in (
            ({"classes": 0}, expected.mean(axis=(1, 2))),
            ({"include_top": False, "pooling": "avg"}, expected.mean(axis=(1, 2))),
            ({"include_top": False, "pooling": "max"}, expected.max(axis=(1, 2))),
        ):
            found = outputs(tiny(weights=checkpoint, **arguments))
            np.testing.assert_allclose(found, reduced, rtol=1e-5, atol=1e-6)
        maps = reszoo.backbone("resnet20", (1, 3), weights=checkpoint, **TINY)
    np.testing.assert_array_equal(np.asarray(maps(images(maps))[1]), expected)


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg13"])
def test_vgg_backbones(name: str, tmp_path: Path) -> None:
    model = randomized(reszoo.build(name, include_top=False, input_shape=(40, 40, 3)))
    path = tmp_path / "features.safetensors"
    state = reszoo.export_torch(model, path)
    assert {"features.0.weight", "features.0.bias"} < set(state)
    back = reszoo.build(name, weights=path, include_top=False, input_shape=(40, 40, 3))
    np.testing.assert_array_equal(outputs(back), outputs(model))
    for kind in ("keras", "weights.h5"):
        own = write(model, kind, tmp_path)
        back = reszoo.build(name, weights=own, include_top=False, input_shape=(40, 40, 3))
        np.testing.assert_array_equal(outputs(back), outputs(model))
    with pytest.raises(WeightFileError, match=r"missing: classifier\.0\.weight"):
        reszoo.build(name, weights=path, classes=5, input_shape=(40, 40, 3))
    with pytest.raises(WeightFileError, match="named as those of VGG networks"):
        tiny(weights=path)


@pytest.mark.parametrize("kind", ["keras", "weights.h5", "safetensors"])
@pytest.mark.filterwarnings("error::reszoo.weights.loading.WeightsNotice")
def test_vgg_of_any_size(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first fully connected layer has a row a channel and pixel of the map, image / 32."""
    monkeypatch.setitem(catalog.VGG, "vgg11_bn", ((2,), (2,), (2,), (2,), (4,)))
    shape = {"input_shape": (32, 70, 1)}
    model = randomized(reszoo.build("vgg11_bn", classes=3, **shape))
    assert model.get_layer("head_fc1").kernel.shape == (4 * 1 * 2, 4096)
    path = write(model, kind, tmp_path)
    back = reszoo.build("vgg11_bn", weights=path, classes=3, **shape)
    np.testing.assert_array_equal(outputs(back), outputs(model))
    for size in (shape, {"input_shape": (None, None, 1)}):  # the convolutions fit any
        part = reszoo.build("vgg11_bn", weights=path, include_top=False, **size)
        features = keras.Model(model.input, model.get_layer("stage5_pool").output)
        np.testing.assert_array_equal(outputs(part, images(model)), outputs(features))
    text = refusal(SpecError, "vgg11_bn", weights=path, input_shape=(224, 224, 1))
    assert "maps of (1, 2) pixels, not (7, 7): with weights use images of 32x64" in text


@pytest.mark.parametrize(
    ("flattened", "asked", "size"),
    [
        (25088, None, (224, 224)),  # 512 x 7 x 7
        (2048, (64, 64, 3), (64, 64)),
        (2048, (70, 65, 3), (70, 65)),
        (2048, (32, 128, 3), (32, 128)),
        (2048, (32, 32, 3), (64, 64)),
        (2048, (None, None, 3), (64, 64)),
        (3072, None, (64, 96)),
        (100, None, (32, 32)),
        (None, (40, 40, 3), (40, 40)),
    ],
)
def test_image_size_of_vgg(flattened: int | None, asked: Any, size: tuple[int, int]) -> None:
    assert image_size("vgg11", flattened, asked) == size


@pytest.mark.slow
def test_vgg_with_its_classifier(tmp_path: Path) -> None:
    model = randomized(reszoo.build("vgg11", classes=5))
    path = tmp_path / "vgg11.safetensors"
    reszoo.export_torch(model, path)
    np.testing.assert_array_equal(outputs(reszoo.build("vgg11", weights=path)), outputs(model))


# Channels


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_input_channels(channels: int, trained: keras.Model, checkpoint: Path) -> None:
    shape = (32, 32, channels)
    with pytest.warns(WeightsNotice, match=f"adapted to {channels}$"):
        model = tiny(weights=checkpoint, input_shape=shape, classifier_activation=None)
    rgb = np.asarray(trained.get_layer("stem_conv").kernel)
    kernel = np.asarray(model.get_layer("stem_conv").kernel)
    assert kernel.shape == (3, 3, channels, 4)
    for channel in range(channels):
        expected = rgb.sum(axis=2) if channels == 1 else rgb[:, :, channel % 3] * 3 / channels
        np.testing.assert_allclose(kernel[:, :, channel], expected, rtol=1e-6, atol=1e-7)
    if channels != 4:  # whole turns: equal channels give what they gave
        grey = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
        found = outputs(model, np.repeat(grey, channels, 3))
        np.testing.assert_allclose(found, outputs(trained, np.repeat(grey, 3, 3)), 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (3, 32, 32)}, r"adapted to 32; did you mean input_shape=\(32, 32, 3\)"),
        ({"input_shape": (1, 32, 48)}, r"adapted to 48; did you mean input_shape=\(32, 48, 1\)"),
        (
            {"input_shape": (32, 16, 3), "data_format": "channels_first"},
            r"adapted to 32; did you mean input_shape=\(3, 32, 16\)",
        ),
        ({"input_shape": (32, 32, 1)}, "adapted to 1$"),
        ({"input_shape": (32, 32, 8)}, "adapted to 8$"),
        ({"input_shape": (None, None, 6)}, "adapted to 6$"),
        ({"input_shape": (4, 16, 16), "data_format": "channels_first"}, "adapted to 4$"),
    ],
)
def test_other_input_channels_are_said(
    arguments: dict[str, Any], words: str, checkpoint: Path
) -> None:
    with pytest.warns(WeightsNotice, match=f"mine.* has 3 input channels: .* {words}") as seen:
        tiny(weights=checkpoint, include_top=False, **arguments)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["keras", "weights.h5", "safetensors"])
def test_files_of_other_input_channels(kind: str, tmp_path: Path) -> None:
    grey = randomized(tiny(input_shape=(32, 32, 1)))
    path = write(grey, kind, tmp_path)
    with pytest.warns(WeightsNotice, match=r"input_shape=\(32, 32, 1\)"):
        model = tiny(weights=path)
    np.testing.assert_array_equal(outputs(model), outputs(grey))
    with pytest.warns(WeightsNotice, match="has 1 input channel: .* adapted to 3$"):
        wide = tiny(weights=path, input_shape=(32, 32, 3))
    batch = images(grey)
    np.testing.assert_allclose(
        outputs(wide, np.repeat(batch, 3, 3)), outputs(grey, batch), rtol=1e-4, atol=1e-5
    )


# What does not fit


def test_tensors_that_do_not_fit_are_listed(checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(
        checkpoint,
        tmp_path,
        layer1__0__conv1__weight=np.zeros((4, 4, 5, 5), np.float32),
        layer2__0__bn1__bias=None,
        surprise=np.zeros(3, np.float32),
    )
    text = refusal(WeightFileError, weights=path, **TINY)
    assert text.startswith(f"{path} is not resnet8: ")
    assert "1 missing: layer2.0.bn1.bias" in text
    assert "1 of another shape: layer1.0.conv1.weight 4x4x5x5 (wanted 4x4x3x3)" in text
    assert "1 not of this network: surprise" in text


def test_files_of_other_networks(checkpoint: Path, trained: keras.Model, tmp_path: Path) -> None:
    bare = damaged(checkpoint, tmp_path)
    assert "missing: layer1.1.conv1" in refusal(WeightFileError, weights=bare)  # deeper
    for network in ("preresnet20", "resnet18", "seresnet18", "wrn16-4", "vgg11"):
        arguments = {"input_shape": (224, 224, 3)} if network == "vgg11" else {}
        refusal(WeightFileError, network, weights=bare, classes=0, **arguments)
        error = WeightFileError if network == "vgg11" else SpecError
        refusal(error, network, weights=checkpoint, classes=0, **arguments)
    path = write(trained, "keras", tmp_path)
    for network in ("resnet20", "resnet18", "seresnet110"):
        assert "contradicts" in refusal(SpecError, network, weights=path, include_top=False)
    assert "not vgg11" in refusal(WeightFileError, "vgg11", weights=path, include_top=False)
    path = write(trained, "weights.h5", tmp_path)
    for network in ("resnet20", "vgg11"):
        refusal(WeightFileError, network, weights=path, include_top=False)
    names = {"a\nb": np.zeros(2, np.float32), "c": np.zeros(2, np.float32)}
    save_file(names, tmp_path / "odd.safetensors")
    text = refusal(WeightFileError, weights=tmp_path / "odd.safetensors")
    assert "named like no known network's (first: a\\nb, c)" in text


def edited(path: Path, target: Path, change: Any) -> Path:
    """Copy a `.keras` file with its configuration changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.namelist():
            body = old.read(item)
            if item == "config.json":
                config = json.loads(body)
                change(config["config"])
                body = json.dumps(config).encode()
            new.writestr(item, body)
    return target


@pytest.mark.usefixtures("no_loader_of_keras")
def test_keras_files_that_lie(trained: keras.Model, tmp_path: Path) -> None:
    path = write(trained, "keras", tmp_path)
    for number, (change, error) in enumerate(
        [
            (lambda c: c["spec"].update(depths=[10**9] * 3), "spec cannot be read: depths"),
            (lambda c: c["spec"].update(surprise=1), "spec cannot be read"),
            (lambda c: c.update(layers=5), "no functional model"),
            (lambda c: c["meta"].update(labels="imagenet"), "metadata cannot be read"),
            (lambda c: c["meta"].update(preprocessing={"mean": "x"}), "metadata cannot be read"),
            (lambda c: c["layers"].pop(1), "weights of other layers|missing|another shape"),
        ]
    ):
        target = edited(path, tmp_path / f"{number}.keras", change)
        with pytest.raises((WeightFileError, SpecError), match=error) as caught:
            tiny(weights=target)
        assert "\n" not in str(caught.value)


def test_paths_that_are_wrong(checkpoint: Path) -> None:
    text = refusal(SpecError, weights=checkpoint.with_name("mime.safetensors"))
    assert text.endswith('did you mean "mine.safetensors"?')
    assert "no weights file" in refusal(SpecError, weights="nowhere/at/all.pth")
    assert "is a directory" in refusal(SpecError, weights=checkpoint.parent)
    assert "no weights file" in refusal(SpecError, weights="model_best.pth.tar")
    assert "no weights file" in refusal(SpecError, weights="~nobody-of-this-name/a.pth")
    assert len(refusal(SpecError, weights="/" + 5000 * "a" + ".pth")) < 500
    assert len(refusal(SpecError, weights=5000 * "a")) < 1000
    assert "not 5" in refusal(SpecError, weights=5)
    with pytest.raises(SpecError, match="a network is a name or a ResNetSpec"):
        reszoo.build(5, weights=checkpoint)  # type: ignore[arg-type]
    assert '"resnet20"' in refusal(SpecError, "resnet2O", weights=checkpoint)


@pytest.mark.parametrize("name", ["model_best.pth.tar", "last.ckpt", "checkpoint"])
def test_names_of_files_that_are_there(
    name: str, trained: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader tells a file's kind by its content."""
    for kind in ("pth", "legacy th"):
        write(trained, kind, tmp_path).replace(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        found = tiny(weights=name, classifier_activation=None)
        np.testing.assert_array_equal(outputs(found), outputs(trained))
    (tmp_path / name).write_bytes(b"?")
    assert "Supported: torch (.pth" in refusal(WeightFileError, weights=name)


def test_a_tag_stays_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a1_in1k").write_bytes(b"")
    monkeypatch.setattr(loading.index, "fetch", unreachable)
    with pytest.raises(OSError, match="no route"):
        reszoo.build("resnet50", weights="a1_in1k")


def test_files_of_one_name_are_not_one_file(tmp_path: Path) -> None:
    for part in "AB":
        (tmp_path / part).mkdir()
        path = write(tiny(), "keras", tmp_path / part)
        with pytest.warns(WeightsNotice, match="new classifier of 7 classes"):
            tiny(weights=path, classes=7)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tiny(weights=path, classes=7)


def test_layers_are_told_by_their_names(tmp_path: Path) -> None:
    """preresnet20 has resnet20's kinds and shapes of layers in the same order."""
    other = reszoo.build("preresnet20", **TINY)
    assert [v.shape for v in other.variables] == [v.shape for v in tiny().variables]
    path = write(other, "weights.h5", tmp_path)
    assert "other layers than the network's: head_norm" in refusal(
        WeightFileError, weights=path, **TINY
    )
    again = reszoo.build("preresnet20", weights=path, **TINY)
    for name, value in values(other).items():
        np.testing.assert_array_equal(values(again)[name], value)


def test_names_of_groups(tmp_path: Path) -> None:
    """h5py writes the texts, in every version of the format; other attributes are no names."""
    h5py = pytest.importorskip("h5py")
    for form in ("earliest", "v108", "latest"):
        path = tmp_path / f"{form}.h5"
        with h5py.File(path, "w", libver=form) as file:
            for group, name in {
                "long": "é" * 200,
                "fixed": np.bytes_("padded"),
                "list": ["a", "b"],
                "number": 5,
                "endless": "x" * 3000,
            }.items():
                file.create_group(f"layers/{group}").attrs["name"] = name
            file["layers/fixed"].attrs["title"] = "no name"
            file["layers/fixed"].create_dataset("0", data=np.ones(3, np.float32))
        with open_weights(path) as found:
            assert found.group_names == {"layers/long": "é" * 200, "layers/fixed": "padded"}
        content = path.read_bytes()
        heap = content.index(b"GCOL")
        for at, what in ((heap, b"GARB"), (heap + 8, b"\xff" * 7), (heap + 16, b"\x63\0")):
            path.write_bytes(content[:at] + what + content[at + len(what) :])
            with pytest.raises(WeightFileError, match=r"heap|HDF5"):
                open_weights(path)


def test_folded_files_and_sizes_of_keras_files(tmp_path: Path) -> None:
    model = tiny(input_shape=(48, None, 1))
    path = write(model, "keras", tmp_path)
    assert tiny(weights=path).input_shape == (None, 32, 32, 1)  # the channels only
    reszoo.fold_batch_norm(model).save(tmp_path / "folded.keras")
    text = refusal(WeightFileError, weights=tmp_path / "folded.keras", **TINY)
    assert text.endswith("holds a folded model; give the unfolded one")


def test_numbers_that_no_float_holds(trained: keras.Model, tmp_path: Path) -> None:
    path = write(trained, "keras", tmp_path)
    huge = 10**400
    for number, change in enumerate(
        [
            lambda c: c["spec"].update(norm_epsilon=huge),
            lambda c: c["meta"].update(preprocessing={"scale": huge}),
        ]
    ):
        target = edited(path, tmp_path / f"{number}.keras", change)
        assert "cannot be read" in refusal(WeightFileError, weights=target, **TINY)
