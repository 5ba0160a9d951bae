"""TensorBoard's view of a run: what is written is read back with TensorBoard's own code."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ablations
from ablations import cell_files, records
from ablations.records import Arm, Cell, Run
from ablations.report import compare
from ablations.report import tensorboard as tb

TAGS = {
    "error/train": "train_error_running",
    "error/test": "test_error",
    "loss/train": "train_loss_running",
    "loss/test": "test_loss",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


def history(epochs: int = 3, seed: int = 0) -> list[dict[str, float]]:
    """Return a made-up history; every number differs."""
    draw = np.random.default_rng(seed)
    return [
        {
            "epoch": epoch, "step": 10 * epoch, "images": 1280 * epoch,
            "learning_rate": 0.1 / epoch, "train_loss_running": draw.uniform(0, 3),
            "train_error_running": draw.uniform(0, 90), "test_loss": draw.uniform(0, 3),
            "test_error": draw.uniform(0, 90), "seconds": 4.0 * epoch,
            "images_per_second": draw.uniform(300, 400),
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def made_up_run(root: Path, factors: dict[str, dict], seeds: int = 3, epochs: int = 3) -> Run:
    """Return a run in memory: arm -> factors."""
    arms = [Arm(name, levels, "resnet20", {}, {}, 1, 1, 20) for name, levels in factors.items()]
    cells = [
        Cell(arm.name, seed, records.cell_directory(root, arm.name, seed), "done", {}, {},
             history(epochs, seed=10 * seed + index + len(root.name)))
        for seed in range(seeds)
        for index, arm in enumerate(arms)
    ]  # fmt: skip
    return Run(root, {"seeds": list(range(seeds))}, arms, cells)


def write_cells(run: Run) -> None:
    for cell in run.cells:
        tb.CellWriter(tb.cell_log_directory(run.directory, cell.arm, cell.seed), cell.history)
        tb.write_session(run.directory, run.arms, cell.arm, cell.seed, cell.state)


def accumulator(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> [(step, value)], read by TensorBoard."""
    read = accumulator(directory)
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def expected(rows: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return the same from a history; TensorBoard stores 32 bits."""
    return {
        tag: [(row["step"], float(np.float32(row[column]))) for row in rows]
        for tag, column in TAGS.items()
    }


# --- a cell's curves


def test_curves_equal_the_history_without_a_close(tmp_path: Path) -> None:
    rows = history()
    writer = tb.CellWriter(tmp_path)
    for count, row in enumerate(rows, start=1):
        writer.scalars(row["step"], tb.scalars(row))
        assert curves(tmp_path) == expected(rows[:count])
    writer.close()
    assert curves(tmp_path) == expected(rows)


def test_a_killed_process_loses_nothing_and_tensorflow_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from ablations.report import tensorboard as tb\n"
        "writer = tb.CellWriter(Path(sys.argv[1]))\n"
        "tb.write_hparams(Path(sys.argv[1]), 'r/A', {'grid': 'r', 'depth': 8.0}, 'done')\n"
        "writer.scalars(7, {'error/test': 0.5})\n"
        "heavy = {'tensorflow', 'keras', 'torch', 'jax', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "[]\n"), done.stderr
    assert curves(tmp_path) == {"error/test": [(7, 0.5)]}


def test_beside_tensorflow(tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.summary.create_file_writer(str(tmp_path / "tf")).as_default():
        tf.summary.scalar("theirs", 0.5, step=1)
    write_cells(made_up_run(tmp_path / "run", {"A": {"depth": 8}}, seeds=1))
    assert len(curves(tmp_path / "run/cells/A/seed0")) == len(TAGS)


def test_a_resumed_cell_has_each_step_once(tmp_path: Path) -> None:
    rows = history(5)
    first = tb.CellWriter(tmp_path, rows[:4])  # killed after epoch 4, checkpointed after epoch 3
    watching = accumulator(tmp_path)
    assert [e.step for e in watching.Scalars("error/test")] == [10, 20, 30, 40]
    second = tb.CellWriter(tmp_path, rows[:3])
    assert curves(tmp_path) == expected(rows[:3])
    second.scalars(45, {"error/test": 1.0})
    second.scalars(50, tb.scalars(rows[4]))
    fresh = curves(tmp_path)
    assert [step for step, _ in fresh["error/test"]] == [10, 20, 30, 45, 50]
    assert [step for step, _ in fresh["loss/train"]] == [10, 20, 30, 50]
    # A TensorBoard that showed the first attempt forgets what the second does not have.
    watching.Reload()
    assert [e.step for e in watching.Scalars("error/test")] == [10, 20, 30, 45, 50]
    assert len(list(tmp_path.iterdir())) == 1
    first.close()
    second.close()


def test_two_files_of_a_cell_are_read_as_the_later_one(tmp_path: Path) -> None:
    """Killed between the new file and the removal of the old one."""
    rows = history(4)
    tb.CellWriter(tmp_path / "old", rows).close()
    old = next((tmp_path / "old").iterdir())
    tb.CellWriter(tmp_path / "new", rows[:2]).close()
    shutil.copy(old, tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert curves(tmp_path / "new") == expected(rows[:2])


def test_wall_times_of_a_history_are_apart_as_the_training_was(tmp_path: Path) -> None:
    tb.CellWriter(tmp_path, history(3), end=1000.0).close()
    assert [e.wall_time for e in accumulator(tmp_path).Scalars("loss/test")] == [992, 996, 1000]
    tb.CellWriter(tmp_path, history(3)).close()  # a resume goes on from when the file was written
    last = accumulator(tmp_path).Scalars("loss/test")
    assert last[0].wall_time == pytest.approx(last[2].wall_time - 8)


def test_only_own_files_are_removed(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", {"A": {"depth": 8}})
    directory = tb.cell_log_directory(run.directory, "A", 0)
    directory.mkdir(parents=True)
    foreign = [directory / "events.out.tfevents.1.host", directory / "log.txt"]
    for path in foreign:
        path.write_text("")
    for _ in range(2):
        write_cells(run)
    kinds = sorted(path.suffix for path in directory.iterdir() if path not in foreign)
    assert kinds == [".ablations-hparams", ".ablations-scalars"]
    assert all(path.exists() for path in foreign)


def test_a_long_cell_is_small(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", {"A": {"depth": 110}}, seeds=1, epochs=182)
    write_cells(run)
    directory = tb.cell_log_directory(run.directory, "A", 0)
    assert sum(path.stat().st_size for path in directory.iterdir()) < 40_000
    assert curves(directory) == expected(run.cells[0].history)


# --- HParams


def hparams_backend(logdir: Path):
    """Return TensorBoard's own answers about a log directory: experiment and session groups."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import (
        api_pb2,
        backend_context,
        get_experiment,
        list_session_groups,
    )

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    statuses = [
        api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE,
        api_pb2.STATUS_RUNNING,
    ]  # fmt: skip
    groups = list_session_groups.Handler(
        RequestContext(),
        context,
        "",
        api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, slice_size=100),
    ).run()
    experiment = get_experiment.Handler(
        RequestContext(), context, "", api_pb2.GetExperimentRequest()
    ).run()
    return experiment, {group.name: group for group in groups.session_groups}


def plain(group) -> dict[str, object]:
    return {key: getattr(v, v.WhichOneof("kind")) for key, v in group.hparams.items()}


def metrics(group) -> dict[str, float]:
    return {metric.name.tag: metric.value for metric in group.metric_values}


def test_two_grids_keep_their_columns_and_average_over_seeds(tmp_path: Path) -> None:
    shortcuts = made_up_run(
        tmp_path / "shortcuts", {"A": {"shortcut": "A"}, "plain": {"shortcut": "none"}}
    )
    decay = made_up_run(
        tmp_path / "decay",
        {"A": {"recipe.l2": 0.0, "recipe.flip": True},
         "plain": {"recipe.l2": 1e-4, "recipe.flip": False}},
    )  # fmt: skip
    for run in (shortcuts, decay):
        write_cells(run)
    experiment, groups = hparams_backend(tmp_path)
    assert {info.name for info in experiment.hparam_infos} == {
        "grid", "arm", "shortcut", "recipe.l2", "recipe.flip",
    }  # fmt: skip
    assert {info.name.tag for info in experiment.metric_infos} == set(TAGS)
    assert {info.name.group for info in experiment.metric_infos} == {""}
    assert set(groups) == {"shortcuts/A", "shortcuts/plain", "decay/A", "decay/plain"}
    assert plain(groups["shortcuts/plain"]) == {
        "grid": "shortcuts", "arm": "plain", "shortcut": "none",
    }  # fmt: skip
    assert plain(groups["decay/plain"]) == {
        "grid": "decay", "arm": "plain", "recipe.l2": 1e-4, "recipe.flip": False,
    }  # fmt: skip
    for run in (shortcuts, decay):
        for arm in run.arms:
            group = groups[f"{run.directory.name}/{arm.name}"]
            assert [session.name for session in group.sessions] == [
                f"{run.directory.name}/cells/{arm.name}/seed{seed}" for seed in range(3)
            ]
            for tag, column in TAGS.items():
                last = [cell.history[-1][column] for cell in run.done(arm.name)]
                assert metrics(group)[tag] == pytest.approx(np.mean(last), rel=1e-6)


def test_states_of_sessions(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import api_pb2

    root = tmp_path / "depth"
    run = made_up_run(root, {"A": {"depth": 8}}, seeds=1)
    for seed, state in enumerate(("running", "failed", "done", "interrupted")):
        tb.write_session(root, run.arms, "A", seed, state)
    tb.write_session(root, run.arms, "A", 4, "failed")
    tb.write_session(root, run.arms, "A", 4, "done")  # trained again
    _, groups = hparams_backend(tmp_path)
    assert [session.status for session in groups["depth/A"].sessions] == [
        api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_FAILURE, api_pb2.STATUS_SUCCESS,
        api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS,
    ]  # fmt: skip


def test_types_of_factors(tmp_path: Path) -> None:
    run = made_up_run(
        tmp_path / "g",
        {"x": {"depths": (3, 3), "drop": None, "flip": True, "width": 8, "mixed": True},
         "y": {"depths": (5, 5), "drop": 0.1, "flip": False, "width": 0.5, "mixed": 1}},
    )  # fmt: skip
    assert tb.arm_hparams(run.directory, run.arms, "x") == {
        "grid": "g", "arm": "x", "depths": "3x3", "drop": "none", "flip": True, "width": 8.0,
        "mixed": "True",
    }  # fmt: skip
    y = tb.arm_hparams(run.directory, run.arms, "y")
    assert (y["drop"], y["flip"], y["width"], y["mixed"]) == ("0.1", False, 0.5, "1")


# --- a run's summaries


@pytest.fixture
def no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tb, "markdown", lambda comparison: f"| {comparison.done} |\n|---|\n")


def write_run(run: Run) -> None:
    tb.write_run(run, SimpleNamespace(done=len(run.done())))


def test_bands_are_mean_and_sample_deviation_at_common_steps(tmp_path: Path, no_table) -> None:
    run = made_up_run(tmp_path / "run", {"A": {"depth": 8}, "B": {"depth": 14}})
    cells = run.done("A")
    cells[1].history.pop()  # seed 1 of A has no step 30
    running = Cell("A", 3, tmp_path, "running", {}, None, history(1))
    write_run(Run(run.directory, run.grid, run.arms, [*run.cells, running]))
    read = curves(run.directory / "_summary" / "A")
    assert set(read) == {
        *TAGS, *(f"spread/{tag}/{name}" for tag in TAGS if "/" in tag
                 for name in ("mean", "mean_minus_std", "mean_plus_std")),
    }  # fmt: skip
    for tag, column in TAGS.items():
        values = np.array([[row[column] for row in cell.history[:2]] for cell in cells])
        mean, std = values.mean(0), values.std(0, ddof=1)
        wanted = {tag: mean}
        if "/" in tag:
            wanted[f"spread/{tag}/mean"] = mean
            wanted[f"spread/{tag}/mean_minus_std"] = mean - std
            wanted[f"spread/{tag}/mean_plus_std"] = mean + std
        for name, numbers in wanted.items():
            assert [step for step, _ in read[name]] == [10, 20]
            assert [value for _, value in read[name]] == pytest.approx(numbers, rel=1e-5, abs=1e-5)
    assert [step for step, _ in curves(run.directory / "_summary" / "B")["loss/test"]] == [
        10, 20, 30,
    ]  # fmt: skip


def test_one_seed_has_no_band(tmp_path: Path, no_table) -> None:
    run = made_up_run(tmp_path / "run", {"A": {"depth": 8}}, seeds=1)
    write_run(run)
    assert curves(run.directory / "_summary" / "A") == expected(run.cells[0].history)


def test_summaries_are_rewritten_from_partial_results(tmp_path: Path, no_table) -> None:
    run = made_up_run(tmp_path / "run", {"A": {"depth": 8}, "B": {"depth": 14}})
    root = run.directory / "_summary"
    write_run(Run(run.directory, run.grid, run.arms, []))
    assert [path.is_file() for path in root.iterdir()] == [True]
    write_run(run)
    (root / "A" / "mine.txt").write_text("")
    (root / "C").mkdir()
    for cells in (run.cells[:3], [c for c in run.cells if c.arm == "B"]):
        write_run(Run(run.directory, run.grid, run.arms, cells))
    events = set(root.rglob("*tfevents*"))
    assert len(events) == 2  # of B, and the table
    others = {path.relative_to(root).as_posix() for path in {*root.rglob("*")} - events}
    assert others == {"A", "A/mine.txt", "B"}
    read = accumulator(root)
    table = read.Tensors("comparison")
    assert [(e.step, e.tensor_proto.string_val[0]) for e in table] == [(3, b"| 3 |\n|---|\n")]


def test_charts_of_all_grids_are_one_layout(tmp_path: Path, no_table) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    layouts = []
    for name in ("one", "two"):
        run = made_up_run(tmp_path / name, {"A": {"depth": 8}})
        write_run(run)
        events = accumulator(run.directory / "_summary").Tensors("custom_scalars__config__")
        layouts.append(layout_pb2.Layout.FromString(events[0].tensor_proto.string_val[0]))
        tags = curves(run.directory / "_summary" / "A")
        for chart in layouts[-1].category[0].chart:
            (series,) = chart.margin.series
            assert {series.value, series.lower, series.upper} <= set(tags)
    assert layouts[0] == layouts[1] and len(layouts[0].category[0].chart) == 4


# --- a real run


def test_backfill_of_a_finished_run(tiny_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_run, tmp_path / "runs" / "tiny"))
    for path in root.rglob("*tfevents*"):
        path.unlink()
    (root / "cells" / "B" / "seed1" / "history.csv").write_text("damaged")
    run = ablations.load(root)
    tb.backfill(run, compare(run))
    command = [sys.executable, "-m", "ablations.report", str(root), "--tensorboard"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    for cell in run.done():
        rows = cell_files.read_history(cell.directory / "history.csv")
        assert curves(tb.cell_log_directory(root, cell.arm, cell.seed)) == expected(rows)
    again = ablations.load(root)  # event files are no part of a cell's manifest
    assert [cell.state for cell in again.cells] == ["done"] * 5 + ["failed"]
    experiment, groups = hparams_backend(root.parent)
    assert set(groups) == {"tiny/plain", "tiny/A", "tiny/B"}
    assert "shortcut" in {info.name for info in experiment.hparam_infos}
    for arm, group in groups.items():
        errors = [cell.results["test_error"] for cell in run.done(arm.split("/")[1])]
        assert metrics(group)["error/test"] == pytest.approx(np.mean(errors), rel=1e-6)
    text = accumulator(root / "_summary").Tensors("comparison")[0].tensor_proto.string_val[0]
    (image,) = accumulator(root / "_summary").Images("figures/curves")
    assert image.encoded_image_string == (root / "figures" / "curves.png").read_bytes()
    assert image.width == 1000
    assert "UNFINISHED: 5 of 6 cells are done." in text.decode() and "| plain |" in text.decode()


def test_a_run_wrote_its_events_while_it_trained(tiny_run: Path) -> None:
    for cell in ablations.load(tiny_run).done():
        assert curves(tb.cell_log_directory(tiny_run, cell.arm, cell.seed)) == expected(
            cell.history
        )
