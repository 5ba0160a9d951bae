"""Backbones: maps, strides, dilation, pyramid levels, and a detector of keras-cv on top."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from families import FAMILIES, close, images, tiny

import reszoo

TIMM = json.loads((Path(__file__).parent / "parity" / "timm_details.json").read_text())
SMALL = {"depths": (1, 1, 1, 1), "width": 8, "input_shape": (64, 96, 3)}


def timm_taps(name: str) -> list[list]:
    """Return [channels, stride] of timm's feature maps, the stem first."""
    return [tap[1:] for tap in TIMM[name]["taps"]]


@pytest.mark.parametrize("name", [name for name in TIMM if "taps" in TIMM[name]])
def test_channels_and_strides_are_timms(name: str) -> None:
    network, _, stride = name.partition("/")[2].partition("@os")
    plan = reszoo.plan(network, output_stride=int(stride) if stride else None)
    channels = [plan[key].channels for key in plan.endpoints]
    assert [list(pair) for pair in zip(channels, plan.strides, strict=True)] == timm_taps(name)


@pytest.mark.parametrize(
    ("network", "stride"), [("resnet18", 8), ("resnetv2_50", 16), ("resnet10t", None)]
)
def test_feature_info_is_timms(network: str, stride: int | None) -> None:
    model = reszoo.backbone(network, output_stride=stride, input_shape=(64, 64, 3))
    found = [[entry["channels"], entry["stride"]] for entry in model.feature_info]
    assert found == timm_taps(f"timm/{network}" + (f"@os{stride}" if stride else ""))
    assert [entry["index"] for entry in model.feature_info] == [0, 1, 2, 3, 4]
    for entry, output in zip(model.feature_info, model.outputs, strict=True):
        assert output is model.get_layer(entry["name"]).output


@pytest.mark.parametrize(
    ("family", "data_format"),
    [
        *((family, "channels_last") for family in FAMILIES),
        *((family, "channels_first") for family in ("option A", "timm v2", "keras v2", "dilated")),
    ],
)
def test_maps_have_the_stated_sizes(family: str, data_format: str) -> None:
    """And they are the maps that the classifier of the same network sees."""
    model = tiny(family, features_only=True, data_format=data_format)
    whole = tiny(family, data_format=data_format)
    shared = {layer.name for layer in model.layers}
    assert shared < {layer.name for layer in whole.layers}
    for layer in model.layers:
        layer.set_weights(whole.get_layer(layer.name).get_weights())
    x = images(model)
    side = max(x.shape)
    maps = model(x)
    for entry, found in zip(model.feature_info, maps, strict=True):
        size = (side // entry["stride"],) * 2
        last = (2, *size, entry["channels"])
        assert found.shape == (last if data_format == "channels_last" else (2, last[3], *size))
    names = [entry["name"] for entry in model.feature_info]
    close(maps, keras.Model(whole.input, [whole.get_layer(n).output for n in names])(x))


def test_chosen_maps_and_their_info() -> None:
    model = reszoo.backbone("resnet18", (-1, 2), **SMALL)
    assert [entry["index"] for entry in model.feature_info] == [4, 2]
    assert [x.shape[1:] for x in model.outputs] == [(2, 3, 64), (8, 12, 16)]
    same = reszoo.build("resnet18", features_only=True, out_indices=(4, 2), **SMALL)
    assert same.spec == model.spec and same.feature_info == model.feature_info
    single = reszoo.backbone("resnet18", [3], **SMALL)
    assert single.output.shape == (None, 4, 6, 32)
    whole = reszoo.build("resnet18", **SMALL)
    assert [entry["index"] for entry in whole.feature_info] == [0, 1, 2, 3, 4]


def test_info_survives_saving(tmp_path) -> None:
    model = reszoo.backbone("resnet18", (1, 3), output_stride=8, **SMALL)
    model.save(tmp_path / "m.keras")
    again = reszoo.load(tmp_path / "m.keras")
    assert again.feature_info == model.feature_info
    assert again.pyramid_level_inputs == model.pyramid_level_inputs
    x = images(model)
    for one, other in zip(again(x), model(x), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("stride", "sizes"), [(8, (8, 8, 8)), (16, (8, 4, 4)), (32, (8, 4, 2))])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50d", "resnetv2_50"])
def test_output_stride(name: str, stride: int, sizes: tuple[int, ...]) -> None:
    """Dilation keeps the maps' size, the parameters, and every pixel that the strides keep."""
    dilated, strided = (
        reszoo.backbone(name, seed=0, **{**SMALL, "input_shape": (64, 64, 3)}, output_stride=s)
        for s in (stride, None)
    )
    assert [x.shape[1] for x in dilated.outputs[2:]] == list(sizes)
    assert [v.shape for v in dilated.variables] == [v.shape for v in strided.variables]
    if name == "resnet50d":
        return  # its shortcuts average other pixels
    x = images(strided)
    for dense, sparse in zip(dilated(x), strided(x), strict=True):
        step = dense.shape[1] // sparse.shape[1]
        close(dense[:, ::step, ::step], sparse)


def test_pyramid_levels() -> None:
    model = reszoo.backbone("resnet18", **SMALL)
    assert model.pyramid_level_inputs == {
        "P1": "stem_relu", "P2": "stage1_block1_relu2", "P3": "stage2_block1_relu2",
        "P4": "stage3_block1_relu2", "P5": "stage4_block1_relu2",
    }  # fmt: skip
    x = images(model)
    views = keras.Model(model.input, model.pyramid_outputs)(x)
    assert list(views) == ["P1", "P2", "P3", "P4", "P5"]
    for level, found in views.items():
        assert found.shape[1] == 64 // 2 ** int(level[1])


def test_pyramid_levels_of_equal_stride() -> None:
    """The last map of a stride is the level, and levels that no map has are missing."""
    model = reszoo.backbone("resnet18", output_stride=8, **SMALL)
    assert list(model.pyramid_level_inputs) == ["P1", "P2", "P3"]
    assert model.pyramid_level_inputs["P3"] == "stage4_block1_relu2"
    cifar = reszoo.backbone("resnet20", depth=8, width=4)
    assert cifar.pyramid_level_inputs == {
        "P0": "stage1_block1_relu2", "P1": "stage2_block1_relu2", "P2": "stage3_block1_relu2",
    }  # fmt: skip
    short = reszoo.backbone("resnet18", (1, 2), **SMALL)
    assert list(short.pyramid_level_inputs) == ["P1", "P2", "P3"]  # P4 and P5 were not built


def test_vgg_is_a_backbone_too() -> None:
    model = reszoo.backbone("vgg11_bn", (2, 3), input_shape=(32, 32, 3))
    assert [(e["stride"], e["channels"]) for e in model.feature_info] == [(4, 256), (8, 512)]
    assert [x.shape[1:] for x in model.outputs] == [(8, 8, 256), (4, 4, 512)]
    assert model.spec is None and list(model.stages)[:2] == ["stem", "stage1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"out_indices": (5,)}, "out_indices: 5 is not between -5 and 4"),
        ({"output_stride": 12}, "output_stride 12"),
        ({"frozen_nrm": True}, 'did you mean "frozen_norm"'),
        ({"pooling": "avg"}, "features_only returns maps"),
        ({"classes": 5}, "classes sizes the classifier"),
    ],
)
def test_impossible_backbones(arguments: dict, words: str) -> None:
    with pytest.raises(reszoo.SpecError) as caught:
        reszoo.backbone("resnet18", **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def boxes(count: int, side: int) -> dict[str, np.ndarray]:
    """Return two random boxes (x, y, width, height in pixels) an image, of three classes."""
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, side / 2, (count, 2, 2))
    sizes = draw.uniform(side / 4, side / 2, (count, 2, 2))
    return {
        "boxes": np.concatenate([corners, sizes], -1).astype(np.float32),
        "classes": draw.integers(0, 3, (count, 2)).astype(np.float32),
    }


@pytest.mark.parametrize("frozen_norm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_keras_cv_retinanet_trains_on_it(frozen_norm: bool) -> None:
    import keras_cv

    base = reszoo.backbone(
        "resnet18", width=8, input_shape=(64, 64, 3), seed=0, frozen_norm=frozen_norm
    )
    detector = keras_cv.models.RetinaNet(backbone=base, num_classes=3, bounding_box_format="xywh")
    levels = {"P3": (8, 8, 16), "P4": (4, 4, 32), "P5": (2, 2, 64)}
    extracted = detector.feature_extractor.output
    assert {key: tuple(x.shape[1:]) for key, x in extracted.items()} == levels
    detector.compile(
        optimizer=keras.optimizers.SGD(0.01, clipnorm=10.0),
        classification_loss="focal",
        box_loss="smoothl1",
        jit_compile=False,
    )
    before = {v.path: np.asarray(v) for v in base.variables}
    x = np.random.default_rng(0).uniform(-2, 2, (2, 64, 64, 3)).astype(np.float32)
    history = detector.fit(x, boxes(2, 64), batch_size=2, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["box_loss"][0] > 0
    moved = {v.path for v in base.variables if not np.array_equal(np.asarray(v), before[v.path])}
    kernels = {path for path in before if path.endswith("kernel")}
    assert moved == (kernels if frozen_norm else set(before))
    found = detector.predict(x, verbose=0)
    assert found["boxes"].shape == (2, 100, 4) and np.isfinite(found["confidence"]).all()
