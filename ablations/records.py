"""What a cell leaves on disk, and how it is read back.

    runs/NAME/
      grid.json  grid.copy.json     the plan: arms, factors, seeds, recipe, data, paper numbers
      table.md  table.csv  statistics.csv  cells.csv
      cells/ARM/seed0/
        cell.json                   the resolved configuration; its hash is the cell's identity
        record.json                 results, digests, environment
        history.csv                 one row an epoch
        model.keras                 the trained model, ending in softmax
        predictions.npz             label, predicted label and probabilities of each test image
        fed.sha256                  one SHA-256 a step over the bytes that entered the network
        log.txt                     what the cell's process printed
        manifest.json               sizes and SHA-256 of the files; written last: the cell is done

A cell is done if and only if its manifest is there and agrees with the files.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations import cell_files, run_directory, shapes
from ablations.shapes import RecordError

if TYPE_CHECKING:
    from ablations.audit import Audit


@dataclass(frozen=True)
class Arm:
    """One combination of a grid's factors.

    Attributes:
        name: unique within the grid.
        factors: factor -> level.
        spec: fields of the arm's ResNetSpec; None for a comparator, whose name stands in network.
        network: catalogue name it started from.
        recipe: fields of the arm's Recipe.
        parameters, macs, weighted_layers: from the plan.
        exceptions: fields of the recipe that only this arm changes, declared by the grid.
        reason: why.
        paper: the paper's number for this arm, or None: {"value": %, "note": …}.
        match: of a grid that matches budgets (`match:`): budget ("MACs" or "parameters"), target,
            value, mismatch (value / target - 1), tolerance, widths, stem_width, uniform (one factor
            for the stem and all stages) and reachable (values next to the target). None for the
            baseline.
        undeclared: fields of the spec that the grid's file sets for this arm and that are no
            factors.
    """

    name: str
    factors: dict[str, Any]
    network: str
    spec: dict[str, Any] | None
    recipe: dict[str, Any]
    parameters: int
    macs: int
    weighted_layers: int
    exceptions: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    paper: dict[str, Any] | None = None
    match: dict[str, Any] | None = None
    undeclared: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One training run: an arm with one seed.

    Attributes:
        arm: name of the arm.
        seed: the replicate.
        directory: where its files are.
        state: "planned", "interrupted", "running", "failed" or "done".
        config: the resolved configuration; its hash is the cell's identity.
        record: results, digests and environment of a finished cell, else None.
        history: of a finished cell, one dict an epoch, with the keys of cell_files.HISTORY that are
            not empty.
        problem: why a failed or damaged cell does not count.
        recorded_arm: its arm's name in its own run, where merged runs renamed it.
        digests: SHA-256 of each of a finished cell's files, by name.
        tested: what a finished cell's predictions say.
    """

    arm: str
    seed: int
    directory: Path
    state: str
    config: dict[str, Any]
    record: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    problem: str = ""
    recorded_arm: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    tested: cell_files.Tested | None = None

    @property
    def label(self) -> str:
        """What the cell is called: "arm/seed0"."""
        return f"{self.arm}/seed{self.seed}"

    @property
    def results(self) -> dict[str, Any]:
        """Results of a finished cell."""
        if self.record is None:
            raise RecordError(f"cell {self.label} is not finished ({self.state})")
        return self.record["results"]

    def attempts(self) -> list[dict[str, Any]]:
        """Return the attempts at it, oldest first: of a finished cell those of its record."""
        return self.record["attempts"] if self.record else cell_files.read_attempts(self.directory)

    def predictions(self) -> dict[str, Any]:
        """Return per-test-image arrays: label (n,), predicted (n,), probabilities (n, classes).

        Raises:
            RecordError: the file is damaged.
        """
        with cell_files.open_arrays(self.directory / "predictions.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}

    def fed(self) -> list[str]:
        """Return the SHA-256 of what entered the network, one hex string a step."""
        return (self.directory / "fed.sha256").read_text().split()


@dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
        directory: where it is.
        grid: the content of grid.json.
        arms: in the grid's order.
        cells: in seed-major order; also unfinished ones.
    """

    directory: Path
    grid: dict[str, Any]
    arms: list[Arm]
    cells: list[Cell]

    @functools.cached_property
    def audit(self) -> Audit:
        """Whether the finished cells are matched; read from all of their records, once."""
        from ablations.audit import audit  # which reads runs

        return audit(self)

    def done(self, arm: str | None = None) -> list[Cell]:
        """Return the finished cells, of one arm or all."""
        return [c for c in self.cells if c.state == "done" and arm in (None, c.arm)]

    def curves(self, column: str = "test_error") -> dict[str, Any]:
        """Return arm -> array (seeds, epochs) of one history column, finished cells only.

        Args:
            column: one of `cell_files.HISTORY`.

        Raises:
            RecordError: there is no such column, or it is empty in this run.
        """
        import numpy as np

        if column not in cell_files.HISTORY:
            from reszoo.errors import unknown

            raise RecordError(unknown("history column", column, cell_files.HISTORY))
        curves = {}
        for arm in self.arms:
            cells = self.done(arm.name)
            for cell in cells:
                if any(column not in epoch for epoch in cell.history):
                    there = [name for name in cell_files.HISTORY if name in cell.history[0]]
                    raise RecordError(
                        f"the history of {cell.label} has no {column}; it has {', '.join(there)}"
                    )
            rows = [[epoch[column] for epoch in c.history] for c in cells]
            if rows:
                curves[arm.name] = np.array(rows, np.float64)
        return curves


def cell_directory(root: Path, arm: str, seed: int) -> Path:
    """Return where a cell's files are."""
    return root / "cells" / arm / f"seed{seed}"


def load(directory: str | Path) -> Run:
    """Read a run directory, finished or not.

    Args:
        directory: e.g. "runs/shortcuts".

    Raises:
        RecordError: there is no run, its grid.json is damaged, or its version is unknown.
    """
    root = Path(directory)
    grid = run_directory.read_grid(root)
    arms = [Arm(**arm) for arm in grid["arms"]]
    cells = [load_cell(root, arm.name, seed) for seed in grid["seeds"] for arm in arms]
    return Run(root, grid, arms, cells)


def load_cell(root: Path, arm: str, seed: int) -> Cell:
    """Read one cell; a damaged one is not an exception but a state with a problem."""
    directory = cell_directory(root, arm, seed)
    there = _signs(directory)
    cell = _load_cell(directory, arm, seed, there)
    # A cell that starts, fails or finishes while it is read would show a state that it never had.
    if (now := _signs(directory)) != there:
        cell = _load_cell(directory, arm, seed, now)
    return cell


def _signs(directory: Path) -> set[str]:
    """Return which of the files are there that say how far a cell is."""
    names = ("cell.json", "manifest.json", "failure.json", "progress.json")
    return {name for name in names if (directory / name).exists()}


def _load_cell(directory: Path, arm: str, seed: int, there: set[str]) -> Cell:
    if "cell.json" not in there:
        return Cell(arm, seed, directory, "planned", {})
    config: dict[str, Any] = {}
    try:
        config = shapes.read(directory / "cell.json", shapes.CELL)["config"]
        if "manifest.json" in there:
            digests = cell_files.check_manifest(directory)
            record = shapes.read(directory / "record.json", shapes.RECORD)
            history = cell_files.read_history(directory / "history.csv")
            tested = cell_files.read_tested(directory / "predictions.npz")
            cell_files.check_fed(directory / "fed.sha256")
            return Cell(
                arm, seed, directory, "done", config, record, history, digests=digests,
                tested=tested,
            )  # fmt: skip
        if "failure.json" in there:
            problem = shapes.read(directory / "failure.json", shapes.FAILURE)["reason"]
            return Cell(arm, seed, directory, "failed", config, problem=problem)
    except (ValueError, OSError) as error:
        return Cell(arm, seed, directory, "failed", config, problem=str(error))
    state = "interrupted" if "progress.json" in there else "planned"
    return Cell(arm, seed, directory, state, config)
