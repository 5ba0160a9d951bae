"""One cell, start to end, in a process of its own: `python -m ablations.train CELL DATA`.

Started by the runner, which fixes threads and devices in the environment before TensorFlow is
imported. Ends when the runner ends: standard input is a pipe whose other end only the runner holds.

Exit status: 0 done, 3 failed (failure.json says why), 143 stopped by the runner.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from ablations import checkpoints, data, environment, files, records
from ablations.recipes import Recipe
from ablations.stream import Stream, normalise, pixel_mean

#: Steps between two looks at the losses on the device, and at least this many seconds.
LOOK_EVERY = 20
PROGRESS_SECONDS = 0.5


class CellFailure(Exception):
    """Training cannot go on; the message is the reason, in one line."""


class CellRun:
    """The state of one cell between start and manifest."""

    def __init__(self, directory: Path, data_directory: Path) -> None:
        self.directory = directory
        cell = files.read_json(directory / "cell.json")
        self.config: dict[str, Any] = cell["config"]
        self.recipe = Recipe.from_dict(self.config["recipe"])
        self.data = data.open_saved(data_directory, verify=False)  # the runner has verified it
        if self.data.digest != self.config["data"]["digest"]:
            raise CellFailure("the data set's digest is not the one that this cell was planned for")
        self.steps = self.recipe.steps(len(self.data.train.labels))
        self.history: list[dict[str, float]] = []
        self.fed = np.zeros((self.steps, 32), np.uint8)
        self.seconds = 0.0  # in training steps, over all attempts
        self.wall = 0.0  # in all, over all attempts
        self.attempts = 0
        self._last_progress = 0.0
        self._recent: tuple[int, float] = (0, 0.0)

    def run(self) -> None:
        """Train, evaluate, and write the record."""
        start = time.monotonic()
        self.progress(0, "starting")
        # Imported here: a cell that cannot start says so without waiting for TensorFlow.
        from ablations.trainer import Trainer, tensor_digests

        spec = self.config["spec"]
        import reszoo

        network = reszoo.ResNetSpec.from_dict(spec) if spec else self.config["network"]
        overrides = {} if spec else self.config["overrides"]
        trainer = Trainer(network, self.recipe, self.config["seed"], **overrides)
        initial = tensor_digests(trainer.model)
        mean = pixel_mean(self.data.train.images)
        train, test = self.data.train, self.data.test
        stream = Stream(train.images, train.labels, self.recipe, self.config["seed"], mean)
        test_images = normalise(test.images, mean)

        step = self._resume(trainer)
        sums = np.zeros(2)
        for stop in self._epoch_ends(step):
            sums[:] = 0
            waiting: list[Any] = []
            begun = time.monotonic()
            if not self._recent[0]:
                self._recent = (step, begun)
            first = step
            for batch in stream.batches(step, stop):
                rate = self.recipe.rate(batch.step, self.steps)
                waiting.append(trainer.step(batch.images, batch.labels, rate))
                self.fed[batch.step] = np.frombuffer(batch.digest, np.uint8)
                step = batch.step + 1
                if len(waiting) == LOOK_EVERY or step == stop:
                    sums += self._look(waiting, step)
                    waiting = []
                    self.progress(step, "training")
            seconds = time.monotonic() - begun
            self.seconds += seconds
            loss, error = _loss_and_error(trainer.evaluate(test_images), test.labels)
            if not np.isfinite(loss):
                raise CellFailure(f"the loss is {loss} after step {step} of {self.steps}")
            images = (step - first) * self.recipe.batch
            self.history.append(
                {
                    "epoch": len(self.history) + 1,
                    "step": step,
                    "images": step * self.recipe.batch,
                    "learning_rate": rate,
                    "train_loss_running": sums[0] / images,
                    "train_error_running": 100 * (1 - sums[1] / images),
                    "test_loss": loss,
                    "test_error": error,
                    "seconds": self.seconds,
                    "images_per_second": images / seconds,
                }
            )
            if step < self.steps:
                self._checkpoint(trainer, step, time.monotonic() - start)
        self.progress(step, "evaluating")
        self._finish(trainer, mean, test_images, initial, start)

    def _resume(self, trainer: Any) -> int:
        found, problems = checkpoints.latest(self.directory)
        for problem in problems:
            print(f"warning: {problem}; going on from the one before", flush=True)
        if found is None:
            return 0
        trainer.restore(found.tensors)
        self.fed[: found.step] = found.fed
        self.history = found.state["history"]
        self.seconds = found.state["seconds"]
        self.wall = found.state["wall"]
        self.attempts = found.state["attempts"]
        print(f"continues after step {found.step}", flush=True)
        return found.step

    def _checkpoint(self, trainer: Any, step: int, wall: float) -> None:
        state = {
            "history": self.history,
            "seconds": self.seconds,
            "wall": self.wall + wall,
            "attempts": self.attempts + 1,
        }
        checkpoints.save(
            self.directory,
            checkpoints.Checkpoint(step, trainer.tensors(), self.fed[:step], state),
        )

    def _epoch_ends(self, step: int) -> list[int]:
        """Return the steps at which epochs end, after `step`; the last is the last step."""
        images, batch = len(self.data.train.labels), self.recipe.batch
        ends = {-(-epoch * images // batch) for epoch in range(1, self.steps * batch // images + 1)}
        return sorted(end for end in ends | {self.steps} if step < end <= self.steps)

    def _look(self, waiting: list[Any], step: int) -> np.ndarray:
        """Return the sums of some steps; fail at the first one that is not finite."""
        values = np.array([value.numpy() for value in waiting], np.float64)
        bad = np.flatnonzero(~np.isfinite(values[:, 0]))
        if len(bad):
            at = step - len(waiting) + int(bad[0]) + 1
            raise CellFailure(f"the loss is {values[bad[0], 0]} at step {at} of {self.steps}")
        return values.sum(axis=0)

    def progress(self, step: int, phase: str) -> None:
        """Tell the runner where the cell is; at most every half second while training."""
        now = time.monotonic()
        if phase == "training" and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        done, since = self._recent
        speed = (step - done) * self.recipe.batch / (now - since) if step > done else 0.0
        files.write_json(
            self.directory / "progress.json",
            {
                "step": step,
                "steps": self.steps,
                "epoch": round(step * self.recipe.batch / len(self.data.train.labels), 2),
                "images_per_second": round(speed, 1),
                "phase": phase,
                "pid": os.getpid(),
            },
            sync=False,
        )

    def _finish(
        self,
        trainer: Any,
        mean: np.ndarray,
        test_images: np.ndarray,
        initial: dict[str, Any],
        start: float,
    ) -> None:
        train, test = self.data.train, self.data.test
        train_errors = []
        for begin in range(0, len(train.labels), 5000):
            images = normalise(train.images[begin : begin + 5000], mean)
            logits = trainer.evaluate(images)
            train_errors.append(_wrong(logits, train.labels[begin : begin + 5000]))
        logits = trainer.evaluate(test_images)
        probabilities = _softmax(logits)
        test_wrong = _wrong(logits, test.labels)
        train_wrong = sum(train_errors)

        from ablations.trainer import tensor_digests

        final = tensor_digests(trainer.model)
        self._write_arrays(trainer.model, logits, probabilities, mean)
        images_fed = self.steps * self.recipe.batch
        record = {
            "schema": records.SCHEMA,
            "arm": self.config_arm,
            "seed": self.config["seed"],
            "identity": files.sha256(files.canonical(self.config)),
            "results": {
                "train_error": 100 * train_wrong / len(train.labels),
                "train_wrong": train_wrong,
                "train_images": len(train.labels),
                "test_error": 100 * test_wrong / len(test.labels),
                "test_wrong": test_wrong,
                "test_images": len(test.labels),
                "selection": self.recipe.selection,
                "epoch": len(self.history),
                "step": self.steps,
                "train_seconds": self.seconds,
                "wall_seconds": self.wall + time.monotonic() - start,
                "images_per_second": images_fed / self.seconds,
            },
            "matched": {
                "steps": self.steps,
                "images": images_fed,
                "fed_sha256": files.sha256(self.fed.tobytes()),
                "initial_sha256": files.sha256(files.canonical(initial)),
                "initial_tensors": initial,
            },
            "final_sha256": files.sha256(files.canonical(final)),
            "attempts": self.attempts + 1,
            "exit": "done",
            "data_notes": list(self.data.notes),
            "environment": environment.describe(),
        }
        files.write_json(self.directory / "record.json", record)
        records.write_manifest(
            self.directory,
            [
                "cell.json",
                "record.json",
                "history.csv",
                "model.keras",
                "predictions.npz",
                "fed.sha256",
            ],
        )
        checkpoints.clear(self.directory)
        for name in ("progress.json", "failure.json"):
            (self.directory / name).unlink(missing_ok=True)

    @property
    def config_arm(self) -> str:
        """Name of the arm, from the directory's place in the run."""
        return self.directory.parent.name

    def _write_arrays(
        self, model: Any, logits: np.ndarray, probabilities: np.ndarray, mean: np.ndarray
    ) -> None:
        import io

        files.write(self.directory / "history.csv", records.history_csv(self.history))
        lines = "".join(f"{bytes(row).hex()}\n" for row in self.fed)
        files.write(self.directory / "fed.sha256", lines)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            label=np.asarray(self.data.test.labels, np.int32),
            predicted=logits.argmax(axis=1).astype(np.int32),
            probabilities=probabilities,
            pixel_mean=mean,
        )
        files.write(self.directory / "predictions.npz", buffer.getvalue())
        from reszoo.layers import deep_graph

        # Keras writes in place: save beside, then put the whole file there at once.
        temporary = self.directory / ".saving.keras"
        with deep_graph(len(model.layers)):
            model.save(temporary)
        files.write(self.directory / "model.keras", temporary.read_bytes())
        temporary.unlink()


def _wrong(logits: np.ndarray, labels: np.ndarray) -> int:
    return int(np.count_nonzero(logits.argmax(axis=1) != labels))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def _loss_and_error(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the mean cross-entropy and the error in percent."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    norm = np.log(np.exp(wide - top[:, None]).sum(axis=1)) + top
    loss = float(np.mean(norm - wide[np.arange(len(labels)), labels]))
    return loss, 100 * _wrong(logits, labels) / len(labels)


def _end_with_parent() -> None:
    """Exit when the runner is gone, so that no orphan writes into a directory that others own."""

    def wait() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(143)

    threading.Thread(target=wait, daemon=True, name="parent").start()


def main(directory: Path, data_directory: Path) -> int:
    """Run one cell; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    _end_with_parent()
    step = 0
    try:
        with files.lock(directory / ".lock"):
            run = CellRun(directory, data_directory)
            run.run()
        return 0
    except files.Locked as error:
        reason, text = f"another process trains this cell: {error}", ""
    except CellFailure as error:
        reason, text = str(error), ""
    except MemoryError:
        reason, text = "out of memory", traceback.format_exc()
    except Exception as error:
        first_line = str(error).strip().splitlines() or [""]
        reason, text = f"{type(error).__name__}: {first_line[0][:300]}", traceback.format_exc()
    print(f"failed: {reason}\n{text}", flush=True)
    progress = directory / "progress.json"
    if progress.exists():
        step = files.read_json(progress).get("step", 0)
    files.write_json(
        directory / "failure.json",
        {"schema": records.SCHEMA, "reason": reason, "step": step, "traceback": text},
    )
    return 3


if __name__ == "__main__":
    # os._exit: TensorFlow's threads and the stdin reader need no orderly end, and it is faster.
    status = main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
