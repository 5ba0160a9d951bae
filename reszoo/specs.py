"""ResNetSpec: one frozen description for every residual and plain network (He et al. 2015)."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from reszoo.errors import SpecError, unknown

#: Allowed values of the fields that are choices; the first is the default where one exists.
CHOICES: dict[str, tuple[str, ...]] = {
    "stem": ("imagenet", "cifar"),
    "block": ("basic", "bottleneck"),
    "shortcut": ("none", "A", "B", "C"),
    "shortcut_pad": ("end", "both"),
    "shortcut_pool": ("subsample", "average"),
    "stride_placement": ("1x1", "3x3"),
    "initializer": ("he_normal", "he_normal_fan_out", "glorot_uniform"),
}

#: Weighted layers inside one block, as the paper counts them (projections not).
BLOCK_LAYERS = {"basic": 2, "bottleneck": 3}

#: Table 1 of the paper: block -> depth -> blocks a stage (conv2_x … conv5_x).
IMAGENET_DEPTHS = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """Everything that determines a residual or plain network, and nothing else.

    Two specs are equal when they describe the same network; `name` is only a label.

    Attributes:
        name: label used in tables; not compared.
        stem: ``"imagenet"`` (7x7 stride 2, then 3x3 stride 2 max-pool) or ``"cifar"`` (3x3).
        block: ``"basic"`` (two 3x3) or ``"bottleneck"`` (1x1, 3x3, 1x1); paper Fig. 5.
        depths: blocks in each stage.
        widths: channels of the 3x3 convolutions in each stage.
        stem_width: channels of the first convolution; default ``widths[0]``.
        expansion: output channels of a block / its width; default 1 (basic) or 4 (bottleneck).
        shortcut: ``"none"`` (plain), ``"A"`` (identity, zero channels where the width grows),
            ``"B"`` (projection where the shape changes), ``"C"`` (projection in every block);
            paper sec. 4.1. Default: A for basic CIFAR nets, B for the others.
        shortcut_pad: option A's zero channels at the ``"end"`` (FAIR's code) or half on each side
            (``"both"``); the paper does not say.
        shortcut_pool: how option A halves the map: ``"subsample"`` (every second pixel) or
            ``"average"`` (2x2 average).
        stride_placement: where a bottleneck strides: ``"1x1"`` (the first 1x1; the paper, "v1") or
            ``"3x3"`` ("v1.5", torchvision). Without effect on basic blocks.
        norm_epsilon: added to the variance in batch normalisation (Caffe and torch: 1e-5).
        norm_momentum: weight of the old value in the moving statistics (Keras' sense).
        initializer: ``"he_normal"`` (fan-in; the paper's reference [13]), ``"he_normal_fan_out"``
            (FAIR, torchvision) or ``"glorot_uniform"`` (Keras' default).
        classes: outputs of the classifier; 0 for pooled features.
        input_shape: (height, width, channels) in pixels; height and width may be None.
    """

    name: str = field(default="", compare=False)
    stem: str
    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int | None = None
    expansion: int | None = None
    shortcut: str | None = None
    shortcut_pad: str = "end"
    shortcut_pool: str = "subsample"
    stride_placement: str = "1x1"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    initializer: str = "he_normal"
    classes: int = 1000
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value is None and name == "shortcut":
                continue
            if value not in allowed:
                raise SpecError(unknown(name, value, allowed))
        for name in ("depths", "widths", "input_shape"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        for name in ("stem_width", "expansion", "classes"):
            object.__setattr__(self, name, plain_int(getattr(self, name)))
        for name, default in _defaults(self.block, self.stem, self.widths).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if not isinstance(self.name, str):
            raise SpecError(f"name takes text, not {self.name!r}")
        self._validate()

    def _validate(self) -> None:
        if not self.depths or len(self.depths) != len(self.widths):
            raise SpecError(
                f"depths {self.depths} and widths {self.widths} need one entry a stage, "
                "and at least one stage"
            )
        positive: dict[str, tuple[Any, ...]] = {
            "depths": self.depths,
            "widths": self.widths,
            "stem_width": (self.stem_width,),
            "expansion": (self.expansion,),
        }
        for name, values in positive.items():
            if any(not _is_int(v) or v < 1 for v in values):
                raise SpecError(f"{name} takes positive integers, not {getattr(self, name)!r}")
        check_input_shape(self.input_shape)
        check_classes(self.classes)
        if not _is_number(self.norm_epsilon) or self.norm_epsilon <= 0:
            raise SpecError(f"norm_epsilon takes a positive number, not {self.norm_epsilon!r}")
        if not _is_number(self.norm_momentum) or not 0 <= self.norm_momentum < 1:
            raise SpecError(f"norm_momentum takes a number in [0, 1), not {self.norm_momentum!r}")
        if self.shortcut == "A":
            assert self.stem_width is not None
            channels: tuple[int, ...] = (self.stem_width, *self.block_channels)
            for before, after in itertools.pairwise(channels):
                if after < before:
                    raise SpecError(
                        f'shortcut "A" only adds zero channels, but {before} channels would become '
                        f'{after}; use shortcut "B" or "C"'
                    )

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Output channels of the blocks of each stage."""
        assert self.expansion is not None
        return tuple(width * self.expansion for width in self.widths)

    @property
    def depth(self) -> int:
        """Weighted layers as the paper counts them: stem, block layers, classifier."""
        return 2 + BLOCK_LAYERS[self.block] * sum(self.depths)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` takes them back."""
        return {
            f.name: list(value) if isinstance(value := getattr(self, f.name), tuple) else value
            for f in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResNetSpec:
        """Return the spec that `to_dict` described.

        Raises:
            SpecError: a field is unknown, missing or impossible.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise SpecError(unknown("spec field", name, known))
        missing = [n for n in ("stem", "block", "depths", "widths") if n not in values]
        if missing:
            raise SpecError(f"a spec needs {', '.join(missing)}")
        return cls(**values)

    def diff(self, other: ResNetSpec) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ: name -> (this spec's value, the other's)."""
        return {
            f.name: (mine, theirs)
            for f in dataclasses.fields(self)
            if f.compare and (mine := getattr(self, f.name)) != (theirs := getattr(other, f.name))
        }

    def replace(self, **overrides: Any) -> ResNetSpec:
        """Return a copy with fields replaced; also takes the derived `depth` and `width`.

        Args:
            depth: weighted layers: 6n+2 (basic) or 9n+2 (bottleneck) of CIFAR nets; of ImageNet
                nets those of Table 1.
            width: channels of the first stage; the stem and the later stages scale with it.
            **overrides: fields of the spec.

        Raises:
            SpecError: an unknown field, or a combination that does not make a network.
        """
        values = self.to_dict()
        # What was derived from the old block, stem and widths is derived again from the new ones.
        for name, default in _defaults(self.block, self.stem, self.widths).items():
            if values[name] == default:
                values[name] = None
        return named(ResNetSpec.from_dict(merge(values, overrides)), overrides)


def _defaults(block: str, stem: str, widths: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields that follow from others unless given."""
    basic = block == "basic"
    return {
        "stem_width": next(iter(widths), 0),
        "expansion": 1 if basic else 4,
        "shortcut": "A" if basic and stem == "cifar" else "B",
    }


def named(spec: ResNetSpec, overrides: Mapping[str, Any]) -> ResNetSpec:
    """Return a spec whose catalogue-like name says its depth and whether it is plain."""
    if "name" in overrides or not re.fullmatch(r"(resnet|plain)\d+", spec.name):
        return spec
    family = "plain" if spec.shortcut == "none" else "resnet"
    return dataclasses.replace(spec, name=f"{family}{spec.depth}")


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return spec fields with `overrides` on top, `depth` and `width` resolved into fields.

    Raises:
        SpecError: an unknown field, or an impossible depth or width.
    """
    merged = dict(values)
    known = [f.name for f in dataclasses.fields(ResNetSpec)]
    for name, value in overrides.items():
        if name in ("depth", "width"):
            continue
        if name not in known:
            raise SpecError(unknown("spec field", name, [*known, "depth", "width"]))
        if value is not None:  # None: as it was
            merged[name] = value
    if overrides.get("depth") is not None:
        merged["depths"] = _stage_depths(merged, overrides["depth"], "depths" in overrides)
    if overrides.get("width") is not None:
        merged.update(_stage_widths(merged, overrides["width"], "widths" in overrides))
    return merged


def check_classes(classes: Any) -> int:
    """Return a number of classes.

    Raises:
        SpecError: it is not one.
    """
    classes = plain_int(classes)
    if not _is_int(classes) or classes < 0:
        raise SpecError(f"classes takes an integer of at least 0, not {classes!r}")
    return classes


def check_input_shape(shape: Any) -> tuple[int | None, int | None, int]:
    """Return (height, width, channels).

    Raises:
        SpecError: it is not one.
    """
    values = _as_tuple("input_shape", shape)
    known = [n for n in values if n is not None]
    if len(values) != 3 or values[2] is None or not all(_is_int(n) and n > 0 for n in known):
        raise SpecError(
            "input_shape is (height, width, channels) in positive integers; height and width may "
            f"be None; not {shape!r}"
        )
    return values  # type: ignore[return-value]


def _stage_depths(values: Mapping[str, Any], depth: object, clash: bool) -> tuple[int, ...]:
    if clash:
        raise SpecError("give depth or depths, not both")
    depth = plain_int(depth)
    if values["block"] not in BLOCK_LAYERS:
        raise SpecError(unknown("block", values["block"], BLOCK_LAYERS))
    if not _is_int(depth):
        raise SpecError(f"depth takes an integer, not {depth!r}")
    assert isinstance(depth, int)
    if values["stem"] != "cifar":
        table = IMAGENET_DEPTHS[values["block"]]
        if depth not in table:
            raise SpecError(
                f"an ImageNet net with {values['block']} blocks has {' or '.join(map(str, table))} "
                f"layers (Table 1), not {depth!r}; other depths by depths="
            )
        return table[depth]
    stages = len(values["widths"])
    per_block = BLOCK_LAYERS[values["block"]] * stages
    if depth < per_block + 2 or (depth - 2) % per_block:
        low = max(1, (depth - 2) // per_block)
        near = f"{per_block * low + 2} and {per_block * (low + 1) + 2}"
        raise SpecError(
            f"depth of a CIFAR net with {values['block']} blocks is {per_block}n+2, not {depth!r}; "
            f"nearest: {near}"
        )
    return ((depth - 2) // per_block,) * stages


def _stage_widths(values: Mapping[str, Any], width: object, clash: bool) -> dict[str, Any]:
    if clash:
        raise SpecError("give width or widths, not both")
    width = plain_int(width)
    if not isinstance(width, int) or not _is_int(width) or width < 1:
        raise SpecError(f"width takes a positive integer, not {width!r}")
    old = values["widths"]
    scaled = []
    for channels in (values.get("stem_width") or old[0], *old):
        if channels * width % old[0]:
            raise SpecError(f"width={width} does not scale widths {tuple(old)} to integers")
        scaled.append(channels * width // old[0])
    return {"stem_width": scaled[0], "widths": tuple(scaled[1:])}


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise SpecError(f"{name} takes a sequence of integers, not {value!r}")
    return tuple(plain_int(item) for item in value)


def plain_int(value: Any) -> Any:
    """Return integers of other libraries (numpy's, say) as int, and anything else as it is."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    return operator.index(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
