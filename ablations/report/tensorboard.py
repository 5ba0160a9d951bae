"""A run directory as TensorBoard shows it: `tensorboard --logdir runs/`.

    runs/NAME/
      cells/ARM/seed0/     run NAME/cells/ARM/seed0: curves of a cell, and its HParams session
      _summary/            run NAME/_summary: the comparison table, layout of the Custom Scalars
      _summary/ARM/        run NAME/_summary/ARM: mean over finished seeds, mean ± std

Everything here can be written again at any time from the records. Event files are no part of a
cell's manifest. A writer removes the older files of its own kind, by name, and nothing else.

TensorFlow is never imported: TensorBoard's own protocol buffers and record format are enough.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata

from ablations import records
from ablations.grids.declared import levels
from ablations.records import Arm, Cell, Run
from ablations.report.comparison import Comparison
from ablations.report.events import EventFile, event_files, tensor
from ablations.report.factors import level_texts
from ablations.report.table import markdown
from ablations.stats import summarise

HParams = dict[str, bool | float | str]

#: Tag -> column of the history, and what TensorBoard says about it.
SCALARS = {
    "error/train": ("train_error_running", "% of wrong top-1 predictions while training: running "
                    "over the epoch, augmented images, batch statistics"),
    "error/test": ("test_error", "% of wrong top-1 predictions on the test images"),
    "error/validation": ("validation_error", "% of wrong top-1 predictions on the images held out "
                         "of the training set"),
    "loss/train": ("train_loss_running", "cross-entropy while training, running over the epoch"),
    "loss/test": ("test_loss", "cross-entropy on the test images"),
    "loss/validation": ("validation_loss", "cross-entropy on the images held out"),
    "learning_rate": ("learning_rate", "of the epoch's last step"),
    "images_per_second": ("images_per_second", "training steps only"),
}  # fmt: skip
#: Tags with a band, and the titles of their charts.
BANDS = {
    "error/test": "Test error, %",
    "error/validation": "Validation error, %",
    "error/train": "Training error (running), %",
    "loss/test": "Test loss",
    "loss/validation": "Validation loss",
    "loss/train": "Training loss (running)",
}
SUMMARY = "_summary"
_STATUS = {"done": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}


def cell_log_directory(root: Path, arm: str, seed: int) -> Path:
    """Return where a cell's event files are: with its other files.

    TensorBoard names a run by its path. NAME/cells/A/seed0 is the shortest that adds no directory
    an arm beside table.md; and who deletes, copies or sends a cell has its curves with it.
    """
    return records.cell_directory(root, arm, seed)


def scalars(row: Mapping[str, float]) -> dict[str, float]:
    """Return tag -> value of one row of a history; empty columns are left out."""
    return {tag: row[column] for tag, (column, _) in SCALARS.items() if column in row}


def last_scalars(
    history: Sequence[Mapping[str, float]], results: Mapping[str, float]
) -> dict[str, float]:
    """Return tag -> value of the test error where the curves do not show it: evaluated once."""
    if not history or "test_error" in history[-1]:
        return {}
    return scalars({name: results[name] for name in ("test_error", "test_loss")})


class CellWriter:
    """The curves of a cell, written while it trains; every call reaches the operating system.

    What an earlier attempt wrote is replaced by `history`, so that each step stands once and no
    step that was lost with the attempt remains.

    Args:
        directory: from `cell_log_directory`.
        history: the epochs that this attempt does not train again.
        end: time of the last of them; default: when the earlier attempt last wrote.
    """

    def __init__(
        self,
        directory: Path,
        history: Sequence[Mapping[str, float]] = (),
        end: float | None = None,
    ) -> None:
        if end is None:
            times = [path.stat().st_mtime for path in event_files(directory, "scalars")]
            end = max(times, default=time.time())
        self._file = EventFile(directory, "scalars")
        self._described: set[str] = set()
        for row in history:
            ago = history[-1]["seconds"] - row["seconds"]
            self.scalars(int(row["step"]), scalars(row), end - ago)
        self._file.replace_older()

    def scalars(
        self, step: int, values: Mapping[str, float], wall_time: float | None = None
    ) -> None:
        """Write one value a tag.

        Args:
            step: of training.
            values: tag -> value; see `scalars` for an epoch's.
            wall_time: seconds since 1970; default: now.
        """
        if not values:
            return
        summary = summary_pb2.Summary()
        for tag, value in values.items():
            point = summary.value.add(tag=tag, simple_value=value)
            if tag in SCALARS and tag not in self._described:
                point.metadata.summary_description = SCALARS[tag][1]
        self._described.update(values)
        self._file.write(summary, step, wall_time)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_hparams(directory: Path, trial_id: str, hparams: HParams, status: str) -> None:
    """Write a cell's HParams session. TensorBoard averages the sessions of one trial.

    No experiment is configured: TensorBoard reads one configuration a log directory, and would
    show one grid's columns only. Without any it collects them from the sessions.

    Args:
        directory: from `cell_log_directory`.
        trial_id: "RUN/ARM".
        hparams: from `arm_hparams`.
        status: the cell's state. Sessions that are neither done nor failed stay open: TensorBoard
            keeps the first status that it sees.
    """
    file = EventFile(directory, "hparams", restarts=False)
    file.write(summary_v2.hparams_pb(hparams, trial_id=trial_id))
    if status in _STATUS:
        end = plugin_data_pb2.SessionEndInfo(status=_STATUS[status], end_time_secs=time.time())
        content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        file.write(
            tensor(
                hparams_metadata.SESSION_END_INFO_TAG,
                hparams_metadata.create_summary_metadata(content),
            )
        )
    file.replace_older()
    file.close()


def arm_hparams(root: Path, arms: Sequence[Arm], arm: str) -> HParams:
    """Return what identifies an arm among all grids of a log directory.

    A factor has one type in all arms: truth value, number, or else text.

    Args:
        root: directory of the run.
        arms: all of the grid.
        arm: name of one.
    """
    factors = dict.fromkeys(factor for one in arms for factor in one.factors)
    every = {one.name: levels(one, factors) for one in arms}
    texts = level_texts(next(one for one in arms if one.name == arm), factors)
    result: HParams = {"grid": run_name(root), "arm": arm}
    for factor, value in every[arm].items():
        found = [of_arm.get(factor) for of_arm in every.values()]
        flags = [isinstance(level, bool) for level in found]
        if all(flags):
            result[factor] = bool(value)
        elif not any(flags) and all(isinstance(level, int | float) for level in found):
            result[factor] = float(value)
        else:
            result[factor] = texts[factor]
    return result


def run_name(root: Path) -> str:
    """Return the name of a run: its directory's."""
    return root.resolve().name


def write_session(root: Path, arms: Sequence[Arm], arm: str, seed: int, state: str) -> None:
    """Write the HParams session of one cell in a state of `records.Cell`."""
    write_hparams(
        cell_log_directory(root, arm, seed),
        f"{run_name(root)}/{arm}",
        arm_hparams(root, arms, arm),
        state,
    )


def write_run(run: Run, comparison: Comparison, written: Sequence[Path] = ()) -> None:
    """Write the summaries of a run, finished or not: bands over seeds, table, layout, figures.

    Args:
        run: its records.
        comparison: made from them.
        written: files of the report; the figures among them (PNG) become images.
    """
    root = run.directory / SUMMARY
    finished = {arm.name: run.done(arm.name) for arm in run.arms}
    for stale in root.glob("*/"):
        if not finished.get(stale.name):
            for path in event_files(stale, "summary"):
                path.unlink()
            with contextlib.suppress(OSError):  # not empty: not ours
                stale.rmdir()
    for arm, cells in finished.items():
        if cells:
            _write_band(root / arm, cells)
    file = EventFile(root, "summary")
    file.write(
        tensor(
            layout_metadata.CONFIG_SUMMARY_TAG,
            layout_metadata.create_summary_metadata(),
            _layout(run).SerializeToString(),
        )
    )
    text = text_metadata.create_summary_metadata(display_name="", description="")
    file.write(tensor("comparison", text, markdown(comparison).encode()), comparison.done)
    for path in written:
        if path.suffix == ".png":
            file.write(_image(f"figures/{path.stem}", path.read_bytes()), comparison.done)
    file.replace_older()
    file.close()


def _image(tag: str, png: bytes) -> summary_pb2.Summary:
    width, height = struct.unpack(">II", png[16:24])  # PNG's first chunk
    image = summary_pb2.Summary.Image(
        height=height, width=width, colorspace=4, encoded_image_string=png
    )
    return summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)])


def backfill(run: Run, comparison: Comparison, written: Sequence[Path] = ()) -> None:
    """Write everything from the records: of runs made before, or after files were lost.

    Curves of cells that are not finished are left as they are.

    Args:
        run: its records.
        comparison: made from them.
        written: see `write_run`.
    """
    for cell in run.cells:
        if cell.state == "planned":
            continue
        if cell.state == "done":
            log = cell_log_directory(run.directory, cell.arm, cell.seed)
            end = (cell.directory / "history.csv").stat().st_mtime
            writer = CellWriter(log, cell.history, end)
            step = int(cell.history[-1]["step"])
            writer.scalars(step, last_scalars(cell.history, cell.results), end)
            writer.close()
        write_session(run.directory, run.arms, cell.arm, cell.seed, cell.state)
    write_run(run, comparison, written)


def band(cells: Sequence[Cell], tag: str) -> dict[int, tuple[float, float]]:
    """Return step -> mean and sample standard deviation, at the steps that all cells have."""
    column = SCALARS[tag][0]
    curves = [
        {int(row["step"]): row[column] for row in cell.history if column in row} for cell in cells
    ]
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    summaries = {step: summarise([curve[step] for curve in curves]) for step in steps}
    return {step: (summary.mean, summary.std) for step, summary in summaries.items()}


def _band_tags(tag: str) -> tuple[str, str, str]:
    """Return tags of mean, mean - std and mean + std; Custom Scalars passes over runs without."""
    return f"spread/{tag}/mean", f"spread/{tag}/mean_minus_std", f"spread/{tag}/mean_plus_std"


def _write_band(directory: Path, cells: Sequence[Cell]) -> None:
    """Write the means also under the cells' own tags, so that they stand in the same charts."""
    points: dict[int, dict[str, float]] = {}
    for tag in SCALARS:
        for step, (mean, std) in band(cells, tag).items():
            values = points.setdefault(step, {})
            values[tag] = mean
            if tag in BANDS and len(cells) > 1:
                levels = (mean, mean - std, mean + std)
                values |= zip(_band_tags(tag), levels, strict=True)
    file = EventFile(directory, "summary")
    for step, values in points.items():
        summary = summary_pb2.Summary()
        for tag, value in values.items():
            summary.value.add(tag=tag, simple_value=value)
        file.write(summary, step)
    file.replace_older()
    file.close()


def _layout(run: Run) -> layout_pb2.Layout:
    """Return the charts of the Custom Scalars page: TensorBoard merges equal ones of all runs."""
    held_out = "held_out" in run.grid.get("data", {})
    category = layout_pb2.Category(title="Mean over seeds ± sample standard deviation")
    for tag, title in reversed(BANDS.items()):  # TensorBoard shows the last one first
        if ("test" if held_out else "validation") in tag:
            continue
        mean, lower, upper = _band_tags(tag)
        series = layout_pb2.MarginChartContent.Series(value=mean, lower=lower, upper=upper)
        margin = layout_pb2.MarginChartContent(series=[series])
        category.chart.append(layout_pb2.Chart(title=title, margin=margin))
    return layout_pb2.Layout(category=[category])
