"""Names of published networks and what they stand for, as data.

Names are timm's and torchvision's where one exists. ResNet-50, -101 and -152 are the paper's (v1:
stride in the first 1x1); all other bottleneck nets stride where their publication does.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from reszoo.errors import SpecError, shown, switch, unknown
from reszoo.overrides import IMAGENET_DEPTHS, merge, named
from reszoo.specs import ResNetSpec

Fields = dict[str, Any]

_IMAGENET: Fields = {
    "stem": "imagenet",
    "widths": (64, 128, 256, 512),
    "classes": 1000,
    "input_shape": (224, 224, 3),
}
_CIFAR: Fields = {
    "stem": "cifar",
    "widths": (16, 32, 64),
    "classes": 10,
    "input_shape": (32, 32, 3),
}
#: Blocks a stage: the paper's Table 1, and those that later work added.
_DEPTHS = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
} | {depth: blocks for table in IMAGENET_DEPTHS.values() for depth, blocks in table.items()}
_BASIC = (10, 18, 34)
#: ResNet-RS (arXiv 2103.07579, Table 4 of its code).
_RS_DEPTHS = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}

# Changes that a letter or a word in a name stands for.
_V15: Fields = {"stride_placement": "3x3"}
_PRE: Fields = {"activation_order": "pre"}
_SE: Fields = {"attention": "se"}
_ECA: Fields = {"attention": "eca"}
_LETTERS: dict[str, Fields] = {
    "": {},
    "b": {},  # a bottleneck's stride in the 3x3
    "c": {"stem": "deep"},
    "d": {"stem": "deep", "shortcut_downsample": "average"},
    "s": {"stem": "deep", "stem_width": 128},
    "t": {"stem": "tiered", "shortcut_downsample": "average"},
}
# The SE nets of Cadene's Caffe conversions.
_LEGACY: Fields = {"attention": "se", "se_divisor": 1, "stem_pool": "max_ceil"}
_BIT: Fields = {
    "activation_order": "pre",
    "preact_split": "before",
    "norm": "group",
    "weight_standardization": True,
    "stem_pool": "max_zero",
}


def _imagenet(depth: int, *changes: Fields) -> Fields:
    fields = {
        **_IMAGENET,
        "block": "basic" if depth in _BASIC else "bottleneck",
        "depths": _DEPTHS[depth],
    }
    for change in changes:
        fields.update(change)
    return fields


def _lettered(name: str, *changes: Fields) -> Fields:
    """Return the fields of a depth with or without a letter: "50d"."""
    depth = name.rstrip("cdst")
    return _imagenet(int(depth), _LETTERS[name[len(depth) :]], *changes)


def _cifar(depth: int, block: str, *changes: Fields) -> Fields:
    per_block = 6 if block == "basic" else 9
    fields = {**_CIFAR, "block": block, "depths": ((depth - 2) // per_block,) * 3}
    for change in changes:
        fields.update(change)
    return fields


def _paper() -> dict[str, Fields]:
    """Return the networks of arXiv 1512.03385."""
    networks = {}
    for family, shortcut in (("resnet", None), ("plain", "none")):
        for table in IMAGENET_DEPTHS.values():
            for depth in table:
                networks[f"{family}{depth}"] = _imagenet(depth, {"shortcut": shortcut})
        for depth in (20, 32, 44, 56, 110, 1202):  # sec. 4.2: 6n+2 layers
            networks[f"{family}{depth}"] = _cifar(depth, "basic", {"shortcut": shortcut})
    return networks


def _strides_and_stems() -> dict[str, Fields]:
    """Return v1.5, other depths, deep stems (arXiv 1812.01187) and anti-aliased nets."""
    networks = {
        "resnet10": _imagenet(10),
        "resnet14": _imagenet(14, _V15),
        "resnet26": _imagenet(26, _V15),
        "resnet200": _imagenet(200),
    }
    for depth in (50, 101, 152):
        networks[f"resnet{depth}b"] = _imagenet(depth, _V15)
        for letter in "cds":
            networks[f"resnet{depth}{letter}"] = _imagenet(depth, _V15, _LETTERS[letter])
    for name in ("10t", "14t", "18d", "26d", "26t", "34d", "50t", "200d"):
        networks[f"resnet{name}"] = _lettered(name, _V15)
    for kind, names in (
        ("aa", ("50", "50d", "101d")),
        ("blur", ("18", "50", "50d", "101d")),
    ):
        antialias = {"antialias": "average" if kind == "aa" else kind}
        for name in names:
            networks[f"resnet{kind}{name}"] = _lettered(name, _V15, antialias)
    networks["resnet50_gn"] = _imagenet(50, _V15, {"norm": "group"})
    for depth, blocks in _RS_DEPTHS.items():  # arXiv 2103.07579
        networks[f"resnetrs{depth}"] = {
            **_imagenet(50, _V15, _LETTERS["d"], _SE),
            "depths": blocks,
            "se_ratio": 0.25,
            "stem_pool": "conv",
        }
    return networks


def _grouped(name: str, *changes: Fields) -> Fields:
    """Return the fields of "50d_32x4d"."""
    depth, letter, groups, width = map(str, re.findall(r"^(\d+)([a-z]?)_(\d+)x(\d+)d$", name)[0])
    cardinality = {"groups": int(groups), "width_per_group": int(width)}
    return _imagenet(
        int(depth), {"block": "bottleneck"}, _V15, _LETTERS[letter], cardinality, *changes
    )


def _wide_and_grouped() -> dict[str, Fields]:
    """Return Wide ResNets (arXiv 1605.07146), ResNeXts (1611.05431), SE (1709.01507), ECA nets."""
    networks = {}
    for depth in (50, 101):
        networks[f"wide_resnet{depth}_2"] = _imagenet(depth, _V15, {"width_per_group": 128})
    for name in (
        "26_32x4d", "50_32x4d", "50d_32x4d", "101_32x4d", "101_32x8d", "101_32x16d",
        "101_32x32d", "101_32x48d", "101_64x4d", "152_32x4d", "50_2x40d", "50_4x24d", "50_8x14d",
        "101_1x100d", "101_2x40d", "101_2x64d", "101_4x24d", "101_8x14d",
    ):  # fmt: skip
        networks[f"resnext{name}"] = _grouped(name)
    for name in ("18", "34", "50", "101", "152", "50t", "152d"):
        networks[f"seresnet{name}"] = _lettered(name, _V15, _SE)
    for name in (
        "26d_32x4d", "26t_32x4d", "50_32x4d", "101_32x4d", "101_32x8d", "101_64x4d", "101d_32x8d",
    ):  # fmt: skip
        networks[f"seresnext{name}"] = _grouped(name, _SE)
    smooth = {"antialias": "average"}
    networks["seresnextaa101d_32x8d"] = _grouped("101d_32x8d", _SE, smooth)
    networks["seresnextaa201d_32x8d"] = _grouped(
        "101d_32x8d", _SE, smooth, {"depths": (3, 24, 36, 4), "stem_width": 128}
    )
    senet154 = {"stem": "deep", "stem_width": 128, "shortcut_kernel": 3, "first_reduction": 2}
    networks["senet154"] = _grouped("152_64x4d", _SE, senet154)
    networks["legacy_senet154"] = _grouped("152_64x4d", _LEGACY, senet154)
    for depth in (18, 34):
        networks[f"legacy_seresnet{depth}"] = _imagenet(depth, _LEGACY, {"attention_relu": True})
    for depth in (50, 101, 152):
        networks[f"legacy_seresnet{depth}"] = _imagenet(depth, _LEGACY)
    for depth in (26, 50, 101):
        networks[f"legacy_seresnext{depth}_32x4d"] = _grouped(f"{depth}_32x4d", _LEGACY)
    for name in ("26t", "50d", "50t", "101d", "269d"):
        networks[f"ecaresnet{name}"] = _lettered(name, _V15, _ECA)
    networks["ecaresnetlight"] = _imagenet(
        50, _V15, _ECA, {"depths": (1, 1, 11, 3), "shortcut_downsample": "average"}
    )
    return networks


def _preactivated() -> dict[str, Fields]:
    """Return the nets of arXiv 1603.05027, timm's V2, BiT (1912.11370), keras.applications' V2."""
    networks = {}
    for depth in (18, 34, 50, 101, 152, 200):
        networks[f"preresnet{depth}"] = _imagenet(depth, _PRE)
    for depth in (50, 152, 200):
        networks[f"preresnet{depth}b"] = _imagenet(depth, _PRE, _V15)
    timm = {**_PRE, **_V15, "preact_split": "before"}
    for name in ("18", "18d", "34", "34d", "50", "50d", "50t", "101", "101d", "152", "152d"):
        networks[f"resnetv2_{name}"] = _lettered(name, timm)
    networks["resnetv2_50d_gn"] = _imagenet(50, timm, _LETTERS["d"], {"norm": "group"})
    for depth, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)):
        wider = {"widths": tuple(factor * width for width in _IMAGENET["widths"])}
        networks[f"resnetv2_{depth}x{factor}_bit"] = _imagenet(depth, _BIT, _V15, wider)
    keras_v2 = {
        "activation_order": "pre",
        "preact_split": "before",
        "stage_stride": "last",
        "conv_bias": "unnormalized",
        "stem_pool": "max_zero",
        "norm_epsilon": 1.001e-5,
        "norm_momentum": 0.99,
    }
    for depth in (50, 101, 152):
        networks[f"resnet{depth}v2"] = _imagenet(depth, keras_v2, _V15)
    return networks


def _small_images() -> dict[str, Fields]:
    """Return the other CIFAR nets."""
    networks = {}
    for depth in (164, 272, 542, 1001):  # 9n+2 layers
        networks[f"resnet{depth}"] = _cifar(depth, "bottleneck")
        networks[f"preresnet{depth}"] = _cifar(depth, "bottleneck", _PRE)
    for depth in (20, 56, 110, 1202):
        networks[f"preresnet{depth}"] = _cifar(depth, "basic", _PRE)
    squeezed = {**_SE, "se_divisor": 1}  # arXiv 1709.01507, Table 4
    networks["seresnet110"] = _cifar(110, "basic", _PRE, squeezed)
    networks["seresnet164"] = _cifar(164, "bottleneck", _PRE, squeezed)
    for groups, width in ((8, 64), (16, 64), (32, 4)):
        networks[f"resnext29_{groups}x{width}d"] = _cifar(
            29,
            "bottleneck",
            _V15,
            {"widths": (64, 128, 256), "groups": groups, "width_per_group": width},
        )
    for depth, factor in (
        (16, 4), (16, 8), (16, 10), (22, 8), (22, 10), (28, 10), (28, 12), (40, 1), (40, 2),
        (40, 4), (40, 8), (40, 10), (52, 1),
    ):  # fmt: skip
        networks[f"wrn{depth}-{factor}"] = wide_cifar(depth, factor)
    networks["sewrn16-8"] = {**wide_cifar(16, 8), **squeezed}
    return networks


def wide_cifar(depth: int, factor: int) -> Fields:
    """Return the fields of WRN-depth-factor for CIFAR (arXiv 1605.07146, Table 1)."""
    blocks = (depth - 4) // 6  # its depth counts the projections of three stages
    return {
        **_CIFAR,
        **_PRE,
        "block": "basic",
        "depths": (blocks,) * 3,
        "widths": tuple(factor * width for width in _CIFAR["widths"]),
        "stem_width": 16,
        "shortcut": "B",
        "preact_split": "before",
    }


#: name -> fields of its ResNetSpec; fields left out or None take the spec's defaults.
NETWORKS: dict[str, Fields] = {
    **_paper(),
    **_strides_and_stems(),
    **_wide_and_grouped(),
    **_preactivated(),
    **_small_images(),
}

#: Comparators that are not residual networks (arXiv 1409.1556, configurations A, B, D and E;
#: "_bn": torchvision's, with batch normalisation): name -> output channels of the convolutions of
#: each stage. ResNetSpec does not know them.
VGG: dict[str, tuple[tuple[int, ...], ...]] = {
    f"vgg{depth}{suffix}": tuple(
        (width,) * count for width, count in zip((64, 128, 256, 512, 512), counts, strict=True)
    )
    for depth, counts in {
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    }.items()
    for suffix in ("", "_bn")
}


def names(pattern: str = "*", weights: bool = False) -> list[str]:
    """Return the catalogue's names that match a shell pattern, in natural order.

    Args:
        pattern: e.g. ``"resnet1?"``.
        weights: only names whose default published weights (`weights="imagenet"`, `"cifar10"` or
            `"cifar100"`) `build` takes as they are: a hash or a pinned revision is known, so
            that they need no `verify=False`, and the licence needs no `allow_noncommercial=True`.
            `reszoo.weights.index.entries()` lists the others too.

    Raises:
        SpecError: the pattern is no text, or weights neither True nor False.

    >>> names("resnet1?")
    ['resnet10', 'resnet14', 'resnet18']
    """
    if not isinstance(pattern, str):
        raise SpecError(f"names takes a pattern as text, not {shown(pattern)}")
    weights = switch("weights", weights)
    every = fnmatch.filter([*NETWORKS, *VGG], pattern)
    if weights:
        from reszoo.weights import index

        listed = {entry.network for entry in index.entries() if entry.default and entry.free}
        every = [name for name in every if name in listed]
    return sorted(
        every, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)]
    )


def spec(network: str | ResNetSpec, **overrides: Any) -> ResNetSpec:
    """Return the spec of a catalogue name, with fields replaced.

    Args:
        network: a name (`names()` lists them), also with a weights tag ("resnet50.a1_in1k": the
            network that these weights are of, as `build` makes it), or a ResNetSpec to start from.
        **overrides: fields of ResNetSpec; also the derived `depth` (see ResNetSpec.replace) and
            `width` (channels of the first stage; the others scale with it).

    Raises:
        SpecError: the name, the tag, a field or the combination is not possible.
    """
    if isinstance(network, ResNetSpec):
        return network.replace(**overrides)
    if not isinstance(network, str):
        raise SpecError(f"a network is a name or a ResNetSpec, not {shown(network)}")
    if network in VGG:
        raise SpecError(
            f"{network} is a comparator and not a residual network, so it has no ResNetSpec; "
            "build, describe and complexity take its name"
        )
    if network not in NETWORKS:
        bare, dot, tag = network.partition(".")
        if not dot or bare not in (*NETWORKS, *VGG):
            raise SpecError(unknown("network", bare, names()))
        from reszoo.weights import index

        entry = index.find(bare, tag)
        given = {name: value for name, value in overrides.items() if value is not None}
        return spec(bare, **{"classes": entry.classes, **entry.overrides, **given})
    values = merge({"name": network, **NETWORKS[network]}, overrides)
    return named(ResNetSpec.from_dict(values), overrides)
