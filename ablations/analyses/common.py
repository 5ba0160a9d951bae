"""What the analyses share: cells of a run, their networks and test images, and what is written."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations import files
from ablations.errors import UserError
from ablations.prediction import load_model
from ablations.records import Cell, Run
from ablations.stream import Source, generator, make_source
from reszoo.errors import choices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Images that run through a network at once.
BATCH = 250

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Report:
    """What an analysis found.

    Attributes:
        name: of the analysis.
        tables: name of a CSV file -> its rows, all with the same keys.
        draw: makes the figure.
        summary: lines of a short table.
        notes: what was left out, and why.
    """

    name: str
    tables: dict[str, list[dict[str, Any]]]
    draw: Callable[[], Figure]
    summary: list[str]
    notes: list[str] = field(default_factory=list)

    def write(self, run: Run, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
        """Write CSV files and figure to RUN/analyses/NAME/; return the paths."""
        from ablations.report._axes import save

        directory = run.directory / "analyses" / self.name
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, rows in self.tables.items():
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            paths.append(directory / f"{name}.csv")
            files.write(paths[-1], text.getvalue())
        return paths + save(self.draw(), directory, self.name, formats)


def select(run: Run, only: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Cell]:
    """Return the finished cells of some arms and seeds, arm by arm.

    Raises:
        UserError: an arm or a seed is not in the run, or none of them is finished.
    """
    names = [arm.name for arm in run.arms]
    for name in only or ():
        if name not in names:
            raise UserError(choices("unknown arm", name, names))
    for seed in seeds or ():
        if seed not in run.grid["seeds"]:
            raise UserError(choices("unknown seed", seed, map(str, run.grid["seeds"])))
    wanted = [
        cell
        for cell in run.cells
        if (only is None or cell.arm in only) and (seeds is None or cell.seed in seeds)
    ]
    cells = [cell for name in names for cell in wanted if (cell.arm, cell.state) == (name, "done")]
    if not cells:
        problems = [f"{c.label} {c.state}: {c.problem}" for c in wanted if c.problem]
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        why = f" ({problems[0]}{more})" if problems else ""
        raise UserError(f"{run.directory} has no finished cell of these arms and seeds{why}")
    return cells


def by_arm(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return arm -> its cells, in order."""
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        arms.setdefault(cell.arm, []).append(cell)
    return arms


def load_network(cell: Cell) -> Any:
    """Return a cell's Keras model, computing in float32 whatever it was trained in.

    Raises:
        UserError: the file cannot be loaded.
    """
    model = load_model(cell.directory / "model.keras")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # every unit of a network is traced once, on purpose
    for layer in model.layers:
        if layer.compute_dtype != "float32":
            layer.dtype_policy = "float32"
    return model


def source(cell: Cell, dataset: Any) -> Source:
    """Return the test images as a cell saw them: its per-pixel mean subtracted."""
    from ablations.recipes import Recipe

    recipe = Recipe.from_dict(cell.config["recipe"])
    mean = cell.predictions()["pixel_mean"]
    return make_source(dataset.test, recipe, cell.seed, mean, os.cpu_count() or 1)


def rows(count: int, limit: int) -> np.ndarray:
    """Return which of `count` images are looked at: `limit` at random, always the same; 0: all."""
    if not limit or limit >= count:
        return np.arange(count)
    return np.sort(generator(0, 0, "analysis").permutation(count)[:limit])


def batches(source: Source, chosen: np.ndarray) -> Iterator[Batch]:
    """Yield float32 images (n, height, width, channels) and labels (n,), un-augmented."""
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        yield source.plain(part), source.labels[part]


def images_sentence(dataset: Any, chosen: np.ndarray) -> str:
    """Return how many test images an analysis rests on."""
    count = len(dataset.test.labels)
    if len(chosen) == count:
        return f"All {count:,} test images."
    return f"{len(chosen):,} of {count:,} test images, at random, the same for all networks."


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text as aligned lines; the first column to the left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
