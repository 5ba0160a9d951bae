"""Tables of a run, written at any time, also from partial results."""

from __future__ import annotations

from ablations import files
from ablations.records import Run
from ablations.report import tensorboard
from ablations.report.comparison import Comparison, compare
from ablations.report.table import cells_csv, markdown, table_csv
from ablations.report.terminal import terminal

__all__ = ["Comparison", "compare", "terminal", "write"]


def write(run: Run) -> Comparison:
    """Write a run's tables and TensorBoard summaries beside its cells; return the comparison."""
    comparison = compare(run)
    files.write(run.directory / "table.md", markdown(comparison))
    files.write(run.directory / "table.csv", table_csv(comparison))
    files.write(run.directory / "cells.csv", cells_csv(run))
    tensorboard.write_run(run, comparison)
    return comparison
