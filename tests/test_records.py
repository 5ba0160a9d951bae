"""Records that a hand, a disk or a moment has made odd: named in one line, never a traceback."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ablations
from ablations import (
    cell_files,
    environment,
    files,
    records,
    report,
    run_directory,
    runner,
    shapes,
    train,
)
from ablations.analyses import common
from ablations.plan import Plan, plan
from ablations.report.captions import afterwards
from ablations.status import status


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


def put(content: Any, path: str, value: Any) -> None:
    """Set, or with the value `...` remove, what stands at a path such as "results.test_error"."""
    *way, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    for key in way:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


def resign(cell: Path) -> None:
    cell_files.write_manifest(cell, list(cell_files.CELL_FILES))


def damage(cell: Path, file: str, path: str, value: Any) -> None:
    content = json.loads((cell / file).read_text())
    put(content, path, value)
    (cell / file).write_text(json.dumps(content))
    if file != "manifest.json":
        resign(cell)


@pytest.mark.parametrize(
    ("file", "path", "value", "words"),
    [
        ("record.json", "matched.initial_tensors", ..., "lacks matched.initial_tensors"),
        ("record.json", "environment.os", ..., "lacks environment.os"),
        ("record.json", "environment.host", ..., "lacks environment.host"),
        ("record.json", "attempts.0.argv", ..., "lacks attempts.0.argv"),
        ("record.json", "attempts.0.code.sources_sha256", ..., "lacks attempts.0.code.sources"),
        ("record.json", "environment.variables", None, "has environment.variables None"),
        ("record.json", "environment.versions", [], "has environment.versions []"),
        ("record.json", "machine", [1], "has machine [1]; allowed: a mapping"),
        ("record.json", "matched.steps", "2", "has matched.steps '2'"),
        ("record.json", "results.test_error", "abc", "allowed: a number from 0 to 100"),
        ("record.json", "results.test_error", None, "allowed: a number from 0 to 100"),
        ("record.json", "results.test_error", float("nan"), "NaN is no number"),
        ("record.json", "results.test_error", float("inf"), "Infinity is no number"),
        ("record.json", "results.test_error", 250, "has results.test_error 250"),
        ("record.json", "results.test_error", -3, "has results.test_error -3"),
        ("record.json", "results.test_error", True, "has results.test_error True"),
        ("record.json", "results.test_wrong", "x", "has results.test_wrong 'x'"),
        ("record.json", "results.wall_seconds", None, "has results.wall_seconds None"),
        ("record.json", "results", [], "has results []"),
        ("record.json", "final_sha256", "zz", "allowed: a SHA-256 in hex"),
        ("cell.json", "config.platform", ..., "lacks config.platform"),
        ("cell.json", "config.recipe.l2", ..., "has config.recipe, which lacks l2"),
        ("cell.json", "config.recipe.batch", 0, "has config.recipe that cannot be: recipe.batch"),
        ("cell.json", "config.spec.depths", [], "has config.spec that cannot be: depths"),
        ("cell.json", "config.data", ..., "lacks config.data"),
        ("manifest.json", "files", {}, "does not vouch for cell.json, record.json"),
        ("manifest.json", "files", [], "has files []; allowed: a mapping"),
        ("manifest.json", "files.predictions.npz", ..., "does not vouch for predictions.npz"),
    ],
)
def test_a_record_of_another_shape_is_a_failed_cell(file, path, value, words, copy: Path) -> None:
    directory = copy / "cells" / "A" / "seed1"
    if path.startswith("files.p"):
        content = json.loads((directory / file).read_text())
        del content["files"]["predictions.npz"]
        (directory / file).write_text(json.dumps(content))
    else:
        damage(directory, file, path, value)
    check_failed(copy, words)


def check_failed(run: Path, words: str) -> None:
    """A/seed1 failed for a reason of one line, and the report is made all the same."""
    found = ablations.load(run)
    (cell,) = [one for one in found.cells if one.state != "done"]
    assert (cell.arm, cell.seed, cell.state) == ("A", 1, "failed")
    assert words in cell.problem and "\n" not in cell.problem
    comparison = report.compare(found)
    assert words.split(" ")[0] in report.terminal(comparison, 200)
    assert comparison.done == 5 and words in status(found)


def history(text: str) -> Callable[[Path], None]:
    return lambda cell: (cell / "history.csv").write_text(text) and None


def no_predictions(cell: Path) -> None:
    (cell / "predictions.npz").write_bytes(b"PK\3\4 not an archive")


def predictions_of_other_arrays(cell: Path) -> None:
    np.savez(cell / "predictions.npz", label=np.zeros(3, np.int32))


def uneven_predictions(cell: Path) -> None:
    np.savez(cell / "predictions.npz", label=np.zeros(3, int), predicted=np.zeros(2, int))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (history("a,b\n1,2\n"), "history.csv is damaged: row 1 has other columns"),
        (history(",".join(cell_files.HISTORY) + "\n"), "history.csv is damaged: it has no epoch"),
        (no_predictions, "predictions.npz is damaged"),
        (predictions_of_other_arrays, "predictions.npz is damaged"),
        (uneven_predictions, "classes for (3,) labels"),
        (lambda cell: (cell / "fed.sha256").write_text("zz\n"), "fed.sha256 is damaged"),
    ],
)
def test_a_file_of_another_shape_is_a_failed_cell(change, words: str, copy: Path) -> None:
    directory = copy / "cells" / "A" / "seed1"
    change(directory)
    resign(directory)
    check_failed(copy, words)


def test_a_number_that_is_not_finite_in_a_history(copy: Path) -> None:
    directory = copy / "cells" / "A" / "seed1"
    with open(directory / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["train_loss_running"] = "nan"
    (directory / "history.csv").write_text(cell_files.history_csv(rows))  # type: ignore[arg-type]
    resign(directory)
    check_failed(copy, "history.csv is damaged: train_loss_running is nan")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("baseline", "zz", 'has a baseline that is no arm: unknown arm "zz"'),
        ("paper", ..., "lacks paper"),
        ("seeds", ..., "lacks seeds"),
        ("seeds", [], "lists no seeds"),
        ("seeds", [0, 0], "lists the seed 0 twice"),
        ("jobs", ..., "lacks jobs"),
        ("data.notes", ..., "lacks data.notes"),
        ("title", 3, "has title 3; allowed: text"),
        ("analysis", {"margin": "x"}, "has analysis.margin 'x'"),
        ("arms.0.foo", 1, 'unknown key of arms.0 "foo"'),
        ("arms.0.recipe", ..., "lacks arms.0.recipe"),
        ("arms.0.recipe.l2", ..., "has arms.0.recipe, which lacks l2"),
        ("arms.0.name", "../../x", "has arms.0.name '../../x'; allowed: the name of a directory"),
        ("arms.1.name", "plain", "lists the arm plain twice"),
        ("arms", [], "lists no arms"),
        ("arms.0.paper", {"value": 1.0}, "lacks paper.metric"),
        ("schema", True, "has schema True"),
    ],
)
def test_a_plan_of_another_shape_is_named(path, value, words, copy: Path) -> None:
    grid = files.read_signed(copy / "grid.json")
    put(grid, path, value)
    files.write_signed(copy / "grid.json", grid)
    with pytest.raises(records.RecordError) as caught:
        ablations.load(copy)
    assert words in str(caught.value) and str(copy / "grid.json") in str(caught.value)
    assert "\n" not in str(caught.value)


# --- a plan that is lost


def again(grid: Path, images: Path, out: Path, **options: Any) -> Plan:
    """Return the plan of the command that made the tiny run."""
    return plan(str(grid), data_dir=images, seeds=2, epochs=8, out=out, **options)


def test_a_lost_plan_comes_back_from_its_copy(copy: Path, tiny_grid: Path, images: Path) -> None:
    """Also what does not follow from the command: a baseline chosen after the fact."""
    runner.execute(again(tiny_grid, images, copy, baseline="A"))  # trains nothing
    assert files.read_signed(copy / "grid.json")["planned_baseline"] == "plain"
    damaged = (copy / "grid.json").read_bytes().replace(b'"plain"', b'"plaim"', 1)
    (copy / "grid.json").write_bytes(damaged)
    with pytest.raises(records.RecordError, match=r"delete it, and its copy grid\.copy\.json"):
        again(tiny_grid, images, copy)
    (copy / "grid.json").unlink()
    run = runner.execute(again(tiny_grid, images, copy))
    assert (run.grid["baseline"], run.grid["planned_baseline"]) == ("A", "plain")
    assert len(run.done()) == 6 and "lost" not in run.grid
    assert files.read_signed(copy / "grid.json") == files.read_signed(copy / "grid.copy.json")


def test_a_plan_lost_with_its_copy_is_said_in_the_table(
    copy: Path, tiny_grid: Path, images: Path
) -> None:
    for name in ("grid.json", "grid.copy.json"):
        (copy / name).unlink()
    with pytest.raises(records.RecordError, match=r"has cells but no grid\.json"):
        ablations.load(copy)
    with pytest.raises(ablations.UserError, match="holds cells of another configuration"):
        plan(str(tiny_grid), data_dir=images, seeds=2, epochs=9, out=copy)
    for _ in range(2):  # it stays known
        run = runner.execute(again(tiny_grid, images, copy, margin=2.0))
        assert len(run.done()) == 6 and [cell.problem for cell in run.cells] == [""] * 6
        assert "THE PLAN WAS LOST" in (copy / "table.md").read_text()
    assert afterwards({**run.grid, "lost": False}) == []


def test_a_lost_plan_of_a_damaged_run_is_no_traceback(copy: Path, tiny_grid, images) -> None:
    for name in ("grid.json", "grid.copy.json"):
        (copy / name).unlink()
    (copy / "cells" / "A" / "seed0" / "cell.json").write_text("{")
    with pytest.raises(ablations.UserError, match=r"cell\.json is damaged"):
        again(tiny_grid, images, copy)


def test_other_files_are_no_run(tmp_path: Path) -> None:
    assert not run_directory.holds_run(tmp_path / "new")
    (tmp_path / "cells" / "A" / "seed0").mkdir(parents=True)
    with pytest.raises(ablations.UserError, match="holds other files"):
        run_directory.holds_run(tmp_path)
    (tmp_path / "cells" / "A" / "seed0" / "cell.json").touch()
    assert run_directory.holds_run(tmp_path)


# --- running cells, from outside


@pytest.fixture
def started(copy: Path) -> Path:
    """Return the directory of a cell that looks as if it were in training."""
    directory = copy / "cells" / "A" / "seed1"
    (directory / "manifest.json").unlink()
    files.write_json(directory / "progress.json", {"epoch": 1.5, "step": 3})
    launch = {"argv": ["run.py"], "code": {"sources_sha256": "00"}}
    cell_files.start_attempt(directory, launch)
    return directory


def state(directory: Path) -> str:
    """Return the status line of A/seed1."""
    text = status(ablations.load(directory.parents[2]))
    return next(line for line in text.splitlines() if line.startswith("  A/seed1 "))


def test_what_holds_its_lock_is_running(started: Path) -> None:
    lock = started / ".lock"
    old = time.time() - 1000
    with files.lock(lock):
        assert "A/seed1  running, epoch 1.5, step 3" in state(started)
        os.utime(started / "progress.json", (old, old))
        assert "running" in state(started) and "silent for 16 min 40 s" in state(started)
    assert "interrupted" in state(started)
    os.utime(started / "progress.json")
    lock.write_text(f"pid 1 on {os.uname().nodename}")  # as SIGKILL leaves it
    assert "interrupted" in state(started) and "its process is gone" in state(started)
    lock.write_text("pid 1 on another-host")  # whose locks may not show here
    assert "running" in state(started)
    os.utime(started / "progress.json", (old, old))
    assert "interrupted" in state(started)


@pytest.mark.parametrize("text", ["[]", "3", '{"epoch": "x"}', "{", '{"step": -1}'])
def test_damaged_progress_is_said(text: str, started: Path) -> None:
    (started / "progress.json").write_text(text)
    assert "progress.json cannot be read" in state(started)
    cell_files.write_failure(started, "stopped")
    assert files.read_json(started / "failure.json")["step"] == 0


@pytest.mark.parametrize("text", ['{"schema": 1, "attempts": 3}', "[1]", "[{}]", "{"])
def test_damaged_attempts_are_said(text: str, started: Path) -> None:
    (started / "attempts.json").write_text(text)
    assert "attempts.json cannot be read" in state(started)
    run = ablations.load(started.parents[2])
    report.write_files(run, report.compare(run), run.directory)
    cell_files.end_attempt(started, "stopped")
    cell_files.start_attempt(started, {"argv": [], "code": {"sources_sha256": ""}})
    assert len(cell_files.read_attempts(started)) == 1


def test_a_cell_that_finishes_while_it_is_read(copy: Path, monkeypatch) -> None:
    directory = copy / "cells" / "A" / "seed1"
    (directory / "manifest.json").rename(directory / "aside")
    files.write_json(directory / "progress.json", {"step": 3})
    read = shapes.read

    def finish(path: Path, *rest: Any) -> dict[str, Any]:
        if (directory / "aside").exists():
            (directory / "aside").rename(directory / "manifest.json")
            (directory / "progress.json").unlink()
        return read(path, *rest)

    monkeypatch.setattr(shapes, "read", finish)
    assert records.load_cell(copy, "A", 1).state == "done"


def test_a_failure_that_vanishes_while_it_is_read(copy: Path, monkeypatch) -> None:
    directory = copy / "cells" / "A" / "seed1"
    (directory / "manifest.json").unlink()
    cell_files.write_failure(directory, "old")
    read = shapes.read

    def vanish(path: Path, *rest: Any) -> dict[str, Any]:
        (directory / "failure.json").unlink(missing_ok=True)  # --retry_failed starts it again
        return read(path, *rest)

    monkeypatch.setattr(shapes, "read", vanish)
    cell = records.load_cell(copy, "A", 1)
    assert (cell.state, cell.problem) == ("planned", "")


def test_what_an_orphan_wrote_is_gone_when_the_cell_starts(copy: Path, monkeypatch) -> None:
    """A killed runner's cell may finish after the next runner has cleared the directory."""
    from ablations import cell

    directory = copy / "cells" / "A" / "seed1"
    seen: list[bool] = []

    class Started:
        def __init__(self, *_: Any) -> None:
            seen.append((directory / "manifest.json").exists())

        def run(self) -> None:
            pass

    monkeypatch.setattr(cell, "CellRun", Started)
    monkeypatch.setattr(train, "_end_with_parent", lambda: None)
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)
    assert train.main(directory, copy / "data") == 0 and seen == [False]


def test_a_kill_while_the_data_are_removed_leaves_no_half(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.json").touch()
    it = SimpleNamespace(root=tmp_path, data_directory=tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before it began
        runner._Runner._remove_data(it)  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_editor_s_files_are_no_code(tmp_path: Path) -> None:
    """Emacs leaves a link to nowhere beside every file that it has changes of."""
    for name in ("a.py", "b.yaml", "c.txt", "below/d.py", "__pycache__/e.py", ".git/f.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".#a.py").symlink_to("me@here.123")
    (tmp_path / "gone.py").symlink_to("nowhere")
    found = {str(path.relative_to(tmp_path)) for path in environment._sources(tmp_path)}
    assert found == {"a.py", "b.yaml", "below/d.py"}


def test_an_analysis_names_why_there_is_no_cell(copy: Path) -> None:
    for seed in (0, 1):
        (copy / "cells" / "A" / f"seed{seed}" / "model.keras").unlink()
    run = ablations.load(copy)
    with pytest.raises(ablations.UserError, match=r"A/seed0 failed: .*model\.keras is missing and"):
        common.select(run, ["A"], None)
    assert len(common.select(run, None, None)) == 4
