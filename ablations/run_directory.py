"""Which directories hold a run, and grid.json: the plan, with a copy that outlives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablations import files, shapes
from ablations.errors import UserError
from ablations.shapes import RecordError

GRID = "grid.json"
#: The same again: not everything in a plan follows from the command (a baseline that was changed
#: after results were known, what --seeds auto decided), so losing one file must not lose it.
GRID_COPY = "grid.copy.json"


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


def cells(directory: Path) -> list[tuple[str, int]]:
    """Return arm and seed of every cell that was ever started in a directory."""
    found = [path.parent for path in directory.glob("cells/*/seed*/cell.json")]
    numbers = [(path.parent.name, path.name.removeprefix("seed")) for path in found]
    return sorted((arm, int(seed)) for arm, seed in numbers if seed.isdecimal())


def holds_run(directory: Path) -> bool:
    """Return whether a directory for a run holds one already, rather than being new or empty.

    Raises:
        UserError: it is a file, or holds other files than a run's.
    """
    refuse_file(directory)
    if not directory.exists():
        return False
    if has_grid(directory) or cells(directory):
        return True
    strangers = [path.name for path in directory.iterdir() if not path.name.startswith(".")]
    if strangers:
        raise UserError(
            f"--out {directory} holds other files ({strangers[0]}); name a new directory"
        )
    return False


def has_grid(directory: Path) -> bool:
    """Return whether a directory has a plan, or its copy."""
    return any((directory / name).exists() for name in (GRID, GRID_COPY))


def grid_path(directory: Path) -> Path:
    """Return which file holds a run's plan: grid.json, or its copy where that is gone."""
    path, copy = directory / GRID, directory / GRID_COPY
    return copy if copy.exists() and not path.exists() else path


def write_grid(directory: Path, content: dict[str, Any]) -> None:
    """Write a run's plan, and its copy."""
    for name in (GRID, GRID_COPY):
        files.write_signed(directory / name, content)


def read_grid(directory: Path) -> dict[str, Any]:
    """Return a run's plan, checked; where grid.json is gone, from its copy.

    Raises:
        RecordError: there is none, or it is damaged, or of an unknown version.
    """
    if (file := obstacle(directory)) is not None:
        raise RecordError(f"{directory} holds no run: {file} is a file, not a directory")
    path = grid_path(directory)
    missing = f"{directory} holds no run: it has no {GRID}"
    if cells(directory):
        missing = f"{directory} has cells but no {GRID}: the command that made them writes it again"
    grid = shapes.read(path, {}, missing)
    try:
        grid = files.verified(path, grid)
        shapes.check_grid(grid)
    except shapes.ShapeError as error:
        text = f"{path} {error}"
    except ValueError as error:
        text = str(error)
    else:
        return grid
    if path.name == GRID and (directory / GRID_COPY).exists():
        raise RecordError(f"{text}; delete it, and its copy {GRID_COPY} takes its place")
    raise RecordError(
        f"{text}; delete it, and the command that made the run writes it again, without a baseline "
        "or margin that was planned before"
    )
