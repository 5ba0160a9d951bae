"""Power, and how many seeds a question needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ablations.errors import UserError
from ablations.inference._checks import Interval, check_positive, check_proper
from ablations.stats import summarise, t_quantile

POWER = 0.8
FIRST_STAGE = 5  # fewest seeds that Stein's rule may estimate a spread from
MOST_SEEDS = 1_000_000


def power(effect: float, std: float, n: int, level: float = 0.05) -> float:
    """Return the power of the two-sided paired t test (noncentral t).

    Args:
        effect: true mean difference.
        std: true standard deviation of the differences.
        n: pairs, 2 at least.
        level: of the test.
    """
    return _power(abs(effect) / std * math.sqrt(n), n - 1, level)


def seeds_for(effect: float, std: float, level: float = 0.05) -> int | None:
    """Return the fewest seeds, 3 at least, with 80 % power; None above a million.

    The standard deviation counts as known; an estimate from few seeds makes this a rough guide.
    """
    if not std > 0 or not math.isfinite(std):
        return None
    low, high = 2, 3
    while power(effect, std, high, level) < POWER:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, std, middle, level) >= POWER else (middle, high)
    return high


@dataclass(frozen=True)
class SeedPlan:
    """Stein's answer.

    Attributes:
        total: seeds that every arm should have, the first stage included.
        seeds: arm -> the number that it needs alone.
        left_out: arm -> why it had no say.
    """

    total: int
    seeds: dict[str, int]
    left_out: dict[str, str]


def stein_seeds(
    first_stage: Mapping[str, Sequence[float]], target: float, confidence: float = 0.95
) -> SeedPlan:
    """Return how many seeds make every interval as narrow as `target` (Stein 1945, two stages).

    An arm with n0 differences of standard deviation s needs max(n0, ceil((t(n0 - 1) s / target)²)).
    The interval afterwards is mean of all ± t(n0 - 1) s / sqrt(n), with this first s:
    `compare_arms(first_stage=…)`. It covers exactly, whatever the true spread (normal differences);
    stopping when a running interval is narrow enough does not.

    Args:
        first_stage: arm -> differences from the baseline, one a seed, five at least.
        target: half width of the interval, percentage points.
        confidence: of the interval.

    Raises:
        UserError: target not above 0; confidence outside (0, 1); no arm with five finite
            differences.
    """
    check_positive("target", target)
    check_proper(confidence)
    seeds, left_out = {}, {}
    for arm, values in first_stage.items():
        if not all(map(math.isfinite, values)):
            left_out[arm] = "a difference is not finite"
        elif (n := len(values)) < FIRST_STAGE:
            left_out[arm] = f"{n} differences in the first stage: at least {FIRST_STAGE}"
        else:
            width = t_quantile(0.5 + confidence / 2, n - 1) * summarise(values).std
            seeds[arm] = max(n, math.ceil((width / target) ** 2))
    if not seeds:
        why = "; ".join(f"{arm}: {text}" for arm, text in left_out.items()) or "no arms"
        raise UserError(f"Stein's rule needs an arm with {FIRST_STAGE} finite differences ({why})")
    return SeedPlan(max(seeds.values()), seeds, left_out)


def _power(shift: float, degrees: int, level: float) -> float:
    """Return P(|T| > t) of noncentral t, also where scipy gives nan for a tail near 0."""
    from scipy.special import chdtrc, nctdtr, ndtr

    critical = t_quantile(1 - level / 2, degrees)
    # T = (Z + shift) / S is below t only if Z < -shift / 2 or S > shift / (2 t).
    root = shift / (2 * critical)
    if ndtr(-shift / 2) + chdtrc(degrees, degrees * root * root) < 1e-15:
        return 1.0
    below, far = (float(nctdtr(degrees, shift, t)) for t in (critical, -critical))
    if not math.isfinite(below):
        raise ArithmeticError(
            f"no power at {shift:g} standard errors, {degrees} degrees, {level:g}"
        )
    # The far tail is at most P(Z < -shift), and nan only where that is below 1e-12.
    return 1 - below + (far if math.isfinite(far) else 0.0)


@lru_cache(maxsize=1024)
def noncentrality(degrees: int, level: float) -> float:
    """Return the true difference, in standard errors, that is found with the power of POWER."""
    low, high = 0.0, 1.0
    while _power(high, degrees, level) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, degrees, level) >= POWER else (middle, high)
    return high


def spread_factors(degrees: int) -> Interval:
    """Return the 95 % interval of true / sample standard deviation."""
    from scipy.special import chdtri

    return math.sqrt(degrees / chdtri(degrees, 0.025)), math.sqrt(degrees / chdtri(degrees, 0.975))
