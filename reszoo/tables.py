"""plan -> the text of the paper's Table 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reszoo import costs
from reszoo.plans import Layer, Plan, plan
from reszoo.specs import IDENTITY_SHORTCUTS, ResNetSpec

_SHORTCUTS = {
    "none": "plain (no shortcuts)",
    "A": "shortcut A (identity, zero channels where the width grows)",
    "B": "shortcut B (projection where the shape changes)",
    "C": "shortcut C (projection in every block)",
    "scaled": "scaled shortcuts",
    "exclusive_gate": "exclusively gated shortcuts",
    "shortcut_gate": "gated shortcuts (the branch is not)",
    "dropout": "dropout in the shortcuts",
}
_POOLS = {
    "max_pool": "max pool",
    "average_pool": "average pool",
    "blur_pool": "blur pool",
    "conv": "conv",
}


def describe(network: str | ResNetSpec, **overrides: Any) -> str:
    """Return a network's architecture as a column of the paper's Table 1, with its counts.

    Args:
        network: a catalogue name or a ResNetSpec.
        **overrides: fields of ResNetSpec, `depth`, `width`.

    Raises:
        SpecError: the network cannot be built as described.
    """
    layers = plan(network, **overrides)
    rows: list[tuple[str, str, str]] = [("layer name", "output size", layers.name)]
    if layers.spec is None:
        rows += _comparator(layers)
    else:
        stem = [layer for layer in layers.stage(0) if layer.op == "conv"]
        convs = [layer for layer in stem if layer.name != "stem_pool_conv"]
        rows += _with_label("conv1", _size(convs[-1]), [_conv(layer) for layer in convs])
        for number in range(1, len(layers.spec.depths) + 1):
            stage = layers.stage(number)
            lines = _blocks(stage)
            if number == 1:  # the paper lists the pooling as part of conv2_x
                lines = [_pool(layer) for layer in layers.stage(0) if _pools(layer)] + lines
            rows += _with_label(f"conv{number + 1}_x", _size(stage[-1]), lines)
    rows += _with_label("", "1x1", [_head(layers)])
    return "\n".join([_headline(layers), "", *_grid(rows), "", *_counts(layers)])


def _headline(layers: Plan) -> str:
    spec = layers.spec
    if spec is None:
        return f"{layers.name}: VGG comparator (arXiv 1409.1556)"
    parts = [f"{spec.stem} stem", f"{spec.block} blocks", _SHORTCUTS[spec.shortcut or "none"]]
    if spec.shortcut in IDENTITY_SHORTCUTS:
        parts.append(f"zero channels: {spec.shortcut_pad}, halving: {spec.shortcut_pool}")
    if spec.block == "bottleneck":
        where = "the first 1x1 (v1)" if spec.stride_placement == "1x1" else "the 3x3 (v1.5)"
        parts.append(f"stride in {where}")
    return f"{layers.name}: " + ", ".join(parts + list(_special(spec)))


def _special(spec: ResNetSpec) -> Iterator[str]:
    """Yield what else is unlike the paper's networks."""
    if spec.groups > 1:
        yield f"{spec.groups} groups of {spec.width_per_group} channels (ResNeXt)"
    elif spec.width_per_group != 64:
        yield f"3x3 convolutions x {spec.width_per_group / 64:g} wider"
    if spec.activation_order != "post":
        yield f"activation order {spec.activation_order}"
    if spec.activation_order in ("pre", "relu_only_pre") and spec.preact_split == "before":
        yield "the first shortcut leaves before the activation"
    if spec.residual_scale != 1.0:
        yield f"branches x {spec.residual_scale:g}"
    if spec.shortcut_downsample == "average" and spec.shortcut in ("B", "C"):
        yield "average pool before strided projections (D)"
    if spec.stage_stride == "last":
        yield "stride in the last block of a stage"
    if spec.antialias != "none":
        yield f"anti-aliased ({spec.antialias})"
    if spec.attention != "none":
        yield {"se": "squeeze-and-excitation", "eca": "efficient channel attention"}[spec.attention]
    if spec.norm == "group":
        yield f"group normalisation ({spec.norm_groups} groups)"
    if spec.weight_standardization:
        yield "weight standardisation"
    if spec.conv_bias != "none":
        yield "biases in convolutions without a norm"
    for name, text in (
        ("block_dropout", "dropout in blocks"),
        ("stochastic_depth", "stochastic depth"),
        ("dropout", "dropout before the classifier"),
    ):
        if rate := getattr(spec, name):
            yield f"{text} {rate:g}"
    if spec.zero_gamma:
        yield "last norm of a branch starts at 0"
    if spec.output_stride is not None:
        yield f"output stride {spec.output_stride} by dilation"


def _counts(layers: Plan) -> list[str]:
    weighted = sum(map(costs.weighted, layers))
    total = sum(map(costs.parameters, layers))
    lines = [f"weighted layers  {weighted}", f"parameters       {total:,}"]
    if None in layers.layers[0].size:
        return [*lines, "FLOPs            depend on the input size, which is not given"]
    macs = sum(map(costs.macs, layers))
    digits = f"{macs / 1e9:.2f}e9" if macs >= 1e9 else f"{macs / 1e6:.2f}e6"
    return [*lines, f"FLOPs            {digits} (multiply-adds, {macs:,})"]


def _blocks(stage: list[Layer]) -> list[str]:
    """Return one bracket for each run of equal blocks."""
    groups: list[tuple[list[str], int]] = []
    for number in range(1, max(layer.block for layer in stage) + 1):
        block = [
            _conv(x, stride=False)
            for x in stage
            if x.block == number and x.op == "conv" and x.role == "main"
        ]
        if groups and groups[-1][0] == block:
            groups[-1] = (block, groups[-1][1] + 1)
        else:
            groups.append((block, 1))
    lines = []
    for block, count in groups:
        wide = max(map(len, block))
        middle = len(block) // 2
        for row, text in enumerate(block):
            times = f" x {count}" if row == middle else ""
            lines.append(f"[ {text:<{wide}} ]{times}")
    return lines


def _comparator(layers: Plan) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for number in range(1, 1 + max(layer.stage for layer in layers)):
        stage = layers.stage(number)
        convs = [layer for layer in stage if layer.op == "conv"]
        lines = [f"[ {_conv(convs[0])} ] x {len(convs)}"]
        lines += [_pool(layer) for layer in stage if _pools(layer)]
        rows += _with_label(f"conv{number}_x", _size(stage[-1]), lines)
    return rows


def _conv(layer: Layer, stride: bool = True) -> str:
    text = f"{layer.kernel}x{layer.kernel}, {layer.channels}"
    if layer.groups > 1:
        text += f", C={layer.groups}"
    if layer.dilation > 1:
        text += f", dilation {layer.dilation}"
    return text + (f", stride {layer.stride}" if stride and layer.stride > 1 else "")


def _pools(layer: Layer) -> bool:
    return layer.op.endswith("_pool") or layer.name == "stem_pool_conv"


def _pool(layer: Layer) -> str:
    return f"{layer.kernel}x{layer.kernel} {_POOLS[layer.op]}, stride {layer.stride}"


def _head(layers: Plan) -> str:
    parts = []
    for layer in layers.stage(-1):
        if layer.op == "global_pool":
            parts.append("average pool")
        elif layer.op == "dropout" and layer.name == "head_dropout":
            parts.append("dropout")
        elif layer.op == "dense":
            parts.append(f"{layer.channels}-d fc")
        elif layer.op == "activation":
            parts.append("softmax")
    return ", ".join(parts)


def _size(layer: Layer) -> str:
    return "x".join("?" if n is None else str(n) for n in layer.size)


def _with_label(label: str, size: str, lines: list[str]) -> list[tuple[str, str, str]]:
    return [(label, size, lines[0])] + [("", "", line) for line in lines[1:]]


def _grid(rows: list[tuple[str, str, str]]) -> list[str]:
    wide = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c}".rstrip() for a, b, c in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
