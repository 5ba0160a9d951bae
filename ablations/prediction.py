"""What a network says about a part of a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.errors import UserError
from ablations.stream import Source, plain_batches


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

    def named(self, part: str) -> list[tuple[str, float]]:
        """Return the numbers as a record names them, e.g. ("test_error", 12.5)."""
        names = ("error", "loss", "wrong", "images")
        return [(f"{part}_{name}", getattr(self, name)) for name in names]


def load_model(file: Path) -> Any:
    """Return the Keras model in a `.keras` file; TensorFlow says no more than it must.

    Raises:
        UserError: it cannot be loaded.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import reszoo

    try:
        return reszoo.load(file)
    except Exception as error:  # Keras raises whatever the file leads to
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be loaded: {first}") from error


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
