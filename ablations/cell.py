"""One cell, from its configuration to its record. Runs in a process of its own (train.py)."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ablations import cell_files, checkpoints, data, environment, files, shapes
from ablations.prediction import Prediction, predict
from ablations.recipes import Recipe
from ablations.report.tensorboard import (
    CellWriter,
    cell_log_directory,
    last_scalars,
    scalars,
)
from ablations.stream import (
    Source,
    Stream,
    make_source,
    shuffled_groups,
    training_mean,
)

#: Steps between two looks at the losses on the device.
LOOK_EVERY = 20
PROGRESS_SECONDS = 0.5
_IMAGES = {"train": "training images", "validation": "validation images", "test": "test images"}


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
        self.wall = 0.0  # in all, over earlier attempts
        self.cpu = 0.0  # CPU-seconds of earlier attempts
        self.work_cpu = 0.0  # CPU-seconds in training and evaluation steps, over all attempts
        self._traced: set[str] = set()  # kinds of step whose graph this process has built
        self.warnings: list[str] = []
        self.warm = not self.recipe.warmup_rate
        self.warm_step: int | None = None if self.recipe.warmup_rate else 0
        self.recent: deque[float] = deque(maxlen=self.recipe.warmup_window)
        # Of the part that the curves show: the test part only where nothing is held out.
        self.watched = "test" if self.data.validation is None else "validation"
        self.best: dict[str, float] | None = None  # epoch, step and error; see `_select`
        self.best_weights: dict[str, np.ndarray] = {}
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
        parts = data.present(
            train=self.data.train, validation=self.data.validation, test=self.data.test
        )
        sources = {
            name: make_source(part, self.recipe, seed, mean, workers) for name, part in parts
        }
        step = self._resume(trainer)
        log = cell_log_directory(
            self.directory.parents[2], self.directory.parent.name, self.config["seed"]
        )
        with contextlib.closing(CellWriter(log, self.history)) as writer:
            self._train(trainer, sources, step, writer)
            self.progress(self.steps, "evaluating")
            self._finish(trainer, sources, mean, initial, writer)

    def _train(
        self, trainer: Any, sources: dict[str, Source], step: int, writer: CellWriter
    ) -> None:
        stream = Stream(sources["train"], self.recipe, self.config["seed"])
        for stop in self._epoch_ends(step):
            sums, waiting, first = np.zeros(2), [], step
            begun, working = time.monotonic(), time.process_time()
            if not self._speed_from[1]:
                self._speed_from = (step, begun)
            for batch in stream.batches(step, stop):
                rate = self.recipe.rate(batch.step, self.steps, self.warm)
                waiting.append(trainer.step(batch.images, batch.labels, rate))
                self.fed[batch.step] = np.frombuffer(batch.digest, np.uint8)
                step = batch.step + 1
                if "training" not in self._traced:  # the first step builds the graph
                    self._traced.add("training")
                    working = time.process_time()
                self.progress(step, "training")
                if not self.warm:
                    self._warm_up(waiting[-1], step)
                if len(waiting) == LOOK_EVERY or step == stop:
                    sums += self._look(waiting, step)
                    waiting = []
            seconds = time.monotonic() - begun
            self.seconds += seconds
            self.work_cpu += time.process_time() - working
            images = (step - first) * self.recipe.batch
            watched = sources[self.watched]
            self._evaluate_epoch(trainer, watched, step, sums / images, rate, images / seconds)
            self._select(trainer)
            writer.scalars(step, scalars(self.history[-1]))
            self._checkpoint(trainer, step)

    def _evaluate_epoch(
        self, trainer: Any, watched: Source, step: int, means: Any, rate: float, speed: float
    ) -> None:
        phase = "testing" if self.watched == "test" else "validating"
        found = self._predict(trainer, watched, 1, False, self._beat(step, phase))
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
                f"{self.watched}_loss": found.loss,
                f"{self.watched}_error": found.error,
                "seconds": self.seconds,
                "images_per_second": speed,
            }
        )

    def _predict(
        self, trainer: Any, source: Source, views: int, keep: bool, beat: Callable[[int], None]
    ) -> Prediction:
        """Evaluate, and count the CPU time of all batches but the first, which builds the graph."""
        working = time.process_time()

        def counted(images: int) -> None:
            nonlocal working
            if "evaluation" not in self._traced:
                self._traced.add("evaluation")
                working = time.process_time()
            beat(images)

        found = predict(trainer, source, views, keep=keep, beat=counted)
        self.work_cpu += time.process_time() - working
        return found

    def _select(self, trainer: Any) -> None:
        """Keep the weights of the epoch just ended if no earlier one's validation error is as low.

        Nothing but the validation part is looked at; a tie goes to the earlier epoch.
        """
        if self.recipe.selection != "best_validation":
            return
        row = self.history[-1]
        if self.best is None or row["validation_error"] < self.best["error"]:
            self.best = {
                "epoch": row["epoch"], "step": row["step"], "error": row["validation_error"]
            }  # fmt: skip
            self.best_weights = trainer.weights()

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
        self.cpu, self.work_cpu = state.get("cpu", 0.0), state.get("work_cpu", 0.0)
        self.warm, self.warm_step = state["warm"], state["warm_step"]
        self.best, self.best_weights = state.get("best"), found.selected
        self.recent.extend(state["recent"])
        print(f"continues after step {found.step}", flush=True)
        return found.step

    def _checkpoint(self, trainer: Any, step: int) -> None:
        state = {
            "history": self.history,
            "seconds": self.seconds,
            "wall": self._wall(),
            "cpu": self.cpu + time.process_time(),
            "work_cpu": self.work_cpu,
            "warm": self.warm,
            "warm_step": self.warm_step,
            "recent": list(self.recent),
            "best": self.best,
        }
        checkpoints.save(
            self.directory,
            checkpoints.Checkpoint(
                step, trainer.tensors(), self.fed[:step], state, self.best_weights
            ),
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
        sources: dict[str, Source],
        mean: np.ndarray,
        initial: dict[str, Any],
        writer: CellWriter,
    ) -> None:
        from ablations.trainer import tensor_digests

        moments = 0
        attempts = cell_files.read_attempts(self.directory)
        if self.best is not None:
            trainer.restore_weights(self.best_weights)
        if self.recipe.statistics == "population":
            size = group_size(self.recipe, trainer.replicas)
            groups = shuffled_groups(sources["train"], size, self.config["seed"])
            moments = trainer.population_statistics(self._counted(groups, size))
        found = {
            name: self._predict(
                trainer,
                source,
                self.recipe.test_views if name == "test" else 1,
                name == "test",
                self._beat(self.steps, f"evaluating {_IMAGES[name]}"),
            )
            for name, source in sources.items()
        }
        self._write_arrays(trainer.model, found["test"], mean)
        record = {
            "schema": shapes.SCHEMA,
            "arm": self.directory.parent.name,
            "seed": self.config["seed"],
            "identity": files.sha256(files.canonical(self.config)),
            "results": {
                "validation_error": None,
                **{key: value for name, one in found.items() for key, value in one.named(name)},
                "test_views": self.recipe.test_views,
                "selection": self.recipe.selection,
                "selected_epoch": self.best["epoch"] if self.best else len(self.history),
                "selected_step": self.best["step"] if self.best else self.steps,
                "epoch": len(self.history),
                "step": self.steps,
                "warmup_steps": self.warm_step,
                "batch_moments": moments,
                "train_seconds": self.seconds,
                "wall_seconds": self._wall(),
                "cpu_seconds": self.cpu + time.process_time(),
                "work_cpu_seconds": self.work_cpu,
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
            "machine": trainer.machine(),
            "environment": environment.describe(),
        }
        writer.scalars(self.steps, last_scalars(self.history, record["results"]))
        files.write_json(self.directory / "record.json", record)
        cell_files.write_manifest(self.directory, list(cell_files.CELL_FILES))
        checkpoints.clear(self.directory)
        for name in ("progress.json", "failure.json"):
            (self.directory / name).unlink(missing_ok=True)

    def _counted(self, groups: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
        for number, group in enumerate(groups, start=1):
            self.progress(self.steps, "population statistics", number * size)
            yield group

    def _write_arrays(self, model: Any, found: Prediction, mean: np.ndarray) -> None:
        from reszoo.layers import deep_graph

        files.write(self.directory / "history.csv", cell_files.history_csv(self.history))
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
