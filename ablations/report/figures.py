"""Figures of a run: curves (He et al. 2015, Figs. 1, 4, 6), depth, cost and paired differences.

    from ablations.report import figures
    figures.write(run, run.directory / "figures")
    figures.skipped(run)        # {"depth": "all arms have 20 weighted layers"}

Each figure rests on finished cells only, says how many seeds it shows, and has the same colour for
an arm as every other figure of the run.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import UserError
from ablations.records import Arm, Cell, Run
from ablations.report._axes import (
    GREY,
    colour,
    finish,
    finished,
    marker,
    no_cells,
    panels,
    provenance,
    save,
    several,
    style,
)
from ablations.report._cost import cost, cost_suits
from ablations.report.comparison import Comparison, compare, interval
from ablations.report.factors import level_texts, varying
from ablations.stats import Difference, Summary, summarise
from reszoo.errors import unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Factors that say how deep a net is.
_DEPTH = ("depth", "depths")
#: From this many steps on, the axis counts tens of thousands, as the paper's figures do.
_MANY_STEPS = 20_000
#: Curves of fewer epochs show each one.
_FEW_POINTS = 12
#: More names than this stand beside the panels, not in them.
_FEW_LABELS = 6


def _is_plain(arm: Arm) -> bool:
    return arm.spec is None or arm.spec.get("shortcut") == "none"


def _band(cells: Sequence[Cell], column: str) -> tuple[list[int], list[Summary]]:
    """Return the steps that all cells have, and a column's values over the seeds there."""
    by_step = [{int(row["step"]): row[column] for row in cell.history} for cell in cells]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    return steps, [summarise([values[step] for values in by_step]) for step in steps]


def curves(run: Run) -> Figure:
    """Return training error (thin, dashed) and test error (bold) against iterations.

    Where images are held out, the validation error stands for the test error, which was taken once.
    Mean over seeds; the band of the bold curves is the range of the seeds. Plain nets stand left
    and residual nets right where the grid has several of both (Figs. 4 and 6).
    """
    from matplotlib.ticker import MaxNLocator

    arms = finished(run)
    groups = [[arm for arm in arms if _is_plain(arm)], [arm for arm in arms if not _is_plain(arm)]]
    split = min(map(len, groups)) >= 2
    if not split:
        groups = [arms]
    last = max(int(c.history[-1]["step"]) for c in run.done() if c.history)
    unit = 10_000 if last >= _MANY_STEPS else 1
    watched = _watched(run)
    legend = f"{watched} error, last step (mean)"
    with style():
        figure, axes = panels(5.4, 1, len(groups), sharey=True)
        for axis, group, name in zip(axes, groups, ("plain", "residual"), strict=False):
            for arm in group:
                _draw_curves(axis, run, arm, unit)
            if split:
                axis.set_title(name)
            axis.set_xlabel("iter. (1e4)" if unit > 1 else "iterations")
            if unit == 1:
                axis.xaxis.set_major_locator(
                    MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True)
                )
                axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.set_xlim(0, last / unit * 1.02)
            if max(map(len, groups)) <= _FEW_LABELS:
                axis.legend(loc="upper right", title=legend, alignment="left")
        if max(map(len, groups)) > _FEW_LABELS:
            figure.legend(loc="outside right upper", title=legend, alignment="left", fontsize=9)
        axes[0].set_ylabel("error (%)")
        axes[0].set_ylim(*_limits(run, arms, last))
        sentences = [
            f"Bold: {watched} error; thin dashed: training error, running over the epoch on "
            "augmented images; means over the seeds.",
            f"Band: lowest to highest {watched} error of the seeds." if several(run) else "",
            provenance(run),
        ]
        return finish(figure, run.grid["title"], sentences)


def _watched(run: Run) -> str:
    """Return which part the curves show."""
    return "validation" if "held_out" in run.grid["data"] else "test"


def _draw_curves(axis: Axes, run: Run, arm: Arm, unit: int) -> None:
    cells = [cell for cell in run.done(arm.name) if cell.history]
    if not cells:
        return
    tint = colour(run, arm.name)
    steps, running = _band(cells, "train_error_running")
    x = [step / unit for step in steps]
    few = len(x) <= _FEW_POINTS
    axis.plot(
        x, [s.mean for s in running], color=tint, lw=1, ls=(0, (4, 2)), marker="." if few else ""
    )
    _, test = _band(cells, f"{_watched(run)}_error")
    if len(cells) > 1:
        low, high = [min(s.values) for s in test], [max(s.values) for s in test]
        axis.fill_between(x, low, high, color=tint, alpha=0.15, lw=0)
    axis.plot(
        x, [s.mean for s in test], color=tint, lw=2.4, label=f"{arm.name}  {test[-1].mean:.2f} %",
        marker=marker(run, arm.name) if few or marker(run, arm.name) != "o" else "",
        markersize=5, markevery=max(1, len(x) // 12),
    )  # fmt: skip


def _limits(run: Run, arms: Sequence[Arm], last: int) -> tuple[float, float]:
    """Return an error axis that spends no room on the first tenth of training."""
    values = [
        row[column]
        for arm in arms
        for cell in run.done(arm.name)
        for row in cell.history
        for column in (f"{_watched(run)}_error", "train_error_running")
        if row["step"] >= last / 10
    ] or [0.0, 100.0]
    high = min(100.0, 5 * math.ceil(max(values) * 1.04 / 5))
    low = min(values)
    return (0.0 if low < 0.4 * high else 5 * math.floor(low * 0.96 / 5)), max(high, 5.0)


def _lines(run: Run) -> dict[str, list[Arm]]:
    """Return the finished arms that differ in depth only, by what they have in common."""
    groups: dict[str, list[Arm]] = {}
    factors = [name for name in varying(run) if name not in _DEPTH]
    for arm in finished(run):
        rest = ", ".join(f"{k}={v}" for k, v in level_texts(arm, factors).items())
        groups.setdefault(rest, []).append(arm)
    named = {}
    for rest, arms in groups.items():
        letters = zip(*(arm.name for arm in arms), strict=False)
        same = itertools.takewhile(lambda column: len(set(column)) == 1, letters)
        common = re.sub(r"[\d\W_]+$", "", "".join(column[0] for column in same))
        label = (common if len(arms) > 1 else arms[0].name) or rest or "error"
        named[label if label not in named else f"{label} ({rest})"] = sorted(
            arms, key=lambda arm: arm.weighted_layers
        )
    return named


def _depth_suits(run: Run) -> str:
    depths = {arm.weighted_layers for arm in finished(run)}
    if len(depths) == 1:
        return f"all finished arms have {depths.pop()} weighted layers"
    alike = [len({arm.weighted_layers for arm in arms}) for arms in _lines(run).values()]
    return no_cells(run) or ("" if max(alike) > 1 else "no two arms differ in depth alone")


def depth(run: Run) -> Figure:
    """Return training and test error against weighted layers, a line for each other level."""
    with style():
        figure, axes = panels(5.2, 1, 2, sharey=True)
        lines = _lines(run)
        depths = sorted({arm.weighted_layers for arm in finished(run)})
        wide = depths[-1] > 12 * depths[0]
        for axis, column, title in zip(
            axes, ("train_error", "test_error"), ("training error", "test error"), strict=True
        ):
            for number, (label, arms) in enumerate(lines.items()):
                # Side by side, or the bars of lines that meet would hide one another.
                shift = (number - (len(lines) - 1) / 2) * 0.022

                def place(layers: int, shift: float) -> float:
                    if wide:
                        return layers * (1 + 3 * shift)
                    return layers + shift * (depths[-1] - depths[0])

                x = [place(arm.weighted_layers, shift) for arm in arms]
                beside = [place(arm.weighted_layers, shift + 0.008) for arm in arms]
                _draw_depth(axis, run, arms, x, beside, column, label)
            axis.set_title(title)
            axis.set_xlabel("weighted layers")
            axis.set_xscale("log" if wide else "linear")
            axis.set_xticks(depths, [str(depth) for depth in depths])
            axis.minorticks_off()
            axis.grid(axis="x", visible=False)
        axes[0].set_ylabel("error (%)")
        axes[0].set_ylim(bottom=0)
        axes[1].legend(loc="best")
        bars = "Bars: ± sample standard deviation of the seeds." if several(run) else ""
        sentences = [
            "Lines: mean over seeds of the final error (training error: un-augmented images); "
            f"small dots: seeds, moved sideways by line. {bars}",
            provenance(run),
        ]
        return finish(figure, run.grid["title"], sentences)


def _draw_depth(
    axis: Axes,
    run: Run,
    arms: Sequence[Arm],
    x: Sequence[float],
    beside: Sequence[float],
    column: str,
    label: str,
) -> None:
    tint = colour(run, arms[0].name)
    summaries = [summarise([c.results[column] for c in run.done(arm.name)]) for arm in arms]
    axis.errorbar(
        x, [s.mean for s in summaries], [0 if math.isnan(s.std) else s.std for s in summaries],
        color=tint, lw=2, elinewidth=1.2, capsize=4, marker="o", markersize=6, label=label,
        ls="--" if _is_plain(arms[0]) else "-",
    )  # fmt: skip
    for place, summary in zip(beside, summaries, strict=True):
        axis.plot([place] * summary.n, summary.values, ".", color=tint, ms=5, alpha=0.55)


def _pairs(comparison: Comparison) -> list[tuple[str, Difference, Difference]]:
    """Return arm, training difference and test difference where there is a pair of seeds."""
    return [
        (row.arm.name, row.train_difference, row.test_difference)
        for row in comparison.rows
        if row.train_difference and row.test_difference and row.test_difference.n
    ]


def _differences_suit(run: Run) -> str:
    baseline = run.grid["baseline"]
    if len(run.arms) < 2:
        return "the grid has one arm only"
    if not run.done(baseline):
        return f"the baseline {baseline} has no finished cell"
    seeds = {cell.seed for cell in run.done(baseline)}
    others = [cell for cell in run.done() if cell.arm != baseline and cell.seed in seeds]
    return "" if others else f"no arm shares a finished seed with the baseline {baseline}"


def differences(run: Run) -> Figure:
    """Return paired differences from the baseline with 95 % intervals, training and test."""
    comparison = compare(run)
    pairs = _pairs(comparison)
    with style():
        height = 2.4 + 0.55 * len(pairs)
        figure, axes = panels(height, 1, 2, sharex=True, sharey=True)
        for axis, column, title in zip(axes, (1, 2), ("training error", "test error"), strict=True):
            for row, pair in enumerate(pairs):
                _draw_difference(axis, row, pair[column], colour(run, pair[0]))  # type: ignore[arg-type]
            axis.plot([0, 0], [-1, len(pairs)], color="#444444", lw=1, zorder=1)
            axis.set_title(title)
            axis.set_xlabel(f"difference from {comparison.baseline} (percentage points)")
            axis.margins(x=0.15)
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(pairs)), [pair[0] for pair in pairs])
        axes[0].set_ylim(len(pairs) - 0.4, -0.6)
        bare = any(d.low is None for pair in pairs for d in pair[1:])  # type: ignore[union-attr]
        sentences = [
            "Filled: mean of the differences by seed, with its 95 % t interval (assumes normal "
            "differences; not simultaneous); small dots: seeds; left of zero is better than the "
            "baseline.",
            "Hollow: no interval, for n ≤ 2, a failed seed, or differences that are all equal."
            if bare
            else "",
            provenance(run),
        ]
        return finish(figure, comparison.title, sentences)


def _draw_difference(axis: Axes, row: int, found: Difference, tint: str) -> None:
    axis.plot(found.values, [row + 0.16] * found.n, ".", color=tint, ms=5, alpha=0.6)
    if found.low is not None and found.high is not None:
        axis.plot([found.low, found.high], [row, row], color=tint, lw=2.2, solid_capstyle="butt")
        for end in (found.low, found.high):
            axis.plot([end, end], [row - 0.1, row + 0.1], color=tint, lw=2.2)
    hollow: dict[str, Any] = {} if found.low is not None else {"mfc": "white", "mew": 1.8}
    axis.plot([found.mean], [row], "o", color=tint, ms=8, **hollow)
    text = interval(found)
    if found.low is None:
        text += f" (n = {found.n})" if found.n <= 2 else ""
    axis.annotate(
        text, (found.mean, row), (0, 8), textcoords="offset points", ha="center", va="bottom",
        fontsize=9, color=GREY, bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.85},
    )  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A figure and what it needs.

    Attributes:
        draw: Run -> Figure.
        suitable: Run -> "", or why the figure would show nothing.
    """

    draw: Callable[[Run], Figure]
    suitable: Callable[[Run], str]


def _curves_suit(run: Run) -> str:
    if no_cells(run):
        return no_cells(run)
    return "" if any(cell.history for cell in run.done()) else "no cell has a history"


#: Name of the file -> figure.
FIGURES: dict[str, Entry] = {
    "curves": Entry(curves, _curves_suit),
    "depth": Entry(depth, _depth_suits),
    "cost": Entry(cost, cost_suits),
    "differences": Entry(differences, _differences_suit),
}


def _asked(names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in FIGURES:
            raise UserError(unknown("figure", name, list(FIGURES)))
    return list(FIGURES if names is None else names)


def skipped(run: Run, names: Sequence[str] | None = None) -> dict[str, str]:
    """Return name -> reason of the figures that `write` leaves out.

    Raises:
        UserError: a name is unknown.
    """
    reasons = {name: FIGURES[name].suitable(run) for name in _asked(names)}
    return {name: reason for name, reason in reasons.items() if reason}


def write(
    run: Run,
    directory: str | Path,
    names: Sequence[str] | None = None,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Write the figures that suit a run, finished or not; return the files.

    Equal runs give equal bytes. What is left out, and why: `skipped`.

    Args:
        run: from `records.load`.
        directory: made if missing.
        names: of `FIGURES`; None: all.
        formats: of "png", "svg", "pdf".

    Raises:
        UserError: a name or a format is unknown.
    """
    left_out = skipped(run, names)
    paths: list[Path] = []
    for name in _asked(names):
        if name not in left_out:
            paths += save(FIGURES[name].draw(run), Path(directory), name, formats)
    return paths
