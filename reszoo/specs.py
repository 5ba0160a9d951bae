"""ResNetSpec: one frozen description for every residual and plain network (He et al. 2015)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reszoo.errors import (
    LARGEST,
    SpecError,
    choice,
    integer,
    number,
    ordered,
    plain,
    shown,
    switch,
    unknown,
)

#: Allowed values of the fields that are choices; the first is the default where one exists.
CHOICES: dict[str, tuple[str, ...]] = {
    "stem": ("imagenet", "cifar", "deep", "tiered"),
    "stem_pool": ("max", "max_zero", "max_ceil", "conv", "none"),
    "block": ("basic", "bottleneck"),
    "activation_order": ("post", "pre", "norm_after_add", "relu_before_add", "relu_only_pre"),
    "preact_split": ("after", "before"),
    "shortcut": (
        "none", "A", "B", "C", "scaled", "exclusive_gate", "shortcut_gate", "dropout",
    ),
    "shortcut_pad": ("end", "both"),
    "shortcut_pool": ("subsample", "average"),
    "shortcut_downsample": ("strided", "average"),
    "stride_placement": ("1x1", "3x3"),
    "stage_stride": ("first", "last"),
    "antialias": ("none", "average", "blur"),
    "attention": ("none", "se", "eca"),
    "norm": ("batch", "group"),
    "conv_bias": ("none", "unnormalized"),
    "initializer": ("he_normal", "he_normal_fan_out", "glorot_uniform"),
}  # fmt: skip

_POSITIVE_INTS = ("stem_width", "expansion", "groups", "width_per_group", "first_reduction",
                  "shortcut_kernel", "se_divisor", "norm_groups", "output_stride")  # fmt: skip
# The plan of a hundred thousand would take minutes.
_MOST_BLOCKS = 10_000
#: name -> (what is allowed, test)
_NUMBERS: dict[str, tuple[str, Any]] = {
    "norm_epsilon": ("a positive number", lambda v: v > 0),
    "norm_momentum": ("a number in [0, 1)", lambda v: 0 <= v < 1),
    "shortcut_scale": ("a number", lambda v: True),
    "residual_scale": ("a number that is not 0", lambda v: v != 0),
    "gate_bias": ("a number", lambda v: True),
    "shortcut_dropout": ("a number in [0, 1)", lambda v: 0 <= v < 1),
    "se_ratio": ("a number in (0, 1]", lambda v: 0 < v <= 1),
    "weight_epsilon": ("a positive number", lambda v: v > 0),
    "block_dropout": ("a number in [0, 1)", lambda v: 0 <= v < 1),
    "stochastic_depth": ("a number in [0, 1)", lambda v: 0 <= v < 1),
    "dropout": ("a number in [0, 1)", lambda v: 0 <= v < 1),
}
_SWITCHES = ("attention_relu", "weight_standardization", "zero_gamma")

#: Weighted layers inside one block, as the paper counts them (projections not).
BLOCK_LAYERS = {"basic": 2, "bottleneck": 3}

#: Shortcuts that are parameter-free where the shape changes (option A).
IDENTITY_SHORTCUTS = ("A", "scaled", "exclusive_gate", "shortcut_gate", "dropout")


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """Everything that determines a residual or plain network, and nothing else.

    Equal specs describe the same network; `name` is only a label. A combination that makes no
    network is refused with the reason (`reszoo.rules.RULES` lists them). A field that tunes an
    option which is off (`se_ratio` without attention, `shortcut_pad` without option A, a
    bottleneck's `stride_placement` in basic blocks) has no effect.

    Attributes:
        name: label used in tables; not compared.
        stem: ``"imagenet"`` (7x7, stride 2), ``"cifar"`` (3x3), ``"deep"`` (three 3x3, the first of
            stride 2, half the width in the first two: ResNet-C, arXiv 1812.01187) or ``"tiered"``
            (the same with 3/8 and 1/2 of the width: ResNet-T, timm).
        stem_pool: what follows the stem: ``"max"`` (3x3, stride 2, padded with minus infinity as in
            torch), ``"max_zero"`` (padded with zeros: keras.applications, BiT), ``"max_ceil"`` (not
            padded, size rounded up: Caffe's SE nets), ``"conv"`` (3x3 convolution of stride 2:
            ResNet-RS) or ``"none"``. Default: none for CIFAR stems, max for the others.
        block: ``"basic"`` (two 3x3) or ``"bottleneck"`` (1x1, 3x3, 1x1); paper Fig. 5.
        depths: blocks in each stage.
        widths: base channels of each stage; a block's output has ``widths x expansion``.
        stem_width: channels that leave the stem; default ``widths[0]``.
        expansion: output channels of a block / its base channels; default 1 (basic) or 4.
        groups: groups of the bottleneck's 3x3 convolution ("cardinality"; arXiv 1611.05431).
        width_per_group: channels of one group where the base width is 64: the 3x3 convolution has
            ``widths x width_per_group / 64``, rounded down, times ``groups`` channels (ResNeXt-50
            32x4d: 32 and 4; Wide ResNet-50-2: 1 and 128).
        first_reduction: divides the channels of a block's first convolution (SENet-154: 2).
        activation_order: ``"post"`` (2015), ``"pre"`` (arXiv 1603.05027, Fig. 4e), or the other
            orders of its Table 2: ``"norm_after_add"`` (b), ``"relu_before_add"`` (c),
            ``"relu_only_pre"`` (d).
        preact_split: where the first unit's shortcut leaves in the two pre-activation orders:
            ``"after"`` the activation (arXiv 1603.05027, appendix), which then stands right after
            the stem's convolution, before a pooling (fb.resnet.torch), or ``"before"`` it (timm,
            Wide ResNet's code). In other units shortcuts that change the shape leave after it, the
            others (and those of stage_stride "last" that only halve the map) before it.
        shortcut: ``"none"`` (plain), ``"A"`` (identity, zero channels where the width grows),
            ``"B"`` (projection where the shape changes), ``"C"`` (projection in every block; the
            1x1 convolution of 1603.05027 Table 1); paper sec. 4.1. And the others of that Table 1
            on top of option A: ``"scaled"``, ``"exclusive_gate"`` (g F + (1 - g) x, g the sigmoid
            of a 1x1 convolution), ``"shortcut_gate"`` (F + (1 - g) x), ``"dropout"``. Default: A
            for basic CIFAR nets, B for the others.
        shortcut_pad: option A's zero channels at the ``"end"`` (FAIR's code) or half on each side
            (``"both"``); the paper does not say.
        shortcut_pool: how option A halves the map: ``"subsample"`` (every second pixel) or
            ``"average"`` (2x2 average).
        shortcut_downsample: how projections halve the map: ``"strided"`` 1x1 convolution, or 2x2
            ``"average"`` pooling before it (ResNet-D, arXiv 1812.01187).
        shortcut_kernel: kernel of strided projections (SENet-154: 3).
        shortcut_scale: factor of shortcut "scaled" (1603.05027: 0.5).
        residual_scale: factor of the residual branch, with any shortcut (1603.05027, beside
            "scaled": 1 or 0.5).
        gate_bias: initial bias of the gates of the two gated shortcuts.
        shortcut_dropout: rate of shortcut "dropout". What is kept is scaled by 1 / (1 - rate) in
            training, so that the expectation stays 1; 1603.05027 sees one of 1 - rate, which is
            "scaled" with that `shortcut_scale`.
        stride_placement: where a bottleneck strides: ``"1x1"`` (the first 1x1; the paper, "v1") or
            ``"3x3"`` ("v1.5", torchvision). Without effect on basic blocks.
        stage_stride: the stride stands in the ``"first"`` block of stages 2…, or in the ``"last"``
            of stages 1… but the last (keras.applications' V2); option B then needs no projection
            where only the size changes.
        antialias: ``"none"``, ``"average"`` (2x2) or ``"blur"`` (3x3 binomial, arXiv 1904.11486)
            instead of strides in the main path and the stem's pooling, as timm places them.
        attention: ``"none"``, ``"se"`` (arXiv 1709.01507) or ``"eca"`` (arXiv 1910.03151), at the
            end of the residual branch.
        se_ratio: squeezed channels / channels.
        se_divisor: squeezed channels are rounded to its multiples (timm: 8; the paper: 1).
        attention_relu: a ReLU before the squeeze (Cadene's SE-ResNet-18 and -34).
        norm: ``"batch"`` or ``"group"`` (arXiv 1803.08494).
        norm_groups: groups of group normalisation.
        norm_epsilon: added to the variance in normalisation (Caffe and torch: 1e-5).
        norm_momentum: weight of the old value in the moving statistics (Keras' sense).
        weight_standardization: convolutions with zero mean and unit variance (arXiv 1903.10520).
        weight_epsilon: added to that variance (BiT in timm: 1e-8).
        conv_bias: ``"none"``, or ``"unnormalized"``: a bias in convolutions that no normalisation
            follows (keras.applications' V2).
        block_dropout: rate between a block's last two convolutions (Wide ResNet, arXiv 1605.07146).
        stochastic_depth: rate at which the last block's branch is dropped in training, falling
            linearly to the first (arXiv 1603.09382); per image, and scaled up in training.
        dropout: rate before the classifier.
        zero_gamma: the last norm of each branch starts at 0 (arXiv 1706.02677).
        output_stride: input size / size of the last map, reached by dilation instead of stride;
            default: what the strides give.
        initializer: ``"he_normal"`` (fan-in; the paper's reference [13]), ``"he_normal_fan_out"``
            (FAIR, torchvision) or ``"glorot_uniform"`` (Keras' default).
        classes: outputs of the classifier; 0 for pooled features.
        input_shape: (height, width, channels) in pixels; height and width may be None.
    """

    name: str = field(default="", compare=False)
    stem: str
    stem_pool: str | None = None
    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int | None = None
    expansion: int | None = None
    groups: int = 1
    width_per_group: int = 64
    first_reduction: int = 1
    activation_order: str = "post"
    preact_split: str = "after"
    shortcut: str | None = None
    shortcut_pad: str = "end"
    shortcut_pool: str = "subsample"
    shortcut_downsample: str = "strided"
    shortcut_kernel: int = 1
    shortcut_scale: float = 0.5
    residual_scale: float = 1.0
    gate_bias: float = -6.0
    shortcut_dropout: float = 0.5
    stride_placement: str = "1x1"
    stage_stride: str = "first"
    antialias: str = "none"
    attention: str = "none"
    se_ratio: float = 1 / 16
    se_divisor: int = 8
    attention_relu: bool = False
    norm: str = "batch"
    norm_groups: int = 32
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    weight_standardization: bool = False
    weight_epsilon: float = 1e-8
    conv_bias: str = "none"
    block_dropout: float = 0.0
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    zero_gamma: bool = False
    output_stride: int | None = None
    initializer: str = "he_normal"
    classes: int = 1000
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3)

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        for name, allowed in CHOICES.items():
            if name not in ("shortcut", "stem_pool") or getattr(self, name) is not None:
                choice(name, getattr(self, name), allowed)
        for name in ("depths", "widths"):
            values = as_tuple(name, getattr(self, name))
            most = _MOST_BLOCKS if name == "depths" else LARGEST
            numbers = [integer(f"{name}[{i}]", v, most=most) for i, v in enumerate(values)]
            put(name, tuple(numbers))
        if not self.depths or len(self.depths) != len(self.widths):
            raise SpecError(
                f"depths {shown(self.depths)} and widths {shown(self.widths)} need one entry a "
                "stage, and at least one stage"
            )
        for name, default in defaults(self.block, self.stem, self.widths).items():
            if getattr(self, name) is None:
                put(name, default)
        for name in _POSITIVE_INTS:
            if name != "output_stride" or self.output_stride is not None:
                put(name, integer(name, getattr(self, name)))
        put("input_shape", check_input_shape(self.input_shape))
        put("classes", check_classes(self.classes))
        for name, (allowed_numbers, test) in _NUMBERS.items():
            put(name, number(name, getattr(self, name), allowed_numbers, test))
        for name in _SWITCHES:
            put(name, switch(name, getattr(self, name)))
        if not isinstance(self.name, str):
            raise SpecError(f"name takes text, not {shown(self.name)}")
        from reszoo import rules  # it describes specs: the import runs both ways

        rules.check(self)

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Output channels of the blocks of each stage."""
        assert self.expansion is not None
        return tuple(width * self.expansion for width in self.widths)

    @property
    def inner_channels(self) -> tuple[int, ...]:
        """Channels of the 3x3 convolution of the blocks of each stage."""
        if self.block == "basic":
            return self.widths
        return tuple(width * self.width_per_group // 64 * self.groups for width in self.widths)

    @property
    def stem_stride(self) -> int:
        """Stride of the stem with its pooling."""
        return (1 if self.stem == "cifar" else 2) * (1 if self.stem_pool == "none" else 2)

    @property
    def depth(self) -> int:
        """Weighted layers as the paper counts them: stem, block layers, classifier.

        Published names (resnet50d) do not count the two more convolutions of a deep stem, and
        neither does this.
        """
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
        if not isinstance(values, Mapping):
            raise SpecError(f"a spec is made of a dict of its fields, not of {shown(values)}")
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise SpecError(unknown("spec field", name, known))
        missing = [n for n in ("stem", "block", "depths", "widths") if n not in values]
        if missing:
            raise SpecError(f"a spec needs {', '.join(missing)}")
        return cls(**values)

    def diff(self, other: ResNetSpec) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ: name -> (this spec's value, the other's).

        Raises:
            SpecError: the other is no spec.
        """
        if not isinstance(other, ResNetSpec):
            raise SpecError(f"diff compares with another ResNetSpec, not with {shown(other)}")
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
            width: channels of the first stage; the later stages scale with it, and the stem unless
                `stem_width` is given.
            **overrides: fields of the spec.

        Raises:
            SpecError: an unknown field, or a combination that does not make a network.
        """
        from reszoo.overrides import replaced

        return replaced(self, overrides)


def defaults(block: str, stem: str, widths: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields that follow from others unless given."""
    basic = block == "basic"
    return {
        "stem_width": next(iter(widths), 0),
        "expansion": 1 if basic else 4,
        "shortcut": "A" if basic and stem == "cifar" else "B",
        "stem_pool": "none" if stem == "cifar" else "max",
    }


def check_classes(classes: Any) -> int:
    """Return a number of classes.

    Raises:
        SpecError: it is not one.
    """
    return integer("classes", classes, 0)


def check_input_shape(shape: Any) -> tuple[int | None, int | None, int]:
    """Return (height, width, channels).

    Raises:
        SpecError: it is not one.
    """
    values = as_tuple("input_shape", shape)
    known = [n for n in values if n is not None]
    sizes = all(isinstance(n, int) and not isinstance(n, bool) for n in known)
    if (
        len(values) != 3
        or values[2] is None
        or not sizes
        or not 0 < min(known) <= max(known) <= LARGEST
    ):
        raise SpecError(
            f"input_shape is (height, width, channels) in integers from 1 to {LARGEST}; height and "
            f"width may be None; not {shown(shape)}"
        )
    return values  # type: ignore[return-value]


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Return a field that holds one value a stage or side; SpecError unless it is a sequence."""
    if (items := ordered(value)) is None:
        raise SpecError(f"{name} takes a sequence of integers, not {shown(value)}")
    return tuple(map(plain, items))
