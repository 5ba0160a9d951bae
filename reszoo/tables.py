"""plan -> the text of the paper's Table 1."""

from __future__ import annotations

from typing import Any

from reszoo import costs
from reszoo.plans import Layer, Plan, plan
from reszoo.specs import ResNetSpec

_SHORTCUTS = {
    "none": "plain (no shortcuts)",
    "A": "shortcut A (identity, zero channels where the width grows)",
    "B": "shortcut B (projection where the shape changes)",
    "C": "shortcut C (projection in every block)",
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
    # The paper's conv{i}_x starts at 2 where a stem comes first.
    first = 1 if layers.spec is None else 2
    rows: list[tuple[str, str, str]] = [("layer name", "output size", layers.name)]
    if layers.spec is not None:
        rows.append(("conv1", _size(layers.layers[1]), _conv(layers.layers[1])))
    for number in range(1, 2 + max(layer.stage for layer in layers)):
        stage = layers.stage(number)
        if not stage:
            continue
        label = f"conv{number - 1 + first}_x"
        pool = [layer for layer in layers.stage(0) if layer.op == "max_pool" and number == 1]
        pool += [layer for layer in stage if layer.op == "max_pool"]
        lines = _blocks(stage) if layers.spec is not None else _plain_convs(stage)
        if layers.spec is not None:
            lines = [_pool(layer) for layer in pool] + lines
        else:
            lines += [_pool(layer) for layer in pool]
        rows += _with_label(label, _size(stage[-1]), lines)
    rows += _with_label("", "1x1", [_head(layers)])
    return "\n".join([_headline(layers), "", *_grid(rows), "", *_counts(layers)])


def _headline(layers: Plan) -> str:
    spec = layers.spec
    if spec is None:
        return f"{layers.name}: VGG comparator (arXiv 1409.1556)"
    parts = [f"{spec.stem} stem", f"{spec.block} blocks", _SHORTCUTS[spec.shortcut or "none"]]
    if spec.shortcut == "A":
        parts.append(f"zero channels: {spec.shortcut_pad}, halving: {spec.shortcut_pool}")
    if spec.block == "bottleneck":
        where = "the first 1x1 (v1)" if spec.stride_placement == "1x1" else "the 3x3 (v1.5)"
        parts.append(f"stride in {where}")
    return f"{layers.name}: " + ", ".join(parts)


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
            f"{x.kernel}x{x.kernel}, {x.channels}"
            for x in stage
            if x.block == number and x.op == "conv" and not x.projection
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


def _plain_convs(stage: list[Layer]) -> list[str]:
    convs = [layer for layer in stage if layer.op == "conv"]
    return [f"[ {convs[0].kernel}x{convs[0].kernel}, {convs[0].channels} ] x {len(convs)}"]


def _conv(layer: Layer) -> str:
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    return f"{layer.kernel}x{layer.kernel}, {layer.channels}{stride}"


def _pool(layer: Layer) -> str:
    return f"{layer.kernel}x{layer.kernel} max pool, stride {layer.stride}"


def _head(layers: Plan) -> str:
    parts = []
    for layer in layers.stage(-1):
        if layer.op == "global_pool":
            parts.append("average pool")
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
