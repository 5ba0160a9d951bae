"""Statistics against scipy and against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ablations.stats import paired, summarise, t_quantile


def test_sample_standard_deviation() -> None:
    """Of 8.0, 9.0, 10.0: mean 9, ddof 1 gives 1.0 (ddof 0 would give 0.816)."""
    summary = summarise([8.0, 9.0, 10.0])
    assert (summary.n, summary.mean, summary.std) == (3, 9.0, 1.0)
    assert math.isnan(summarise([5.0]).std)
    assert math.isnan(summarise([]).mean)


@pytest.mark.parametrize("n", [3, 4, 5, 10])
def test_interval_equals_scipy(n: int) -> None:
    draw = np.random.default_rng(n)
    arm, base = draw.normal(size=n), draw.normal(size=n)
    found = paired(dict(enumerate(arm)), dict(enumerate(base)))
    wanted = scipy_stats.ttest_rel(arm, base).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(arm - base))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_pairs_are_by_seed_and_only_common_seeds_count() -> None:
    found = paired({3: 1.0, 1: 5.0, 2: 2.0, 9: 7.0}, {1: 4.0, 2: 0.0, 3: 0.0})
    assert sorted(found.values) == [1.0, 1.0, 2.0] and found.n == 3


@pytest.mark.parametrize("n", [0, 1, 2])
def test_no_interval_for_two_seeds_or_fewer(n: int) -> None:
    found = paired({i: float(i) for i in range(n)}, {i: 0.5 * i for i in range(n)})
    assert found.low is None and found.high is None and found.note


def test_no_interval_when_all_differences_are_equal() -> None:
    """scipy would give p = 0 for differences that agree by rounding."""
    found = paired({0: 4.3, 1: 5.4, 2: 6.5}, {0: 4.2, 1: 5.3, 2: 6.4})
    assert found.low is None and found.note.startswith("all differences equal")
    assert found.mean == pytest.approx(0.1)


def test_t_quantile_of_the_tables() -> None:
    """Printed tables: t(0.975; 2) = 4.303, t(0.975; 4) = 2.776."""
    assert round(t_quantile(0.975, 2), 3) == 4.303
    assert round(t_quantile(0.975, 4), 3) == 2.776
