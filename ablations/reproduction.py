"""`ablations.run --reproduce DIR`: train a run's cells again and compare, weight by weight."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ablations import data, files, grids, records, run_directory
from ablations.audit import surroundings
from ablations.cell_audit import attempt_key, record_of, shown
from ablations.devices import choose
from ablations.errors import UserError
from ablations.matrix import PlannedCell
from ablations.placement import place
from ablations.plan import Plan
from ablations.records import Cell, Run


def plan_again(
    run: Run,
    *,
    out: str | Path | None = None,
    only: list[str] | None = None,
    seeds: list[int] | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    jobs: int | None = None,
    devices: str | None = None,
) -> Plan:
    """Return the plan that trains the finished cells of a run again, from their recorded configs.

    Args:
        run: to reproduce.
        out: directory of the new run; default: beside the old one, "-again" appended.
        only: arms.
        seeds: by number; None: all.
        data_dir: where the data are, as the run was started with.
        image_size: likewise.
        skip_corrupt: likewise.
        jobs: cells side by side.
        devices: as in `ablations.plan.plan`; they may be others than the run's, which `compare`
            then says.

    Raises:
        UserError: nothing is finished, an arm is unknown, the data are not the run's, or `out`
            holds anything but an earlier reproduction of this run.
    """
    grid = run.grid
    done = [
        cell
        for cell in run.done()
        if (not only or cell.arm in only) and (seeds is None or cell.seed in seeds)
    ]
    names = [arm.name for arm in run.arms]
    for name in only or []:
        if name not in names:
            from reszoo.errors import unknown

            raise UserError(f"--only: {unknown('arm', name, names)}")
    if not done:
        raise UserError(f"{run.directory} has no finished cells to reproduce among those asked for")
    where = Path(out) if out else run.directory.with_name(run.directory.name + "-again")
    origin = _origin(run)
    _check_place(where, run, origin)
    dataset = data.load_recorded(grid["data"], data_dir, image_size, skip_corrupt)
    arms = [arm for arm in run.arms if any(cell.arm == arm.name for cell in done)]
    hardware = choose(devices)
    old = {**grid, "jobs": jobs or grid["jobs"]}
    platform, side_by_side, slots = place(hardware, arms, len(done), old, jobs, None, None, None)
    cells = [
        PlannedCell(
            cell.arm,
            cell.seed,
            {**cell.config, "platform": {**cell.config["platform"], "device": platform.device}},
        )
        for cell in done
    ]
    known = {f.name for f in dataclasses.fields(grids.Grid)}
    described: dict[str, Any] = {
        "network": "", "spec": {}, "recipe_fields": {}, "dataset": grid["data"]["name"], "arms": (),
        **{key: value for key, value in grid.items() if key in known and key != "arms"},
    }  # fmt: skip
    if grid["baseline"] not in [arm.name for arm in arms]:
        described["baseline"] = arms[0].name
    return Plan(
        grid=grids.Grid(**described),
        arms=arms,
        seeds=sorted({cell.seed for cell in done}),
        cells=cells,
        dataset=dataset,
        platform=platform,
        jobs=side_by_side,
        slots=slots,
        driver=hardware.gpus[0].driver if hardware.gpus else "",
        directory=where,
        baseline=described["baseline"],
        planned={
            key: grid[f"planned_{key}"]
            for key in ("baseline", "margin", "seeds")
            if f"planned_{key}" in grid
        },
        analysis=dict(grid.get("analysis", {})),
        unmatched=tuple(grid.get("unmatched", ())),
        reproduces_run=origin,
        lost=bool(grid.get("lost")),
    )


def _origin(run: Run) -> dict[str, str]:
    """Return what identifies a run: where it is, and what it was asked for."""
    return {
        "path": str(run.directory.resolve()),
        "sha256": files.sha256_file(run_directory.grid_path(run.directory)),
    }


def _check_place(where: Path, run: Run, origin: dict[str, str]) -> None:
    """Refuse a directory that holds anything but an earlier reproduction of the run."""
    if where.resolve() == run.directory.resolve():
        raise UserError(f"--out {where} is the run to reproduce; name another directory")
    if not run_directory.holds_run(where):
        return
    there = records.load(where)
    known = there.grid.get("reproduces_run") or {}
    if known != origin:
        what = "another run"
        if known:
            what = f"a reproduction of {known.get('path')}"
            if known.get("path") == origin["path"]:
                what += " as it was before its grid.json changed"
        raise UserError(f"--out {where} holds {what}; name a new directory")
    refuse_copies(run, there)


def refuse_copies(old: Run, new: Run) -> None:
    """Refuse cells that were not trained again but copied: an attempt is in both records.

    Raises:
        UserError: there is one; the message names it.
    """
    before = {(cell.arm, cell.seed): _attempts(cell) for cell in old.done()}
    for cell in new.done():
        if _attempts(cell) & before.get((cell.arm, cell.seed), set()):
            raise UserError(
                f"{cell.directory} is a copy of the cell of {old.directory} (the same attempt "
                "stands in both records), so it reproduces nothing; delete it, or name another "
                "--out"
            )


def _attempts(cell: Cell) -> set[str]:
    return {attempt_key(attempt) for attempt in record_of(cell)["attempts"]}


def finished(planned: Plan, run: Run | None = None) -> int:
    """Return how many cells of a plan are done: in a run as read, or else on disk now."""
    if run is not None:
        done = {(cell.arm, cell.seed) for cell in run.done()}
        return sum((cell.arm, cell.seed) in done for cell in planned.cells)
    return len(planned.cells) - len(planned.left())


def compare(old: Run, new: Run) -> tuple[bool, list[str]]:
    """Return whether all reproduced cells are equal, and lines that say what was compared.

    Equal means bit for bit: final weights, what was fed, and the counts of wrong images.
    """
    before = {(c.arm, c.seed): c for c in old.done()}
    pairs = [(before[c.arm, c.seed], c) for c in new.done() if (c.arm, c.seed) in before]
    lines, equal = [], 0
    for one, other in pairs:
        unlike = _unlike(one, other)
        equal += not unlike
        if unlike:
            lines.append(f"  {one.label}: {'; '.join(unlike)}")
    missing = sum((c.arm, c.seed) in before for c in new.cells) - len(pairs)
    head = f"{equal} of {len(pairs)} cells reproduced bit for bit (weights, data fed, wrong images)"
    if missing:
        head += f"; {missing} not finished"
    environment = [f"  {line}" for line in _environment(pairs)]
    if environment:
        environment.insert(0, "what differs between the machines, versions and settings:")
    return bool(pairs) and not lines and not missing, [head, *lines, *environment]


def _unlike(one: Cell, other: Cell) -> list[str]:
    a, b = one.record, other.record
    assert a is not None and b is not None
    found = []
    for name in ("train_wrong", "test_wrong"):
        if a["results"][name] != b["results"][name]:
            found.append(f"{name} {a['results'][name]} -> {b['results'][name]}")
    for name, what in (("initial_sha256", "initial weights"), ("fed_sha256", "data fed")):
        if a["matched"][name] != b["matched"][name]:
            found.append(f"{what} differ")
    if a["final_sha256"] != b["final_sha256"]:
        found.append("final weights differ")
    return found


def _environment(pairs: list[tuple[Cell, Cell]]) -> list[str]:
    """Return what the cells ran in that is not the same, and in how many where not in all."""
    found: dict[str, int] = {}
    for one, other in pairs:
        before, now = _surroundings(one), _surroundings(other)
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) != now.get(key):
                line = f"{key}: {shown(before.get(key))} -> {shown(now.get(key))}"
                found[line] = found.get(line, 0) + 1
    return [
        line + (f" (in {count} of {len(pairs)} cells)" if count < len(pairs) else "")
        for line, count in found.items()
    ]


def _surroundings(cell: Cell) -> dict[str, Any]:
    """Return what the audit compares, and the operating system, whose libraries compute, too."""
    return {**surroundings(cell), "operating system": record_of(cell)["environment"]["os"]}
