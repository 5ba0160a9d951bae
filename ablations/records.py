"""What a cell leaves on disk, and how it is read back.

    runs/NAME/
      grid.json                     the plan: arms, factors, seeds, recipe, data, paper numbers
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

import contextlib
import csv
import datetime
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations import files, run_directory, shapes
from ablations.shapes import SCHEMA, RecordError

#: What a finished cell's manifest vouches for.
CELL_FILES = (
    "cell.json",
    "record.json",
    "history.csv",
    "model.keras",
    "predictions.npz",
    "fed.sha256",
)

#: Where images are held out for validation, the test columns are empty, else the validation ones.
HISTORY = (
    "epoch",
    "step",
    "images",
    "learning_rate",
    "train_loss_running",
    "train_error_running",
    "test_loss",
    "test_error",
    "seconds",
    "images_per_second",
    "validation_loss",
    "validation_error",
)
_WATCHED = ({"test_loss", "test_error"}, {"validation_loss", "validation_error"})
_ALWAYS = set(HISTORY).difference(*_WATCHED)


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
class Tested:
    """What a finished cell's predictions.npz says.

    Attributes:
        images: in the test part.
        wrong: of them, those that were taken for another class.
        labels: SHA-256 over the images' labels.
    """

    images: int
    wrong: int
    labels: str


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
        history: of a finished cell, one dict an epoch, keys as in HISTORY without empty columns.
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
    tested: Tested | None = None

    @property
    def results(self) -> dict[str, Any]:
        """Results of a finished cell."""
        if self.record is None:
            raise RecordError(f"cell {self.arm}/seed{self.seed} is not finished ({self.state})")
        return self.record["results"]

    def predictions(self) -> dict[str, Any]:
        """Return per-test-image arrays: label (n,), predicted (n,), probabilities (n, classes).

        Raises:
            RecordError: the file is damaged.
        """
        with _arrays(self.directory / "predictions.npz") as arrays:
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

    def done(self, arm: str | None = None) -> list[Cell]:
        """Return the finished cells, of one arm or all."""
        return [c for c in self.cells if c.state == "done" and arm in (None, c.arm)]

    def curves(self, column: str = "test_error") -> dict[str, Any]:
        """Return arm -> array (seeds, epochs) of one history column, finished cells only.

        Args:
            column: one of `HISTORY`.

        Raises:
            RecordError: there is no such column, or it is empty in this run.
        """
        import numpy as np

        if column not in HISTORY:
            from reszoo.errors import unknown

            raise RecordError(unknown("history column", column, HISTORY))
        curves = {}
        for arm in self.arms:
            cells = self.done(arm.name)
            for cell in cells:
                if any(column not in epoch for epoch in cell.history):
                    there = [name for name in HISTORY if name in cell.history[0]]
                    raise RecordError(
                        f"the history of {cell.arm}/seed{cell.seed} has no {column}; it has "
                        f"{', '.join(there)}"
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
            digests = check_manifest(directory)
            record = shapes.read(directory / "record.json", shapes.RECORD)
            history = read_history(directory / "history.csv")
            tested = _tested(directory / "predictions.npz")
            _check_fed(directory / "fed.sha256")
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


def _tested(path: Path) -> Tested:
    """Return what a cell's predictions say; only labels and classes are decompressed."""
    import numpy as np

    with _arrays(path) as arrays:
        label, predicted = arrays["label"], arrays["predicted"]
    if not (label.ndim == 1 and label.shape == predicted.shape and label.size):
        raise RecordError(f"{path} has {predicted.shape} classes for {label.shape} labels")
    if label.dtype.kind not in "iu" or predicted.dtype.kind not in "iu":
        raise RecordError(f"{path} has labels of type {label.dtype}, {predicted.dtype}")
    wrong = int(np.count_nonzero(label != predicted))
    return Tested(len(label), wrong, files.sha256(label.astype("<i8").tobytes()))


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    """Open an .npz file; whatever is wrong with it becomes a RecordError."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except RecordError:
        raise
    # What zipfile, zlib and NumPy raise for bytes that are no such file.
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError,
            zipfile.BadZipFile, zlib.error, NotImplementedError) as error:  # fmt: skip
        raise RecordError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _check_fed(path: Path) -> None:
    if not re.fullmatch(rb"(?:[0-9a-f]{64}\n)+", path.read_bytes()):
        raise RecordError(f"{path} is damaged: it takes a SHA-256 in hex a line")


def write_failure(directory: Path, reason: str, trace: str = "") -> None:
    """Write why a cell failed, and after which step."""
    step = read_progress(directory).get("step", 0)
    content = {"schema": SCHEMA, "reason": reason, "step": step, "traceback": trace}
    files.write_json(directory / "failure.json", content)


def read_progress(directory: Path) -> dict[str, Any]:
    """Return what a cell in training last said of itself; {} where that cannot be read."""
    try:
        progress = files.read_json(directory / "progress.json")
        shapes.check(progress, shapes.PROGRESS)
    except (OSError, ValueError):
        return {}
    return progress


def start_attempt(directory: Path, launch: dict[str, Any]) -> None:
    """Note that a cell is started: when, by what command and code, on which devices."""
    attempts = read_attempts(directory)
    if attempts and attempts[-1].get("end") is None:
        attempts[-1]["end"] = "the runner died"
    attempts.append({"started": _now(), **launch, "end": None})
    files.write_json(directory / "attempts.json", {"schema": SCHEMA, "attempts": attempts})


def end_attempt(directory: Path, reason: str) -> None:
    """Note why the last attempt ended."""
    attempts = read_attempts(directory)
    if attempts:
        attempts[-1]["end"] = reason
        files.write_json(directory / "attempts.json", {"schema": SCHEMA, "attempts": attempts})


def read_attempts(directory: Path) -> list[dict[str, Any]]:
    """Return the attempts at a cell, oldest first; none where the file cannot be read."""
    try:
        return shapes.read(directory / "attempts.json", shapes.ATTEMPTS)["attempts"]
    except RecordError:
        return []


def _now() -> str:
    # To the microsecond: two cells that start together must not look like one attempt.
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def write_manifest(directory: Path, names: list[str]) -> None:
    """Write the manifest of a cell: the sign that it is done."""
    entries = {
        name: {
            "size": (directory / name).stat().st_size,
            "sha256": files.sha256_file(directory / name),
        }
        for name in names
    }
    files.write_json(directory / "manifest.json", {"schema": SCHEMA, "files": entries})


def check_manifest(directory: Path) -> dict[str, str]:
    """Compare a cell's files with its manifest; return the SHA-256 of each.

    Raises:
        RecordError: a file is missing, has changed, or is not vouched for; the message names it.
    """
    manifest = directory / "manifest.json"
    entries = shapes.read(manifest, shapes.MANIFEST)["files"]
    if lacking := [name for name in CELL_FILES if name not in entries]:
        raise RecordError(f"{manifest} does not vouch for {', '.join(lacking)}")
    for name in CELL_FILES:
        path, entry = directory / name, entries[name]
        if not path.exists():
            raise RecordError(f"{path} is missing")
        if path.stat().st_size != entry["size"] or files.sha256_file(path) != entry["sha256"]:
            raise RecordError(f"{path} has changed since it was written")
    return {name: entries[name]["sha256"] for name in CELL_FILES}


def history_csv(rows: list[dict[str, float]]) -> str:
    """Return a history as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_history(path: Path) -> list[dict[str, float]]:
    """Read what `history_csv` wrote, of a finished cell.

    Raises:
        RecordError: it has other columns, no epoch, or something that is no finite number.
    """
    rows: list[dict[str, float]] = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found = {key: _number(key, value) for key, value in row.items() if value}
                if not any(found.keys() == _ALWAYS | part for part in _WATCHED):
                    raise ValueError(f"row {len(rows) + 1} has other columns than it must have")
                rows.append(found)
    except (ValueError, TypeError, csv.Error) as error:
        raise RecordError(f"{path} is damaged: {error}") from None
    if not rows:
        raise RecordError(f"{path} is damaged: it has no epoch")
    return rows


def _number(column: str, text: str) -> float:
    value = int(text) if column in ("epoch", "step", "images") else float(text)
    if not math.isfinite(value):
        raise ValueError(f"{column} is {text}")
    return value
