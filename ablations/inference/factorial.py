"""Grids of two factors: main effects and interaction, seeds as blocks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ablations.errors import UserError
from ablations.inference._checks import check_proper
from ablations.stats import Difference, paired, summarise

Key = TypeVar("Key", bound=Hashable)
EQUAL = 1e-9  # differences of equal counts can differ by a rounding of the last bit


@dataclass(frozen=True)
class Effect:
    """A main effect or the interaction of a two-factor grid.

    Attributes:
        deviations: level (or pair of levels) -> deviation, percentage points: of the level's mean
            from the grand mean; for the interaction, of the pair's mean from the sum of these.
        degrees: of freedom of the numerator.
        f, p: None where there is no test.
    """

    deviations: dict[Hashable, float]
    degrees: int
    f: float | None
    p: float | None


@dataclass(frozen=True)
class Effects:
    """A two-factor grid.

    Attributes:
        a, b: main effects. interaction: what they do not explain.
        seeds: complete blocks used.
        std: of the residual, nan without tests.
        degrees: of freedom of the residual.
        contrast: for 2 x 2, per seed the effect of a at b's second level minus that at its first,
            each as second level of a minus first, with a paired t interval; else None.
        contrast_p: of its t test, or None.
        text: the model, and why there are no tests if there are none.
    """

    a: Effect
    b: Effect
    interaction: Effect
    seeds: tuple[int, ...]
    std: float
    degrees: int
    contrast: Difference | None
    contrast_p: float | None
    text: str


def two_factor(
    values: Mapping[tuple[Hashable, Hashable], Mapping[int, float]], confidence: float = 0.95
) -> Effects:
    """Return main effects and interaction of a grid of two factors, each pair with every seed.

    Model: value = a + b + a:b + seed + residual; seeds are blocks, and each F test has the mean
    square of (arm x seed) below it, with (arms - 1)(seeds - 1) degrees of freedom. It assumes equal
    spread in all arms. The three p are not adjusted for each other. Only seeds that every pair of
    levels has are used. The 2 x 2 contrast has its own spread, so it assumes no equality.

    Args:
        values: (level of a, level of b) -> seed -> error in percent.
        confidence: of the contrast's interval.

    Raises:
        UserError: a factor with one level; a pair of levels that is missing.
    """
    from scipy.special import fdtrc, stdtr

    check_proper(confidence)
    rows, columns = (list(dict.fromkeys(pair[i] for pair in values)) for i in (0, 1))
    if min(len(rows), len(columns)) < 2:
        raise UserError("main effects and interaction: each of the two factors needs two levels")
    arms = [(a, b) for a in rows for b in columns]
    if missing := [arm for arm in arms if arm not in values]:
        raise UserError(f"main effects and interaction: no arm {missing[0][0]}, {missing[0][1]}")
    seeds = tuple(s for s in values[arms[0]] if all(s in values[arm] for arm in arms))
    n, table = len(seeds), {arm: [values[arm][s] for s in seeds] for arm in arms}
    finite = n > 0 and all(math.isfinite(v) for line in table.values() for v in line)
    fit = additive(table) if finite else None
    mean = fit.rows if fit else dict.fromkeys(arms, math.nan)
    grand = math.fsum(mean.values()) / len(arms)
    a = {x: math.fsum(mean[x, y] for y in columns) / len(columns) - grand for x in rows}
    b = {y: math.fsum(mean[x, y] for x in rows) / len(rows) - grand for y in columns}
    both = {(x, y): mean[x, y] - grand - a[x] - b[y] for x, y in arms}
    degrees = (len(arms) - 1) * max(0, n - 1)
    problem = ""
    if n <= 2:
        problem = f"Seeds that all arms have: {n}, 3 are needed for tests and intervals."
    elif fit is None:
        problem = "A value is not finite (failed or diverged): no tests and no interval."
    elif fit.largest < EQUAL:
        problem = "All differences between arms are equal over seeds: no tests and no interval."
    noise = fit.residual / degrees if fit and not problem else math.nan

    def effect(deviations: Mapping[Any, float], df: int) -> Effect:
        square = math.fsum(d * d for d in deviations.values()) * n * len(arms) / len(deviations)
        f = None if problem else square / df / noise
        return Effect(dict(deviations), df, f, None if f is None else float(fdtrc(df, degrees, f)))

    contrast, p = None, None
    if len(arms) == 4 and finite:
        first, second, third, fourth = (dict(zip(seeds, table[arm], strict=True)) for arm in arms)
        contrast = paired(
            {s: fourth[s] - second[s] for s in seeds}, {s: third[s] - first[s] for s in seeds},
            confidence,
        )  # fmt: skip
        if contrast.low is not None:
            t = contrast.mean / summarise(contrast.values).std * math.sqrt(n)
            p = float(2 * stdtr(n - 1, -abs(t)))
    text = (
        f"Two factors, {n} seeds as blocks; F tests over one residual std pooled over arms "
        f"({math.sqrt(noise):.2f} points, {degrees} degrees of freedom), which assumes equal "
        "spread (where one arm had 4 times the others' std, 6 to 9 % of tests erred instead of 5, "
        "simulated); the three p are not adjusted for each other."
    )
    return Effects(
        effect(a, len(rows) - 1), effect(b, len(columns) - 1),
        effect(both, (len(rows) - 1) * (len(columns) - 1)),
        seeds, math.sqrt(noise), degrees, contrast, p, problem or text,
    )  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    """value = row + column + residual: row means, sums of squares, largest absolute residual."""

    rows: dict[Any, float]
    columns: float
    residual: float
    largest: float


def additive(table: Mapping[Key, Sequence[float]]) -> _Fit:
    """Fit row + column by least squares to a table of equal rows."""
    rows = {key: math.fsum(line) / len(line) for key, line in table.items()}
    grand = math.fsum(rows.values()) / len(rows)
    shifts = [math.fsum(column) / len(rows) - grand for column in zip(*table.values(), strict=True)]
    left = [
        v - rows[key] - c for key, line in table.items() for v, c in zip(line, shifts, strict=True)
    ]
    return _Fit(
        rows,
        len(rows) * math.fsum(c * c for c in shifts),
        math.fsum(r * r for r in left),
        max(map(abs, left)),
    )
