"""A run -> the comparison table's content, independent of how it is printed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ablations.audit import Audit, audit
from ablations.recipes import RECIPES, Recipe, differences
from ablations.records import Arm, Cell, Run
from ablations.stats import Difference, Summary, paired, summarise


@dataclass(frozen=True)
class Row:
    """One arm of the table. Errors in percent, differences in percentage points."""

    arm: Arm
    differs: str
    planned: int
    train_error: Summary
    test_error: Summary
    train_difference: Difference | None
    test_difference: Difference | None
    images_per_second: Summary
    wall_seconds: Summary
    paper: str


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
    differences: list[str] = field(default_factory=list)
    paper: str = ""


def compare(run: Run) -> Comparison:
    """Return the comparison of a run, finished or not."""
    grid = run.grid
    by_arm = {arm.name: {c.seed: c for c in run.done(arm.name)} for arm in run.arms}
    baseline = by_arm[grid["baseline"]]
    rows = []
    for arm in run.arms:
        mine = by_arm[arm.name]
        is_baseline = arm.name == grid["baseline"]
        value = arm.paper["value"] if arm.paper else None
        rows.append(
            Row(
                arm=arm,
                differs=", ".join(f"{k}={_text(v)}" for k, v in arm.factors.items()) or arm.network,
                planned=len(grid["seeds"]),
                train_error=summarise(_column(mine, "train_error")),
                test_error=summarise(_column(mine, "test_error")),
                train_difference=None
                if is_baseline
                else paired(_by_seed(mine, "train_error"), _by_seed(baseline, "train_error")),
                test_difference=None
                if is_baseline
                else paired(_by_seed(mine, "test_error"), _by_seed(baseline, "test_error")),
                images_per_second=summarise(_column(mine, "images_per_second")),
                wall_seconds=summarise(_column(mine, "wall_seconds")),
                paper="" if value is None else f"{value:.2f}",
            )
        )
    checked = audit(run)
    unlike = _differences(run)
    paper = grid["paper"]
    return Comparison(
        title=grid["title"],
        rows=rows,
        baseline=grid["baseline"],
        seeds=grid["seeds"],
        done=len(run.done()),
        planned=len(run.cells),
        failures=[
            f"{c.arm}/seed{c.seed} {c.state}: {c.problem}" for c in run.cells if c.state == "failed"
        ],
        audit=checked,
        caption=_caption(run),
        differences=unlike,
        paper=f"{paper['metric']}; {paper['protocol']}; n = {paper['n']}; {paper['source']}."
        + (" Another protocol: not comparable with the columns beside it." if unlike else "")
        if paper
        else "",
    )


def _differences(run: Run) -> list[str]:
    """Return what separates the run from the paper's protocol; per arm where arms differ."""
    grid, found = run.grid, {}
    images = next((c.record["results"]["train_images"] for c in run.done() if c.record), None)
    if images is None:
        return []
    for arm in run.arms:
        imagenet = (arm.spec or {}).get("stem", "imagenet") == "imagenet"
        paper = RECIPES["paper-imagenet" if imagenet else "paper-cifar"]
        found[arm.name] = differences(
            Recipe.from_dict(arm.recipe), paper, grid["data"]["name"],
            grid["platform"]["replicas"], images,
        )  # fmt: skip
    common = [line for line in found[run.arms[0].name] if all(line in x for x in found.values())]
    special = [
        f"{arm}: {line}" for arm, lines in found.items() for line in lines if line not in common
    ]
    widths = {(arm.spec or {}).get("stem_width") for arm in run.arms}
    if len(widths) == 1 and (width := widths.pop()) not in (16, 64, None):
        common.append(f"networks of width {width} (the paper: 16 for CIFAR, 64 for ImageNet)")
    return common + special


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _column(cells: dict[int, Cell], name: str) -> list[float]:
    return [cell.results[name] for cell in cells.values()]


def _by_seed(cells: dict[int, Cell], name: str) -> dict[int, float]:
    return {seed: cell.results[name] for seed, cell in cells.items()}


def _caption(run: Run) -> list[str]:
    grid, arms = run.grid, run.arms
    seeds = ", ".join(map(str, grid["seeds"]))
    lengths = dict.fromkeys(_length(arm) for arm in arms)
    text = [
        f"Data: {grid['data']['title']}. Recipe: {grid['recipe']} ({', '.join(lengths)}, batch "
        f"{arms[0].recipe['batch']}).",
        f"Error in % of wrong top-1 predictions, mean ± sample standard deviation over n seeds "
        f"({seeds}); between seeds the initial values, the order of the images and the "
        "augmentation vary. Training error: final weights, inference mode, un-augmented training "
        "images. Weights: those of the last step; nothing was chosen on test data.",
    ]
    if len(arms) > 1:
        text.append(
            f"Δ: paired difference from {grid['baseline']} in percentage points, by seed, with "
            "its 95 % t interval (assumes normal differences; one interval a comparison, not "
            "simultaneous). None for n ≤ 2."
        )
    text += [f"Data note: {note}." for note in grid["data"]["notes"]]
    platform, recipe = grid["platform"], arms[0].recipe
    strategy = platform["strategy"]
    if strategy == "mirrored":
        strategy = f"MirroredStrategy over {platform['replicas']} replica(s)"
    text.append(
        f"Machine: {platform['device']}, {platform['threads']} thread"
        f"{'s' if platform['threads'] > 1 else ''} a cell, up to {grid['jobs']} cells side by "
        f"side, strategy {strategy}{' with XLA' if platform['xla'] else ''}. Images/s: training "
        "steps only. Wall: whole cell."
    )
    if platform["replicas"] != recipe["replicas"]:
        same = (
            f"BN takes its statistics over groups of {recipe['bn_batch']} images all the same"
            if recipe["bn_batch"]
            else "BN sees larger batches than under the recipe's own protocol"
        )
        text.append(
            f"The recipe names {recipe['replicas']} replicas; {platform['replicas']} shared each "
            f"batch here; {same}."
        )
    if recipe["test_views"] > 1:
        text.append(
            f"Test error: {recipe['test_views']} crops, softmax averaged; training error and "
            "curves: centre crops."
        )
    late = [f"{c.arm}/seed{c.seed}" for c in run.done() if c.results.get("warmup_steps", 0) is None]
    if late:
        text.append(f"THE WARM-UP NEVER ENDED in {', '.join(late)}: the rate stayed at its level.")
    if recipe["statistics"] == "population":
        text.append(
            "BN at test time: population statistics (mean of per-batch moments over the training "
            "images, taken after training). Curves during training use moving averages."
        )
    return text


def _length(arm: Arm) -> str:
    epochs = arm.recipe["epochs"]
    if epochs:
        return f"{epochs} epoch{'s' * (epochs > 1)}"
    return f"{arm.recipe['iterations']:,} steps"


def percent(summary: Summary) -> str:
    """Return "12.30 ± 0.45", "12.30" for one value, "–" for none."""
    if not summary.n:
        return "–"
    spread = f" ± {summary.std:.2f}" if not math.isnan(summary.std) else ""
    return f"{summary.mean:.2f}{spread}"


def each(summary: Summary) -> str:
    """Return each seed's value: "12.10 12.40 12.40"."""
    return " ".join(f"{value:.2f}" for value in summary.values)


def interval(difference: Difference | None) -> str:
    """Return "−3.20 [−4.10, −2.30]", or the mean alone where there is no interval."""
    if difference is None:
        return "baseline"
    if not difference.n:
        return "–"
    text = signed(difference.mean)
    if difference.low is None or difference.high is None:
        return text + (" (all equal)" if difference.n > 2 else "")
    return f"{text} [{signed(difference.low)}, {signed(difference.high)}]"


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
