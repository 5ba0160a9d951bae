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


#: What `write_files` always writes.
FILES = ("report.html", "table.md", "table.csv", "table.tex", "statistics.csv", "cells.csv")


def drawn(comparison: Comparison) -> bool:
    """Return whether `write` draws figures: when all cells are done, as they take seconds."""
    return comparison.done == comparison.planned


def write(run: Run) -> Comparison:
    """Write a run's report and TensorBoard summaries beside its cells; return the comparison."""
    comparison = compare(run)
    paths = write_files(run, comparison, run.directory, figures=drawn(comparison))
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
    texts = (
        html.page(run, comparison),
        markdown(comparison),
        table_csv(comparison),
        latex.table(comparison),
        statistics_csv(comparison),
        cells_csv(run),
    )
    paths = [directory / name for name in FILES]
    for path, text in zip(paths, texts, strict=True):
        files.write(path, text)
    if figures and run.done():
        from ablations.report import figures as drawing

        paths += drawing.write(run, directory / "figures")
    return paths
