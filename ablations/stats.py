"""Aggregates over seeds, and differences from the baseline.

The unit of replication is the seed. Standard deviations are sample standard deviations (ddof = 1).
Intervals are Student t intervals of paired differences; none is given for two seeds or fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A quantity over seeds.

    Attributes:
        values: one a seed, in the order of the seeds.
        n: how many.
        mean: nan without values.
        std: sample standard deviation (ddof = 1); nan for n < 2.
    """

    values: tuple[float, ...]
    n: int
    mean: float
    std: float


@dataclass(frozen=True)
class Difference:
    """Paired differences from the baseline over seeds.

    Attributes:
        values: arm minus baseline, one a seed that both have.
        n: how many.
        mean: nan without pairs.
        low, high: 95 % t interval of the mean; None for n <= 2, and where all differences are
            equal (no spread to judge by).
        note: why there is no interval, or "".
    """

    values: tuple[float, ...]
    n: int
    mean: float
    low: float | None
    high: float | None
    note: str = ""


def summarise(values: Sequence[float]) -> Summary:
    """Return n, mean and sample standard deviation."""
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else math.nan
    return Summary(tuple(values), n, mean, std)


def paired(
    arm: dict[int, float], baseline: dict[int, float], confidence: float = 0.95
) -> Difference:
    """Return the paired difference arm - baseline over the seeds that both have.

    Args:
        arm: seed -> value.
        baseline: seed -> value.
        confidence: of the interval: mean ± t(n - 1) * std / sqrt(n).
    """
    values = [arm[seed] - baseline[seed] for seed in arm if seed in baseline]
    if not all(map(math.isfinite, values)):
        # A diverged run is not dropped: without it the arm would look better than it is.
        note = "a difference is not finite: no interval"
        return Difference(tuple(values), len(values), math.nan, None, None, note)
    summary = summarise(values)
    if summary.n <= 2:
        return Difference(
            summary.values, summary.n, summary.mean, None, None, "no interval for n ≤ 2"
        )
    # Differences of equal counts can differ by a rounding of the last bit.
    if max(values) - min(values) < 1e-9:
        note = "all differences equal: no interval"
        return Difference(summary.values, summary.n, summary.mean, None, None, note)
    half = t_quantile(0.5 + confidence / 2, summary.n - 1) * summary.std / math.sqrt(summary.n)
    return Difference(
        summary.values, summary.n, summary.mean, summary.mean - half, summary.mean + half
    )


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(degrees, probability))
