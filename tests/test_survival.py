"""What a run survives: SIGKILL at any moment, a full disk, damaged files; and how it says so.

The kill tests start the real command in a process group of its own, SIGKILL the group, continue
with the same command, and compare every tensor of every cell with an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ablations
from ablations import checkpoints, files, records

EPOCHS = 120  # 48 images: 45 steps of 128, a checkpoint at nearly every one


def arguments(grid: Path, images: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "ablations.run", "--grid", str(grid), "--data_dir", str(images),
        "--seeds", "1", "--only", "A,B", "--epochs", str(EPOCHS), "--threads", "1", "--jobs", "2",
        "--out", str(out),
    ]  # fmt: skip


def finish(command: list[str], limit: int | None = None) -> subprocess.CompletedProcess:
    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=bound)


@pytest.fixture(scope="session")
def whole(tiny_grid: Path, images: Path, tmp_path_factory) -> Path:
    """Return an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    outcome = finish(arguments(tiny_grid, images, out))
    assert outcome.returncode == 0, outcome.stderr
    return out


def table(run: Path) -> list[dict[str, str]]:
    """Return the table's cells less times."""
    with open(run / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "wall_seconds")}
        for row in rows
    ]


def same(run: Path, whole: Path) -> None:
    """Every tensor, every byte fed, every prediction, and the table are equal."""
    for mine, theirs in zip(ablations.load(run).done(), ablations.load(whole).done(), strict=True):
        assert mine.record["final_sha256"] == theirs.record["final_sha256"]
        assert mine.fed() == theirs.fed()
        np.testing.assert_array_equal(
            mine.predictions()["probabilities"], theirs.predictions()["probabilities"]
        )
        for one, other in zip(mine.history, theirs.history, strict=True):
            for column in ("step", "test_error", "test_loss", "train_loss_running"):
                assert one[column] == other[column]
        assert checkpoints.steps(mine.directory) == []
    assert table(run) == table(whole)


def kill_when(command: list[str], condition) -> None:
    """Start the command in its own process group and SIGKILL the group when the time has come."""
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    started = time.monotonic()
    while not condition(time.monotonic() - started) and process.poll() is None:
        assert time.monotonic() < started + 120
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):  # it may have ended just now
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_unlocked(run: Path) -> None:
    """Cells end when they notice that the runner is gone: at once, but not before."""
    end = time.monotonic() + 30
    for path in run.glob("cells/*/*/.lock"):
        while True:
            try:
                with files.lock(path):
                    break
            except files.Locked:
                assert time.monotonic() < end, path
                time.sleep(0.02)


def random_kills(grid: Path, images: Path, whole: Path, tmp_path: Path, kills: int) -> None:
    """Kill one run again and again at random moments until it is done, `kills` times in all."""
    seed = random.randrange(10**6)
    print(f"kills with seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    done, number = 0, 0
    while done < kills:
        out = tmp_path / f"run{number}"
        number += 1
        command = arguments(grid, images, out)
        for _ in range(min(3, kills - done)):
            moment = draw.uniform(0.05, 11.0)
            kill_when(command, lambda elapsed, moment=moment: elapsed > moment)
            done += 1
        outcome = finish(command)
        assert outcome.returncode == 0, (seed, outcome.stderr)
        same(out, whole)
        shutil.rmtree(out)


def test_three_kills_at_random_moments(tiny_grid, images, whole, tmp_path) -> None:
    random_kills(tiny_grid, images, whole, tmp_path, 3)


@pytest.mark.slow
def test_ten_kills_at_random_moments(tiny_grid, images, whole, tmp_path) -> None:
    random_kills(tiny_grid, images, whole, tmp_path, 10)


@pytest.mark.full
def test_fifty_kills_at_random_moments(tiny_grid, images, whole, tmp_path) -> None:
    random_kills(tiny_grid, images, whole, tmp_path, 50)


@pytest.mark.parametrize("where", ["an epoch's end", "mid-epoch"])
def test_a_cut_at_a_chosen_place(where, tiny_grid, images, whole, tmp_path) -> None:
    """At the moment a checkpoint appears, and while the steps after one are being trained."""
    out = tmp_path / "run"

    def at_epoch_end(_: float) -> bool:
        return bool(list(out.rglob("checkpoint-*.json")))

    def mid_epoch(_: float) -> bool:
        # A half-written checkpoint: the arrays are there, the JSON that makes it valid is not.
        return any(not path.with_suffix(".json").exists() for path in out.rglob("checkpoint-*.npz"))

    kill_when(arguments(tiny_grid, images, out),
              at_epoch_end if where == "an epoch's end" else mid_epoch)  # fmt: skip
    assert list(out.rglob("checkpoint-*.npz"))
    assert finish(arguments(tiny_grid, images, out)).returncode == 0
    run = ablations.load(out)
    assert max(cell.record["attempts"] for cell in run.done()) >= 2
    same(out, whole)


def test_cells_end_with_their_runner(tiny_grid, images, tmp_path) -> None:
    """SIGKILL of the runner alone leaves no orphan that writes on."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        arguments(tiny_grid, images, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(out.rglob("progress.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    wait_until_unlocked(out)


@pytest.mark.parametrize("victim", ["data", "checkpoint", "model"])
def test_a_full_disk(victim, tiny_grid, images, whole, tmp_path) -> None:
    """RLIMIT_FSIZE makes the write of a large file fail as a full disk does."""
    out = tmp_path / "run"
    command = arguments(tiny_grid, images, out)
    model = (whole / "cells" / "A" / "seed0" / "model.keras").stat().st_size
    # The training images take 14 kB, a checkpoint some 60 kB.
    limit = {"data": 10_000, "checkpoint": 25_000, "model": model - 2000}[victim]
    outcome = finish(command, limit)
    assert outcome.returncode == 130, outcome.stderr
    assert "is full; free some space" in outcome.stderr and "Traceback" not in outcome.stderr
    assert list(out.rglob("cell.json")) == [] or victim != "data"
    assert bool(list(out.rglob("checkpoint-*.json"))) == (victim == "model")
    assert finish(command).returncode == 0
    same(out, whole)


def test_sigterm_is_an_orderly_stop(tiny_grid, images, whole, tmp_path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        arguments(tiny_grid, images, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    while not list(out.rglob("checkpoint-*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in message
    assert finish(arguments(tiny_grid, images, out)).returncode == 0
    same(out, whole)


# --- damaged files


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    how, suffix, tiny_grid, images, whole, tmp_path
) -> None:
    out = tmp_path / "run"

    def two_checkpoints(_: float) -> bool:
        return any(len(checkpoints.steps(p)) >= 2 for p in out.glob("cells/*/*"))

    kill_when(arguments(tiny_grid, images, out), two_checkpoints)
    wait_until_unlocked(out)
    cell = next(p for p in out.glob("cells/*/*") if len(checkpoints.steps(p)) >= 2)
    before, newest = checkpoints.steps(cell)[-2:]
    damage(cell / f"checkpoint-{newest:09d}{suffix}", how)
    found, problems = checkpoints.latest(cell)
    assert found is not None and found.step == before
    assert len(problems) == 1 and f"step {newest}" in problems[0]
    assert finish(arguments(tiny_grid, images, out)).returncode == 0
    log = (cell / "log.txt").read_text()
    assert f"checkpoint of step {newest} is not usable" in log
    assert f"continues after step {before}" in log
    same(out, whole)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
@pytest.mark.parametrize("name", records.CELL_FILES)
def test_every_damaged_file_of_a_finished_cell_is_named(name, how, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / "cells" / "A" / "seed0" / name
    damage(path, how)
    cell = records.load_cell(run, "A", 0)
    assert cell.state == "failed" and str(path) in cell.problem and "\n" not in cell.problem


def test_retry_failed_trains_a_damaged_cell_again(tiny_grid, images, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    damage(run / "cells" / "A" / "seed0" / "model.keras", "flipped")
    command = arguments(tiny_grid, images, run)
    assert finish(command).returncode == 3
    assert finish([*command, "--retry_failed"]).returncode == 0
    same(run, whole)


def test_two_checkpoints_while_running(tmp_path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint = checkpoints.Checkpoint(
            step, {"a/kernel": np.full(3, step, np.float32)}, np.zeros((step, 32), np.uint8), {}
        )
        checkpoints.save(tmp_path, checkpoint)
    (tmp_path / "checkpoint-000000099.npz").write_bytes(b"half")  # a crash left it
    assert checkpoints.steps(tmp_path) == [15, 20]
    found, problems = checkpoints.latest(tmp_path)
    assert problems == [] and found.step == 20 and found.tensors["a/kernel"][0] == 20
    checkpoints.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- cells that do not end well


def test_a_hung_cell_is_stopped_and_counted_failed(
    tiny_grid, images, tmp_path, monkeypatch
) -> None:
    """SIGSTOP makes a cell stand still; the limit is shortened from its ten minutes."""
    from ablations import runner
    from ablations.plan import plan

    monkeypatch.setattr(runner, "HUNG_SECONDS", 3.0)
    monkeypatch.setattr(runner, "HUNG_EPOCHS", 0)
    started = runner._Runner._start

    def start_and_stop(self, cell) -> None:
        started(self, cell)
        os.kill(self.children[-1].process.pid, signal.SIGSTOP)

    monkeypatch.setattr(runner._Runner, "_start", start_and_stop)
    planned = plan(
        str(tiny_grid), data_dir=images, out=tmp_path / "run", seeds=1, only=["A"], epochs=1
    )
    run = runner.execute(planned)
    (cell,) = [c for c in run.cells if c.arm == "A"]
    assert cell.state == "failed" and cell.problem.startswith("hung: no progress for")


def test_a_killed_cell_is_named_and_the_others_go_on(
    tiny_grid, images, tmp_path, monkeypatch
) -> None:
    """SIGKILL of one cell, as the kernel's out-of-memory killer does."""
    from ablations import runner
    from ablations.plan import plan

    started = runner._Runner._start

    def start_and_kill(self, cell) -> None:
        started(self, cell)
        if cell.arm == "A":
            self.children[-1].process.kill()

    monkeypatch.setattr(runner._Runner, "_start", start_and_kill)
    planned = plan(
        str(tiny_grid), data_dir=images, out=tmp_path / "run", seeds=1, only=["A", "B"], epochs=1
    )
    run = runner.execute(planned)
    states = {c.arm: (c.state, c.problem) for c in run.cells}
    assert states["B"][0] == "done"
    assert states["A"][0] == "failed" and "SIGKILL" in states["A"][1]
    assert "out of memory?" in states["A"][1]
