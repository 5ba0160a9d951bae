"""One cell, from its configuration to its record. Runs in a process of its own (train.py)."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations import checkpoints, data, environment, files, records
from ablations.recipes import Recipe
from ablations.report.tensorboard import CellWriter, cell_log_directory, scalars
from ablations.stream import (
    Source,
    Stream,
    make_source,
    plain_batches,
    shuffled_groups,
    training_mean,
)

#: Steps between two looks at the losses on the device.
LOOK_EVERY = 20
PROGRESS_SECONDS = 0.5


class CellFailure(Exception):
    """Training cannot go on; the message is the reason, in one line."""


@dataclass(frozen=True)
class Prediction:
    """What a network says about a part of a data set.

    Attributes:
        probabilities: float32 (n, classes), the mean over the test views; (0, 0) if not kept.
        loss: mean cross-entropy.
        wrong: images whose most probable class is another than theirs.
        images: n.
    """

    probabilities: np.ndarray
    loss: float
    wrong: int
    images: int

    @property
    def error(self) -> float:
        """Top-1 error in percent."""
        return 100 * self.wrong / self.images


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
        self.wall = 0.0  # in all, over earlier attempts
        self.warnings: list[str] = []
        self.warm = not self.recipe.warmup_rate
        self.warm_step: int | None = None if self.recipe.warmup_rate else 0
        self.recent: deque[float] = deque(maxlen=self.recipe.warmup_window)
        self._started = time.monotonic()
        self._last_progress = 0.0
        self._phase = ""
        self._speed_from: tuple[int, float] = (0, 0.0)

    def run(self) -> None:
        """Train, evaluate, and write the record."""
        self.progress(0, "starting")
        # Imported here: a cell that cannot start says so without waiting for TensorFlow.
        import reszoo
        from ablations.trainer import Trainer, make_strategy, tensor_digests

        platform, seed = self.config["platform"], self.config["seed"]
        strategy = make_strategy(
            platform["strategy"], platform["replicas"], platform["kind"] == "gpu"
        )
        spec = self.config["spec"]
        network = reszoo.ResNetSpec.from_dict(spec) if spec else self.config["network"]
        trainer = Trainer(
            network, self.recipe, seed, strategy, platform["xla"], **self.config["overrides"]
        )
        initial = tensor_digests(trainer.model)
        workers = int(os.environ.get("ABLATIONS_WORKERS", "1"))
        mean = training_mean(self.data.train, self.recipe, workers)
        train, test = (
            make_source(part, self.recipe, seed, mean, workers)
            for part in (self.data.train, self.data.test)
        )
        step = self._resume(trainer)
        log = cell_log_directory(
            self.directory.parents[2], self.directory.parent.name, self.config["seed"]
        )
        with contextlib.closing(CellWriter(log, self.history)) as writer:
            self._train(trainer, train, test, step, writer)
        self.progress(self.steps, "evaluating")
        self._finish(trainer, train, test, mean, initial)

    def _train(
        self, trainer: Any, train: Source, test: Source, step: int, writer: CellWriter
    ) -> None:
        stream = Stream(train, self.recipe, self.config["seed"])
        for stop in self._epoch_ends(step):
            sums, waiting, first = np.zeros(2), [], step
            begun = time.monotonic()
            if not self._speed_from[1]:
                self._speed_from = (step, begun)
            for batch in stream.batches(step, stop):
                rate = self.recipe.rate(batch.step, self.steps, self.warm)
                waiting.append(trainer.step(batch.images, batch.labels, rate))
                self.fed[batch.step] = np.frombuffer(batch.digest, np.uint8)
                step = batch.step + 1
                self.progress(step, "training")
                if not self.warm:
                    self._warm_up(waiting[-1], step)
                if len(waiting) == LOOK_EVERY or step == stop:
                    sums += self._look(waiting, step)
                    waiting = []
            seconds = time.monotonic() - begun
            self.seconds += seconds
            images = (step - first) * self.recipe.batch
            self._evaluate_epoch(trainer, test, step, sums / images, rate, images / seconds)
            writer.scalars(step, scalars(self.history[-1]))
            self._checkpoint(trainer, step)

    def _evaluate_epoch(
        self, trainer: Any, test: Source, step: int, means: Any, rate: float, speed: float
    ) -> None:
        found = predict(trainer, test, keep=False, beat=self._beat(step, "testing"))
        if not np.isfinite(found.loss):
            raise CellFailure(f"the loss is {found.loss} after step {step} of {self.steps}")
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "step": step,
                "images": step * self.recipe.batch,
                "learning_rate": rate,
                "train_loss_running": float(means[0]),
                "train_error_running": float(100 * (1 - means[1])),
                "test_loss": found.loss,
                "test_error": found.error,
                "seconds": self.seconds,
                "images_per_second": speed,
            }
        )

    def _warm_up(self, result: Any, step: int) -> None:
        """End the warm-up once the training error over the window is low enough (sec. 4.2)."""
        self.recent.append(float(result.numpy()[1]) / self.recipe.batch)
        if len(self.recent) == self.recipe.warmup_window:
            error = 100 * (1 - sum(self.recent) / len(self.recent))
            if error < self.recipe.warmup_error:
                self.warm, self.warm_step = True, step
                print(f"warm-up ended after step {step}, training error {error:.1f} %", flush=True)

    def _resume(self, trainer: Any) -> int:
        found, problems = checkpoints.latest(self.directory)
        for problem in problems:
            place = f"step {found.step}" if found else "the start"
            self.warnings.append(f"{problem}; continues from {place}")
            print(f"warning: {self.warnings[-1]}", flush=True)
        if found is None:
            return 0
        trainer.restore(found.tensors)
        self.fed[: found.step] = found.fed
        state = found.state
        self.history, self.seconds, self.wall = state["history"], state["seconds"], state["wall"]
        self.warm, self.warm_step = state["warm"], state["warm_step"]
        self.recent.extend(state["recent"])
        print(f"continues after step {found.step}", flush=True)
        return found.step

    def _checkpoint(self, trainer: Any, step: int) -> None:
        state = {
            "history": self.history,
            "seconds": self.seconds,
            "wall": self._wall(),
            "warm": self.warm,
            "warm_step": self.warm_step,
            "recent": list(self.recent),
        }
        checkpoints.save(
            self.directory,
            checkpoints.Checkpoint(step, trainer.tensors(), self.fed[:step], state),
        )

    def _wall(self) -> float:
        return self.wall + time.monotonic() - self._started

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

    def _beat(self, step: int, phase: str) -> Callable[[int], None]:
        """Return what tells the runner that a long evaluation goes on."""
        return lambda images: self.progress(step, phase, images)

    def progress(self, step: int, phase: str, images: int = 0) -> None:
        """Tell the runner where the cell is; at most every half second within a phase.

        Args:
            step: steps trained.
            phase: what it does.
            images: of an evaluation that are done.
        """
        now = time.monotonic()
        if phase == self._phase and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._phase = phase
        self._last_progress = now
        done, since = self._speed_from
        speed = (step - done) * self.recipe.batch / (now - since) if step > done else 0.0
        files.write_json(
            self.directory / "progress.json",
            {
                "step": step,
                "steps": self.steps,
                "epoch": round(step * self.recipe.batch / len(self.data.train.labels), 2),
                "images_per_second": round(speed, 1),
                "phase": phase,
                "evaluated": images,
                "warnings": self.warnings,
                "pid": os.getpid(),
            },
            sync=False,
        )

    def _finish(
        self,
        trainer: Any,
        train: Source,
        test: Source,
        mean: np.ndarray,
        initial: dict[str, Any],
    ) -> None:
        from ablations.trainer import tensor_digests

        moments = 0
        attempts = records.read_attempts(self.directory)
        if self.recipe.statistics == "population":
            size = group_size(self.recipe, trainer.replicas)
            groups = shuffled_groups(train, size, self.config["seed"])
            moments = trainer.population_statistics(self._counted(groups, size))
        on_train = predict(
            trainer, train, keep=False, beat=self._beat(self.steps, "evaluating training images")
        )
        on_test = predict(
            trainer, test, self.recipe.test_views, beat=self._beat(self.steps, "evaluating")
        )
        self._write_arrays(trainer.model, on_test, mean)
        record = {
            "schema": records.SCHEMA,
            "arm": self.directory.parent.name,
            "seed": self.config["seed"],
            "identity": files.sha256(files.canonical(self.config)),
            "results": {
                "train_error": on_train.error,
                "train_loss": on_train.loss,
                "train_wrong": on_train.wrong,
                "train_images": len(train.labels),
                "test_error": on_test.error,
                "test_loss": on_test.loss,
                "test_wrong": on_test.wrong,
                "test_images": len(test.labels),
                "test_views": self.recipe.test_views,
                "selection": self.recipe.selection,
                "epoch": len(self.history),
                "step": self.steps,
                "warmup_steps": self.warm_step,
                "batch_moments": moments,
                "train_seconds": self.seconds,
                "wall_seconds": self._wall(),
                "images_per_second": self.steps * self.recipe.batch / self.seconds,
            },
            "matched": {
                "steps": self.steps,
                "images": self.steps * self.recipe.batch,
                "fed_sha256": files.sha256(self.fed.tobytes()),
                "initial_sha256": files.sha256(files.canonical(initial)),
                "initial_tensors": initial,
            },
            "final_sha256": files.sha256(files.canonical(tensor_digests(trainer.model))),
            "attempts": attempts,
            "warnings": self.warnings,
            "exit": "done",
            "data_notes": list(self.data.notes),
            "environment": environment.describe(),
        }
        files.write_json(self.directory / "record.json", record)
        records.write_manifest(self.directory, list(records.CELL_FILES))
        checkpoints.clear(self.directory)
        for name in ("progress.json", "failure.json"):
            (self.directory / name).unlink(missing_ok=True)

    def _counted(self, groups: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
        for number, group in enumerate(groups, start=1):
            self.progress(self.steps, "population statistics", number * size)
            yield group

    def _write_arrays(self, model: Any, found: Prediction, mean: np.ndarray) -> None:
        from reszoo.layers import deep_graph

        files.write(self.directory / "history.csv", records.history_csv(self.history))
        lines = "".join(f"{bytes(row).hex()}\n" for row in self.fed)
        files.write(self.directory / "fed.sha256", lines)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            label=np.asarray(self.data.test.labels, np.int32),
            predicted=found.probabilities.argmax(axis=1).astype(np.int32),
            probabilities=found.probabilities,
            pixel_mean=mean,
        )
        files.write(self.directory / "predictions.npz", buffer.getvalue())
        # Keras writes in place: save beside, then put the whole file there at once.
        temporary = self.directory / ".saving.keras"
        with deep_graph(len(model.layers)):
            model.save(temporary)
        files.write(self.directory / "model.keras", temporary.read_bytes())
        temporary.unlink()


def group_size(recipe: Recipe, replicas: int) -> int:
    """Return how many images BN sees at once in training."""
    return recipe.bn_batch or recipe.batch // replicas


def predict(
    trainer: Any,
    source: Source,
    views: int = 1,
    keep: bool = True,
    beat: Callable[[int], None] = lambda images: None,
) -> Prediction:
    """Return a network's predictions for a part of a data set, in inference mode.

    Args:
        trainer: has `evaluate(images) -> logits`.
        source: the images.
        views: 1 (the image, or a photograph's centre) or 10 (softmax averaged).
        keep: keep the probabilities; without, only one batch's are in memory at a time.
        beat: called with the number of images done, now and then.
    """
    if not keep and views > 1:
        raise ValueError("views are averaged over kept probabilities")
    count = len(source.labels)
    loss, wrong, done = 0.0, 0, 0
    total = np.zeros((0, 0), np.float32)
    for view in range(views):
        start = 0
        for images, labels in plain_batches(source, view=view):
            logs = trainer.evaluate(images).astype(np.float64)
            logs -= logs.max(axis=1, keepdims=True)
            logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
            stop = start + len(labels)
            if views == 1:
                loss -= float(logs[np.arange(len(labels)), labels].sum())
                wrong += int(np.count_nonzero(logs.argmax(axis=1) != labels))
            if keep:
                if not total.size:
                    total = np.zeros((count, logs.shape[1]), np.float32)
                total[start:stop] += np.exp(logs) / views
            start, done = stop, done + len(labels)
            beat(done)
    if views > 1:
        likelihood = total[np.arange(count), source.labels].astype(np.float64)
        loss = float(-np.log(likelihood.clip(1e-300)).sum())
        wrong = int(np.count_nonzero(total.argmax(axis=1) != source.labels))
    return Prediction(total, loss / count, wrong, count)
