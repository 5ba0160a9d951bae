"""Combinations of spec fields that make no network, with the reasons."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reszoo.errors import SpecError

if TYPE_CHECKING:
    from reszoo.specs import ResNetSpec


@dataclass(frozen=True)
class Rule:
    """One kind of refused combination.

    Attributes:
        fields: the spec's fields that it concerns.
        combination: what is refused, as people read it.
        reason: why.
        broken: spec -> the one-line problem, or "" where the spec obeys.
    """

    fields: tuple[str, ...]
    combination: str
    reason: str
    broken: Callable[[ResNetSpec], str]


def check(spec: ResNetSpec) -> None:
    """Raise SpecError with the first rule that a spec breaks."""
    for rule in RULES:
        problem = rule.broken(spec)
        if problem:
            raise SpecError(f"{problem}: {rule.reason}")


def _narrowing(spec: ResNetSpec) -> str:
    if not _parameter_free(spec):
        return ""
    channels = (spec.stem_width or 0, *spec.block_channels)
    for before, after in itertools.pairwise(channels):
        if after < before:
            return (
                f'shortcut "{spec.shortcut}" only adds zero channels, but {before} channels would '
                f'become {after}; use shortcut "B" or "C"'
            )
    return ""


def _parameter_free(spec: ResNetSpec) -> bool:
    from reszoo.specs import IDENTITY_SHORTCUTS

    return spec.shortcut in IDENTITY_SHORTCUTS


def _grouping(spec: ResNetSpec) -> str:
    if spec.block == "basic":
        given = [f"{n}={getattr(spec, n)}" for n, v in (("groups", 1), ("width_per_group", 64))
                 if getattr(spec, n) != v]  # fmt: skip
        return f'block "basic" with {" and ".join(given)}' if given else ""
    return ""


def _inner_width(spec: ResNetSpec) -> str:
    for width, inner in zip(spec.widths, spec.inner_channels, strict=True):
        if inner < 1 or inner % (spec.first_reduction * spec.groups):
            return (
                f"width {width}, width_per_group {spec.width_per_group}, groups {spec.groups} and "
                f"first_reduction {spec.first_reduction}"
            )
    return ""


def _stem_inner(spec: ResNetSpec) -> str:
    divisor = {"deep": 2, "tiered": 8}.get(spec.stem, 1)
    return f'stem "{spec.stem}" of width {spec.stem_width}' if spec.stem_width % divisor else ""  # type: ignore[operator]


def _group_norm(spec: ResNetSpec) -> str:
    if spec.norm != "group":
        return ""
    assert spec.stem_width is not None
    channels = {*spec.block_channels, *spec.inner_channels}
    channels |= {n // spec.first_reduction for n in spec.inner_channels}
    if spec.stem == "deep":
        channels.add(spec.stem_width // 2)
    if spec.stem == "tiered":
        channels |= {spec.stem_width // 2, spec.stem_width * 3 // 8}
    channels.add(spec.stem_width)
    bad = sorted(n for n in channels if n % spec.norm_groups)
    return f'norm "group" with {spec.norm_groups} groups and {bad[0]} channels' if bad else ""


def _plain(spec: ResNetSpec) -> str:
    if spec.shortcut != "none":
        return ""
    for name, value in (
        ("stochastic_depth", spec.stochastic_depth),
        ("zero_gamma", spec.zero_gamma),
        ("residual_scale", spec.residual_scale != 1.0),
    ):
        if value:
            return f'shortcut "none" with {name}={getattr(spec, name)}'
    return ""


def _plain_order(spec: ResNetSpec) -> str:
    orders = ("norm_after_add", "relu_before_add")
    if spec.shortcut == "none" and spec.activation_order in orders:
        return f'shortcut "none" with activation_order "{spec.activation_order}"'
    return ""


def _zero_gamma(spec: ResNetSpec) -> str:
    if spec.zero_gamma and spec.activation_order not in ("post", "relu_only_pre"):
        return f'zero_gamma with activation_order "{spec.activation_order}"'
    return "zero_gamma with attention_relu" if spec.zero_gamma and spec.attention_relu else ""


def _even_kernel(spec: ResNetSpec) -> str:
    if spec.shortcut in ("B", "C") and spec.shortcut_kernel % 2 == 0:
        return f'shortcut_kernel {spec.shortcut_kernel} with shortcut "{spec.shortcut}"'
    return ""


def _averaged_kernel(spec: ResNetSpec) -> str:
    if spec.shortcut_downsample == "average" and spec.shortcut_kernel != 1:
        return f'shortcut_kernel {spec.shortcut_kernel} with shortcut_downsample "average"'
    return ""


def _stride_values(spec: ResNetSpec) -> list[int]:
    values = [spec.stem_stride]
    for _ in spec.depths[1:]:
        values.append(values[-1] * 2)
    return values


def _output_stride(spec: ResNetSpec) -> str:
    allowed = _stride_values(spec)
    if spec.output_stride is None or spec.output_stride in allowed:
        return ""
    return f"output_stride {spec.output_stride} (here: {', '.join(map(str, allowed))})"


def _dilated(spec: ResNetSpec) -> bool:
    return spec.output_stride is not None and spec.output_stride < _stride_values(spec)[-1]


def _dilation_with(spec: ResNetSpec) -> str:
    if not _dilated(spec):
        return ""
    for name, plain in (("antialias", "none"), ("stage_stride", "first"), ("shortcut_kernel", 1)):
        if getattr(spec, name) != plain:
            return f"output_stride {spec.output_stride} with {name}={getattr(spec, name)!r}"
    if _parameter_free(spec) and spec.shortcut_pool == "average":
        return f'output_stride {spec.output_stride} with shortcut_pool "average"'
    return ""


def _antialiased_pool(spec: ResNetSpec) -> str:
    if spec.antialias != "none" and spec.stem_pool in ("max_zero", "max_ceil"):
        return f'antialias "{spec.antialias}" with stem_pool "{spec.stem_pool}"'
    return ""


def _attention_relu(spec: ResNetSpec) -> str:
    if spec.attention_relu and spec.attention == "none":
        return 'attention_relu with attention "none"'
    return ""


#: Every refused combination; `check` reports the first that a spec breaks.
RULES: tuple[Rule, ...] = (
    Rule(
        ("shortcut", "block", "widths", "expansion", "stem_width"),
        "a parameter-free shortcut where channels become fewer",
        "identity shortcuts can append channels and not remove them",
        _narrowing,
    ),
    Rule(
        ("block", "groups", "width_per_group"),
        "basic blocks with groups or width_per_group",
        "both describe the 3x3 convolution inside a bottleneck (arXiv 1611.05431, sec. 3.3)",
        _grouping,
    ),
    Rule(
        ("widths", "width_per_group", "groups", "first_reduction"),
        "an inner width of 0, or one that first_reduction and groups do not divide",
        "a 3x3 convolution has widths x width_per_group / 64, rounded down, in each group, and "
        "first_reduction divides that",
        _inner_width,
    ),
    Rule(
        ("stem", "stem_width"),
        "a deep or tiered stem whose width does not divide",
        "its first convolutions have 1/2 (deep) or 3/8 and 1/2 (tiered) of the width",
        _stem_inner,
    ),
    Rule(
        (
            "norm",
            "norm_groups",
            "stem",
            "stem_width",
            "block",
            "widths",
            "expansion",
            "groups",
            "width_per_group",
            "first_reduction",
        ),
        "group normalisation over channels that the groups do not divide",
        "each group needs the same number of channels",
        _group_norm,
    ),
    Rule(
        ("shortcut", "stochastic_depth", "zero_gamma", "residual_scale"),
        "plain nets with stochastic_depth, zero_gamma or residual_scale",
        "stochastic_depth, zero_gamma and residual_scale weigh a branch against its shortcut",
        _plain,
    ),
    Rule(
        ("shortcut", "activation_order"),
        "plain nets with norm_after_add or relu_before_add",
        "a plain net has no addition",
        _plain_order,
    ),
    Rule(
        ("zero_gamma", "activation_order", "attention_relu"),
        "zero_gamma where no norm ends the branch, or a ReLU follows it",
        "branches end in a norm in the orders post and relu_only_pre, and a ReLU of zeros passes "
        "no gradient",
        _zero_gamma,
    ),
    Rule(
        ("shortcut", "shortcut_kernel"),
        "projections with an even shortcut_kernel",
        "padded by kernel // 2, only odd kernels halve every map to the size that the branch has",
        _even_kernel,
    ),
    Rule(
        ("shortcut_downsample", "shortcut_kernel"),
        "shortcut_kernel with averaging before the projections",
        "after the pooling nothing strides, and a projection that does not has a 1x1 kernel",
        _averaged_kernel,
    ),
    Rule(
        ("output_stride", "stem", "stem_pool", "depths"),
        "an output_stride that the stages do not reach",
        "dilation replaces strides of 2 from the last stage on",
        _output_stride,
    ),
    Rule(
        (
            "output_stride",
            "antialias",
            "stage_stride",
            "shortcut_kernel",
            "shortcut",
            "shortcut_pool",
        ),
        "dilation with antialias, stage_stride last, shortcut_kernel or averaging option A",
        "no published network defines what replaces the stride there",
        _dilation_with,
    ),
    Rule(
        ("antialias", "stem_pool"),
        "antialias with stem_pool max_zero or max_ceil",
        "these paddings come with published networks that are not anti-aliased",
        _antialiased_pool,
    ),
    Rule(
        ("attention", "attention_relu"),
        "attention_relu without attention",
        "it stands before the squeeze",
        _attention_relu,
    ),
)
