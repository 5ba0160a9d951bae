"""CIFAR-10 and CIFAR-100 from the original files, binary or Python version. Never downloads.

Both versions store an image as three 32x32 planes (R, G, B), each row by row.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ablations.data import safe_pickle
from ablations.data.base import DataError, Dataset, Images, check_labels, check_size, make_dataset

SIDE = 32
PLANES = 3 * SIDE * SIDE


@dataclass(frozen=True)
class _Version:
    """One archive's file names, and where in it the labels and class names are.

    label_bytes: per binary record, the last one is the label used; 0 for the Python version.
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int = 0
    label_key: str = ""
    names_key: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)


@dataclass(frozen=True)
class _Set:
    title: str
    classes: int
    versions: tuple[_Version, _Version]


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_SETS = {
    "cifar10": _Set(
        "CIFAR-10",
        10,
        (
            _Version(
                "cifar-10-binary.tar.gz",
                "cifar-10-batches-bin",
                tuple(f"{batch}.bin" for batch in _BATCHES),
                "test_batch.bin",
                "batches.meta.txt",
                label_bytes=1,
            ),
            _Version(
                "cifar-10-python.tar.gz",
                "cifar-10-batches-py",
                _BATCHES,
                "test_batch",
                "batches.meta",
                label_key="labels",
                names_key="label_names",
            ),
        ),
    ),
    "cifar100": _Set(
        "CIFAR-100 (fine labels)",
        100,
        (
            _Version(
                "cifar-100-binary.tar.gz",
                "cifar-100-binary",
                ("train.bin",),
                "test.bin",
                "fine_label_names.txt",
                label_bytes=2,
            ),
            _Version(
                "cifar-100-python.tar.gz",
                "cifar-100-python",
                ("train",),
                "test",
                "meta",
                label_key="fine_labels",
                names_key="fine_label_names",
            ),
        ),
    ),
}


def load(name: str, data_dir: Path | None) -> Dataset:
    """Read "cifar10" or "cifar100" (100 fine labels) from the original files.

    data_dir: holds the files themselves or the folder that the archive unpacks to, of either
    version; None: what keras.datasets has already downloaded ($KERAS_HOME or ~/.keras).

    Images are uint8 (n, 32, 32, 3). Raises DataError naming the file for anything missing,
    truncated or out of range.
    """
    wanted = _SETS[name]
    directory, version = _find(name, wanted, data_dir)
    if version.label_bytes:
        parts = [_read_binary(directory / f, version.label_bytes) for f in version.train]
        test = _read_binary(directory / version.test, version.label_bytes)
        names = _names_from_text(directory / version.names)
    else:
        parts = [_read_python(directory / f, version.label_key) for f in version.train]
        test = _read_python(directory / version.test, version.label_key)
        names = _names_from_pickle(directory / version.names, version.names_key)
    if len(names) != wanted.classes:
        raise DataError(
            f"{directory / version.names}: {len(names)} class names, {wanted.title} has "
            f"{wanted.classes}; take the file from {version.archive}"
        )
    for file, part in zip((*version.train, version.test), (*parts, test), strict=True):
        check_labels(part.labels, wanted.classes, str(directory / file))
    train = Images(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    title = f"{wanted.title}, {len(train.labels):,} training and {len(test.labels):,} test images"
    return make_dataset(name, title, train, test, names)


def _keras_cache() -> Path:
    """Where keras.datasets keeps what it has downloaded."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"


def _candidates(wanted: _Set, data_dir: Path | None) -> list[tuple[Path, _Version]]:
    if data_dir is not None:
        return [(d, v) for v in wanted.versions for d in (data_dir, data_dir / v.folder)]
    python = wanted.versions[1]
    folders = (f"{python.folder}-target/{python.folder}", python.folder)  # Keras 3, older ones
    return [(_keras_cache() / folder, python) for folder in folders]


def _find(name: str, wanted: _Set, data_dir: Path | None) -> tuple[Path, _Version]:
    """The first complete set of files; else a DataError that says which files to put where."""
    if data_dir is not None and not os.path.isdir(data_dir):
        raise DataError(f"{name}: --data_dir {data_dir} is not a directory; {_advice(wanted)}")
    partial = []
    for directory, version in _candidates(wanted, data_dir):
        missing = [file for file in version.files if not _is_file(directory / file)]
        if not missing:
            return directory, version
        if len(missing) <= len(version.files) - 2:  # one file alone ("train") is no sign of it
            partial.append(
                f"{name}: {directory} lacks {', '.join(missing)} of the {len(version.files)} files "
                f"in {version.archive}; unpack the whole archive there"
            )
    if partial:
        raise DataError(partial[0])
    if data_dir is None:
        raise DataError(
            f"{name}: no --data_dir, nothing in the cache of keras.datasets ({_keras_cache()}), "
            f"and nothing is downloaded; {_advice(wanted)}"
        )
    for archive in (version.archive for version in wanted.versions):
        if _is_file(data_dir / archive):
            raise DataError(f"{name}: unpack {data_dir / archive} there first (tar xzf {archive})")
    raise DataError(f"{name}: none of the original files in {data_dir}; {_advice(wanted)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _advice(wanted: _Set) -> str:
    binary, python = wanted.versions
    first, last = binary.train[0], binary.train[-1]
    batches = first if first == last else f"{first} to {last}"
    return (
        f"give --data_dir DIR that holds {batches}, {binary.test} and {binary.names} "
        f"(from {binary.archive}) or the files of {python.archive}, directly or in "
        f"DIR/{binary.folder} or DIR/{python.folder}"
    )


def _read_binary(path: Path, label_bytes: int) -> Images:
    """Records of `label_bytes` labels and 3072 pixels; the number comes from the file's size."""
    record = label_bytes + PLANES
    content = np.frombuffer(_read_bytes(path), dtype=np.uint8)
    if content.size == 0 or content.size % record:
        raise DataError(
            f"{path}: {content.size:,} bytes are not whole records of {record} bytes; "
            "the file is damaged or another one, take it from the original archive again"
        )
    records = content.reshape(-1, record)
    return _images(path, records[:, label_bytes:], records[:, label_bytes - 1])


def _read_python(path: Path, label_key: str) -> Images:
    """The pickled dict's "data", uint8 (n, 3072), and its list of labels."""
    batch = safe_pickle.load(path)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PLANES:
        raise DataError(f'{path}: "data" is not a uint8 array of shape (n, {PLANES})')
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f'{path}: "{label_key}" is not a list of integers')
    if len(labels) != len(data):
        raise DataError(f'{path}: {len(data)} images but {len(labels)} "{label_key}"')
    outside = next((label for label in labels if not 0 <= label < 256), None)
    if outside is not None:
        raise DataError(f"{path}: label {str(outside)[:20]} is out of range")
    return _images(path, data, np.array(labels, dtype=np.int32))


def _images(path: Path, planes: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> Images:
    """(n, 3072) in channel planes -> (n, 32, 32, 3)."""
    check_size(str(path), len(planes), (SIDE, SIDE, 3))
    pixels = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), labels.astype(np.int32))


def _names_from_text(path: Path) -> tuple[str, ...]:
    try:
        lines = _read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file of class names, one a line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _names_from_pickle(path: Path, key: str) -> tuple[str, ...]:
    names = safe_pickle.load(path).get(key)
    if not isinstance(names, list) or not all(isinstance(n, (bytes, str)) for n in names):
        raise DataError(f'{path}: "{key}" is not a list of class names')
    return tuple(n.decode("latin-1") if isinstance(n, bytes) else n for n in names)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
