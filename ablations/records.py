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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations import files
from ablations.errors import UserError

#: Version of grid.json, cell.json and record.json. Readers refuse versions that they do not know.
SCHEMA = 1

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

#: What every version of a finished cell's record.json has, as far as a reader relies on it.
_RECORD = {
    "": ("arm", "seed", "identity", "results", "matched", "final_sha256", "attempts",
         "environment"),
    "results": ("train_error", "test_error", "train_wrong", "test_wrong", "train_images",
                "test_images", "wall_seconds", "images_per_second"),
    "matched": ("steps", "images", "fed_sha256", "initial_sha256"),
    "environment": ("versions", "cpu", "variables"),
}  # fmt: skip


class RecordError(UserError):
    """A record that is damaged, or of a version that this code does not know. One line."""


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
        history: one dict an epoch, keys as in HISTORY without the empty columns; of unfinished
            cells what is there.
        problem: why a failed or damaged cell does not count.
        recorded_arm: its arm's name in its own run, where merged runs renamed it.
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

    @property
    def results(self) -> dict[str, Any]:
        """Results of a finished cell."""
        if self.record is None:
            raise RecordError(f"cell {self.arm}/seed{self.seed} is not finished ({self.state})")
        return self.record["results"]

    def predictions(self) -> dict[str, Any]:
        """Return per-test-image arrays: label (n,), predicted (n,), probabilities (n, classes)."""
        import numpy as np

        with np.load(self.directory / "predictions.npz", allow_pickle=False) as arrays:
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


def obstacle(directory: Path) -> Path | None:
    """Return the file, if any, that stands where a directory or one of its parents should."""
    for path in (directory, *directory.parents):
        if path.exists():
            return None if path.is_dir() else path
    return None


def refuse_file(directory: Path) -> None:
    """Refuse a directory for output that is a file, or below one.

    Raises:
        UserError: it is.
    """
    if (file := obstacle(directory)) is not None:
        raise UserError(f"--out {directory}: {file} is a file, not a directory")


def holds_run(directory: Path) -> bool:
    """Return whether a directory for a run holds one already, rather than being new or empty.

    Raises:
        UserError: it is a file, or holds other files than a run's.
    """
    refuse_file(directory)
    if not directory.exists():
        return False
    if (directory / "grid.json").exists():
        return True
    strangers = [path.name for path in directory.iterdir() if not path.name.startswith(".")]
    if strangers:
        raise UserError(
            f"--out {directory} holds other files ({strangers[0]}); name a new directory"
        )
    return False


def load(directory: str | Path) -> Run:
    """Read a run directory, finished or not.

    Args:
        directory: e.g. "runs/shortcuts".

    Raises:
        RecordError: there is no run, or its version is unknown.
    """
    root = Path(directory)
    path = root / "grid.json"
    if (file := obstacle(root)) is not None:
        raise RecordError(f"{root} holds no run: {file} is a file, not a directory")
    grid = _read(path, f"{root} holds no run: it has no grid.json")
    try:
        grid = files.verified(path, grid)
    except ValueError as error:
        raise RecordError(
            f"{error}; delete it, and the command that made the run writes it again"
        ) from None
    arms = [Arm(**arm) for arm in grid["arms"]]
    cells = []
    for seed in grid["seeds"]:
        for arm in arms:
            cells.append(load_cell(root, arm.name, seed))
    return Run(root, grid, arms, cells)


def load_cell(root: Path, arm: str, seed: int) -> Cell:
    """Read one cell; a damaged one is not an exception but a state with a problem."""
    directory = cell_directory(root, arm, seed)
    state, problem, config, record = "planned", "", {}, None
    history: list[dict[str, float]] = []
    if (directory / "cell.json").exists():
        try:
            config = _read(directory / "cell.json", "")["config"]
            if (directory / "manifest.json").exists():
                check_manifest(directory)
                record = _read(directory / "record.json", "")
                _check_record(directory / "record.json", record)
                history = read_history(directory / "history.csv")
                state = "done"
            elif (directory / "failure.json").exists():
                problem = files.read_json(directory / "failure.json")["reason"]
                state = "failed"
            elif (directory / "progress.json").exists():
                state = "interrupted"
        except (ValueError, OSError) as error:
            state, problem, record = "failed", str(error), None
        except (KeyError, TypeError, AttributeError):
            text = f"a record in {directory} is damaged: it lacks what it must have"
            state, problem, record = "failed", text, None
    return Cell(arm, seed, directory, state, config, record, history, problem)


def _check_record(path: Path, record: dict[str, Any]) -> None:
    """Refuse the record of a finished cell that lacks what every reader needs."""
    for part, names in _RECORD.items():
        content = record[part] if part else record
        lacking = [name for name in names if name not in content]
        if lacking:
            raise RecordError(f"{path} lacks {f'{part}.' if part else ''}{lacking[0]}")
    if any("code" not in one for one in record["attempts"]):
        raise RecordError(f"{path} has an attempt without its code")


def _read(path: Path, missing: str) -> dict[str, Any]:
    try:
        value = files.read_json(path)
    except FileNotFoundError:
        raise RecordError(missing or f"{path} is missing") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(str(error)) from None
    version = value.get("schema") if isinstance(value, dict) else None
    if version != SCHEMA:
        raise RecordError(f"{path} has schema {version!r}; this version reads schema {SCHEMA}")
    return value


def write_failure(directory: Path, reason: str, trace: str = "") -> None:
    """Write why a cell failed, and after which step."""
    step = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        step = files.read_json(directory / "progress.json").get("step", 0)
    content = {"schema": SCHEMA, "reason": reason, "step": step, "traceback": trace}
    files.write_json(directory / "failure.json", content)


def start_attempt(directory: Path, launch: dict[str, Any]) -> None:
    """Note that a cell is started: when, by what command and code, on which devices."""
    attempts = read_attempts(directory)
    if attempts and attempts[-1]["end"] is None:
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
    """Return the attempts at a cell, oldest first; what cannot be read is left out."""
    try:
        return _read(directory / "attempts.json", "no attempts")["attempts"]
    except (RecordError, KeyError, OSError):
        return []


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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


def check_manifest(directory: Path) -> None:
    """Compare a cell's files with its manifest.

    Raises:
        RecordError: a file is missing or has changed; the message names it.
    """
    manifest = _read(directory / "manifest.json", "")
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.exists():
            raise RecordError(f"{path} is missing")
        if path.stat().st_size != entry["size"] or files.sha256_file(path) != entry["sha256"]:
            raise RecordError(f"{path} has changed since it was written")


def history_csv(rows: list[dict[str, float]]) -> str:
    """Return a history as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_history(path: Path) -> list[dict[str, float]]:
    """Read what `history_csv` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {
                key: int(value) if key in ("epoch", "step", "images") else float(value)
                for key, value in row.items()
                if value
            }
            for row in csv.DictReader(file)
        ]
