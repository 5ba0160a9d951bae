"""Every arm against the baseline: paired tests, the word, the pooled model beside."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ablations.errors import UserError
from ablations.inference._checks import Interval, check_positive, check_proper, p_text
from ablations.inference.factorial import EQUAL, additive
from ablations.inference.planning import (
    FIRST_STAGE,
    POWER,
    noncentrality,
    seeds_for,
    spread_factors,
)
from ablations.stats import summarise, t_quantile
from reszoo.errors import unknown

_NOTHING = "no interval, p or word"


@dataclass(frozen=True)
class Estimate:
    """A mean difference from the baseline with its t test.

    Attributes:
        n: seeds in the mean.
        mean, error: the difference and its standard error.
        degrees: of freedom of the error.
        interval: per comparison.
        simultaneous: Bonferroni over the family; all of them hold together.
        t, p: two-sided test that the difference is 0.
        holm: p adjusted over the family.
    """

    n: int
    mean: float
    error: float
    degrees: int
    interval: Interval
    simultaneous: Interval
    t: float
    p: float
    holm: float


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline.

    Attributes:
        arm: its name.
        n: pairs (seeds that arm and baseline have).
        mean: of the paired differences; nan without pairs or where one is not finite.
        std: sample standard deviation of the differences; nan for n < 2.
        paired: from the arm's own paired differences; decides the word. None where not allowed.
        tost, tost_holm: p of the two one-sided tests at the margin, and adjusted over the family;
            None without `paired` or margin.
        word: by the rule of `word`, or None.
        reason: what the word rests on, or why there is none.
        detectable, detectable_holm: true difference found with 80 % power at the level, and at
            level / family (the strictest step of Holm's test), if the observed std were the true
            one; None without `paired`.
        seeds_needed, seeds_needed_holm: fewest seeds (3 at least) that give 80 % power for
            `detect`, likewise; None without `paired` or `detect`, or above a million.
        block: from the arm + seed model; None where it does not hold the arm.
    """

    arm: str
    n: int
    mean: float
    std: float
    paired: Estimate | None
    tost: float | None
    tost_holm: float | None
    word: str | None
    reason: str
    detectable: float | None
    detectable_holm: float | None
    seeds_needed: int | None
    seeds_needed_holm: int | None
    block: Estimate | None


@dataclass(frozen=True)
class Block:
    """The pooled model: value = arm + seed + residual, one residual variance for all arms.

    Attributes:
        stds: arm, the baseline included -> sample standard deviation over `seeds`.
        seeds: those that all these arms have (complete blocks); others are not used.
        std: of the residual, nan without a model.
        degrees: (arms - 1)(seeds - 1); with a first stage its seeds only.
        correlation: of arms over seeds (intraclass): above 0, matched seeds paid.
        note: why there is no model, or "".
    """

    stds: dict[str, float]
    seeds: tuple[int, ...]
    std: float
    degrees: int
    correlation: float
    note: str = ""


@dataclass(frozen=True)
class Family:
    """All arms against one baseline.

    Attributes:
        comparisons: arm -> its comparison, in the order given.
        tested: the arms with a p; Holm and Bonferroni count these and no others.
        block: the pooled model.
        first_stage: seeds of Stein's first stage, or ().
    """

    baseline: str
    comparisons: dict[str, Comparison]
    tested: tuple[str, ...]
    block: Block
    margin: float | None
    detect: float | None
    confidence: float
    first_stage: tuple[int, ...]


def word(
    mean: float, holm: float, tost_holm: float | None, margin: float | None, level: float
) -> str:
    """Return the word of the table. This is the only place that chooses one.

    ========================  =================================  =============================
                              TOST rejects (Holm p < level)      it does not, or no margin
    ========================  =================================  =============================
    t test, Holm p < level    different, but within MARGIN       better (mean < 0) or worse
    it does not reject        equivalent within MARGIN           not distinguishable
    ========================  =================================  =============================
    """
    different = holm < level
    if margin is not None and tost_holm is not None and tost_holm < level:
        return f"{'different, but' if different else 'equivalent'} within {margin:g}"
    if different:
        return "better" if mean < 0 else "worse"
    return "not distinguishable"


def compare_arms(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    margin: float | None = None,
    detect: float | None = None,
    confidence: float = 0.95,
    first_stage: Collection[int] = (),
) -> Family:
    """Compare every arm with the baseline by paired t tests, and by the pooled block model beside.

    The family is the arms that can be tested: three pairs or more, all finite, not all differences
    equal. The others get no p and do not count in Holm's and Bonferroni's number. A value that is
    not finite, of the arm or of the baseline, is not dropped, also where it has no partner: without
    its failed seeds an arm would look better than it is.

    Args:
        values: arm -> seed -> error in percent.
        baseline: one of the arms.
        margin: of equivalence, in percentage points; None: equivalence is not judged.
        detect: difference in percentage points to give the number of seeds for.
        confidence: of the intervals; 1 - confidence is the level of the words.
        first_stage: after Stein's rule, the seeds of its first stage. Standard errors and degrees
            of freedom then come from these and means from all seeds (Stein 1945), which keeps
            levels and coverage exact although the number of seeds was chosen from the data.

    Raises:
        UserError: unknown baseline; margin or detect not above 0; confidence outside (0, 1); a
            first stage of fewer than five seeds.
    """
    if baseline not in values:
        raise UserError(unknown("baseline", baseline, values))
    check_positive("margin", margin)
    check_positive("detect", detect)
    check_proper(confidence)
    if first_stage and len(first_stage) < FIRST_STAGE:
        raise UserError(f"first stage of {len(first_stage)} seeds: at least {FIRST_STAGE}")
    level = 1 - confidence
    pairs = {arm: _pairs(seeds, values[baseline]) for arm, seeds in values.items()}
    del pairs[baseline]
    spreads = {
        arm: [d for s, d in found.items() if not first_stage or s in first_stage]
        for arm, found in pairs.items()
    }
    lost = {
        arm: _not_finite(seeds) or _not_finite(values[baseline]) for arm, seeds in values.items()
    }
    reasons = {arm: lost[arm] or _obstacle(pairs[arm], spreads[arm]) for arm in pairs}
    tested = tuple(arm for arm in pairs if not reasons[arm])
    size = max(1, len(tested))
    errors = {arm: summarise(spreads[arm]).std / math.sqrt(len(pairs[arm])) for arm in tested}
    tests = _estimates(
        {
            arm: (len(pairs[arm]), _mean(pairs[arm]), errors[arm], len(spreads[arm]) - 1)
            for arm in tested
        },
        confidence,
    )
    tost = {arm: _tost(tests[arm], margin) for arm in tested} if margin is not None else {}
    tost_holm = dict(zip(tost, holm(list(tost.values())), strict=True))
    block, blocked = _block(values, baseline, tested, first_stage, confidence)

    def comparison(arm: str) -> Comparison:
        n, mean = len(pairs[arm]), _mean(pairs[arm])
        std = summarise(spreads[arm]).std if math.isfinite(mean) else math.nan
        if arm not in tests:
            nothing = (None,) * 3
            rest = (None,) * 5
            return Comparison(arm, n, mean, std, *nothing, None, reasons[arm], *rest)
        found = tests[arm]
        chosen = word(mean, found.holm, tost_holm.get(arm), margin, level)
        reason = f"n = {n}, Holm p {p_text(found.holm)}"
        if margin is not None:
            reason += f", TOST at ±{margin:g}: Holm p {p_text(tost_holm[arm])}"
        shifts = [noncentrality(found.degrees, a) for a in (level, level / size)]
        need = [seeds_for(detect, std, a) if detect else None for a in (level, level / size)]
        return Comparison(
            arm, n, mean, std, found, tost.get(arm), tost_holm.get(arm), chosen, reason,
            shifts[0] * found.error, shifts[1] * found.error, need[0], need[1], blocked.get(arm),
        )  # fmt: skip

    return Family(
        baseline,
        {arm: comparison(arm) for arm in pairs},
        tested,
        block,
        margin,
        detect,
        confidence,
        tuple(first_stage),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values, in the order of `p` (Holm 1979)."""
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def caption(family: Family) -> list[str]:
    """Return the sentences for under the table: rule, assumption, family, intervals, planning."""
    percent = f"{100 * family.confidence:.4g} %"
    level = f"{1 - family.confidence:.4g}"
    k, base = len(family.tested), family.baseline
    out = [(arm, c.reason.split(":")[0]) for arm, c in family.comparisons.items() if not c.paired]
    without = "; ".join(f"{arm} ({why})" for arm, why in out)
    if not k:
        return [f"No interval over seeds, p or word: {without}."] if out else []
    rule = (
        f"Word: paired t test of the differences from {base} by seed, Holm-adjusted; better (lower "
        f"error) or worse where the adjusted p is below {level}, else not distinguishable, which "
        "does not mean equal. "
    )
    if family.margin is None:
        rule += "Equivalence is not judged: it needs a margin (--margin)."
    else:
        rule += (
            f"Two one-sided t tests (TOST) at ±{family.margin:g} points, Holm-adjusted likewise: "
            f"equivalent within {family.margin:g} where only they reject, different, but within "
            f"{family.margin:g} where both do. Each kind of test is held at {level} over the "
            "family, so a false word of either kind may come in up to twice as many families "
            "(simulated at worst: 10 % instead of 5 %)."
        )
    who = f"{k} comparison{'s' * (k > 1)} with {base} ({', '.join(family.tested)})"
    scope = f"Family: {who}" + (f"; without a test and not counted: {without}." if out else ".")
    text = [
        rule,
        "It assumes normal differences, independent over seeds; arms may differ in spread. "
        + scope,
        f"Intervals ({percent}, Student t) are per comparison: each covers its own true "
        "difference, not all of them together, and may exclude 0 where the adjusted p does not "
        f"reject. Simultaneous ones (Bonferroni, {100 - 100 * (1 - family.confidence) / k:.4g} % "
        f"each) hold all together with {percent}.",
    ]
    if family.first_stage:
        text.append(
            "Two stages (Stein): standard errors and degrees of freedom come from the first "
            f"{len(family.first_stage)} seeds, means from all."
        )
    few = min(c.paired.degrees for c in family.comparisons.values() if c.paired)
    low, high = spread_factors(few)
    plan = f"Minimum detectable effect: true difference found with {100 * POWER:g} % power"
    if k > 1:
        plan += f" at {level}; for Holm's strictest step, at {level} / {k}"
    if family.detect is not None:
        plan += f"; seeds needed: for {family.detect:g} points, likewise"
    text.append(
        f"{plan}. Both take the std of the differences as known; from {few + 1} seeds the true one "
        f"may be {low:.2f} to {high:.2f} times as large (95 %)."
    )
    block = family.block
    if block.note:
        return [*text, f"No arm + seed model: {block.note}."]
    stds = ", ".join(f"{arm} {std:.2f}" for arm, std in block.stds.items())
    text.append(
        f"Beside it, never deciding the word, the arm + seed block model on the {len(block.seeds)} "
        f"seeds that all its arms have: one residual std ({block.std:.2f} points, {block.degrees} "
        "degrees of freedom), Holm-adjusted. It assumes equal spread in all arms; where one arm "
        "had 4 times the others' it erred in about 11 % of families instead of 5 %, where the "
        f"baseline had, in about 17 % (simulated, 6 arms). Stds: {stds}. Correlation of arms over "
        f"seeds: {block.correlation:.2f} (above 0: matching seeds paid)."
    )
    return text


def _block(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    tested: tuple[str, ...],
    first_stage: Collection[int],
    confidence: float,
) -> tuple[Block, dict[str, Estimate]]:
    arms = [baseline, *tested]
    seeds = tuple(s for s in values[baseline] if all(s in values[arm] for arm in tested))
    spread = [s for s in seeds if not first_stage or s in first_stage]
    stds = {arm: summarise([values[arm][s] for s in seeds]).std for arm in arms} if tested else {}
    degrees = (len(arms) - 1) * max(0, len(spread) - 1)
    fit = additive({arm: [values[arm][s] for s in spread] for arm in arms}) if spread else None
    note = ""
    if not tested:
        note = "no arm can be tested"
    elif fit is None or len(spread) <= 2:
        note = f"seeds that all arms have: {len(spread)}, 3 are needed"
    elif fit.largest < EQUAL:
        note = "all differences equal on the seeds that all arms have"
    if note or fit is None:
        return Block(stds, seeds, math.nan, degrees, math.nan, note), {}
    noise, between = fit.residual / degrees, fit.columns / (len(spread) - 1)
    correlation = (between - noise) / (between + (len(arms) - 1) * noise)
    error = math.sqrt(2 * noise / len(seeds))
    found = {
        arm: (len(seeds), _mean(_pairs({s: values[arm][s] for s in seeds}, values[baseline])),
              error, degrees)
        for arm in tested
    }  # fmt: skip
    model = Block(stds, seeds, math.sqrt(noise), degrees, correlation)
    return model, _estimates(found, confidence)


def _estimates(
    found: Mapping[str, tuple[int, float, float, int]], confidence: float
) -> dict[str, Estimate]:
    """Return a family's tests from arm -> (n, mean, standard error, degrees of freedom)."""
    from scipy.special import stdtr

    level, size = 1 - confidence, max(1, len(found))
    t = {arm: mean / error for arm, (_, mean, error, _) in found.items()}
    p = {arm: float(2 * stdtr(found[arm][3], -abs(t[arm]))) for arm in found}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    made = {}
    for arm, (n, mean, error, degrees) in found.items():
        one, all_ = (t_quantile(1 - a / 2, degrees) * error for a in (level, level / size))
        made[arm] = Estimate(
            n, mean, error, degrees, (mean - one, mean + one), (mean - all_, mean + all_),
            t[arm], p[arm], adjusted[arm],
        )  # fmt: skip
    return made


def _tost(found: Estimate, margin: float) -> float:
    """Return the larger p of the one-sided tests of mean <= -margin and of mean >= margin."""
    from scipy.special import stdtr

    return float(stdtr(found.degrees, (abs(found.mean) - margin) / found.error))


def _pairs(arm: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    return {seed: arm[seed] - baseline[seed] for seed in arm if seed in baseline}


def _mean(pairs: Mapping[int, float]) -> float:
    finite = pairs and all(map(math.isfinite, pairs.values()))
    return math.fsum(pairs.values()) / len(pairs) if finite else math.nan


def _obstacle(pairs: Mapping[int, float], spread: Sequence[float]) -> str:
    """Return why differences allow no test, or ""."""
    if len(pairs) <= 2:
        return f"n = {len(pairs)}: {_NOTHING} over seeds"
    if len(spread) <= 2:
        return f"{len(spread)} pairs in the first stage: {_NOTHING}"
    where = " in the first stage" if len(spread) < len(pairs) else ""
    equal = max(spread) - min(spread) < EQUAL
    return f"all differences equal{where}: {_NOTHING}" if equal else ""


def _not_finite(values: Mapping[int, float]) -> str:
    """Return which seed of an arm has no finite value, paired or not, or ""."""
    bad = [seed for seed, value in values.items() if not math.isfinite(value)]
    return f"seed {bad[0]} has no finite error (failed or diverged): {_NOTHING}" if bad else ""
