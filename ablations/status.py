"""What stands in a run directory: `ablations.run --status DIR`."""

from __future__ import annotations

import time
from typing import Any

from ablations import files
from ablations.records import Cell, Run, read_attempts
from ablations.report.comparison import duration

#: A cell that has written nothing for so long is taken for stopped, seconds.
FRESH_SECONDS = 120.0


def status(run: Run) -> str:
    """Return one line for the run and one for each cell that is not simply done.

    States are read from files: a cell counts as running while its progress is fresh.
    """
    counts: dict[str, int] = {}
    lines = []
    for cell in run.cells:
        state, text = _cell(cell)
        counts[state] = counts.get(state, 0) + 1
        if state not in ("done", "planned"):
            lines.append(f"  {cell.arm}/seed{cell.seed}  {state}{text}")
    total = len(run.cells)
    parts = [f"{counts.get('done', 0)} of {total} cells done"]
    parts += [f"{n} {state}" for state, n in counts.items() if state != "done"]
    spent = sum(cell.results["wall_seconds"] for cell in run.done())
    retried = [
        f"{cell.arm}/seed{cell.seed} ({n})"
        for cell in run.cells
        if (n := len(read_attempts(cell.directory))) > 1
    ]
    head = [
        f"{run.grid['title']} ({run.directory}): {', '.join(parts)}",
        f"  finished cells took {duration(spent)} in all",
    ]
    if retried:
        head.append(f"  more than one attempt: {', '.join(retried)}")
    return "\n".join([*head, *lines])


def _cell(cell: Cell) -> tuple[str, str]:
    if cell.state in ("done", "planned"):
        return cell.state, ""
    if cell.state == "failed":
        return "failed", f": {cell.problem}"
    progress: dict[str, Any] = {}
    path = cell.directory / "progress.json"
    try:
        progress = files.read_json(path)
        age = time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return cell.state, ""
    where = f", epoch {progress.get('epoch', 0):.1f}, step {progress.get('step', 0):,}"
    if ended := (read_attempts(cell.directory) or [{}])[-1].get("end"):
        return "interrupted", f"{where}; {ended}"
    if age < FRESH_SECONDS:
        return "running", where
    return "interrupted", f"{where}; silent for {duration(age)}"
