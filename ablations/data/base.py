"""What every source returns, and the one error that every bad input ends in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ablations.errors import UserError

MAX_BYTES = 8 * 2**30
"""Decoded images of both parts together, in bytes, above which a source refuses."""


class DataError(UserError):
    """Data that is missing, damaged or unusable. The message is one line that names the path."""

    def __init__(self, message: str) -> None:
        """Control characters (a newline in a file name, say) are escaped: one line it stays."""
        super().__init__(printable(message))


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a data set.

    images: uint8, shape (n, height, width, channels), values 0 to 255, channels 1 or 3 (R, G, B).
    labels: int32, shape (n,), indices into the data set's class names.
    Both are read-only.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]

    def take(self, rows: npt.NDArray[np.int64]) -> Images:
        """Return a copy of some images, in the order of `rows`, int64 (k,)."""
        part = Images(self.images[rows], self.labels[rows])
        for array in (part.images, part.labels):
            array.flags.writeable = False
        return part


@dataclass(frozen=True, eq=False)
class Dataset:
    """Two or three parts with equal image shape and the same classes.

    digest: SHA-256 (hex) of the content, see `content_digest`; the same images, labels and class
    names give the same digest whatever file format they came from and whatever the set is called.
    notes: what a reader of results should know, e.g. "3 corrupt images skipped".
    validation: what a split holds out of the training images; `train` is without it. None: nothing.
    split: name of the protocol (`splits.find`).
    held_out_sha256: SHA-256 (hex) of the held-out images' numbers among all training images,
    ascending, int64, little endian.
    """

    name: str
    title: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()
    validation: Images | None = None
    split: str = "full"
    held_out_sha256: str = ""

    @property
    def split_facts(self) -> dict[str, Any]:
        """What identifies the split in records; nothing where nothing is held out."""
        if self.validation is None:
            return {}
        return {
            "split": self.split,
            "held_out": len(self.validation.labels),
            "held_out_sha256": self.held_out_sha256,
        }

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what a network sees."""
        return tuple(self.train.images.shape[1:])  # type: ignore[return-value]


def content_digest(
    train: Images, test: Images, class_names: Sequence[str], validation: Images | None = None
) -> str:
    """SHA-256 over class names, then for each part shapes, dtypes, images and labels (C order)."""
    hasher = hashlib.sha256(json.dumps(list(class_names)).encode())
    for part, content in present(train=train, test=test, validation=validation):
        for array, dtype in ((content.images, "|u1"), (content.labels, "<i4")):
            hasher.update(json.dumps([part, dtype, list(array.shape)]).encode())
            flat = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
            hasher.update(flat.view(np.uint8).data)
    return hasher.hexdigest()


def present(**parts: Any) -> list[tuple[str, Any]]:
    """Return name and content of the parts that are there."""
    return [(name, content) for name, content in parts.items() if content is not None]


def make_dataset(
    name: str,
    title: str,
    train: Images,
    test: Images,
    class_names: Iterable[str],
    notes: Iterable[str] = (),
    digest: str | None = None,
    **split: Any,
) -> Dataset:
    """Check the parts against each other and return the data set; the digest is computed if None.

    split: Dataset's fields validation, split and held_out_sha256.

    Raises DataError when shapes, dtypes, labels or class names do not fit together.
    """
    names = tuple(class_names)
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f'{name}: the class name "{twice}" appears twice; class names must differ')
    validation = split.get("validation")
    for part, content in present(training=train, test=test, validation=validation):
        _check_part(f"{name}: {part} part", content, len(names))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name}: training images are {train.images.shape[1:]} and test images "
            f"{test.images.shape[1:]} (height, width, channels); they must be equal"
        )
    digest = content_digest(train, test, names, validation) if digest is None else digest
    return Dataset(name, printable(title), train, test, names, digest, tuple(notes), **split)


def _check_part(what: str, content: Images, classes: int) -> None:
    images, labels = content.images, content.labels
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"{what}: images must be uint8 of shape (n, height, width, channels), n > 0, "
            f"not {images.dtype} {images.shape}"
        )
    if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{what}: labels must be int32 of shape {images.shape[:1]}, "
            f"not {labels.dtype} {labels.shape}"
        )
    check_labels(labels, classes, what)
    for array in (images, labels):
        array.flags.writeable = False


def check_labels(labels: npt.NDArray[np.int32], classes: int, what: str) -> None:
    """Raise DataError naming the first of `labels`, shape (n,), outside 0 to classes - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{what}: label {int(labels[first])} of image {first} is not in 0 to {classes - 1}"
        )


def check_size(what: str, images: int, shape: tuple[int, int, int]) -> None:
    """Raise DataError if `images` uint8 images of (height, width, channels) exceed MAX_BYTES."""
    height, width, channels = shape
    size = images * height * width * channels
    if size > MAX_BYTES:
        raise DataError(
            f"{what}: {images:,} images of {width}x{height}x{channels} decode to "
            f"{size / 2**30:.1f} GiB, above the limit of {MAX_BYTES / 2**30:.0f} GiB; "
            "use fewer or smaller images"
        )


def printable(text: str) -> str:
    """`text` with line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Return "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
