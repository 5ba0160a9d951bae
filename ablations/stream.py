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
from typing import Protocol

import numpy as np

from ablations.data import EncodedImages, Images
from ablations.data.encoded import map_threads, mean_view
from ablations.data.views import DRAWS, test_view, train_view
from ablations.recipes import Recipe

#: Images decoded at once where a batch of un-augmented images is asked for.
PLAIN_BATCH = 250
#: A uniform draw that leaves a view unmirrored.
NO_FLIP = 0.75


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


class Source(Protocol):
    """One part of a data set as float32 images in [0, 1], per-pixel mean subtracted."""

    labels: np.ndarray

    def augmented(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Return the views (len(rows), height, width, channels) of an epoch."""

    def plain(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """Return un-augmented views; `view` counts the test views of a photograph."""


class PixelSource:
    """Images in memory: crops of the zero-padded image and mirrors (sec. 4.2).

    Args:
        part: uint8 images and labels.
        recipe: its flip and crop_padding.
        seed: of the cell.
        mean: float32 (height, width, channels).
    """

    def __init__(self, part: Images, recipe: Recipe, seed: int, mean: np.ndarray) -> None:
        self.labels = part.labels
        self._images = part.images
        self._recipe = recipe
        self._seed = seed
        self._mean = mean
        self._draws: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def augmented(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Return cropped and mirrored images."""
        flip, crop = self._epoch(epoch)
        images = self.plain(rows)
        if self._recipe.crop_padding:
            images = _crop(images, crop[rows], self._recipe.crop_padding)
        if self._recipe.flip:
            mirror = flip[rows]
            images[mirror] = images[mirror, :, ::-1]
        return images

    def plain(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """Return the images as they are; there is one view."""
        return normalise(self._images[rows], self._mean)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._draws:
            count = len(self.labels)
            sides = 2 * self._recipe.crop_padding + 1
            self._draws = {e: d for e, d in self._draws.items() if e == epoch - 1}
            self._draws[epoch] = (
                generator(self._seed, epoch, "flip").random(count) < 0.5,
                generator(self._seed, epoch, "crop").integers(0, sides, (count, 2)),
            )
        return self._draws[epoch]


class ViewSource:
    """Encoded photographs, decoded when needed: ImageNet's views (sec. 3.4).

    Args:
        part: the images on disk and their labels.
        recipe: its flip.
        seed: of the cell.
        mean: float32 (224, 224, 3).
        workers: threads that decode.
    """

    def __init__(
        self, part: EncodedImages, recipe: Recipe, seed: int, mean: np.ndarray, workers: int
    ) -> None:
        self.labels = part.labels
        self._part = part
        self._recipe = recipe
        self._seed = seed
        self._mean = mean
        self._workers = workers

    def augmented(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Return scaled, cropped, mirrored and recoloured views."""

        def view(row: int) -> np.ndarray:
            draw = generator(self._seed, epoch, f"view/{row}")
            draws = np.concatenate([draw.random(4), draw.standard_normal(len(DRAWS) - 4)])
            if not self._recipe.flip:
                draws[DRAWS.index("flip")] = NO_FLIP
            return train_view(self._part.open(row), draws)

        return self._stack(view, rows)

    def plain(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """Return one of the ten test views; 0 is the centre."""
        return self._stack(lambda row: test_view(self._part.open(row), view), rows)

    def _stack(self, function, rows: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
        views = list(map_threads(function, [int(row) for row in rows], self._workers))
        return np.stack(views) - self._mean


def make_source(
    part: Images | EncodedImages, recipe: Recipe, seed: int, mean: np.ndarray, workers: int = 1
) -> Source:
    """Return the source that fits a part of a data set."""
    if isinstance(part, EncodedImages):
        return ViewSource(part, recipe, seed, mean, workers)
    return PixelSource(part, recipe, seed, mean)


class Stream:
    """An endless, random-access stream of augmented batches.

    Args:
        source: the training images.
        recipe: batch size.
        seed: of the cell.
    """

    def __init__(self, source: Source, recipe: Recipe, seed: int) -> None:
        self._source = source
        self._recipe = recipe
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> Batch:
        """Return the batch of one step."""
        count = len(self._source.labels)
        positions = np.arange(step * self._recipe.batch, (step + 1) * self._recipe.batch)
        epochs = positions // count
        images, labels = [], []
        for epoch in np.unique(epochs):
            rows = self._order(int(epoch))[positions[epochs == epoch] % count]
            images.append(self._source.augmented(int(epoch), rows))
            labels.append(self._source.labels[rows])
        x = images[0] if len(images) == 1 else np.concatenate(images)
        y = np.concatenate(labels)
        digest = hashlib.sha256(np.ascontiguousarray(x).data)
        digest.update(y.data)
        return Batch(step, x, y, digest.digest())

    def batches(self, first: int, stop: int, ahead: int = 4) -> Iterator[Batch]:
        """Yield the batches of steps first … stop - 1, prepared by a thread `ahead` of use."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        closed = threading.Event()

        def put(item: Batch | BaseException) -> bool:
            while not closed.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for step in range(first, stop):
                    if not put(self.batch(step)):
                        return
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        threading.Thread(target=work, daemon=True, name="stream").start()
        try:
            for _ in range(first, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            order = generator(self._seed, epoch, "order").permutation(len(self._source.labels))
            self._orders[epoch] = order
        return self._orders[epoch]


def plain_batches(
    source: Source, size: int = PLAIN_BATCH, view: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all images of a source un-augmented, in order, with labels, `size` at a time."""
    for start in range(0, len(source.labels), size):
        rows = np.arange(start, min(start + size, len(source.labels)))
        yield source.plain(rows, view), source.labels[rows]


def shuffled_groups(source: Source, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield un-augmented groups of `size` images in random order, for population statistics.

    Data sets are often stored class by class; moments are to be over mixed batches, as in training.
    The order is the same for every arm of a seed. Images that fill no group are left out.
    """
    order = generator(seed, 0, "population").permutation(len(source.labels))
    for start in range(0, len(order) - size + 1, size):
        yield source.plain(order[start : start + size])


def generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Return the random generator that belongs to a seed, an epoch and a purpose."""
    key = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def training_mean(part: Images | EncodedImages, recipe: Recipe, workers: int = 1) -> np.ndarray:
    """Return the per-pixel mean of a training set, float32 (height, width, channels), in [0, 1]."""
    if isinstance(part, EncodedImages):
        return mean_view(part, recipe.mean_images or len(part), threads=workers)
    return pixel_mean(part.images)


def pixel_mean(images: np.ndarray) -> np.ndarray:
    """Return the per-pixel mean of uint8 images, scaled to [0, 1], float32 (h, w, c)."""
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
