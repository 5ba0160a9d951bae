"""A run -> the comparison table's content, independent of how it is printed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ablations import inference
from ablations.audit import Audit
from ablations.records import Arm, Cell, Run
from ablations.report.captions import caption, protocol_differences
from ablations.report.factors import effects as two_factors
from ablations.report.factors import level_texts, varying
from ablations.stats import Difference, Summary, paired, summarise


@dataclass(frozen=True)
class Row:
    """One arm of the table. Errors in percent, differences in percentage points.

    Attributes:
        arm: what was trained.
        factors: the grid's factors that vary between arms -> this arm's level, as text, also where
            it is the default.
        differs: the same in one string.
        planned: seeds.
        word, reason: the verdict on the test error and what it rests on; the word is "" for the
            baseline and where none is allowed.
        train_word: the verdict on the training error, likewise.
        mismatch: how far the arm's budget is from the one that the grid matches, if it does.
    """

    arm: Arm
    factors: dict[str, str]
    differs: str
    planned: int
    train_error: Summary
    test_error: Summary
    train_difference: Difference | None
    test_difference: Difference | None
    images_per_second: Summary
    wall_seconds: Summary
    paper: str
    word: str = ""
    reason: str = ""
    train_word: str = ""
    mismatch: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that the table says.

    Attributes:
        title: of the grid.
        rows: one an arm, in the grid's order.
        baseline: name of the arm that differences are taken from.
        seeds: planned.
        done, planned: cells.
        failures: a line for each failed cell.
        audit: what the records show about matching.
        caption: sentences that a reader needs to judge the table.
        factors: the grid's factors that vary between arms.
        test, train: tests of all arms against the baseline; None with a single arm.
        images: with one seed, arm -> comparison with the baseline image by image.
        effects: main effects and interaction on the test error, in grids of two factors.
        statistics: sentences: method, assumptions, family.
        differences: of the recipe from the paper's protocol.
        paper: what the paper's numbers are.
    """

    title: str
    rows: list[Row]
    baseline: str
    seeds: list[int]
    done: int
    planned: int
    failures: list[str]
    audit: Audit
    caption: list[str]
    factors: list[str] = field(default_factory=list)
    test: inference.Family | None = None
    train: inference.Family | None = None
    images: dict[str, inference.ImageDifference] = field(default_factory=dict)
    effects: inference.Effects | None = None
    statistics: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    paper: str = ""


def asked(
    run: Run,
    *,
    baseline: str | None = None,
    margin: float | None = None,
    detect: float | None = None,
) -> Run:
    """Return a run whose table is asked for something else than its command's, and says so.

    Args:
        run: its records.
        baseline: name of an arm; None: as it was.
        margin: of equivalence, percentage points; None likewise.
        detect: difference to give the number of seeds for, percentage points; None likewise.
    """
    if baseline is margin is detect is None:
        return run  # with what it has found out about itself
    analysis = dict(run.grid.get("analysis", {}))
    chosen: dict[str, Any] = {}
    if baseline is not None:
        planned = run.grid.get("planned_baseline") or run.grid["baseline"]
        chosen = {"baseline": baseline, "planned_baseline": planned}
    if margin is not None and run.done():
        chosen["planned_margin"] = run.grid.get("planned_margin", analysis.get("margin"))
    given = {"margin": margin, "detect": detect}
    chosen["analysis"] = {**analysis, **{k: v for k, v in given.items() if v is not None}}
    return dataclasses.replace(run, grid={**run.grid, **chosen})


def compare(run: Run, *, margin: float | None = None, detect: float | None = None) -> Comparison:
    """Return the comparison of a run, finished or not.

    Args:
        run: its records, or what `asked` made of them.
        margin: of equivalence, percentage points; None: what the run was started with, if anything.
        detect: difference to give the number of seeds for; None likewise.

    Raises:
        UserError: margin or detect is not positive.
    """
    run = asked(run, margin=margin, detect=detect)
    grid, analysis = run.grid, run.grid.get("analysis", {})
    by_arm = {arm.name: {c.seed: c for c in run.done(arm.name)} for arm in run.arms}
    baseline = by_arm[grid["baseline"]]
    settings: dict[str, Any] = {
        "margin": analysis.get("margin"),
        "detect": analysis.get("detect"),
        "first_stage": tuple(analysis.get("first_stage", ())),
    }
    # A failed seed counts as not finite: without its diverged seeds an arm would look better.
    failed: dict[str, dict[int, float]] = {arm.name: {} for arm in run.arms}
    for cell in run.cells:
        if cell.state == "failed":
            failed[cell.arm][cell.seed] = math.nan
    values = {
        name: {arm: _by_seed(cells, name) | failed[arm] for arm, cells in by_arm.items()}
        for name in ("train_error", "test_error")
    }
    families = {
        name: inference.compare_arms(found, grid["baseline"], **settings)
        if len(run.arms) > 1
        else None
        for name, found in values.items()
    }
    test, train = families["test_error"], families["train_error"]
    factors = varying(run)
    rows = []
    for arm in run.arms:
        mine = by_arm[arm.name]
        is_baseline = arm.name == grid["baseline"]
        value = arm.paper["value"] if arm.paper else None
        verdict = test.comparisons.get(arm.name) if test else None
        trained = train.comparisons.get(arm.name) if train else None
        mine_levels = level_texts(arm, factors)
        rows.append(
            Row(
                arm=arm,
                factors=mine_levels,
                differs=", ".join(f"{k}={v}" for k, v in mine_levels.items()) or arm.network,
                planned=sum(cell.arm == arm.name for cell in run.cells),
                train_error=summarise(_column(mine, "train_error")),
                test_error=summarise(_column(mine, "test_error")),
                train_difference=None
                if is_baseline
                else _difference(mine, baseline, "train_error", trained),
                test_difference=None
                if is_baseline
                else _difference(mine, baseline, "test_error", verdict),
                images_per_second=summarise(_column(mine, "images_per_second")),
                wall_seconds=summarise(_column(mine, "wall_seconds")),
                paper="" if value is None else f"{value:.2f}",
                word=(verdict.word or "") if verdict else "",
                reason=verdict.reason if verdict else "",
                train_word=(trained.word or "") if trained else "",
                mismatch=mismatch(arm),
            )
        )
    unlike = protocol_differences(run)
    paper = grid["paper"] if any(row.paper for row in rows) else None
    images = _images(by_arm, grid["baseline"])
    effects, hole = two_factors(run, values["test_error"], factors)
    return Comparison(
        title=grid["title"],
        rows=rows,
        baseline=grid["baseline"],
        seeds=grid["seeds"],
        done=len(run.done()),
        planned=len(run.cells),
        failures=[f"{c.label} {c.state}: {c.problem}" for c in run.cells if c.state == "failed"],
        audit=run.audit,
        caption=caption(run, any(family and family.tested for family in families.values())),
        factors=factors,
        test=test,
        train=train,
        images=images,
        effects=effects,
        statistics=_statistics(test, images, effects, hole, any(failed.values())),
        differences=unlike,
        paper=f"{paper['metric']}; {paper['protocol']}; n = {paper['n']}; {paper['source']}."
        + (" Another protocol: not comparable with the columns beside it." if unlike else "")
        if paper
        else "",
    )


def _difference(
    mine: dict[int, Cell],
    baseline: dict[int, Cell],
    name: str,
    found: inference.Comparison | None,
) -> Difference:
    """Return the paired difference; its interval is the test's own (Stein's rule changes it)."""
    difference = paired(_by_seed(mine, name), _by_seed(baseline, name))
    if found is None or found.paired is None:
        return dataclasses.replace(difference, low=None, high=None)
    low, high = found.paired.interval
    return dataclasses.replace(difference, low=low, high=high)


def mismatch(arm: Arm) -> str:
    """Return how far an arm's budget is from the baseline's, or "" for grids that match none."""
    match = arm.match
    if not match:
        return ""
    widths = "x".join(map(str, match["widths"]))
    return f"{match['budget']} {100 * match['mismatch']:+.2f} %, widths {widths}".replace("-", "−")


def _images(
    by_arm: dict[str, dict[int, Cell]], baseline: str
) -> dict[str, inference.ImageDifference]:
    """Compare image by image where a single seed leaves nothing else."""
    seeds = {seed for cells in by_arm.values() for seed in cells}
    if len(seeds) != 1 or not by_arm[baseline]:
        return {}

    def wrong(cell: Cell) -> list[bool]:
        arrays = cell.predictions()
        return [bool(x) for x in arrays["label"] != arrays["predicted"]]

    seed = seeds.pop()
    base = wrong(by_arm[baseline][seed])
    return {
        arm: inference.mcnemar(base, wrong(cells[seed]))
        for arm, cells in by_arm.items()
        if arm != baseline and seed in cells
    }


def _statistics(
    family: inference.Family | None,
    images: dict[str, inference.ImageDifference],
    effects: inference.Effects | None,
    hole: str,
    failed: bool,
) -> list[str]:
    lines = (
        inference.caption(family)
        if family and any(c.n for c in family.comparisons.values())
        else []
    )
    if failed:
        lines.append(
            "Where a seed of the arm or of the baseline failed there is no p, interval or word: "
            "without its failed seeds an arm would look better than it is (--retry_failed trains "
            "them again)."
        )
    if images:
        lines.append(next(iter(images.values())).text)
    if effects:
        lines.append(effects.text)
    if hole and family and family.tested:
        lines.append(hole)
    return lines


def _column(cells: dict[int, Cell], name: str) -> list[float]:
    return [cell.results[name] for cell in cells.values()]


def _by_seed(cells: dict[int, Cell], name: str) -> dict[int, float]:
    return {seed: cell.results[name] for seed, cell in cells.items()}


def percent(summary: Summary) -> str:
    """Return "12.30 ± 0.45", "12.30" for one value, "–" for none."""
    if not summary.n:
        return "–"
    spread = f" ± {summary.std:.2f}" if not math.isnan(summary.std) else ""
    return f"{summary.mean:.2f}{spread}"


def each(summary: Summary) -> str:
    """Return each seed's value: "12.10 12.40 12.40"."""
    return " ".join(f"{value:.2f}" for value in summary.values)


def interval(difference: Difference | None, seeds: int | None = None) -> str:
    """Return "−3.20 [−4.10, −2.30]", or the mean alone where there is no interval.

    Args:
        difference: None for the baseline.
        seeds: of the arm; where the difference rests on fewer pairs, their number is appended.
    """
    if difference is None:
        return "baseline"
    if not difference.n:
        return "–"
    text = signed(difference.mean)
    if difference.low is not None and difference.high is not None:
        text += f" [{signed(difference.low)}, {signed(difference.high)}]"
    elif "equal" in difference.note:
        text += " (all equal)"
    if seeds is not None and seeds != difference.n:
        text += f" ({difference.n} pair{'s' * (difference.n > 1)})"
    return text


def signed(value: float) -> str:
    """Return a number with its sign, with a real minus."""
    return f"{value:+.2f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return "45 s", "3 min 20 s", "2 h 05 min", or "–" for nan."""
    if math.isnan(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def probability(p: float | None) -> str:
    """Return "0.012", "< 0.001", or "–" for None."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """Return "[−4.10, −2.30]", or "–" for None."""
    return f"[{signed(interval[0])}, {signed(interval[1])}]" if interval else "–"
