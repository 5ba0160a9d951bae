"""The files of one cell: how they are written, and what of them is checked on reading."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations import files, shapes
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
class Tested:
    """What a finished cell's predictions.npz says.

    Attributes:
        images: in the test part.
        wrong: of them, those that were taken for another class.
        labels: SHA-256 over the images' labels.
        classes: how many different ones were predicted.
    """

    images: int
    wrong: int
    labels: str
    classes: int


def read_tested(path: Path) -> Tested:
    """Return what a cell's predictions say; only labels and classes are decompressed."""
    import numpy as np

    with open_arrays(path) as arrays:
        label, predicted = arrays["label"], arrays["predicted"]
    if not (label.ndim == 1 and label.shape == predicted.shape and label.size):
        raise RecordError(f"{path} has {predicted.shape} classes for {label.shape} labels")
    if label.dtype.kind not in "iu" or predicted.dtype.kind not in "iu":
        raise RecordError(f"{path} has labels of type {label.dtype}, {predicted.dtype}")
    wrong = int(np.count_nonzero(label != predicted))
    labels = files.sha256(label.astype("<i8").tobytes())
    return Tested(len(label), wrong, labels, len(np.unique(predicted)))


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[Any]:
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


def check_fed(path: Path) -> None:
    """Refuse a fed.sha256 that is not one SHA-256 a line: RecordError."""
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
