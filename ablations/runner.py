"""cells -> processes, several side by side; progress, failures, resume.

State is files: the same call continues what an earlier one left. This process never imports
TensorFlow; each cell is trained by `ablations.train` in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ablations import (
    cell_files,
    checkpoints,
    data,
    environment,
    files,
    records,
    report,
    run_directory,
    shapes,
)
from ablations.errors import UserError
from ablations.matrix import PlannedCell, Platform
from ablations.plan import PASSES, STARTUP_SECONDS, Plan, plan
from ablations.progress import Display, Running, Silent, Snapshot, display
from ablations.recipes import Recipe
from ablations.report import tensorboard
from ablations.report.comparison import duration
from ablations.train import EXIT_DISK_FULL

POLL_SECONDS = 0.2
#: A cell without progress for this many times its epoch, and at least this long, is stopped.
HUNG_EPOCHS = 10
HUNG_SECONDS = 600.0
#: Exit codes of a cell that was told to stop: it continues, and has not failed.
STOPPED = (143, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


class Interrupted(Exception):
    """The user stopped the grid; what is done stays."""


@dataclass
class _Child:
    """A cell in training."""

    cell: PlannedCell
    directory: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float
    slot: str
    position: tuple[Any, ...] = ()
    moved: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)  # as last read


def run_grid(
    grid: str | None = None,
    *,
    show_progress: bool = False,
    retry_failed: bool = False,
    hung_minutes: float | None = None,
    **options: Any,
) -> records.Run:
    """Train a grid, or continue one, and return what stands in its directory.

    Args:
        grid: name of a built-in grid ("shortcuts", "depth", "degradation") or path of a YAML file.
        show_progress: on standard error.
        retry_failed: train failed cells again; they are left alone otherwise.
        hung_minutes: stop a cell that makes no progress for so long; default: 10 times its epoch,
            at least 10 minutes.
        **options: net (a catalogue name instead of a grid), or base and axis (a catalogue name and
            a list such as ["shortcut=A,B", "depth=20,32"]), preset, dataset, data_dir, image_size
            (pixels), skip_corrupt, split, selection, out (directory; default runs/<grid>), seeds
            (how many), seed_list, only (names of arms), baseline, epochs, recipe (fields of the
            recipe to replace), jobs, threads, devices, strategy, cpu_replicas, allow_unmatched.

    Returns:
        The run: arms, cells, curves. Failed cells are in it with state "failed".

    Raises:
        UserError: something asked for is not possible, or another runner holds the directory.
        Interrupted: Ctrl-C or SIGTERM; the same call continues.
    """
    return execute(plan(grid, **options), show_progress, retry_failed, hung_minutes)


def execute(
    planned: Plan,
    show_progress: bool = False,
    retry_failed: bool = False,
    hung_minutes: float | None = None,
) -> records.Run:
    """Train what a plan asks for; see `run_grid`."""
    if hung_minutes is not None and not hung_minutes > 0:
        raise UserError(f"--hung_minutes takes a positive number, not {hung_minutes}")
    root = planned.directory
    try:
        root.mkdir(parents=True, exist_ok=True)
        with files.lock(root / ".lock"):
            runner = _Runner(planned, retry_failed, hung_minutes)
            return runner.run(display() if show_progress else Silent())
    except files.Locked as error:
        raise UserError(f"{root} is in use by another runner: {error}") from None
    except OSError as error:
        if error.errno in files.DISK_FULL:
            raise Interrupted(
                f"the disk of {root} is full; free some space, the same command continues"
            ) from None
        where = Path(str(error.filename)).absolute()
        mine = root.absolute()
        if where.is_relative_to(mine) or mine.is_relative_to(where):
            raise UserError(f"cannot write to {root}: {error.strerror}") from None
        raise


class _Runner:
    def __init__(
        self, planned: Plan, retry_failed: bool = False, hung_minutes: float | None = None
    ) -> None:
        self.plan = planned
        self.root = planned.directory
        self.retry_failed = retry_failed
        self.hung_seconds = 60 * hung_minutes if hung_minutes else None
        self.told: set[str] = set()
        self.queue: deque[PlannedCell] = deque()
        self.children: list[_Child] = []
        self.done = 0
        self.failed = 0
        self.stop = False
        self.reason = "stopped"
        self.images_seconds = [0.0, 0.0]  # work done and the time it took, over all cells
        self.data_directory = self.root / "data"
        self.free = list(planned.slots) or [""] * planned.jobs
        self.launch = {"argv": sys.argv, "code": environment.code_state()}

    def run(self, show: Display) -> records.Run:
        with self._signals():
            return self._run(show)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop in order on Ctrl-C and SIGTERM, until the tables are written."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows handlers in the main thread only
            return
        old = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _run(self, show: Display) -> records.Run:
        files.sweep(self.root)
        run_directory.write_grid(self.root, self.plan.grid_json())
        self._sort_cells(show)
        try:
            if self.queue:
                data.save(self.plan.dataset, self.data_directory)
            while (self.queue or self.children) and not self.stop:
                while self.queue and len(self.children) < self.plan.jobs:
                    self._start(self.queue.popleft())
                time.sleep(POLL_SECONDS)
                for child in list(self.children):
                    self._watch(child, show)
                show.update(self._snapshot())
        finally:
            for child in self.children:
                self._end(child)
            show.close()
        run = records.load(self.root)
        report.write(run)
        if self.stop:
            raise Interrupted(
                f"{self.reason}; {len(run.done())} of {len(run.cells)} cells are done, the same "
                "command continues"
            )
        if all(cell.state == "done" for cell in run.cells):
            self._remove_data()
        return run

    def _remove_data(self) -> None:
        """Remove the data; a kill in between leaves what `files.sweep` removes, not half of it."""
        doomed = self.root / ".data.tmp"
        with contextlib.suppress(OSError):
            self.data_directory.replace(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _on_signal(self, *_: Any) -> None:
        self.stop = True

    def _sort_cells(self, show: Display) -> None:
        """Queue what is to be trained; count what is done; name what is left alone."""
        continuing = False
        for cell in self.plan.cells:
            found = records.load_cell(self.root, cell.arm, cell.seed)
            name = cell.label
            continuing |= found.state != "planned"
            if found.state == "done":
                self.done += 1
                # A kill between manifest and clean-up leaves these.
                checkpoints.clear(found.directory)
                files.sweep(found.directory)
                self._session(cell, "done")
            elif found.state == "failed" and not self.retry_failed:
                self.failed += 1
                show.event(f"{name} failed before: {found.problem} (--retry_failed trains again)")
            else:
                self.queue.append(cell)
        if self.queue:
            seconds = sum(self.plan.seconds(cell.arm) for cell in self.queue) / self.plan.jobs
            start = f"continues: {self.done} cells done, " if continuing else ""
            many = "s" * (len(self.queue) > 1)
            show.event(
                f"{start}{len(self.queue)} cell{many} to train, up to {self.plan.jobs} side by "
                f"side, in {self.root}; about {duration(seconds)} (rough, before measuring)"
            )

    def _start(self, cell: PlannedCell) -> None:
        directory = records.cell_directory(self.root, cell.arm, cell.seed)
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("manifest.json", "failure.json"):
            (directory / name).unlink(missing_ok=True)
        path = directory / "cell.json"
        slot = self.free.pop(0)
        content = {
            "schema": shapes.SCHEMA,
            "arm": cell.arm,
            "seed": cell.seed,
            "identity": cell.identity,
            "config": cell.config,
        }
        files.write_json(path, content)
        cell_files.start_attempt(
            directory, {**self.launch, "gpus": slot, "driver": self.plan.driver}
        )
        self._session(cell, "running")
        log = open(directory / "log.txt", "ab")  # noqa: SIM115 - closed when the child ends
        process = subprocess.Popen(
            [sys.executable, "-m", "ablations.train", str(directory), str(self.data_directory)],
            stdin=subprocess.PIPE,  # closes when this process dies; the cell then ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(os.environ, self.plan.platform, slot, self.plan.jobs),
            start_new_session=True,  # Ctrl-C reaches this process only, which decides
        )
        now = time.monotonic()
        self.children.append(_Child(cell, directory, process, log, now, slot, moved=now))

    def _watch(self, child: _Child, show: Display) -> None:
        code = child.process.poll()
        name = child.cell.label
        child.progress = cell_files.read_progress(child.directory)
        for warning in child.progress.get("warnings", []):
            if (name + warning) not in self.told:
                self.told.add(name + warning)
                show.event(f"{name}: {warning}")
        if code is None:
            self._check_hung(child)
            return
        child.log.close()
        self.children.remove(child)
        self.free.append(child.slot)
        if code == 0:
            self.done += 1
            self._session(child.cell, "done")
            cell_files.end_attempt(child.directory, "done")
            record = files.read_json(child.directory / "record.json")["results"]
            self._learn(child.cell, record["train_seconds"])
            show.event(
                f"{name} done: training error {record['train_error']:.2f} %, test error "
                f"{record['test_error']:.2f} % ({self.done + self.failed} of "
                f"{len(self.plan.cells)})"
            )
            return
        if code in STOPPED:
            self.stop = True
            self.reason = f"{name} was stopped by a signal"
            cell_files.end_attempt(child.directory, "stopped by a signal")
            return
        if code == EXIT_DISK_FULL:
            self.stop = True
            self.reason = (
                f"the disk of {self.root} is full; free some space (log: "
                f"{child.directory / 'log.txt'})"
            )
            with contextlib.suppress(OSError):
                cell_files.end_attempt(child.directory, "the disk was full")
            return
        self.failed += 1
        failure = child.directory / "failure.json"
        if not failure.exists():
            reason = f"ended with exit code {code}"
            if code < 0:
                reason = f"killed by signal {-code} ({signal.Signals(-code).name})"
                if -code == signal.SIGKILL:
                    reason += "; out of memory? fewer --jobs need less"
            cell_files.write_failure(child.directory, reason)
        problem = files.read_json(failure)
        cell_files.end_attempt(child.directory, problem["reason"])
        self._session(child.cell, "failed")
        show.event(
            f"{name} FAILED at step {problem['step']}: {problem['reason']} "
            f"(log: {child.directory / 'log.txt'})"
        )

    def _session(self, cell: PlannedCell, state: str) -> None:
        tensorboard.write_session(self.root, self.plan.arms, cell.arm, cell.seed, state)

    def _check_hung(self, child: _Child) -> None:
        progress = child.progress
        position = (progress.get("step"), progress.get("phase"), progress.get("evaluated"))
        now = time.monotonic()
        if position != child.position:
            child.position, child.moved = position, now
            return
        if now - child.moved > self._patience(child, progress.get("images_per_second") or 0.0):
            child.process.kill()
            child.process.wait()
            reason = f"hung: no progress for {now - child.moved:.0f} s; it was stopped"
            cell_files.write_failure(child.directory, reason)

    def _patience(self, child: _Child, speed: float) -> float:
        """Return after how many seconds without progress a cell counts as hung."""
        if self.hung_seconds is not None:
            return self.hung_seconds
        images = len(self.plan.dataset.train.labels)
        if speed:
            epoch = images / speed
        else:  # not measured yet: the plan's estimate
            arm = child.cell.arm
            batch = self.plan.arm(arm).recipe["batch"]
            epoch = self.plan.seconds(arm) * images / (self.plan.steps(arm) * batch)
        return max(HUNG_SECONDS, HUNG_EPOCHS * epoch)

    def _end(self, child: _Child) -> None:
        """Stop a cell; it continues from its last checkpoint."""
        if child.process.poll() is None:
            child.process.terminate()
            try:
                child.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        child.log.close()
        with contextlib.suppress(OSError):
            if not (child.directory / "manifest.json").exists():
                cell_files.end_attempt(child.directory, f"interrupted: {self.reason}")

    def _learn(self, cell: PlannedCell, seconds: float) -> None:
        self.images_seconds[0] += self.plan.work(cell.arm)
        self.images_seconds[1] += seconds

    def _snapshot(self) -> Snapshot:
        running = []
        work, seconds = self.images_seconds
        left = 0.0
        images = len(self.plan.dataset.train.labels)
        for child in self.children:
            arm = self.plan.arm(child.cell.arm)
            progress = child.progress
            batch = Recipe.from_dict(arm.recipe).batch
            steps = self.plan.steps(arm.name)
            speed = progress.get("images_per_second", 0.0)
            if speed:
                work += 60 * speed * PASSES * arm.macs
                seconds += 60
            running.append(
                Running(
                    child.cell.label,
                    progress.get("phase", "starting"),
                    progress.get("epoch", 0.0),
                    round(steps * batch / images, 1),
                    speed,
                )
            )
        if not seconds:
            return Snapshot(self.done, self.failed, len(self.plan.cells), running, None)
        rate = work / seconds
        now = time.monotonic()
        rest = []
        for child in self.children:
            arm = self.plan.arm(child.cell.arm)
            done = child.progress.get("step", 0) / self.plan.steps(arm.name)
            rest.append(self.plan.work(arm.name) * (1 - done) / rate)
            rest[-1] += max(0.0, STARTUP_SECONDS - (now - child.started)) if not done else 2.0
        waiting = [self.plan.work(c.arm) / rate + STARTUP_SECONDS for c in self.queue]
        left = max([sum(rest + waiting) / self.plan.jobs, *rest, 0.0])
        return Snapshot(self.done, self.failed, len(self.plan.cells), running, left)


def child_environment(
    base: Mapping[str, str], platform: Platform, slot: str, jobs: int
) -> dict[str, str]:
    """Return the environment of a cell: threads and devices are fixed before TensorFlow starts.

    Args:
        base: the runner's own.
        platform: of the cell.
        slot: the GPUs of this cell, as CUDA_VISIBLE_DEVICES takes them; "" on CPU.
        jobs: cells side by side, which share the processor for decoding images.
    """
    package_root = str(Path(__file__).resolve().parent.parent)
    path = base.get("PYTHONPATH")
    return {
        **base,
        "PYTHONPATH": f"{package_root}{os.pathsep}{path}" if path else package_root,
        "KERAS_BACKEND": "tensorflow",
        "TF_NUM_INTRAOP_THREADS": str(platform.threads),
        "TF_NUM_INTEROP_THREADS": str(platform.threads),
        "OMP_NUM_THREADS": str(platform.threads),
        # On by default only on some processors; without it training is 1.3 to 3 times slower.
        "TF_ENABLE_ONEDNN_OPTS": base.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "TF_CPP_MIN_LOG_LEVEL": base.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": slot if platform.kind == "gpu" else "-1",
        "ABLATIONS_WORKERS": str(max(1, environment.cpu_count() // jobs)),
    }
