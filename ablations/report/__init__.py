"""Reports of a run, written at any time, also from partial results."""

from __future__ import annotations

from pathlib import Path

from ablations import files
from ablations.records import Run
from ablations.report import tensorboard
from ablations.report.comparison import Comparison, compare
from ablations.report.table import cells_csv, markdown, table_csv
from ablations.report.terminal import terminal
from ablations.report.tidy import statistics_csv

__all__ = ["Comparison", "compare", "terminal", "write", "write_files"]


def write(run: Run) -> Comparison:
    """Write a run's report and TensorBoard summaries beside its cells; return the comparison.

    Figures are drawn when all cells are done: they take a second or two.
    """
    comparison = compare(run)
    finished = comparison.done == comparison.planned
    paths = write_files(run, comparison, run.directory, figures=finished)
    tensorboard.write_run(run, comparison, paths)
    return comparison


def write_files(
    run: Run, comparison: Comparison, directory: Path, *, figures: bool = False
) -> list[Path]:
    """Write tables, the HTML page and, asked for, the figures; return their paths.

    Args:
        run: its records.
        comparison: made from them.
        directory: where to; made if need be.
        figures: draw those that suit the run, into figures/.
    """
    from ablations.report import html, latex

    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": html.page(run, comparison),
        "table.md": markdown(comparison),
        "table.csv": table_csv(comparison),
        "table.tex": latex.table(comparison),
        "statistics.csv": statistics_csv(comparison),
        "cells.csv": cells_csv(run),
    }
    paths = []
    for name, text in texts.items():
        files.write(directory / name, text)
        paths.append(directory / name)
    if figures and run.done():
        from ablations.report import figures as drawing

        paths += drawing.write(run, directory / "figures")
    return paths
