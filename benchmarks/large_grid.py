"""How long a grid of 1,000 cells takes to plan, list, read and report: everything but training.

    python benchmarks/large_grid.py [--arms 50] [--seeds 20]

One real cell is trained (one epoch on the embedded slice, half a minute); its files stand for all
cells, with each cell's own configuration, records and manifest. Prints seconds, with versions and
hardware, as a Markdown table.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ablations import environment, files, records, report, run_grid
from ablations.matrix import PlannedCell
from ablations.plan import Plan, plan
from ablations.preview import preview
from ablations.report import figures, tensorboard
from ablations.status import status


def grid_text(arms: int) -> str:
    """Return a grid of so many arms: two shortcuts, so many widths."""
    widths = ", ".join(str(width) for width in range(8, 8 + (arms + 1) // 2))
    return (
        "title: A large grid\n"
        f"factors:\n  shortcut: [none, A]\n  width: [{widths}]\n"
        "presets:\n  quick: {network: resnet20, recipe: quick, dataset: fashion, "
        "recipe.epochs: 1}\n"
    )


def fill(planned: Plan, template: Path) -> None:
    """Write every planned cell as done, from the files of a real one."""
    planned.directory.mkdir()
    files.write_signed(planned.directory / "grid.json", planned.grid_json())
    record = files.read_json(template / "record.json")
    for cell in planned.cells:
        _finish(cell, planned.directory, template, record)


def _finish(cell: PlannedCell, root: Path, template: Path, record: dict[str, Any]) -> None:
    directory = records.cell_directory(root, cell.arm, cell.seed)
    directory.mkdir(parents=True)
    for name in ("history.csv", "model.keras", "predictions.npz", "fed.sha256"):
        shutil.copyfile(template / name, directory / name)
    error = 10 + (hash((cell.arm, cell.seed)) % 1000) / 100
    results = {**record["results"], "test_error": error}
    mine = {"arm": cell.arm, "seed": cell.seed, "identity": cell.identity, "results": results}
    files.write_json(directory / "record.json", {**record, **mine})
    files.write_json(
        directory / "cell.json",
        {
            "schema": records.SCHEMA,
            "arm": cell.arm,
            "seed": cell.seed,
            "identity": cell.identity,
            "config": cell.config,
        },
    )
    records.write_manifest(directory, list(records.CELL_FILES))


def timed(rows: list[tuple[str, float]], what: str, action: Callable[[], Any]) -> Any:
    """Run an action, note its seconds, return its result."""
    start = time.perf_counter()
    result = action()
    rows.append((what, time.perf_counter() - start))
    return result


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    rows: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "large.yaml").write_text(grid_text(arguments.arms))
        one = run_grid(net="resnet20", epochs=1, seeds=1, out=root / "one")
        template = one.done()[0].directory
        planned = timed(
            rows,
            "plan",
            lambda: plan(str(root / "large.yaml"), seeds=arguments.seeds, out=root / "run"),
        )
        timed(rows, "list (--dry_run)", lambda: preview(planned))
        print(f"writing {len(planned.cells):,} cells", flush=True)
        fill(planned, template)
        run = timed(rows, "read, every file's hash checked", lambda: records.load(root / "run"))
        timed(rows, "status", lambda: status(run))
        comparison = timed(rows, "compare and audit", lambda: report.compare(run))
        with redirect_stdout(io.StringIO()):
            timed(
                rows,
                "write tables and page",
                lambda: report.write_files(run, comparison, root / "report"),
            )
            drawn = timed(
                rows, "draw figures (PNG, SVG)", lambda: figures.write(run, root / "report")
            )
            timed(rows, "TensorBoard", lambda: tensorboard.write_run(run, comparison, drawn))
            timed(rows, "terminal table", lambda: report.terminal(comparison, 120))
        size = (root / "report" / "report.html").stat().st_size
    print(f"{environment.version_line()}; {environment.cpu_model()}")
    print(f"{len(planned.cells):,} cells: {arguments.arms} arms x {arguments.seeds} seeds\n")
    print("| step | seconds |\n|---|---|")
    for what, seconds in rows:
        print(f"| {what} | {seconds:.2f} |")
    print(f"\nreport.html: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
