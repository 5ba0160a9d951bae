"""Several run directories as one: comparisons across runs made elsewhere or earlier."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ablations.errors import UserError
from ablations.records import Arm, Cell, Run

#: What of two arms must be equal for their cells to be replicates of one arm.
_SAME = ("network", "spec", "recipe", "factors", "exceptions")


def merge(runs: Sequence[Run]) -> Run:
    """Return one run that holds the arms and cells of all.

    Arms that are the same network under the same recipe, with different seeds, become one arm with
    more seeds; other arms of one name get their run's name before theirs; runs whose directories
    have one name are numbered in front of it. The first run gives the baseline. The paper's numbers
    stay where all runs have the same. What differs between the runs (versions, device, threads,
    code, protocol) is found by the audit of the merged run.

    Args:
        runs: one or more, as read.

    Raises:
        UserError: the runs are not on the same data, so errors cannot be compared; or one run is
            given twice, under whatever path.
    """
    first = runs[0]
    places = [run.directory.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"the run {place} is named twice")
    if len(runs) == 1:
        return first
    for run in runs[1:]:
        mine, theirs = first.grid["data"], run.grid["data"]
        if mine["digest"] != theirs["digest"]:
            raise UserError(
                f"{first.directory} and {run.directory} have other data ({mine['title']}; "
                f"{theirs['title']}; digests differ): their errors cannot be compared"
            )
    names = [run.directory.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{index}-{name}" for index, name in enumerate(names, start=1)]
    groups: list[tuple[str, Arm, list[Cell]]] = []  # name of the first run, arm, cells
    for run, name in zip(runs, names, strict=True):
        for arm in run.arms:
            mine_cells = [cell for cell in run.cells if cell.arm == arm.name]
            seeds_here = {cell.seed for cell in mine_cells}
            for _, known, cells in groups:
                if _same(known, arm) and not seeds_here & {cell.seed for cell in cells}:
                    cells += mine_cells
                    break
            else:
                groups.append((name, arm, mine_cells))
    clashes = Counter(arm.name for _, arm, _ in groups)
    arms: list[Arm] = []
    every: list[Cell] = []
    for name, arm, cells in groups:
        label = arm.name if clashes[arm.name] == 1 else f"{name}:{arm.name}"
        arms.append(dataclasses.replace(arm, name=label))
        every += [dataclasses.replace(c, arm=label, recorded_arm=c.arm) for c in cells]
    baseline = first.grid["baseline"]
    if baseline not in [arm.name for arm in arms]:
        baseline = f"{names[0]}:{baseline}"
    analysis = _analysis(runs, names)
    seeds = sorted({cell.seed for cell in every})
    planned = _planned(runs, seeds, analysis)
    if planned.get("planned_baseline", baseline) not in [arm.name for arm in arms]:
        planned["planned_baseline"] = f"{names[0]}:{planned['planned_baseline']}"
    grid: dict[str, Any] = {
        **{k: v for k, v in first.grid.items() if not k.startswith("planned_")},
        "title": " and ".join(dict.fromkeys(run.grid["title"] for run in runs))
        + f" ({', '.join(names)})",
        **{
            key: "; ".join(dict.fromkeys(run.grid[key] for run in runs if run.grid[key]))
            for key in ("reproduces", "expect")
        },
        "baseline": baseline,
        **planned,
        **({"lost": True} if any(run.grid.get("lost") for run in runs) else {}),
        "unmatched": list(
            dict.fromkeys(line for run in runs for line in run.grid.get("unmatched", ()))
        ),
        "analysis": analysis,
        "seeds": seeds,
    }
    if any(run.grid["paper"] != first.grid["paper"] for run in runs):
        # One footnote cannot hold two protocols; each run's own report has its numbers.
        grid["paper"] = {}
        arms = [dataclasses.replace(arm, paper=None) for arm in arms]
    order = {seed: position for position, seed in enumerate(seeds)}
    every.sort(key=lambda cell: order[cell.seed])
    return Run(first.directory, grid, arms, every)


def _planned(runs: Sequence[Run], seeds: Sequence[int], analysis: dict[str, Any]) -> dict[str, Any]:
    """Return what was planned otherwise: the first run's baseline, anyone's margin and seeds."""
    grids = [run.grid for run in runs]
    first = grids[0].get("planned_baseline")
    planned = {"planned_baseline": first} if first else {}
    if "margin" in analysis:
        margins = [g["planned_margin"] for g in grids if "planned_margin" in g]
        planned |= {"planned_margin": margins[0]} if margins else {}
    added = {s for g in grids for s in {*g["seeds"]} - {*g.get("planned_seeds", g["seeds"])}}
    if added:
        planned["planned_seeds"] = [seed for seed in seeds if seed not in added]
    return planned


def _analysis(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    """Return what all runs were asked for alike, and which chose their seeds from the data.

    Stein's first stage is one run's own, so it cannot give the standard errors of several.
    """
    each = [run.grid.get("analysis", {}) for run in runs]
    alike = {k: v for k, v in each[0].items() if all(one.get(k) == v for one in each)}
    for key in ("target", "first_stage", "decision"):
        alike.pop(key, None)
    sequential = [name for name, one in zip(names, each, strict=True) if "decision" in one]
    return {**alike, **({"sequential": sequential} if sequential else {})}


def _same(one: Arm, other: Arm) -> bool:
    return one.name == other.name and all(
        getattr(one, field) == getattr(other, field) for field in _SAME
    )
