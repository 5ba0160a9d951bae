"""What a run survives: SIGKILL at any moment, a full disk, damaged files; and how it says so.

The kill tests start the real command in a process group of its own, SIGKILL the group, continue
with the same command, and compare every tensor of every cell with an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from watching import cells_with, processes, wait_for_checkpoint, wait_until

import ablations
from ablations import cell_files, checkpoints, files, records

#: As in the paper: L2, crops, BN over sub-batches, population statistics, an error-triggered
#: warm-up and a drop. 48 images in batches of 8: 6 steps an epoch, so kills fall inside epochs.
GRID = """
title: Survival
factors: {shortcut: [A, B]}
baseline: A
presets:
  quick:
    network: resnet20
    depth: 8
    width: 4
    recipe: paper-cifar
    dataset: folder
    recipe.batch: 8
    recipe.epochs: 40
    recipe.iterations: 0
    recipe.bn_batch: 4
    recipe.drops: [200]
    recipe.crop_padding: 1
    recipe.warmup_rate: 0.01
    recipe.warmup_window: 20
    recipe.warmup_error: 101
"""
STEPS = 240


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("survival") / "survival.yaml"
    path.write_text(GRID)
    return path


def arguments(grid: Path, images: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "ablations.run", "--grid", str(grid), "--data_dir", str(images),
        "--seeds", "1", "--threads", "1", "--jobs", "2", "--out", str(out),
    ]  # fmt: skip


def finish(command: list[str], limit: int | None = None) -> subprocess.CompletedProcess:
    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=bound)


@pytest.fixture(scope="session")
def whole(grid: Path, images: Path, tmp_path_factory) -> Path:
    """Return an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    outcome = finish(arguments(grid, images, out))
    assert outcome.returncode == 0, outcome.stderr
    (out.parent / "seconds").write_text(str(time.monotonic() - started))
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
    try:
        wait_until(lambda: condition(time.monotonic() - started) or process.poll() is not None)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended just now
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_unlocked(run: Path) -> None:
    """Cells end when they notice that the runner is gone: at once, but not before."""
    end = time.monotonic() + 60
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
    seconds = float((whole.parent / "seconds").read_text())
    done, number = 0, 0
    while done < kills:
        out = tmp_path / f"run{number}"
        number += 1
        command = arguments(grid, images, out)
        for _ in range(min(3, kills - done)):
            moment = draw.uniform(0.05, min(1.1 * seconds, 100.0))
            kill_when(command, lambda elapsed, moment=moment: elapsed > moment)
            done += 1
        outcome = finish(command)
        assert outcome.returncode == 0, (seed, outcome.stderr)
        same(out, whole)
        shutil.rmtree(out)


def test_three_kills_at_random_moments(grid, images, whole, tmp_path) -> None:
    random_kills(grid, images, whole, tmp_path, 3)


@pytest.mark.slow
def test_ten_kills_at_random_moments(grid, images, whole, tmp_path) -> None:
    random_kills(grid, images, whole, tmp_path, 10)


@pytest.mark.full
def test_fifty_kills_at_random_moments(grid, images, whole, tmp_path) -> None:
    random_kills(grid, images, whole, tmp_path, 50)


def test_a_cut_at_an_epoch_s_end(grid, images, whole, tmp_path) -> None:
    """While a checkpoint is half written: the JSON that makes it valid is missing."""
    out = tmp_path / "run"

    def half(_: float) -> bool:
        written = cells_with(out, "checkpoint-*.npz")
        return any(not path.with_suffix(".json").exists() for path in written)

    kill_when(arguments(grid, images, out), half)
    assert cells_with(out, "checkpoint-*.npz")
    assert finish(arguments(grid, images, out)).returncode == 0
    assert max(len(cell.record["attempts"]) for cell in ablations.load(out).done()) >= 2
    same(out, whole)


def test_a_cut_in_mid_epoch(grid, images, whole, tmp_path) -> None:
    """Every cell is killed between two checkpoints, and repeats the steps since the last one."""
    out = tmp_path / "run"
    stops: dict[str, int] = {}

    def inside(_: float) -> bool:
        for path in cells_with(out, "progress.json"):
            step = json.loads(path.read_text())["step"]
            if step % 6 and step > 6:
                stops[str(path.parent)] = step
        return len(stops) == 2

    kill_when(arguments(grid, images, out), inside)
    assert len(stops) == 2
    assert finish(arguments(grid, images, out)).returncode == 0
    for cell in ablations.load(out).done():
        assert len(cell.record["attempts"]) == 2
        assert cell.record["attempts"][0]["end"] == "the runner died"
        text = (cell.directory / "log.txt").read_text()
        resumed = int(re.search(r"continues after step (\d+)", text)[1])
        assert resumed % 6 == 0 and 0 < resumed < STEPS
    same(out, whole)


def test_two_replicas_resume_bit_equal(grid, images, tmp_path) -> None:
    """Moving statistics of replica 1 are not saved, and must not matter."""
    runs = []
    for name in ("whole", "cut"):
        out = tmp_path / name
        command = [*arguments(grid, images, out), "--cpu_replicas", "2", "--only", "B"]
        if name == "cut":
            kill_when(command, lambda _, out=out: cells_with(out, "checkpoint-*.json"))
        outcome = finish(command)
        assert outcome.returncode == 0, outcome.stderr
        runs.append(ablations.load(out).done()[0].record)
    assert runs[0]["final_sha256"] == runs[1]["final_sha256"]
    assert len(runs[1]["attempts"]) == 2


def test_cells_end_with_their_runner(grid, images, tmp_path) -> None:
    """SIGKILL of the runner alone leaves no orphan that writes on."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        arguments(grid, images, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(cells_with(out, "progress.json")) == 2, process)
    process.kill()
    process.wait()
    wait_until_unlocked(out)


@pytest.mark.parametrize("victim", ["data", "checkpoint", "model"])
def test_a_full_disk(victim, grid, images, whole, tmp_path) -> None:
    """RLIMIT_FSIZE makes the write of a large file fail as a full disk does."""
    out = tmp_path / "run"
    command = arguments(grid, images, out)
    model = (whole / "cells" / "A" / "seed0" / "model.keras").stat().st_size
    # The training images take 14 kB, a checkpoint some 60 kB.
    limit = {"data": 10_000, "checkpoint": 25_000, "model": model - 2000}[victim]
    outcome = finish(command, limit)
    assert outcome.returncode == 130, outcome.stderr
    assert "is full; free some space" in outcome.stderr and "Traceback" not in outcome.stderr
    assert cells_with(out, "cell.json") == [] or victim != "data"
    assert bool(cells_with(out, "checkpoint-*.json")) == (victim == "model")
    assert finish(command).returncode == 0
    same(out, whole)


def test_sigterm_of_every_process_of_the_job(grid, images, whole, tmp_path) -> None:
    """As systemd and Slurm send it: the cells get it too, and have not failed."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        arguments(grid, images, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_for_checkpoint(out, process)
    for pid in processes(out):
        os.kill(pid, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=240)
    assert process.returncode == 130, message
    assert "FAILED" not in message and not cells_with(out, "failure.json")
    assert finish(arguments(grid, images, out)).returncode == 0
    same(out, whole)


def test_sigterm_is_an_orderly_stop(grid, images, whole, tmp_path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        arguments(grid, images, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    wait_for_checkpoint(out, process)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=240)
    assert process.returncode == 130 and "the same command continues" in message
    assert finish(arguments(grid, images, out)).returncode == 0
    same(out, whole)


# --- damaged files


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        middle = len(content) // 2
        # The last digits of a number may not change its value; a quote's neighbour does.
        content[content.index(b'"', middle) + 1 if path.suffix == ".json" else middle] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "suffix"),
    [
        ("truncated", ".npz"),
        ("flipped", ".json"),
        pytest.param("flipped", ".npz", marks=pytest.mark.slow),
        pytest.param("truncated", ".json", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    how, suffix, grid, images, whole, tmp_path
) -> None:
    out = tmp_path / "run"

    def two_checkpoints(_: float) -> bool:
        return any(len(checkpoints.steps(p)) >= 2 for p in out.glob("cells/*/*"))

    kill_when(arguments(grid, images, out), two_checkpoints)
    wait_until_unlocked(out)
    cell = next(p for p in out.glob("cells/*/*") if len(checkpoints.steps(p)) >= 2)
    before, newest = checkpoints.steps(cell)[-2:]
    damage(cell / f"checkpoint-{newest:09d}{suffix}", how)
    found, problems = checkpoints.latest(cell)
    assert found is not None and found.step == before
    assert len(problems) == 1 and f"step {newest}" in problems[0]
    outcome = finish(arguments(grid, images, out))
    assert outcome.returncode == 0
    assert f"checkpoint of step {newest} is not usable" in outcome.stderr
    record = records.load_cell(out, cell.parent.name, 0).record
    (warning,) = record["warnings"]
    assert f"checkpoint of step {newest} is not usable" in warning
    assert f"continues from step {before}" in warning
    same(out, whole)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
@pytest.mark.parametrize("name", cell_files.CELL_FILES)
def test_every_damaged_file_of_a_finished_cell_is_named(name, how, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / "cells" / "A" / "seed0" / name
    damage(path, how)
    cell = records.load_cell(run, "A", 0)
    assert cell.state == "failed" and str(path) in cell.problem and "\n" not in cell.problem


def test_retry_failed_trains_a_damaged_cell_again(grid, images, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    damage(run / "cells" / "A" / "seed0" / "model.keras", "flipped")
    command = arguments(grid, images, run)
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


def test_every_byte_of_a_checkpoint_counts(tmp_path) -> None:
    """One flipped bit in any byte of either half is noticed."""
    state = {"history": [{"test_error": 12.5}], "recent": [0.25, 0.5], "warm": False}
    checkpoint = checkpoints.Checkpoint(
        7, {"a/kernel": np.ones(3, np.float32)}, np.zeros((7, 32), np.uint8), state
    )
    checkpoints.save(tmp_path, checkpoint)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 4
            path.write_bytes(changed)
            found, problems = checkpoints.latest(tmp_path)
            same_content = found is not None and (
                found.state == state and found.step == 7 and found.tensors["a/kernel"][0] == 1
            )
            # White space of the JSON may change without changing what it says.
            assert (found is None and problems) or (same_content and path.suffix == ".json")
        path.write_bytes(content)


def test_leftovers_of_a_kill_are_swept(grid, images, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    cell = run / "cells" / "A" / "seed0"
    leftovers = [run / ".grid.json.1.tmp", cell / ".checkpoint-000000006.npz.1.tmp",
                 cell / "checkpoint-000000006.npz", cell / ".saving.keras"]  # fmt: skip
    for path in leftovers:
        path.write_bytes(b"half")
    assert finish(arguments(grid, images, run)).returncode == 0
    assert not [path for path in leftovers if path.exists()]
    same(run, whole)


def test_a_damaged_plan_is_named(whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    damage(run / "grid.json", "flipped")
    with pytest.raises(ablations.UserError, match=r"grid\.json"):
        ablations.load(run)


# --- cells that do not end well


def test_a_hung_cell_is_stopped_and_counted_failed(grid, images, tmp_path, monkeypatch) -> None:
    """SIGSTOP makes a cell stand still."""
    from ablations import runner
    from ablations.plan import plan

    started = runner._Runner._start

    def start_and_stop(self, cell) -> None:
        started(self, cell)
        os.kill(self.children[-1].process.pid, signal.SIGSTOP)

    monkeypatch.setattr(runner._Runner, "_start", start_and_stop)
    planned = plan(str(grid), data_dir=images, out=tmp_path / "run", seeds=1, only=["A"])
    run = runner.execute(planned, hung_minutes=0.05)
    (cell,) = [c for c in run.cells if c.arm == "A"]
    assert cell.state == "failed" and cell.problem.startswith("hung: no progress for")


def test_a_killed_cell_is_named_and_the_others_go_on(grid, images, tmp_path, monkeypatch) -> None:
    """SIGKILL of one cell, as the kernel's out-of-memory killer does."""
    from ablations import runner
    from ablations.plan import plan

    started = runner._Runner._start

    def start_and_kill(self, cell) -> None:
        started(self, cell)
        if cell.arm == "A":
            self.children[-1].process.kill()

    monkeypatch.setattr(runner._Runner, "_start", start_and_kill)
    planned = plan(str(grid), data_dir=images, out=tmp_path / "run", seeds=1, only=["A", "B"])
    run = runner.execute(planned)
    states = {c.arm: (c.state, c.problem) for c in run.cells}
    assert states["B"][0] == "done"
    assert states["A"][0] == "failed" and "SIGKILL" in states["A"][1]
    assert "out of memory?" in states["A"][1]
