"""What stands in a run directory: `ablations.run --status DIR`."""

from __future__ import annotations

import time

from ablations import files
from ablations.cell_files import read_attempts, read_progress
from ablations.records import Cell, Run
from ablations.report.comparison import duration

#: Where locks do not tell, a cell that has written nothing for so long is taken for stopped,
#: seconds.
FRESH_SECONDS = 120.0


def status(run: Run) -> str:
    """Return one line for the run and one for each cell that is not simply done.

    A cell counts as running while a process holds its lock; where this machine cannot tell (another
    host's cell, a file system without locks), while its progress is fresh.
    """
    counts: dict[str, int] = {}
    lines = []
    for cell in run.cells:
        state, text = _cell(cell)
        counts[state] = counts.get(state, 0) + 1
        if state not in ("done", "planned"):
            lines.append(f"  {cell.label}  {state}{text}")
    total = len(run.cells)
    parts = [f"{counts.get('done', 0)} of {total} cells done"]
    parts += [f"{n} {state}" for state, n in counts.items() if state != "done"]
    spent = sum(cell.results["wall_seconds"] for cell in run.done())
    retried = [
        f"{cell.label} ({n})" for cell in run.cells if (n := len(read_attempts(cell.directory))) > 1
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
    try:
        age = time.time() - (cell.directory / "progress.json").stat().st_mtime
    except OSError:
        return cell.state, ""
    attempts = read_attempts(cell.directory)
    where = "; attempts.json cannot be read" * (
        not attempts and (cell.directory / "attempts.json").exists()
    )
    if progress := read_progress(cell.directory):
        step, epoch = progress.get("step", 0), progress.get("epoch", 0)
        where = f", epoch {epoch:.1f}, step {step:,}{where}"
    else:
        where = f"; progress.json cannot be read{where}"
    if ended := attempts and attempts[-1].get("end"):
        return "interrupted", f"{where}; {ended}"
    running = files.locked(cell.directory / ".lock")
    silent = f"; silent for {duration(age)}" if age >= FRESH_SECONDS else ""
    if running is None:
        running = not silent
    if running:
        return "running", where + silent
    return "interrupted", where + (silent or "; its process is gone")
