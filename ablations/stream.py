"""The training images in the order, crop and mirror in which the network sees them.

Everything here is a function of (seed, epoch, sample index) only: never of the network, the number
of workers, or where training resumed. Steps run through epoch boundaries, so no batch is short.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ablations.recipes import Recipe


@dataclass(frozen=True)
class Batch:
    """What enters the network in one step.

    Attributes:
        step: 0 for the first.
        images: float32 (batch, height, width, channels), mean subtracted.
        labels: int32 (batch,).
        digest: SHA-256 over the bytes of images and labels.
    """

    step: int
    images: np.ndarray
    labels: np.ndarray
    digest: bytes


class Stream:
    """An endless, random-access stream of augmented batches.

    Args:
        images: uint8 (n, height, width, channels).
        labels: int32 (n,).
        recipe: batch size and augmentation.
        seed: of the cell.
        mean: float32 (height, width, channels), from `pixel_mean`.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, seed: int, mean: np.ndarray
    ) -> None:
        self._images = images
        self._labels = labels
        self._recipe = recipe
        self._seed = seed
        self._mean = mean
        self._draws: dict[int, dict[str, np.ndarray]] = {}

    def batch(self, step: int) -> Batch:
        """Return the batch of one step."""
        count = len(self._images)
        positions = np.arange(step * self._recipe.batch, (step + 1) * self._recipe.batch)
        parts = []
        epochs = positions // count
        for epoch in np.unique(epochs):
            draws = self._epoch(int(epoch))
            rows = draws["order"][positions[epochs == epoch] % count]
            parts.append((rows, draws["flip"][rows], draws["crop"][rows]))
        rows, flip, crop = (np.concatenate(column) for column in zip(*parts, strict=True))
        images = normalise(self._images[rows], self._mean)
        if self._recipe.crop_padding:
            images = _crop(images, crop, self._recipe.crop_padding)
        if self._recipe.flip:
            images[flip] = images[flip, :, ::-1]
        labels = self._labels[rows]
        digest = hashlib.sha256(images.data)
        digest.update(labels.data)
        return Batch(step, images, labels, digest.digest())

    def batches(self, first: int, stop: int, ahead: int = 4) -> Iterator[Batch]:
        """Yield the batches of steps first … stop - 1, prepared by a thread `ahead` of use."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        closed = threading.Event()

        def work() -> None:
            try:
                for step in range(first, stop):
                    batch = self.batch(step)
                    while not closed.is_set():
                        try:
                            ready.put(batch, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    if closed.is_set():
                        return
            except BaseException as error:  # handed to the consumer, which raises it
                ready.put(error)

        threading.Thread(target=work, daemon=True, name="stream").start()
        try:
            for _ in range(first, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    def _epoch(self, epoch: int) -> dict[str, np.ndarray]:
        if epoch not in self._draws:
            count = len(self._images)
            sides = 2 * self._recipe.crop_padding + 1
            self._draws = {e: d for e, d in self._draws.items() if e == epoch - 1}
            self._draws[epoch] = {
                "order": _generator(self._seed, epoch, "order").permutation(count),
                "flip": _generator(self._seed, epoch, "flip").random(count) < 0.5,
                "crop": _generator(self._seed, epoch, "crop").integers(0, sides, (count, 2)),
            }
        return self._draws[epoch]


def _generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def pixel_mean(images: np.ndarray) -> np.ndarray:
    """Return the per-pixel mean of a training set, scaled to [0, 1], float32 (h, w, c)."""
    total = np.zeros(images.shape[1:], np.float64)
    for start in range(0, len(images), 4096):  # an int64 sum of uint8 is exact
        total += images[start : start + 4096].sum(axis=0, dtype=np.int64)
    return (total / len(images) / 255).astype(np.float32)


def normalise(images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return uint8 images as float32 in [0, 1] with the per-pixel mean subtracted (sec. 4.2)."""
    return images.astype(np.float32) / np.float32(255) - mean


def _crop(images: np.ndarray, offsets: np.ndarray, padding: int) -> np.ndarray:
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = offsets[:, 0, None] + np.arange(height)
    columns = offsets[:, 1, None] + np.arange(width)
    return wide[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
