"""Do the laboratory's intervals cover, and do its words err, as often as they say? By simulation.

    python benchmarks/interval_coverage.py --sets 20000

Prints Markdown tables. Every set of errors is drawn with known true differences; a row counts how
often an interval held the truth or a test rejected. The functions below are array forms of
`ablations.inference`, one set a row; tests/test_inference.py checks that they agree with it.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, fdtrc, ndtri, stdtr, stdtrit

Array = NDArray[np.float64]
Row = tuple[str, str, float | None, list[float]]  # what, setting, nominal, measured
LEVEL = 0.05
SEEDS = (3, 5, 10)
ARMS = 6  # the baseline included, as in the paper's grids


@dataclass
class Tests:
    """One family a set; every array is (sets, comparisons), the baseline being arm 0.

    `half` is the half width of the interval per comparison, `wide` of the simultaneous one.
    """

    mean: Array
    error: Array
    half: Array
    wide: Array
    p: Array
    holm: Array


def holm_rows(p: Array) -> Array:
    """Return Holm's adjusted p of each row of p (sets, comparisons)."""
    order = np.argsort(p, axis=1)
    factor = p.shape[1] - np.arange(p.shape[1])
    stepped = np.maximum.accumulate(np.minimum(1, np.take_along_axis(p, order, 1) * factor), axis=1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, 1)
    return adjusted


def tests_of(mean: Array, error: Array, degrees: int) -> Tests:
    """Return t tests and intervals of means (sets, comparisons) with their standard errors."""
    p = 2 * stdtr(degrees, -np.abs(mean / error))
    half = stdtrit(degrees, 1 - LEVEL / 2) * error
    wide = stdtrit(degrees, 1 - LEVEL / 2 / mean.shape[1]) * error
    return Tests(mean, error, half, wide, p, holm_rows(p))


def paired_tests(values: Array) -> Tests:
    """Return the paired t tests of values (sets, arms, seeds)."""
    differences = values[:, 1:] - values[:, :1]
    n = values.shape[2]
    return tests_of(differences.mean(2), differences.std(2, ddof=1) / math.sqrt(n), n - 1)


def block_tests(values: Array) -> Tests:
    """Return the tests of the arm + seed model of values (sets, arms, seeds)."""
    arms, seeds = values.shape[1:]
    degrees = (arms - 1) * (seeds - 1)
    error = np.sqrt(2 * residual(values) / degrees / seeds)[:, None]
    mean = values[:, 1:].mean(2) - values[:, :1].mean(2)
    return tests_of(mean, np.broadcast_to(error, mean.shape), degrees)


def residual(values: Array) -> Array:
    """Return the residual sum of squares of arm + seed, (sets,)."""
    left = values - values.mean(2, keepdims=True) - values.mean(1, keepdims=True)
    return ((left + values.mean((1, 2), keepdims=True)) ** 2).sum((1, 2))


def tost(found: Tests, margin: float, degrees: int) -> Array:
    """Return p of the two one-sided tests, (sets, comparisons)."""
    return stdtr(degrees, (np.abs(found.mean) - margin) / found.error)


def stein_totals(first: Array, target: float) -> Array:
    """Return the seeds that each set needs, (sets,), from first differences (sets, arms, n0)."""
    n = first.shape[2]
    width = stdtrit(n - 1, 1 - LEVEL / 2) * first.std(2, ddof=1)
    return np.maximum(n, np.ceil((width / target) ** 2)).max(1)


def image_tests(base: Array, arm: Array, images: int) -> tuple[Array, Array, Array, Array]:
    """Return low, high (points), exact p and mid-p from discordant counts (sets,)."""
    few, both = np.minimum(base, arm), base + arm
    below = np.where(few > 0, bdtr(np.maximum(few - 1, 0), both.astype(int), 0.5), 0)
    upto = bdtr(few, both.astype(int), 0.5)
    a, b = (arm + 1) / (images + 2), (base + 1) / (images + 2)
    half = ndtri(1 - LEVEL / 2) * np.sqrt((a + b - (a - b) ** 2) / (images + 2))
    low, high = np.maximum(-1, a - b - half), np.minimum(1, a - b + half)
    exact = np.minimum(1, 2 * upto)
    return 100 * low, 100 * high, exact, exact - (upto - below) * np.where(base == arm, 0.5, 1)


def factor_tests(values: Array) -> tuple[Array, Array, Array]:
    """Return p of a, of b and of a:b for values (sets, a, b, seeds)."""
    sets, a, b, n = values.shape
    degrees = (a * b - 1) * (n - 1)
    noise = residual(values.reshape(sets, a * b, n)) / degrees
    mean = values.mean(3)
    rows = mean.mean(2, keepdims=True) - mean.mean((1, 2), keepdims=True)
    columns = mean.mean(1, keepdims=True) - mean.mean((1, 2), keepdims=True)
    both = mean - rows - columns - mean.mean((1, 2), keepdims=True)
    sizes = ((a - 1, b * n, rows), (b - 1, a * n, columns), ((a - 1) * (b - 1), n, both))
    one, two, three = (
        fdtrc(df, degrees, times * (d**2).sum((1, 2)) / df / noise) for df, times, d in sizes
    )
    return one, two, three


def draw(
    random: np.random.Generator,
    sets: int,
    seeds: int,
    *,
    stds: tuple[float, ...] = (1.0,) * ARMS,
    correlation: float = 0.0,
    tails: bool = False,
) -> Array:
    """Return errors (sets, arms, seeds) without true differences, arms correlated over seeds."""
    shape = (sets, len(stds), seeds)
    own = random.standard_t(3, shape) / math.sqrt(3) if tails else random.normal(size=shape)
    common = random.normal(size=(sets, 1, seeds))
    mixed = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    return np.asarray(mixed * np.array(stds)[:, None])


def seed_rows(sets: int, random: np.random.Generator) -> list[Row]:
    """Return the rows that exist for each number of seeds; shares in percent."""
    found: dict[tuple[str, str, float | None], dict[str, float]] = {}

    def share(what: str, setting: str, nominal: float | None, hits: Any) -> None:
        found.setdefault((what, setting, nominal), {})[column] = 100 * float(np.mean(hits))

    wild = (1.0,) * (ARMS - 1) + (4.0,)
    cases: dict[str, dict[str, Any]] = {
        "equal spread": {},
        "one arm 4x": {"stds": wild},
        "baseline 4x": {"stds": wild[::-1]},
        "correlation 0.5": {"correlation": 0.5},
        "tails of t(3)": {"tails": True},
    }
    for seeds in SEEDS:
        column = f"n = {seeds}"
        for setting, how in cases.items():
            values = draw(random, sets, seeds, **how)
            own, pooled = paired_tests(values), block_tests(values)
            inside = np.abs(own.mean[:, -1]) < own.half[:, -1]
            share("paired t interval covers (last arm)", setting, 95, inside)
            all_inside = (np.abs(own.mean) < own.wide).all(1)
            share("Bonferroni intervals: all 5 cover", setting, 95, all_inside)
            share("Holm, paired t: any false", setting, 5, (own.holm < LEVEL).any(1))
            inside = np.abs(pooled.mean[:, -1]) < pooled.half[:, -1]
            share("block interval covers (last arm)", setting, 95, inside)
            share("Holm, block model: any false", setting, 5, (pooled.holm < LEVEL).any(1))
        for setting in ("equal spread", "correlation 0.5"):
            for sigmas in (2, 3):
                values = draw(random, sets, seeds, **cases[setting])
                values[:, 1] -= sigmas
                case = f"{setting}, true effect {sigmas} stds of an arm"
                hits = paired_tests(values).holm[:, 0] < LEVEL
                share("power, Holm, paired t", case, None, hits)
                hits = block_tests(values).holm[:, 0] < LEVEL
                share("power, Holm, block model", case, None, hits)
        margin = 3 * math.sqrt(2)
        values = draw(random, sets, seeds)
        values[:, 1:] += margin
        p = tost(paired_tests(values), margin, seeds - 1)
        case = "all 5 arms at the margin, 3 stds of the differences"
        share("TOST: one arm falsely equivalent", case, 5, p[:, 0] < LEVEL)
        share("TOST, Holm: any falsely equivalent", case, 5, (holm_rows(p) < LEVEL).any(1))
        # The worst case for words: some arms equal the baseline, the others are at the margin.
        values = draw(random, sets, seeds)
        values[:, 3:] += margin
        words = paired_tests(values)
        false = (words.holm[:, :2] < LEVEL).any(1)
        p = tost(words, margin, seeds - 1)
        false |= (holm_rows(p)[:, 2:] < LEVEL).any(1)
        case = "2 arms equal, 3 at the margin, 3 stds of the differences"
        share("with a margin: any false word of either kind", case, None, false)
        for setting, stds in (("equal spread", (1.0,) * 4), ("one arm 4x", (1.0, 1.0, 1.0, 4.0))):
            values = draw(random, sets, seeds, stds=stds)
            one, _, both = factor_tests(values.reshape(sets, 2, 2, seeds))
            contrast = (values * np.array([1, -1, -1, 1])[:, None]).sum(1)
            t = contrast.mean(1) / contrast.std(1, ddof=1) * math.sqrt(seeds)
            share("2 x 2: false main effect, F", setting, 5, one < LEVEL)
            share("2 x 2: false interaction, F", setting, 5, both < LEVEL)
            hits = 2 * stdtr(seeds - 1, -np.abs(t)) < LEVEL
            share("2 x 2: false interaction, paired contrast", setting, 5, hits)
    return [
        (what, setting, nominal, list(measured.values()))
        for (what, setting, nominal), measured in found.items()
    ]


def stein_rows(sets: int, random: np.random.Generator) -> list[Row]:
    """Return coverage and mean number of seeds of Stein's rule, first stage of 5, target 0.3."""
    table: list[Row] = []
    target = 0.3
    for std in (0.14, 0.28, 0.56):
        for arms in (1, ARMS - 1):
            # Arms share the baseline, so their differences are correlated by a half.
            first = draw(random, sets, 5, stds=(std,) * arms, correlation=0.5)
            totals = stein_totals(first, target)
            # What is still to come acts through its mean and sum of squares only.
            more = totals - 5
            later = random.normal(size=sets) * std / np.sqrt(np.maximum(more, 1))
            squares = std**2 * np.where(more > 1, random.chisquare(np.maximum(more - 1, 1)), 0)
            one = first[:, 0]
            mean = (one.sum(1) + more * later) / totals
            half = stdtrit(4, 1 - LEVEL / 2) * one.std(1, ddof=1) / np.sqrt(totals)
            squares += 4 * one.var(1, ddof=1) + 5 * more / totals * (one.mean(1) - later) ** 2
            pooled = np.sqrt(squares / (totals - 1) / totals)
            ordinary = stdtrit(totals - 1, 1 - LEVEL / 2) * pooled
            setting = f"std of differences {std:g}, {arms} arm{'s' * (arms > 1)}"
            covered = 100 * float((np.abs(mean) < half).mean())
            table.append(("Stein's interval covers", setting, 95, [covered]))
            covered = 100 * float((np.abs(mean) < ordinary).mean())
            table.append(("ordinary t interval on the same seeds covers", setting, 95, [covered]))
            narrow = 100 * float((half <= target * (1 + 1e-12)).mean())
            table.append(("Stein's half width is within the target", setting, 100, [narrow]))
            table.append(("Stein: mean number of seeds", setting, None, [float(totals.mean())]))
    return table


def peeking_rows(sets: int, random: np.random.Generator) -> list[Row]:
    """Return how often a paired t test of equal arms errs if it is looked at again and again."""
    table: list[Row] = []
    for looks in ((3, 5), tuple(range(3, 11))):
        values = random.normal(size=(sets, looks[-1]))
        false = np.zeros(sets, bool)
        for n in looks:
            part = values[:, :n]
            t = part.mean(1) / part.std(1, ddof=1) * math.sqrt(n)
            false |= 2 * stdtr(n - 1, -np.abs(t)) < LEVEL
        setting = f"looked at with {', '.join(map(str, looks))} seeds"
        table.append(("paired t test: false at any look", setting, 5, [100 * float(false.mean())]))
    return table


def image_rows(sets: int, random: np.random.Generator) -> list[Row]:
    """Return false rejections of McNemar's tests and coverage of the interval over images."""
    table: list[Row] = []
    for images, base, arm in (
        (200, 0.02, 0.02), (2000, 0.05, 0.05), (10000, 0.03, 0.03), (200, 0.02, 0.05),
        (2000, 0.04, 0.06), (10000, 0.02, 0.03),
    ):  # fmt: skip
        counts = random.multinomial(images, (base, arm, 1 - base - arm), size=sets).astype(float)
        low, high, p, mid = image_tests(counts[:, 0], counts[:, 1], images)
        setting = f"{images:,} images, {100 * base:g} % and {100 * arm:g} % wrong alone"
        truth = 100 * (arm - base)
        covered = 100 * float(((low < truth) & (truth < high)).mean())
        table.append(("interval over images covers", setting, 95, [covered]))
        if base == arm:
            false = [100 * float((x < LEVEL).mean()) for x in (p, mid)]
            table.append(("McNemar exact: false", setting, 5, false[:1]))
            table.append(("McNemar mid-p: false", setting, 5, false[1:]))
    return table


def show(columns: list[str], table: list[Row]) -> None:
    """Print rows as a Markdown table."""
    print("| what | setting | nominal | " + " | ".join(columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for what, setting, nominal, values in table:
        cells = " | ".join(f"{value:.1f}" for value in values)
        print(f"| {what} | {setting} | {'–' if nominal is None else f'{nominal:g}'} | {cells} |")
    print()


def main() -> None:
    """Parse arguments, simulate, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=20_000, help="simulated grids a row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    random = np.random.default_rng(options.seed)
    show([f"n = {n}" for n in SEEDS], seed_rows(options.sets, random))
    kinds = (stein_rows, peeking_rows, image_rows)
    show(["measured"], [row for rows in kinds for row in rows(options.sets, random)])
    error = 200 * math.sqrt(LEVEL * (1 - LEVEL) / options.sets)
    print(
        f"{options.sets:,} sets a row, {ARMS} arms; shares in %. Two standard errors of a 5 % or "
        f"95 % share: {error:.1f}. {time.perf_counter() - start:.0f} s."
    )


if __name__ == "__main__":
    main()
