"""Images that stay on disk as encoded files: an index of where each one lies, and its label.

The index of 1.28 million images is six arrays, about 80 MB, which `saved.save` writes as .npy
files and any number of processes map.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from ablations.data import views
from ablations.data.base import DataError, Dataset, check_labels, present, printable
from ablations.data.threads import default_threads, map_chunks

ARRAYS: dict[str, np.dtype[Any]] = {
    "labels": np.dtype(np.int32),
    "paths": np.dtype(np.uint8),
    "ends": np.dtype(np.int64),
    "files": np.dtype(np.int32),
    "starts": np.dtype(np.int64),
    "sizes": np.dtype(np.int64),
}
"""Array fields of EncodedImages, all one-dimensional, and their types."""

MEAN_IMAGES = 10_000
"""Training images in `mean_view` unless told otherwise.

The paper does not say how its per-pixel mean was taken. A pass over all 1,281,167 images costs as
much decoding as an epoch. The mean of 10,000 has a standard error below 0.003 (the spread of a
pixel is below 0.3), a hundredth of the spread of what it is subtracted from.
"""

_T = TypeVar("_T")
_S = TypeVar("_S")


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """One part of a data set whose images are decoded when they are read. All arrays read-only.

    root: absolute directory that the paths are relative to.
    labels: int32 (n,), indices into the data set's class names.
    paths: uint8, the relative paths of the files one after another, as the file system encodes
        them. ends: int64 (number of files,), where each one ends in `paths`.
    files, starts, sizes: int32, int64, int64 (n,): the number of the image's file, its first byte
        there and its length in bytes. An image that is a file of its own starts at -1: such a
        file must still have that length when it is read.
    """

    root: str
    labels: npt.NDArray[np.int32]
    paths: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]
    files: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    image_shape: ClassVar[tuple[int, int, int]] = (views.CROP, views.CROP, 3)
    """Of the views that a network sees: height, width, channels."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> EncodedImages:
        """Return some images, in the order of `rows`, int64 (k,); they share the paths."""
        chosen = {
            name: getattr(self, name)[rows] for name in ("labels", "files", "starts", "sizes")
        }
        for array in chosen.values():
            array.flags.writeable = False
        return dataclasses.replace(self, **chosen)

    def path(self, index: int) -> str:
        """Return the absolute path of the file that holds an image."""
        file = int(self.files[index])
        start = int(self.ends[file - 1]) if file else 0
        return os.path.join(
            self.root, os.fsdecode(self.paths[start : int(self.ends[file])].tobytes())
        )

    def name(self, index: int) -> str:
        """Return the path of an image for messages, with the first byte in a shard."""
        start = int(self.starts[index])
        return self.path(index) + (f" (image at byte {start:,})" if start >= 0 else "")

    def read(self, index: int) -> bytes:
        """Return the encoded image; raises DataError if it cannot be read or has changed size."""
        start, size = int(self.starts[index]), int(self.sizes[index])
        try:
            with open(self.path(index), "rb", buffering=0) as file:
                length, end = os.fstat(file.fileno()).st_size, max(start, 0) + size
                if length < end or (start < 0 and length > end):
                    raise DataError(
                        f"{self.name(index)}: the file has changed, {length:,} bytes instead of "
                        f"{end:,}; put the old one back or start a new run"
                    )
                file.seek(max(start, 0))
                encoded = b""
                while len(encoded) < size and (block := file.read(size - len(encoded))):
                    encoded += block
        except OSError as error:
            raise DataError(f"{self.name(index)}: cannot be read ({error.strerror})") from error
        return encoded

    def open(self, index: int) -> Any:
        """Return the decoded image, a PIL.Image in mode RGB.

        Raises DataError naming it if it cannot be read or decoded.
        """
        encoded = self.read(index)
        try:
            return views.decode(encoded)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever their bytes lead to
            reason = str(error)[:120] or type(error).__name__
            raise DataError(f"{self.name(index)}: corrupt image ({reason})") from error


@dataclass(frozen=True, eq=False)
class EncodedDataset(Dataset):
    """A data set whose parts are encoded images.

    digest: SHA-256 of names, sizes and labels, not of content, see `encoded_digest`.
    """

    train: EncodedImages  # type: ignore[assignment]  # narrows to another kind of part
    test: EncodedImages  # type: ignore[assignment]
    validation: EncodedImages | None = None  # type: ignore[assignment]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what a network sees."""
        return self.train.image_shape


def encoded_digest(
    train: EncodedImages,
    test: EncodedImages,
    class_names: Sequence[str],
    validation: EncodedImages | None = None,
) -> str:
    """SHA-256 over class names and, in order, each image's relative path, place, size and label.

    The content of the images is not hashed: reading 140 GB takes longer than an epoch of some
    networks. Renaming, removing, relabelling or reordering an image or changing its size changes
    the digest; changing its bytes at equal size does not. The directory that holds the set is not
    part of it.
    """
    hasher = hashlib.sha256(json.dumps(["encoded", *class_names]).encode())
    for part, content in present(train=train, test=test, validation=validation):
        for kind, dtype in ARRAYS.items():
            array = np.ascontiguousarray(getattr(content, kind), dtype=dtype.newbyteorder("<"))
            hasher.update(json.dumps([part, kind, len(array)]).encode())
            hasher.update(array.view(np.uint8).data)
    return hasher.hexdigest()


def make_encoded(
    name: str,
    title: str,
    train: EncodedImages,
    test: EncodedImages,
    class_names: Iterable[str],
    notes: Iterable[str] = (),
    digest: str | None = None,
    **split: Any,
) -> EncodedDataset:
    """Check the parts and return the data set; the digest is computed if None.

    split: Dataset's fields validation, split and held_out_sha256.

    Raises DataError when lengths, types, labels, places or class names do not fit together.
    """
    names = tuple(class_names)
    if len(set(names)) != len(names):
        raise DataError(f"{name}: class names must differ")
    validation = split.get("validation")
    for part, content in present(training=train, test=test, validation=validation):
        _check_part(f"{name}: {part} part", content, len(names))
    digest = encoded_digest(train, test, names, validation) if digest is None else digest
    return EncodedDataset(name, printable(title), train, test, names, digest, tuple(notes), **split)


def _check_part(what: str, content: EncodedImages, classes: int) -> None:
    count = len(content.labels)
    for kind, dtype in ARRAYS.items():
        array = getattr(content, kind)
        length = len(array) if kind in ("paths", "ends") else count
        if array.dtype != dtype or array.shape != (length,) or not length:
            raise DataError(f"{what}: {kind} must be {dtype} of shape ({length},), length > 0")
        array.flags.writeable = False
    check_labels(content.labels, classes, what)
    ends, files = content.ends, content.files
    if ends[0] <= 0 or (np.diff(ends) <= 0).any() or ends[-1] != len(content.paths):
        raise DataError(f"{what}: paths and their ends do not fit together")
    if files.min() < 0 or files.max() >= len(ends):
        raise DataError(f"{what}: an image's file is not among the {len(ends):,} paths")
    if content.starts.min() < -1 or content.sizes.min() <= 0:
        raise DataError(f"{what}: an image's place is not in a file")


def map_threads(
    function: Callable[[_S], _T], items: Sequence[_S], threads: int | None = None
) -> list[_T]:
    """Map in order in `threads` threads (None: one a core, at most 8).

    The first exception is raised.
    """
    views.pillow()  # Pillow's plugins must not be imported by several threads at once
    threads = threads or default_threads()
    return map_chunks(function, items, threads, max(1, min(32, len(items) // (4 * threads))))


def mean_view(
    images: EncodedImages, at_most: int = MEAN_IMAGES, threads: int | None = None
) -> npt.NDArray[np.float32]:
    """Return the per-pixel mean of centre test views, float32 (224, 224, 3), in [0, 1].

    images: the training part. at_most: see MEAN_IMAGES; of more images, that many are taken at
    equal distances. threads: None: one a core, at most 8; the result does not depend on it.

    Raises DataError naming an image that cannot be decoded.
    """
    count = min(len(images), at_most)
    sample = np.arange(count, dtype=np.int64) * len(images) // count
    total, lock = np.zeros(images.image_shape, np.int64), threading.Lock()

    def add(index: int) -> None:
        pixels = views.test_pixels(images.open(index), views.CENTRE)
        with lock:
            np.add(total, pixels, out=total)  # integers: exact, in any order

    map_threads(add, sample.tolist(), threads)
    return (total / count / 255).astype(np.float32)
