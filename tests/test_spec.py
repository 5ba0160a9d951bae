"""ResNetSpec and the catalogue: validation, round trips, one-line errors."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil

import pytest

import reszoo
from reszoo import catalog


def test_names() -> None:
    assert reszoo.names("plain*") == [
        f"plain{d}" for d in (18, 20, 32, 34, 44, 50, 56, 101, 110, 152, 1202)
    ]
    assert reszoo.names("resnet??") == [
        f"resnet{d}" for d in (10, 14, 18, 20, 26, 32, 34, 44, 50, 56)
    ]
    assert reszoo.names("nothing*") == []


def test_round_trip_through_json() -> None:
    for name in catalog.NETWORKS:
        spec = reszoo.spec(name)
        again = reszoo.ResNetSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert again == spec and hash(again) == hash(spec) and again.name == name


def test_frozen_and_diff() -> None:
    plain, residual = reszoo.spec("plain20"), reszoo.spec("resnet20")
    assert plain.diff(residual) == {"shortcut": ("none", "A")}
    assert reszoo.spec("resnet20", shortcut="none") == plain
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.shortcut = "A"


def test_derived_overrides() -> None:
    assert reszoo.spec("resnet20", depth=8).depths == (1, 1, 1)
    assert reszoo.spec("resnet20", depth=8).name == "resnet8"
    assert reszoo.spec("resnet20", depth=110) == reszoo.spec("resnet110")
    narrow = reszoo.spec("resnet20", width=8)
    assert (narrow.stem_width, narrow.widths) == (8, (8, 16, 32))
    assert reszoo.spec("resnet18", depth=34) == reszoo.spec("resnet34")
    assert reszoo.spec("plain50", depth=101) == reszoo.spec("plain101")
    assert reszoo.spec("resnet20", depth=29, block="bottleneck").depths == (3, 3, 3)
    assert reszoo.spec(reszoo.spec("resnet20"), depth=56) == reszoo.spec("resnet56")


@pytest.mark.parametrize("network", ["resnet18", reszoo.spec("resnet18")])
def test_width_scales_the_stem_unless_it_is_given(network) -> None:
    narrow = (32, 64, 128, 256)
    for stem, expected in ((None, 32), (64, 64), (16, 16)):
        spec = reszoo.spec(network, width=32, stem_width=stem)
        assert (spec.stem_width, spec.widths) == (expected, narrow)
    assert reszoo.spec("wrn16-4", width=32).stem_width == 8  # its own stem scales
    odd = reszoo.spec(network, stem_width=12)  # 12 x 8 / 64 would be no integer
    assert reszoo.spec(odd, width=8, stem_width=12).widths == (8, 16, 32, 64)
    with pytest.raises(reszoo.SpecError, match="stem_width takes a positive integer, not 0"):
        reszoo.spec(network, width=32, stem_width=0)


def test_names_with_a_weights_tag() -> None:
    """The network that the weights are of: torch's strides, their classes, their shortcuts."""
    bare = reszoo.spec("resnet50")
    assert reszoo.spec("resnet50.a1_in1k").diff(bare) == {"stride_placement": ("3x3", "1x1")}
    assert reszoo.spec("resnet50.IMAGENET1K_V2") == reszoo.spec("resnet50.imagenet")
    assert reszoo.spec("resnet20.akamaster_cifar10").shortcut_pad == "both"
    assert reszoo.spec("resnetv2_50x1_bit.goog_in21k").classes == 21843
    changed = reszoo.spec("resnet50.a1_in1k", classes=None, dropout=0.5, width=32)
    assert (changed.classes, changed.dropout, changed.stem_width) == (1000, 0.5, 32)
    assert changed.name == "resnet50" and changed.stride_placement == "3x3"
    # torchvision's ResNet-50 has 4.09 GMACs, the paper's 3.86 (published.csv).
    assert round(reszoo.complexity("resnet50.tv_in1k").macs / 1e9, 2) == 4.09
    assert "stride in the 3x3 (v1.5)" in reszoo.describe("resnet50.tv_in1k")
    for name, words in (
        ("resnet50.a4_in1k", 'unknown weights of resnet50 "a4_in1k"; did you mean "a3_in1k"?'),
        ("resnet50.", 'unknown weights of resnet50 ""'),
        ("resnet5O.a1_in1k", 'unknown network "resnet5O"; did you mean "resnet50'),
        ("vgg16.tv_in1k", 'unknown network with published weights "vgg16"'),
    ):
        with pytest.raises(reszoo.SpecError) as caught:
            reszoo.describe(name)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_none_means_as_it_was() -> None:
    """A plain net must not become residual by shortcut=None."""
    assert reszoo.spec("plain20", shortcut=None) == reszoo.spec("plain20")
    assert reszoo.spec("resnet20", shortcut=None, widths=None) == reszoo.spec("resnet20")


def test_none_means_as_it_was_of_comparators_too() -> None:
    known = reszoo.complexity("vgg16")
    for name in ("classes", "input_shape", "name", "stem", "depth"):
        assert reszoo.complexity("vgg16", **{name: None}) == known


@pytest.mark.parametrize(
    "overrides",
    [
        {"block": "bottleneck", "depth": 29},
        {"widths": (8, 16, 32)},
        {"width": 8, "depth": 8},
        {"shortcut": "C"},
        {"shortcut": "none"},
        {"stem": "imagenet", "widths": (64, 128, 256)},
        {"classes": 100},
    ],
)
def test_a_spec_and_its_name_are_overridden_alike(overrides) -> None:
    by_name = reszoo.spec("resnet20", **overrides)
    by_object = reszoo.spec(reszoo.spec("resnet20"), **overrides)
    assert by_name.diff(by_object) == {} and by_name.name == by_object.name


def test_names_say_what_the_network_is() -> None:
    assert reszoo.spec("plain20", shortcut="C").name == "resnet20"
    assert reszoo.spec("resnet20", shortcut="none").name == "plain20"
    assert reszoo.spec("resnet20", block="bottleneck", depth=29).name == "resnet29"
    assert reszoo.spec("resnet20", name="mine", depth=8).name == "mine"


def test_integers_of_other_libraries() -> None:
    import numpy as np

    spec = reszoo.spec(
        "resnet20", depth=np.int64(8), width=np.int32(4), classes=np.int64(7),
        input_shape=np.array([8, 8, 3]),
    )  # fmt: skip
    assert spec == reszoo.spec("resnet20", depth=8, width=4, classes=7, input_shape=(8, 8, 3))
    assert {type(n) for n in (*spec.depths, *spec.widths, spec.classes)} == {int}
    switched = reszoo.spec("resnet20", stochastic_depth=np.float32(0.25), zero_gamma=np.bool_(True))
    assert switched == reszoo.spec("resnet20", stochastic_depth=0.25, zero_gamma=True)
    assert json.loads(json.dumps(switched.to_dict()))["zero_gamma"] is True


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"classes": -5}, "classes takes"),
        ({"classes": True}, "classes takes"),
        ({"input_shape": (224.5, 224, 3)}, "input_shape is"),
        ({"input_shape": (224, 224)}, "input_shape is"),
        ({"input_shape": (224, 224, None)}, "input_shape is"),
        ({"input_shape": "abc"}, "input_shape takes a sequence"),
        ({"input_shape": (10**20, 10**20, 3)}, "input_shape is .* from 1 to 2147483647"),
        ({"classes": 10**30}, "classes takes"),
        ({"shortcut": "A"}, "comparator"),
        ({"shortct": None}, "comparator"),
    ],
)
def test_comparators_check_their_arguments_too(overrides, words) -> None:
    with pytest.raises(reszoo.SpecError, match=words):
        reszoo.complexity("vgg16", **overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("resnet21", {}, 'unknown network "resnet21"; did you mean "resnet20"?'),
        ("resnet20", {"shortcut": "D"}, 'unknown shortcut "D"'),
        ("resnet20", {"shortct": "B"}, 'did you mean "shortcut"?'),
        ("resnet20", {"depth": 9}, "6n+2, not 9; nearest: 8 and 14"),
        ("resnet20", {"depth": 8, "block": "bottleneck"}, "9n+2, not 8"),
        ("resnet34", {"depth": 50}, "basic blocks has 18 or 34 layers (Table 1), not 50"),
        ("resnet20", {"width": 0}, "width takes a positive integer"),
        ("resnet20", {"width": 8, "widths": (8, 16, 32)}, "not both"),
        ("resnet20", {"depths": (1, 1)}, "one entry a stage"),
        ("resnet20", {"depths": 3}, "sequence of integers"),
        ("resnet20", {"depths": (1, 0, 1)}, "depths[1] takes a positive integer, not 0"),
        ("resnet20", {"depths": (10**20,) * 3}, "depths[0] takes a positive integer of at most"),
        ("resnet20", {"depth": 6 * 10**20 + 2}, "depth takes a positive integer of at most"),
        ("resnet50", {"expansion": 10**20}, "expansion takes a positive integer of at most"),
        ("resnet20", {"classes": 10**30}, "classes takes an integer of at least 0 and at most"),
        ("resnet20", {"classes": 10**5000}, "not a very large int"),
        ("resnet20", {"input_shape": (10**20, 10**20, 3)}, "from 1 to 2147483647"),
        ("resnet18", {"shortcut_kernel": 2}, "only odd kernels halve every map"),
        ("resnet20", {"classes": -1}, "classes takes"),
        ("resnet20", {"input_shape": (32, 32)}, "input_shape is"),
        ("resnet20", {"input_shape": (32, 32, None)}, "input_shape is"),
        ("resnet20", {"widths": (32, 16, 16)}, 'shortcut "A" only adds'),
        ("resnet20", {"norm_epsilon": 0}, "norm_epsilon"),
        ("resnet20", {"norm_epsilon": float("nan")}, "norm_epsilon"),
        ("resnet20", {"depth": float("nan")}, "depth takes a positive integer"),
        ("resnet18", {"depth": [34]}, "depth takes a positive integer"),
        ("resnet20", {"name": ["x"]}, "name takes text"),
        ("resnet20", {"block": "fancy"}, 'unknown block "fancy"'),
        ("vgg16", {}, "comparator"),
        (34, {}, "a network is a name"),
    ],
)
def test_bad_input_is_one_line(name, overrides, words) -> None:
    with pytest.raises(reszoo.SpecError) as caught:
        reszoo.spec(name, **overrides)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_vgg_refuses_fields_of_the_spec() -> None:
    with pytest.raises(reszoo.SpecError, match="comparator"):
        reszoo.plan("vgg16", shortcut="A")
    with pytest.raises(reszoo.SpecError, match="known input size"):
        reszoo.plan("vgg16", input_shape=(None, None, 3))


def test_from_dict_names_unknown_and_missing_fields() -> None:
    with pytest.raises(reszoo.SpecError, match='unknown spec field "sten"'):
        reszoo.ResNetSpec.from_dict({"sten": "cifar"})
    with pytest.raises(reszoo.SpecError, match="needs stem, block"):
        reszoo.ResNetSpec.from_dict({})


@pytest.mark.parametrize("package", ["reszoo", "ablations"])
def test_no_submodule_hides_a_public_function(package: str) -> None:
    """Importing a submodule binds its name on the package: it must not replace a function."""
    module = importlib.import_module(package)
    before = {name: getattr(module, name) for name in module.__all__}
    for info in pkgutil.walk_packages(module.__path__, f"{package}."):
        if not info.name.endswith(("make_slice", "__main__")):
            importlib.import_module(info.name)
    for name, value in before.items():
        assert getattr(module, name) is value, name


# The units of arXiv 1603.05027: Fig. 4 (a) to (e), two 3x3 convolutions.
UNITS = {
    "post": "conv norm relu conv norm add relu",
    "norm_after_add": "conv norm relu conv add norm relu",
    "relu_before_add": "conv norm relu conv norm relu add",
    "relu_only_pre": "relu conv norm relu conv norm add",
    "pre": "norm relu conv norm relu conv add",
}


@pytest.mark.parametrize("order", UNITS)
def test_units_of_identity_mappings(order: str) -> None:
    plan = reszoo.plan("resnet20", activation_order=order)
    unit = [layer.op for layer in plan.stage(2) if layer.block == 2]
    assert " ".join(unit) == UNITS[order]


# Its Table 1, on top of option A: what is added in a unit that keeps its shape.
SHORTCUTS = {
    "scaled": ["scale"],
    "exclusive_gate": ["conv", "sigmoid", "multiply", "scale", "multiply"],
    "shortcut_gate": ["conv", "sigmoid", "scale", "multiply"],
    "C": ["conv", "norm"],
    "dropout": ["dropout"],
}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_shortcuts_of_identity_mappings(shortcut: str) -> None:
    plan = reszoo.plan("resnet20", shortcut=shortcut)
    unit = [layer for layer in plan.stage(2) if layer.block == 2]
    assert [layer.op for layer in unit if layer.role != "main"] == SHORTCUTS[shortcut]
    factors = [(x.option("factor"), x.option("offset")) for x in unit if x.op == "scale"]
    # 0.5 x, or 1 - g.
    assert factors == {"scaled": [(0.5, 0.0)]}.get(shortcut, [(-1.0, 1.0)] * len(factors))


def shortcut_source(name: str, stage: int, block: int, **overrides) -> str:
    """Return where the shortcut of a unit leaves."""
    plan = reszoo.plan(name, **overrides)
    unit = [x for x in plan.stage(stage) if x.block == block]
    source = next(x for x in unit if x.op == "add").inputs[1]
    while plan[source].role == "shortcut":
        source = plan[source].inputs[0]
    return source


def test_where_shortcuts_of_pre_activation_leave() -> None:
    """Of the first unit after the activation (appendix), of others at the addition before."""
    assert shortcut_source("preresnet20", 1, 1) == "stage1_block1_relu1"
    assert shortcut_source("preresnet18", 1, 1) == "stem_pool"  # of the activated map
    assert shortcut_source("resnetv2_18", 1, 1) == "stem_pool"  # of the raw map
    assert shortcut_source("preresnet20", 1, 2) == "stage1_block1_add"
    assert shortcut_source("preresnet20", 2, 1) == "stage2_block1_relu1"
    assert shortcut_source("wrn40-1", 1, 1) == "stem_conv"  # no activation before it
    # keras.applications pools the raw map where only the size changes.
    assert shortcut_source("resnet50v2", 1, 3) == "stage1_block2_add"
    assert shortcut_source("resnet50v2", 2, 1) == "stage2_block1_relu1"


# Up to the first unit's first convolution: facebookarchive/fb.resnet.torch, models/preresnet.lua;
# KaimingHe/resnet-1k-layers; timm's resnetv2.py (its preact stem is a convolution and a pooling).
STEMS = {
    "preresnet18": "conv norm relu max_pool conv",
    "preresnet200b": "conv norm relu max_pool conv",
    "preresnet1001": "conv norm relu conv",
    "resnetv2_50": "conv max_pool norm relu conv",
    "resnetv2_50x1_bit": "conv max_pool norm relu conv",
}


@pytest.mark.parametrize("name", STEMS)
def test_stems_of_pre_activation(name: str) -> None:
    plan = reszoo.plan(name)
    first = plan.layers.index(plan["stage1_block1_conv1"])
    assert " ".join(layer.op for layer in plan.layers[1 : first + 1]) == STEMS[name]
    # What stands before the pooling belongs to the stem.
    assert [layer.stage for layer in plan.layers[: first + 1]] == sorted(
        layer.stage for layer in plan.layers[: first + 1]
    )
    assert plan.endpoints[0] == ("stem_relu" if name in ("preresnet18", "preresnet200b") else
                                 "stem_conv")  # fmt: skip


def test_maps_too_small_for_a_reflected_border() -> None:
    fields = {"stem": "cifar", "depths": (1, 1), "widths": (8, 16), "antialias": "blur"}
    assert reszoo.plan("resnet20", input_shape=(2, 2, 3), **fields)
    for name, arguments, words in (
        ("resnet20", {"input_shape": (1, 2, 3), **fields}, "stage2_block1_blur: a map of 1x2"),
        ("resnetblur18", {"input_shape": (16, 16, 3)}, "stage4_block1_blur: a map of 1x1"),
    ):
        with pytest.raises(reszoo.SpecError) as caught:
            reszoo.plan(name, **arguments)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_pre_activation_stem_ends_in_two_activations() -> None:
    for order in ("pre", "relu_only_pre"):
        plan = reszoo.plan("resnetrs50", activation_order=order)
        ops = [
            layer.op for layer in plan.layers[: 1 + plan.layers.index(plan["stage1_block1_conv1"])]
        ]
        assert "conv conv" not in " ".join(ops)
        assert " ".join(ops).count("relu") == 4  # three in the stem, one in the unit


def test_stochastic_depth_decays_linearly() -> None:
    """arXiv 1603.09382: survival 1 - l / L (1 - p_L)."""
    plan = reszoo.plan("resnet110", stochastic_depth=0.5)
    rates = [layer.option("rate") for layer in plan if layer.op == "drop_branch"]
    assert rates == pytest.approx([0.5 * block / 54 for block in range(1, 55)])
