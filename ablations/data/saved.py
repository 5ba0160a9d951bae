"""A prepared data set on disk: plain .npy files that any number of processes map.

    DIR/meta.json           title, class names, digest, and per file shape, dtype and SHA-256
    DIR/train_images.npy    uint8 (n, height, width, channels)
    DIR/train_labels.npy    int32 (n,)
    DIR/test_images.npy, DIR/test_labels.npy
    DIR/validation_images.npy, DIR/validation_labels.npy   where images are held out

An EncodedDataset is saved as its index: instead of images the arrays that encoded.ARRAYS lists,
and in meta.json "roots", the directories that hold the parts' files, which stay where they are.

Written to a temporary directory beside DIR, flushed to the disk and renamed, so DIR is whole or
absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ablations import files
from ablations.data.base import (
    DataError,
    Dataset,
    Images,
    content_digest,
    make_dataset,
    present,
)
from ablations.data.encoded import (
    ARRAYS,
    EncodedDataset,
    EncodedImages,
    encoded_digest,
    make_encoded,
)

FORMAT = "ablations-dataset-1"
_DTYPES: dict[str, np.dtype[Any]] = {"images": np.dtype(np.uint8), "labels": np.dtype(np.int32)}
_ALL = {**_DTYPES, **ARRAYS}
_PARTS = ("train", "test", "validation")
_AGAIN = "delete the directory and prepare it again"


def save(dataset: Dataset, directory: str | os.PathLike[str]) -> Path:
    """Write `dataset` to `directory` unless an undamaged copy of it is there; return the path.

    A copy of other content, or a damaged one, is replaced; processes that have it mapped keep
    what they have. Raises DataError if `directory` is something else than a saved data set, or
    cannot be written; OSError if the disk is full.
    """
    target = Path(os.path.abspath(directory))
    try:
        if _holds(target, dataset):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_sibling(target) as temporary:
            _write(dataset, temporary)
            try:
                os.rename(temporary, target)
            except OSError:  # something stands there, perhaps saved by another process just now
                if not _holds(target, dataset):
                    _replace(temporary, target)
        _fsync_directory(target.parent)
    except OSError as error:
        if error.errno in files.DISK_FULL:
            raise  # no mistake in the data; the caller says what to do
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def open_saved(directory: str | os.PathLike[str], *, verify: bool = True) -> Dataset:
    """Map what `save` wrote: read-only memory maps, shared between processes.

    verify: read everything once and compare with the digest; without it, names, shapes and
    dtypes are checked. Raises DataError naming the file that is missing, damaged or different.
    """
    root = Path(directory)
    meta = _read_meta(root)
    try:
        arrays = [
            {kind: _map_array(root, part, kind, meta["arrays"]) for kind in _dtypes(meta)}
            for part in _parts(meta)
        ]
        names, notes = [str(n) for n in meta["class_names"]], [str(n) for n in meta["notes"]]
        name, title, digest = (str(meta[key]) for key in ("name", "title", "digest"))
        roots = [str(path) for path in meta.get("roots", ())]
        parts: list[Any] = (
            [EncodedImages(place, **part) for place, part in zip(roots, arrays, strict=True)]
            if roots
            else [Images(**part) for part in arrays]
        )
        train, test, *held_out = parts
        split = {"validation": held_out[0], **_split(meta["split"])} if held_out else {}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{root / 'meta.json'}: incomplete ({error}); {_AGAIN}") from error
    digest_of: Any = encoded_digest if roots else content_digest
    make: Any = make_encoded if roots else make_dataset
    if verify and digest_of(train, test, names, *held_out) != digest:
        raise DataError(f"{_damaged_file(root, meta)}: content is not what was saved; {_AGAIN}")
    dataset: Dataset = make(name, title, train, test, names, notes, digest, **split)
    return dataset


def _array_file(part: str, kind: str) -> str:
    return f"{part}_{kind}.npy"


def _read_meta(root: Path) -> dict[str, Any]:
    path = root / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), so no data set") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {_AGAIN}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(f"{path}: not a data set saved by this version ({FORMAT})")
    return meta


def _dtypes(meta: dict[str, Any]) -> dict[str, np.dtype[Any]]:
    """The arrays of each part of this kind of data set, and their types."""
    return ARRAYS if "roots" in meta else _DTYPES


def _parts(meta: dict[str, Any]) -> tuple[str, ...]:
    return _PARTS if "split" in meta else _PARTS[:2]


def _split(meta: dict[str, Any]) -> dict[str, str]:
    return {"split": str(meta["name"]), "held_out_sha256": str(meta["held_out_sha256"])}


def _map_array(root: Path, part: str, kind: str, declared: dict[str, Any]) -> Any:
    file = _array_file(part, kind)
    path = root / file
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header with tokenize and ast
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: cannot be mapped ({reason}); {_AGAIN}") from error
    if not isinstance(array, np.memmap):
        raise DataError(f"{path}: not a plain .npy file; {_AGAIN}")
    if list(array.shape) != declared[file]["shape"] or array.dtype != _ALL[kind]:
        raise DataError(
            f"{path}: {array.dtype} {array.shape}, but {_ALL[kind]} {declared[file]['shape']} "
            f"was saved; {_AGAIN}"
        )
    return array


def _damaged_file(root: Path, meta: dict[str, Any]) -> Path:
    """The first array file whose own SHA-256 differs; meta.json if none does."""
    for part, kind in itertools.product(_parts(meta), _dtypes(meta)):
        file = _array_file(part, kind)
        if _sha256(root / file) != meta["arrays"][file].get("sha256"):
            return root / file
    return root / "meta.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _holds(target: Path, dataset: Dataset) -> bool:
    """Is an undamaged copy of `dataset` at `target`? DataError if the user has other things there.

    Only an empty directory or one with this module's meta.json may be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    _read_meta(target)
    try:
        there = open_saved(target)
    except DataError:
        return False
    return _description(there) == _description(dataset)


def _description(dataset: Dataset) -> tuple[object, ...]:
    described = dataset.name, dataset.title, dataset.class_names, dataset.notes, dataset.digest
    # The digest is the same wherever the files are.
    return *described, *dataset.split_facts.values(), *_roots(dataset)


def _roots(dataset: Dataset) -> list[str]:
    """The directories of the parts' files; none if the images are in memory."""
    if not isinstance(dataset, EncodedDataset):
        return []
    parts = present(train=dataset.train, test=dataset.test, validation=dataset.validation)
    return [part.root for _, part in parts]


def _write(dataset: Dataset, directory: Path) -> None:
    declared = {}
    roots = _roots(dataset)
    there = present(train=dataset.train, test=dataset.test, validation=dataset.validation)
    for (part, content), kind in itertools.product(there, ARRAYS if roots else _DTYPES):
        array = getattr(content, kind)
        path = directory / _array_file(part, kind)
        with path.open("wb") as stream:
            values = np.ascontiguousarray(array, dtype=_ALL[kind])
            # np.save gives a full disk no errno: write the header by numpy, the bytes ourselves.
            np.lib.format.write_array_header_1_0(
                stream, np.lib.format.header_data_from_array_1_0(values)
            )
            stream.write(values.data)
            stream.flush()
            os.fsync(stream.fileno())
        declared[path.name] = {"shape": list(array.shape), "sha256": _sha256(path)}
    split = {"name": dataset.split, "held_out_sha256": dataset.held_out_sha256}
    meta = {
        "format": FORMAT,
        "name": dataset.name,
        "title": dataset.title,
        "class_names": dataset.class_names,
        "notes": dataset.notes,
        "digest": dataset.digest,
        "arrays": declared,
        **({"roots": roots} if roots else {}),
        **({"split": split} if dataset.validation is not None else {}),
    }
    with (directory / "meta.json").open("w", encoding="utf-8") as text:
        json.dump(meta, text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    _fsync_directory(directory)


@contextlib.contextmanager
def _temporary_sibling(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, removed at the end unless it was renamed away."""
    path = target.with_name(f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _replace(temporary: Path, target: Path) -> None:
    """Rename the saved data set at `target` aside, `temporary` into its place; remove the old."""
    with _temporary_sibling(target) as aside:
        os.rename(target, aside / target.name)
        os.rename(temporary, target)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
