"""Changing a spec: fields replaced by name, the derived `depth` and `width`, and labels."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from reszoo.errors import SpecError, choice, integer, unknown
from reszoo.specs import BLOCK_LAYERS, ResNetSpec, as_tuple, defaults

#: Table 1 of the paper: block -> depth -> blocks a stage (conv2_x … conv5_x).
IMAGENET_DEPTHS = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}


def replaced(spec: ResNetSpec, overrides: Mapping[str, Any]) -> ResNetSpec:
    """Return `spec` with `overrides` on top (see ResNetSpec.replace).

    Raises:
        SpecError: an unknown field, or a combination that does not make a network.
    """
    values = spec.to_dict()
    # What was derived from the old block, stem and widths is derived again from the new ones.
    for name, default in defaults(spec.block, spec.stem, spec.widths).items():
        if values[name] == default:
            values[name] = None
    return named(ResNetSpec.from_dict(merge(values, overrides)), overrides)


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
        stem = overrides.get("stem_width")
        merged.update(_stage_widths(merged, overrides["width"], stem, "widths" in overrides))
    return merged


def _stage_depths(values: Mapping[str, Any], depth: object, clash: bool) -> tuple[int, ...]:
    if clash:
        raise SpecError("give depth or depths, not both")
    choice("block", values["block"], BLOCK_LAYERS)
    depth = integer("depth", depth)
    if values["stem"] != "cifar":
        table = IMAGENET_DEPTHS[values["block"]]
        if depth not in table:
            raise SpecError(
                f"an ImageNet net with {values['block']} blocks has {' or '.join(map(str, table))} "
                f"layers (Table 1), not {depth!r}; other depths by depths="
            )
        return table[depth]
    stages = len(as_tuple("widths", values["widths"]))
    per_block = BLOCK_LAYERS[values["block"]] * stages
    if depth < per_block + 2 or (depth - 2) % per_block:
        low = max(1, (depth - 2) // per_block)
        near = f"{per_block * low + 2} and {per_block * (low + 1) + 2}"
        raise SpecError(
            f"depth of a CIFAR net with {values['block']} blocks is {per_block}n+2, not {depth!r}; "
            f"nearest: {near}"
        )
    return ((depth - 2) // per_block,) * stages


def _stage_widths(
    values: Mapping[str, Any], width: object, stem: object, clash: bool
) -> dict[str, Any]:
    """Return the widths of stem and stages that `width` stands for; a `stem` given stays."""
    if clash:
        raise SpecError("give width or widths, not both")
    width = integer("width", width)
    old = values["widths"]
    scaled = []
    for channels in (old[0] if stem is not None else values.get("stem_width") or old[0], *old):
        if channels * width % old[0]:
            raise SpecError(f"width={width} does not scale widths {tuple(old)} to integers")
        scaled.append(channels * width // old[0])
    return {"stem_width": scaled[0] if stem is None else stem, "widths": tuple(scaled[1:])}
