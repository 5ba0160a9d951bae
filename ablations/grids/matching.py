"""Widths that give networks equal budgets, from their plans; nothing is built or trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import reszoo
from ablations.grids.fields import GridError
from reszoo.errors import unknown
from reszoo.specs import ResNetSpec

#: What `match:` takes -> (attribute of Complexity, what people call it).
BUDGETS = {"macs": ("macs", "MACs"), "params": ("parameters", "parameters")}
#: Relative mismatch that is tolerated unless a grid states another.
TOLERANCE = 0.02
#: Fields that the solver sets, and that no grid with `match:` may vary.
SOLVED = ("widths", "stem_width")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Match:
    """A network made to fit a budget.

    Attributes:
        spec: the network.
        budget: "MACs" or "parameters".
        target: the baseline's, per image.
        value: this network's.
        tolerance: largest |mismatch| that counts as matched.
        uniform: the stem and all stages have one factor to the network that was asked for; else
            each stage's width is rounded on its own.
        reachable: the nearest values below and above the target, for messages.
    """

    spec: ResNetSpec
    budget: str
    target: int
    value: int
    tolerance: float
    uniform: bool
    reachable: str = ""

    @property
    def mismatch(self) -> float:
        """(value - target) / target."""
        return self.value / self.target - 1

    @property
    def within(self) -> bool:
        """Whether the mismatch is tolerated."""
        return abs(self.mismatch) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return what `records.Arm.match` holds."""
        return {
            "budget": self.budget,
            "target": self.target,
            "value": self.value,
            "mismatch": self.mismatch,
            "tolerance": self.tolerance,
            "widths": list(self.spec.widths),
            "stem_width": self.spec.stem_width,
            "uniform": self.uniform,
            "reachable": self.reachable,
        }


def budget(spec: ResNetSpec, match: str) -> int:
    """Return a network's MACs for one image, or its parameters.

    Raises:
        GridError: `match` is neither "macs" nor "params".
    """
    if match not in BUDGETS:
        raise GridError(unknown("match", match, BUDGETS))
    return getattr(reszoo.complexity(spec), BUDGETS[match][0])


def solve(spec: ResNetSpec, match: str, target: int, tolerance: float = TOLERANCE) -> Match:
    """Return the width at which a network's budget is nearest to a target.

    The stem and all stages are scaled by one factor where that reaches the tolerance. Where whole
    channels are too coarse for it, each stage (and the stem) is scaled by one factor and rounded
    on its own, so that a later stage may be a channel or two off twice the one before.

    Args:
        spec: the network, whose widths give the proportions.
        match: "macs" or "params".
        target: the budget: multiply-accumulates for one image, or trainable parameters.
        tolerance: relative.

    Raises:
        GridError: `match` is unknown, or no width makes a network.
    """
    base = (_stem(spec), *spec.widths)
    unit = _unit(spec)
    step = math.gcd(*base)
    memo: dict[tuple[int, ...], tuple[ResNetSpec | None, int]] = {}

    def network(widths: tuple[int, ...]) -> tuple[ResNetSpec | None, int]:
        if widths not in memo:
            memo[widths] = (None, 0)
            if not any(width % unit for width in widths[1:]):
                try:
                    made = dataclasses.replace(spec, stem_width=widths[0], widths=widths[1:])
                    memo[widths] = (made, budget(made, match))
                except reszoo.SpecError:
                    pass  # no network has these widths
        return memo[widths]

    def uniform(index: int) -> tuple[ResNetSpec | None, int]:
        return network(tuple(width // step * index for width in base))

    def rounded(index: int) -> tuple[ResNetSpec | None, int]:
        factor = index * unit / (8 * max(base))  # finer than any width's own step
        return network(tuple(max(1, int(width * factor / unit + 0.5)) * unit for width in base))

    best: Match | None = None
    for even, candidates in ((True, uniform), (False, rounded)):
        around = _nearest(candidates, target)
        for made, value in around:
            found = Match(made, BUDGETS[match][1], target, value, tolerance, even, _around(around))
            if best is None or abs(found.mismatch) < abs(best.mismatch):
                best = found
        if best is not None and best.within:
            break
    if best is None:
        raise GridError(f"match {match}: no width makes a network of {spec.widths}")
    return best


def _stem(spec: ResNetSpec) -> int:
    assert spec.stem_width is not None
    return spec.stem_width


def _unit(spec: ResNetSpec) -> int:
    """Return what widths must be multiples of, so that groups have whole numbers of channels."""
    unit = 1
    if spec.block == "bottleneck":  # the 3x3 has widths x width_per_group / 64 x groups channels
        unit = 64 // math.gcd(64, spec.width_per_group)
    return math.lcm(unit, spec.norm_groups) if spec.norm == "group" else unit


def _nearest(
    candidates: Callable[[int], tuple[ResNetSpec | None, int]], target: int
) -> list[tuple[ResNetSpec, int]]:
    """Return the networks next to a target on both sides; budgets grow with the index."""

    def from_here(index: int, step: int, limit: int) -> tuple[int, ResNetSpec | None, int]:
        while index != limit:
            made, value = candidates(index)
            if made is not None:
                return index, made, value
            index += step
        return index, None, 0

    high = 1
    while high < _LARGEST:
        _, made, value = from_here(high, 1, 2 * high)
        if made is not None and value >= target:
            break
        high *= 2
    low = 0  # the answer's index lies in (low, 2 * high)
    high = min(2 * high, _LARGEST)
    while high - low > 1:
        middle = (low + high) // 2
        _, made, value = from_here(middle, 1, high)
        if made is None or value >= target:
            high = middle
        else:
            low = middle
    above = from_here(high, 1, 2 * high + 64)
    below = from_here(high - 1, -1, 0)
    return [(made, value) for _, made, value in (below, above) if made is not None]


def _around(found: list[tuple[ResNetSpec, int]]) -> str:
    return " or ".join(
        f"{value:,} (width {'x'.join(map(str, made.widths))})" for made, value in found
    )
