"""Inference against scipy, statsmodels, printed values, properties and simulation."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from ablations.errors import UserError
from ablations.inference import (
    Family,
    caption,
    compare_arms,
    holm,
    mcnemar,
    mcnemar_counts,
    power,
    seeds_for,
    stein_seeds,
    two_factor,
    word,
)

Values = dict[str, dict[int, float]]


def drawn(seed: int, means: dict[str, float], n: int, std: float = 1.0) -> Values:
    draw = np.random.default_rng(seed)
    return {
        arm: {s: float(v) for s, v in enumerate(draw.normal(mean, std, n))}
        for arm, mean in means.items()
    }


ARMS = {"base": 9.0, "A": 7.5, "B": 9.0, "C": 11.0, "D": 8.8}


@pytest.fixture(scope="module")
def simulation() -> Any:
    """Return benchmarks/interval_coverage.py as a module."""
    path = ROOT / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- the paired tests -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 10])
def test_paired_tests_and_both_intervals_equal_scipy(n: int) -> None:
    values = drawn(n, ARMS, n)
    family = compare_arms(values, "base")
    assert list(family.comparisons) == list(family.tested) == ["A", "B", "C", "D"]
    for arm, found in family.comparisons.items():
        wanted = stats.ttest_rel(list(values[arm].values()), list(values["base"].values()))
        one, all_ = (wanted.confidence_interval(c) for c in (0.95, 1 - 0.05 / 4))
        assert found.paired is not None
        assert (found.paired.t, found.paired.p) == pytest.approx((wanted.statistic, wanted.pvalue))
        assert found.paired.interval == pytest.approx((one.low, one.high))
        assert found.paired.simultaneous == pytest.approx((all_.low, all_.high))


def test_holm_by_hand() -> None:
    """4 x 0.005, then 3 x 0.01, 2 x 0.03, and 0.04 lifted to its predecessor's 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=9), st.randoms())
def test_holm_properties(p: list[float], random: Any) -> None:
    adjusted = holm(p)
    assert all(raw <= a <= 1 for raw, a in zip(p, adjusted, strict=True))
    assert all(a <= min(1, len(p) * raw) for raw, a in zip(p, adjusted, strict=True))
    ranked = sorted(zip(p, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(adjusted)
    order = list(range(len(p)))
    random.shuffle(order)
    assert holm([p[i] for i in order]) == [adjusted[i] for i in order]


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(0, 0.1, 1 + seed)
        assert holm(list(p)) == pytest.approx(list(multitest.multipletests(p, method="holm")[1]))


@pytest.mark.parametrize("margin", [0.5, 2.0, 8.0])
def test_tost_equals_two_one_sided_tests(margin: float) -> None:
    values = drawn(1, ARMS, 5)
    family = compare_arms(values, "base", margin=margin)
    raw = []
    for arm, found in family.comparisons.items():
        difference = np.array(list(values[arm].values())) - list(values["base"].values())
        above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
        assert found.tost == pytest.approx(max(above, below))
        raw.append(found.tost)
    assert [c.tost_holm for c in family.comparisons.values()] == pytest.approx(holm(raw))


def test_tost_equals_statsmodels() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    values = drawn(2, {"base": 9.0, "A": 9.3}, 6)
    wanted = weightstats.ttost_paired(
        np.array(list(values["A"].values())), np.array(list(values["base"].values())), -1.5, 1.5
    )[0]
    assert compare_arms(values, "base", margin=1.5).comparisons["A"].tost == pytest.approx(wanted)


# --- the word -------------------------------------------------------------------------------


def around(mean: float, spread: float = 0.1) -> dict[int, float]:
    return {0: mean - spread, 1: mean, 2: mean + spread, 3: mean - spread, 4: mean + spread}


@pytest.mark.parametrize(
    ("mean", "spread", "margin", "expected"),
    [
        (-2.0, 0.1, None, "better"),
        (2.0, 0.1, None, "worse"),
        (2.0, 0.1, 0.5, "worse"),
        (0.3, 0.1, 0.5, "different, but within 0.5"),
        (-0.3, 0.1, 0.5, "different, but within 0.5"),
        (0.0, 0.1, 0.5, "equivalent within 0.5"),
        (0.0, 0.1, None, "not distinguishable"),
        (0.0, 5.0, 0.5, "not distinguishable"),
    ],
)
def test_word(mean: float, spread: float, margin: float | None, expected: str) -> None:
    values = {"base": dict.fromkeys(range(5), 9.0), "A": around(9 + mean, spread)}
    found = compare_arms(values, "base", margin=margin).comparisons["A"]
    assert found.word == expected
    assert f"Holm p {'<' if found.paired and found.paired.holm < 0.001 else '='}" in found.reason


def test_word_follows_the_adjusted_p_not_the_raw_one() -> None:
    """Four null arms beside it lift a raw p of 0.02 above 0.05."""
    base = dict.fromkeys(range(5), 9.0)
    noise = {f"N{i}": around(9 + 0.01 * i, 3.0) for i in range(4)}
    alone = compare_arms({"base": base, "A": around(9.14)}, "base").comparisons["A"]
    among = compare_arms({"base": base, "A": around(9.14), **noise}, "base").comparisons["A"]
    assert alone.paired and among.paired
    assert alone.paired.p == among.paired.p < 0.05 < among.paired.holm
    assert (alone.word, among.word) == ("worse", "not distinguishable")
    assert among.paired.interval[0] > 0 > among.paired.simultaneous[0]


def test_word_at_the_level_itself_claims_nothing() -> None:
    assert word(-1.0, 0.05, 0.05, 0.5, 0.05) == "not distinguishable"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_two_seeds_or_fewer_say_nothing(n: int) -> None:
    values = {"base": around(9.0), "A": dict(list(around(7.0).items())[:n])}
    family = compare_arms(values, "base", margin=0.5, detect=0.5)
    found = family.comparisons["A"]
    assert (found.n, found.reason) == (n, f"n = {n}: no interval, p or word over seeds")
    rest = (found.paired, found.block, found.word, found.tost, found.detectable)
    assert rest == (None,) * 5 and found.seeds_needed is None
    assert caption(family) == [f"No interval over seeds, p or word: A (n = {n})."]


def test_equal_differences_say_nothing() -> None:
    """scipy gives p = 0 for such differences, which agree but for rounding."""
    base = {s: 4.2 + 1.1 * s for s in range(4)}
    values = {"base": base, "A": {s: v + 0.1 for s, v in base.items()}, "B": dict(base)}
    family = compare_arms(values, "base", margin=0.5)
    for found in family.comparisons.values():
        assert (found.paired, found.block, found.word, found.tost) == (None,) * 4
        assert found.reason == "all differences equal: no interval, p or word"
    assert family.comparisons["A"].mean == pytest.approx(0.1)
    assert family.tested == () and family.block.note


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_diverged_seed_is_stated_and_not_dropped(bad: float) -> None:
    values = drawn(3, ARMS, 4)
    values["A"][2] = bad
    clean = {arm: seeds for arm, seeds in values.items() if arm != "A"}
    family = compare_arms(values, "base", margin=1.0, detect=0.5)
    found = family.comparisons["A"]
    assert found.word is None and found.paired is None and math.isnan(found.mean)
    assert found.reason.startswith("seed 2 has no finite error")
    assert "A (seed 2 has no finite error (failed or diverged))" in " ".join(caption(family))
    # The others are what they are without it.
    others = compare_arms(clean, "base", margin=1.0, detect=0.5)
    assert {a: c for a, c in family.comparisons.items() if a != "A"} == others.comparisons
    assert family.block == others.block


def test_diverged_baseline_leaves_nothing_to_compare() -> None:
    values = drawn(3, ARMS, 4)
    values["base"][0] = math.nan
    family = compare_arms(values, "base")
    assert family.tested == () and {c.word for c in family.comparisons.values()} == {None}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"baseline": "bas"}, 'did you mean "base"'),
        ({"margin": 0.0}, "margin 0: must be above 0"),
        ({"margin": -1.0}, "margin -1: must be above 0"),
        ({"detect": math.nan}, "detect nan: must be above 0"),
        ({"confidence": 95.0}, "confidence 95: must lie between 0 and 1"),
        ({"first_stage": range(4)}, "first stage of 4 seeds: at least 5"),
    ],
)
def test_bad_input(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare_arms(drawn(0, ARMS, 5), **({"baseline": "base"} | how))


# --- properties of the whole ----------------------------------------------------------------


def numbers(family: Family, arm: str) -> list[float]:
    """Return what has no unit: p values."""
    found = family.comparisons[arm]
    tests = [e for e in (found.paired, found.block) if e]
    return [x for e in tests for x in (e.p, e.holm)] + [found.tost or 0.0, found.tost_holm or 0.0]


seeds = st.integers(0, 10_000)


@given(seeds, st.floats(-50, 50), st.sampled_from([0.01, 0.5, 100.0]), st.permutations("ABCD"))
def test_shift_scale_and_order(seed: int, shift: float, scale: float, order: list[str]) -> None:
    """A shift of all errors and the order of arms change nothing; a scale changes only units."""
    values = drawn(seed, ARMS, 4)
    moved = {
        arm: {s: scale * (v + shift) for s, v in values[arm].items()} for arm in ["base", *order]
    }
    one = compare_arms(values, "base", margin=1.0, detect=0.7)
    two = compare_arms(moved, "base", margin=scale, detect=0.7 * scale)
    assert list(two.comparisons) == list(order)
    assert two.block.std == pytest.approx(scale * one.block.std)
    assert two.block.correlation == pytest.approx(one.block.correlation, abs=1e-6)
    for arm in "ABCD":
        a, b = one.comparisons[arm], two.comparisons[arm]
        assert numbers(two, arm) == pytest.approx(numbers(one, arm), rel=1e-6, abs=1e-12)
        assert a.paired and b.paired and a.detectable and a.detectable_holm
        assert b.paired.interval == pytest.approx(
            [scale * x for x in a.paired.interval], rel=1e-6, abs=1e-6 * scale
        )
        assert b.detectable == pytest.approx(scale * a.detectable)
        assert (a.seeds_needed, a.word) == (
            b.seeds_needed,
            b.word and b.word.replace(f"{scale:g}", "1"),
        )
        assert a.paired.holm >= a.paired.p and a.detectable_holm >= a.detectable


@given(seeds)
def test_swapping_arm_and_baseline_turns_signs(seed: int) -> None:
    values = drawn(seed, {"base": 9.0, "A": 8.0}, 5)
    one = compare_arms(values, "base", margin=2.0).comparisons["A"]
    two = compare_arms(values, "A", margin=2.0).comparisons["base"]
    assert one.paired and two.paired
    assert two.paired.interval == pytest.approx([-x for x in one.paired.interval[::-1]])
    assert (two.paired.p, two.tost) == pytest.approx((one.paired.p, one.tost))


# --- planning -------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_for_textbook_effects(effect: float, n: int) -> None:
    """G*Power's numbers for a two-sided matched-pairs t test, 80 % power, level 0.05."""
    assert seeds_for(effect, 1.0) == n


@pytest.mark.parametrize(("n", "wanted"), [(3, 3.26), (5, 1.68), (10, 1.00), (20, 0.66)])
def test_detectable_effect(n: int, wanted: float) -> None:
    """In standard deviations of the differences, by numerical integration elsewhere."""
    found = compare_arms(drawn(n, {"base": 9.0, "A": 9.0}, n), "base").comparisons["A"]
    assert found.detectable is not None
    assert round(found.detectable / found.std, 2) == wanted


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_power_equals_the_noncentral_t_of_scipy(n: int, level: float) -> None:
    critical = stats.t.ppf(1 - level / 2, n - 1)
    shift = 1.3 / 0.7 * math.sqrt(n)
    wanted = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power(1.3, 0.7, n, level) == pytest.approx(wanted)
    assert power(0.0, 0.7, n, level) == pytest.approx(level)


def integrated(shift: float, degrees: int, level: float) -> float:
    """Return the power without the noncentral t: the normal's tails, weighed by chi's density."""
    critical, root = stats.t.ppf(1 - level / 2, degrees), math.sqrt(degrees)

    def density(s: float) -> float:
        tails = special.ndtr(shift - critical * s) + special.ndtr(-critical * s - shift)
        return tails * stats.chi.pdf(s * root, degrees) * root

    ends = (0, (shift + 10) / critical)
    return integrate.quad(density, *ends, limit=400, points=[shift / critical])[0]


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_detectable_at_holms_strictest_step_equals_quadrature(n: int) -> None:
    """Over families of 1 to 12, where scipy's noncentral t is nan in the far tail."""
    values = drawn(n, dict.fromkeys("abcdefghijklm", 9.0), n)
    for k in range(1, 13):
        family = compare_arms(dict(list(values.items())[: k + 1]), "a")
        found = family.comparisons["b"]
        assert found.paired and found.detectable_holm
        shift = found.detectable_holm / found.paired.error
        assert integrated(shift, n - 1, 0.05 / k) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("ratio", "k"), [(2.5, 3), (4.0, 5), (5.0, 11), (8.0, 11), (400.0, 11)])
def test_seeds_for_large_effects_equal_quadrature(ratio: float, k: int) -> None:
    level = 0.05 / k
    wanted = next(m for m in range(3, 99) if integrated(ratio * m**0.5, m - 1, level) >= 0.8)
    assert seeds_for(ratio, 1.0, level) == wanted


@pytest.mark.parametrize("effect", [6.0, 40.0, 1e9, 1e300])
def test_power_of_any_effect_is_a_number(effect: float) -> None:
    assert all(power(effect, 1.0, n, 0.05 / k) > 0.7 for n in (4, 10, 99) for k in (1, 12))
    assert seeds_for(effect, 1.0) == 3


def test_power_equals_statsmodels() -> None:
    smp = pytest.importorskip("statsmodels.stats.power")
    for n in (3, 6, 30):
        wanted = smp.TTestPower().power(0.9, n, 0.05, alternative="two-sided")
        assert power(0.9, 1.0, n) == pytest.approx(wanted)


def test_detectable_effects_have_the_stated_power() -> None:
    """Also at the strictest step of Holm's test over four arms."""
    family = compare_arms(drawn(4, ARMS, 5), "base", detect=0.5)
    for found in family.comparisons.values():
        assert found.detectable and found.detectable_holm and found.seeds_needed_holm
        assert power(found.detectable, found.std, 5) == pytest.approx(0.8)
        assert power(found.detectable_holm, found.std, 5, 0.05 / 4) == pytest.approx(0.8)
        n = found.seeds_needed_holm
        assert power(0.5, found.std, n, 0.05 / 4) >= 0.8 > power(0.5, found.std, n - 1, 0.05 / 4)


def test_seeds_where_the_spread_says_nothing() -> None:
    assert seeds_for(0.5, math.nan) is None and seeds_for(0.5, 0.0) is None
    assert seeds_for(1e-6, 1.0) is None
    assert seeds_for(100.0, 1.0) == 3


# --- the block model ------------------------------------------------------------------------


def test_block_model_equals_statsmodels() -> None:
    pandas = pytest.importorskip("pandas")
    formula = pytest.importorskip("statsmodels.formula.api")
    values = drawn(5, ARMS, 4)
    values["A"][9] = 3.0  # no block: the others lack seed 9
    table = [(a, s, v) for a, runs in values.items() for s, v in runs.items() if s != 9]
    frame = pandas.DataFrame(table, columns=["arm", "seed", "error"])
    fit = formula.ols("error ~ C(arm, Treatment('base')) + C(seed)", frame).fit()
    family = compare_arms(values, "base")
    assert family.block.seeds == (0, 1, 2, 3)
    assert family.block.degrees == fit.df_resid == 12
    assert family.block.std == pytest.approx(math.sqrt(fit.mse_resid))
    raw = []
    for arm, found in family.comparisons.items():
        term = f"C(arm, Treatment('base'))[T.{arm}]"
        assert found.block is not None
        wanted = (fit.params[term], fit.bse[term], fit.pvalues[term])
        assert (found.block.mean, found.block.error, found.block.p) == pytest.approx(wanted)
        assert found.block.interval == pytest.approx(tuple(fit.conf_int().loc[term]))
        raw.append(wanted[2])
    assert [c.block.holm for c in family.comparisons.values() if c.block] == pytest.approx(
        holm(raw)
    )


def test_block_model_of_two_arms_is_the_paired_test() -> None:
    found = compare_arms(drawn(6, {"base": 9.0, "A": 8.0}, 5), "base").comparisons["A"]
    assert found.paired and found.block and found.block.degrees == 4
    assert found.block.interval == pytest.approx(found.paired.interval)
    assert found.block.p == pytest.approx(found.paired.p)


def test_block_model_states_the_spread_of_every_arm() -> None:
    values = drawn(7, ARMS, 3)
    family = compare_arms(values, "base")
    assert family.block.stds == pytest.approx(
        {arm: np.std(list(runs.values()), ddof=1) for arm, runs in values.items()}
    )
    text = caption(family)[-1]
    assert "assumes equal spread" in text
    assert all(f"{arm} {std:.2f}" in text for arm, std in family.block.stds.items())


def test_correlation_is_one_where_seeds_explain_all_and_low_where_nothing() -> None:
    common = {s: 10.0 * s for s in range(5)}
    draw = np.random.default_rng(0)
    noisy = {arm: {s: v + 0.01 * draw.normal() for s, v in common.items()} for arm in "xyz"}
    assert compare_arms(noisy, "x").block.correlation > 0.999
    seed = draw.normal(size=4000)
    half = {arm: dict(enumerate((seed + draw.normal(size=4000)).tolist())) for arm in "xyz"}
    assert compare_arms(half, "x").block.correlation == pytest.approx(0.5, abs=0.04)
    alone = drawn(8, dict.fromkeys("xyz", 9.0), 400)
    assert abs(compare_arms(alone, "x").block.correlation) < 0.12


def test_no_block_model_without_three_common_seeds() -> None:
    """A and B have three seeds each with the baseline, and one in common."""
    values = drawn(9, {"base": 9.0, "A": 9.0, "B": 9.0}, 5)
    values["A"] = {s: values["A"][s] for s in (0, 1, 2)}
    values["B"] = {s: values["B"][s] for s in (2, 3, 4)}
    family = compare_arms(values, "base")
    assert family.tested == ("A", "B") and "seeds that all arms have: 1," in family.block.note
    assert all(c.paired and c.block is None for c in family.comparisons.values())
    assert caption(family)[-1] == f"No arm + seed model: {family.block.note}."


def test_no_block_model_where_common_seeds_have_equal_differences() -> None:
    base = {s: 4.2 + 1.1 * s for s in range(4)}
    family = compare_arms(
        {"base": {**base, 4: 0.0, 5: 3.0}, "A": {**base, 5: 7.0}, "B": {**base, 4: 9.0}}, "base"
    )
    assert family.tested == ("A", "B") and family.block.seeds == (0, 1, 2, 3)
    assert "all differences equal" in family.block.note and math.isnan(family.block.std)


# --- Stein's rule ---------------------------------------------------------------------------


def test_stein_by_hand() -> None:
    """Std 1 over five; t(0.975; 4) = 2.776445: (2.776445 / 0.5)² = 30.83, so 31."""
    unit = [-1.0, -1.0, 0.0, 1.0, 1.0]
    plan = stein_seeds({"A": unit, "B": [x / 100 for x in unit], "C": unit[:4]}, 0.5)
    assert plan.seeds == {"A": 31, "B": 5} and plan.total == 31
    assert plan.left_out == {"C": "4 differences in the first stage: at least 5"}


def test_stein_refuses() -> None:
    with pytest.raises(UserError, match=r"5 finite differences \(A: a difference is not finite"):
        stein_seeds({"A": [1.0, 2.0, math.nan, 3.0, 4.0]}, 0.3)
    with pytest.raises(UserError, match="at least 5"):
        stein_seeds({"A": [1.0, 2.0, 3.0]}, 0.3)
    with pytest.raises(UserError, match="target 0"):
        stein_seeds({"A": [1.0, 2.0, 3.0, 4.0, 6.0]}, 0.0)


@given(seeds, st.floats(0.05, 3.0))
def test_stein_reaches_its_target(seed: int, target: float) -> None:
    """The interval afterwards: mean of all, spread and degrees of freedom of the first five."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=5)
    total = stein_seeds({"A": list(first)}, target).total
    everything = np.concatenate([first, draw.normal(size=total - 5)])
    values = {"base": dict.fromkeys(range(total), 0.0), "A": dict(enumerate(everything.tolist()))}
    found = compare_arms(values, "base", first_stage=range(5)).comparisons["A"].paired
    assert found is not None and (found.n, found.degrees) == (total, 4)
    half = (found.interval[1] - found.interval[0]) / 2
    assert half <= target * (1 + 1e-9)
    assert half == pytest.approx(
        stats.t.ppf(0.975, 4) * np.std(first, ddof=1) / math.sqrt(total), rel=1e-6
    )
    assert found.mean == pytest.approx(everything.mean())
    # One seed fewer would not do, unless the first stage was enough.
    assert total == 5 or half * math.sqrt(total / (total - 1)) > target * (1 - 1e-9)


def test_first_stage_that_is_everything_changes_nothing() -> None:
    values = drawn(10, ARMS, 5)
    one, two = compare_arms(values, "base"), compare_arms(values, "base", first_stage=range(5))
    assert one.comparisons == two.comparisons and one.block == two.block
    assert any("Stein" in line for line in caption(two))
    assert not any("Stein" in line for line in caption(one))


def test_block_model_after_a_first_stage() -> None:
    """As the paired test: spread and degrees of freedom of the first five, mean of all nine."""
    values = drawn(14, ARMS, 9)
    early = {arm: {s: v for s, v in runs.items() if s < 5} for arm, runs in values.items()}
    family, first = compare_arms(values, "base", first_stage=range(5)), compare_arms(early, "base")
    assert (family.block.std, family.block.degrees) == pytest.approx((first.block.std, 16))
    found = family.comparisons["A"].block
    assert found is not None and (found.n, found.degrees) == (9, 16)
    assert found.error == pytest.approx(first.block.std * math.sqrt(2 / 9))
    means = [np.mean(list(values[arm].values())) for arm in ("A", "base")]
    assert found.mean == pytest.approx(means[0] - means[1])


# --- one seed -------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 7), (12, 12), (0, 5), (40, 61)])
def test_mcnemar_equals_the_binomial_test(b: int, c: int) -> None:
    found = mcnemar_counts(b, c, 2000)
    wanted = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert found.p == pytest.approx(wanted)
    point = stats.binom.pmf(min(b, c), b + c, 0.5)
    # Fagerland, Lydersen and Laake (2013), supplement: 1 - f / 2 where the counts are equal.
    assert found.mid_p == pytest.approx(1 - point / 2 if b == c else wanted - point)
    assert found.difference == pytest.approx(100 * (c - b) / 2000)
    assert "variance between seeds is unknown" in found.text


def test_mcnemar_equals_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in ((3, 9), (25, 60)):
        wanted = tables.mcnemar([[100, b], [c, 50]], exact=True).pvalue
        assert mcnemar_counts(b, c, 150 + b + c).p == pytest.approx(wanted)


def test_interval_over_images_of_a_published_example() -> None:
    """Bonett and Price's interval for 26 and 4 discordant of 40: 0.3126438 to 0.7349752."""
    found = mcnemar_counts(4, 26, 40)
    assert found.interval == pytest.approx((31.26438, 73.49752), abs=1e-5)


def test_mcnemar_counts_images() -> None:
    base = np.array([True, True, False, False, True, False])
    arm = np.array([True, False, True, False, False, False])
    found = mcnemar(base, arm)  # type: ignore[arg-type]
    assert (found.images, found.only_baseline, found.only_arm) == (6, 2, 1)
    assert found.difference == pytest.approx(100 * (arm.mean() - base.mean()))
    other = mcnemar(arm, base)  # type: ignore[arg-type]
    assert other.p == found.p
    assert other.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_mcnemar_of_equal_networks_still_has_an_uncertain_difference() -> None:
    found = mcnemar([True, False] * 50, [True, False] * 50)
    assert (found.p, found.difference) == (1.0, 0.0)
    assert -5 < found.interval[0] < 0 < found.interval[1] < 5


def test_mcnemar_refuses() -> None:
    with pytest.raises(UserError, match="3 images of the arm, 2 of the baseline"):
        mcnemar([True, False], [True, False, True])
    with pytest.raises(UserError, match="0 images"):
        mcnemar([], [])


# --- two factors ----------------------------------------------------------------------------


def grid(seed: int, a: int, b: int, n: int) -> dict[tuple[Any, Any], dict[int, float]]:
    values = drawn(seed, {f"{i},{j}": 9.0 + i * j for i in range(a) for j in range(b)}, n)
    return {(int(key[0]), int(key[2])): runs for key, runs in values.items()}


@pytest.mark.parametrize(("a", "b", "n"), [(2, 2, 3), (3, 2, 4), (2, 4, 5)])
def test_two_factors_equal_statsmodels(a: int, b: int, n: int) -> None:
    pandas = pytest.importorskip("pandas")
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    values = grid(a + b, a, b, n)
    table = [(*key, s, v) for key, runs in values.items() for s, v in runs.items()]
    frame = pandas.DataFrame(table, columns=["a", "b", "seed", "error"])
    wanted = anova.anova_lm(formula.ols("error ~ C(a) * C(b) + C(seed)", frame).fit())
    found = two_factor(values)
    assert found.degrees == wanted.loc["Residual", "df"] == (a * b - 1) * (n - 1)
    assert found.std**2 == pytest.approx(wanted.loc["Residual", "mean_sq"])
    effects = (found.a, "C(a)"), (found.b, "C(b)"), (found.interaction, "C(a):C(b)")
    for effect, name in effects:
        assert (effect.degrees, effect.f, effect.p) == pytest.approx(
            tuple(wanted.loc[name, ["df", "F", "PR(>F)"]])
        )


def test_deviations_add_up_to_the_means() -> None:
    values = grid(1, 3, 2, 4)
    found = two_factor(values)
    grand = np.mean([list(runs.values()) for runs in values.values()])
    for (i, j), runs in values.items():
        parts = found.a.deviations[i] + found.b.deviations[j] + found.interaction.deviations[i, j]
        assert grand + parts == pytest.approx(np.mean(list(runs.values())))
    assert sum(found.a.deviations.values()) == pytest.approx(0)


def test_contrast_is_the_difference_of_differences() -> None:
    values = grid(2, 2, 2, 6)
    found = two_factor(values)
    one, two, three, four = (np.array(list(runs.values())) for runs in values.values())
    wanted = stats.ttest_rel(four - two, three - one)
    interval = wanted.confidence_interval()
    assert found.contrast is not None
    assert found.contrast.mean == pytest.approx(np.mean((four - two) - (three - one)))
    assert (found.contrast.low, found.contrast.high) == pytest.approx((interval.low, interval.high))
    assert found.contrast_p == pytest.approx(wanted.pvalue)
    assert two_factor(grid(2, 3, 2, 6)).contrast is None


def test_two_factors_without_tests() -> None:
    few = two_factor(grid(3, 2, 2, 2))
    assert few.a.p is None and few.contrast_p is None and "all arms have: 2," in few.text
    assert sum(few.a.deviations.values()) == pytest.approx(0)
    equal = two_factor({key: {0: 4.2, 1: 5.3, 2: 6.4} for key in grid(0, 2, 2, 1)})
    assert equal.interaction.p is None and "equal over seeds" in equal.text
    assert equal.contrast is not None and equal.contrast.low is None
    bad = grid(4, 2, 2, 3)
    bad[0, 1][2] = math.nan
    diverged = two_factor(bad)
    assert diverged.a.f is None and diverged.contrast is None and "diverged" in diverged.text


def test_two_factors_refuse_an_incomplete_grid() -> None:
    values = grid(0, 2, 2, 3)
    del values[1, 1]
    with pytest.raises(UserError, match="no arm 1, 1"):
        two_factor(values)
    with pytest.raises(UserError, match="two levels"):
        two_factor(grid(0, 1, 3, 3))


# --- text and cost --------------------------------------------------------------------------


def test_caption_states_rule_family_and_intervals() -> None:
    values = drawn(11, ARMS, 5)
    values["E"] = {0: 9.0}
    text = " ".join(caption(compare_arms(values, "base", margin=0.5, detect=0.4)))
    for part in (
        "Holm-adjusted", "TOST) at ±0.5 points", "different, but within 0.5", "per comparison",
        "Bonferroni, 98.75 % each", "4 comparisons with base (A, B, C, D)",
        "not counted: E (n = 1)",
        "80 % power", "for 0.4 points", "from 5 seeds the true one may be 0.60 to 2.87 times",
    ):  # fmt: skip
        assert part in text
    assert "needs a margin (--margin)" in " ".join(caption(compare_arms(values, "base")))
    assert caption(compare_arms({"base": {0: 9.0}}, "base")) == []


def test_scipy_stats_is_not_imported() -> None:
    """It takes a second."""
    code = (
        "import sys; from ablations.inference import *; v = {a: {0: i, 1: 2, 2: i * i} for i, a in"
        " enumerate('abcd')}; caption(compare_arms(v, 'a', margin=1, detect=1));"
        " mcnemar_counts(1, 2, 9);"
        " two_factor({(x, y): v[y] for x in 'pq' for y in 'bc'}); assert 'scipy.special' in"
        " sys.modules and 'scipy.stats' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- simulation -----------------------------------------------------------------------------


def test_simulated_functions_equal_the_module(simulation: Any) -> None:
    draw = np.random.default_rng(12)
    for sets, arms, n in ((8, 6, 3), (8, 4, 5)):
        values = draw.normal(size=(sets, arms, n)) + draw.normal(size=(arms, 1))
        paired, block = simulation.paired_tests(values), simulation.block_tests(values)
        both = simulation.tost(paired, 1.0, n - 1)
        for i, one in enumerate(values):
            family = compare_arms(
                {str(a): dict(enumerate(runs.tolist())) for a, runs in enumerate(one)},
                "0",
                margin=1,
            )
            for j, found in enumerate(family.comparisons.values()):
                assert found.tost == pytest.approx(both[i, j])
                for mine, theirs in ((found.paired, paired), (found.block, block)):
                    assert mine is not None
                    assert mine.p == pytest.approx(theirs.p[i, j])
                    assert mine.holm == pytest.approx(theirs.holm[i, j])
                    for half, interval in (
                        (theirs.half, mine.interval), (theirs.wide, mine.simultaneous)
                    ):  # fmt: skip
                        mean = theirs.mean[i, j]
                        assert interval == pytest.approx((mean - half[i, j], mean + half[i, j]))
    first = draw.normal(size=(8, 3, 5))
    totals = simulation.stein_totals(first, 0.6)
    for i, one in enumerate(first):
        plan = stein_seeds({str(a): runs.tolist() for a, runs in enumerate(one)}, 0.6)
        assert plan.total == totals[i]
    table = draw.normal(size=(8, 2, 3, 4))
    p = simulation.factor_tests(table)
    for i, one in enumerate(table):
        effects = two_factor(
            {(a, b): dict(enumerate(one[a, b].tolist())) for a in range(2) for b in range(3)}
        )
        wanted = (p[0][i], p[1][i], p[2][i])
        assert (effects.a.p, effects.b.p, effects.interaction.p) == pytest.approx(wanted)
    base, arm = np.array([0.0, 0, 3, 7, 40]), np.array([0.0, 5, 3, 1, 61])
    low, high, exact, mid = simulation.image_tests(base, arm, 200)
    for i in range(5):
        found = mcnemar_counts(int(base[i]), int(arm[i]), 200)
        assert (*found.interval, found.p, found.mid_p) == pytest.approx(
            (low[i], high[i], exact[i], mid[i])
        )


@pytest.fixture(scope="module")
def rates(simulation: Any) -> dict[tuple[str, str], list[float]]:
    """Return (what, setting) -> measured shares of 6,000 simulated grids a row."""
    random = np.random.default_rng(13)
    rows = simulation.seed_rows(6000, random) + simulation.stein_rows(6000, random)
    return {(what, setting): measured for what, setting, _, measured in rows}


# Five standard errors of a share of 5 % over 6,000 grids: 1.4.
NOISE = 1.4


@pytest.mark.parametrize("spread", ["equal spread", "one arm 4x", "baseline 4x", "correlation 0.5"])
def test_coverage_and_family_wise_error(rates: Any, spread: str) -> None:
    """Exact coverage a comparison; at most the level for families, whatever the spread."""
    cover = rates["paired t interval covers (last arm)", spread]
    assert cover == pytest.approx([95] * 3, abs=NOISE)
    assert min(rates["Bonferroni intervals: all 5 cover", spread]) > 95 - NOISE
    assert max(rates["Holm, paired t: any false", spread]) < 5 + NOISE


def test_block_model_errs_as_the_caption_says(rates: Any) -> None:
    assert max(rates["Holm, block model: any false", "equal spread"]) < 5 + NOISE
    assert rates["Holm, block model: any false", "one arm 4x"] == pytest.approx([11] * 3, abs=2)
    assert rates["Holm, block model: any false", "baseline 4x"] == pytest.approx([17] * 3, abs=2.4)


def test_equivalence_is_claimed_falsely_at_most_at_the_level(rates: Any) -> None:
    claims = [shares for (what, _), shares in rates.items() if what.startswith("TOST")]
    assert len(claims) == 2 and max(map(max, claims)) < 5 + NOISE


def test_stein_covers_where_the_ordinary_interval_does_not(rates: Any) -> None:
    covers = [shares[0] for (what, _), shares in rates.items() if what.startswith("Stein's int")]
    assert len(covers) == 6 and covers == pytest.approx([95] * 6, abs=NOISE)
    case = "std of differences 0.56, 1 arm"
    assert rates["ordinary t interval on the same seeds covers", case][0] < 95 - NOISE
