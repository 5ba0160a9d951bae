"""How long a grid of 1,000 cells takes to plan, list, read and report: everything but training.

    python benchmarks/large_grid.py [--arms 50] [--seeds 20]

One real cell is trained (one epoch on the embedded slice, half a minute); its files stand for all
cells, with each cell's own configuration, records and manifest. Prints seconds, with versions and
hardware, as a Markdown table.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from ablations import (
    cell_files,
    environment,
    files,
    records,
    report,
    run_directory,
    run_grid,
    shapes,
)
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
    run_directory.write_grid(planned.directory, planned.grid_json())
    record = files.read_json(template / "record.json")
    for number, cell in enumerate(planned.cells):
        _finish(cell, number, planned.directory, template, record)


def _finish(
    cell: PlannedCell, number: int, root: Path, template: Path, record: dict[str, Any]
) -> None:
    """Write a cell that the audit finds in order: each of its own, one seed's all fed alike."""
    directory = records.cell_directory(root, cell.arm, cell.seed)
    directory.mkdir(parents=True)
    with np.load(template / "predictions.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    wrong = 100 + number % 97
    arrays["predicted"] = arrays["label"].copy()
    arrays["predicted"][:wrong] = (arrays["label"][:wrong] + 1) % 10
    arrays["probabilities"][0, 0] = 1e-6 * number  # no two networks say the same
    np.savez_compressed(directory / "predictions.npz", **arrays)  # type: ignore[arg-type]
    error = 100 * wrong / len(arrays["label"])
    history = cell_files.read_history(template / "history.csv")
    history[-1]["test_error"] = error
    (directory / "history.csv").write_text(cell_files.history_csv(history))
    (directory / "model.keras").write_bytes(
        (template / "model.keras").read_bytes() + b"%d" % number
    )
    fed = [
        files.sha256(f"{cell.seed} {line}")
        for line in (template / "fed.sha256").read_text().split()
    ]
    (directory / "fed.sha256").write_text("".join(f"{line}\n" for line in fed))
    initial = {
        name: {**one, "sha256": files.sha256(f"{cell.seed} {name}")}
        for name, one in record["matched"]["initial_tensors"].items()
    }
    mine = {
        "arm": cell.arm,
        "seed": cell.seed,
        "identity": cell.identity,
        "results": {**record["results"], "test_error": error, "test_wrong": wrong},
        "matched": {
            **record["matched"],
            "fed_sha256": files.sha256(bytes.fromhex("".join(fed))),
            "initial_sha256": files.sha256(files.canonical(initial)),
            "initial_tensors": initial,
        },
        "final_sha256": files.sha256(f"final {number}"),
        "attempts": [{**record["attempts"][0], "started": f"2020-01-01T00:00:00.{number:06}"}],
    }
    files.write_json(directory / "record.json", {**record, **mine})
    content = {"arm": cell.arm, "seed": cell.seed, "identity": cell.identity}
    files.write_json(
        directory / "cell.json", {"schema": shapes.SCHEMA, **content, "config": cell.config}
    )
    cell_files.write_manifest(directory, list(cell_files.CELL_FILES))


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
        template, threads = one.done()[0].directory, one.grid["platform"]["threads"]
        planned = timed(
            rows,
            "plan",
            lambda: plan(
                str(root / "large.yaml"), seeds=arguments.seeds, threads=threads, out=root / "run"
            ),
        )
        timed(rows, "list (--dry_run)", lambda: preview(planned))
        print(f"writing {len(planned.cells):,} cells", flush=True)
        fill(planned, template)
        run = timed(rows, "read, every file's hash checked", lambda: records.load(root / "run"))
        timed(rows, "status", lambda: status(run))
        comparison = timed(rows, "compare and audit", lambda: report.compare(run))
        assert comparison.audit.matched, comparison.audit.problems[:3]
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
