"""A data set as tfds (TensorFlow Datasets) has prepared it: TFRecord shards of encoded images.

    dataset_info.json  features.json  label.labels.txt
    <name>-train.tfrecord-00000-of-01024 …   <name>-validation.tfrecord-00000-of-00064 …

Source: tensorflow.org/datasets/external_tfrecord.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ablations.data import tfrecord
from ablations.data.base import DataError
from ablations.data.encoded import map_threads
from ablations.data.indexing import Found, damage

_INFO = "dataset_info.json"
_NAMES = "label.labels.txt"
_MOST_CLASSES = 100_000
"""Without a file of class names."""
_AGAIN = "copy the prepared set again"


def find(data_dir: Path) -> Path | None:
    """Return the absolute directory of the prepared set in `data_dir`, or None.

    Looked for in data_dir, data_dir/<version> and the same under data_dir/imagenet2012; of several
    versions the newest.
    """
    for parent in (data_dir, data_dir / "imagenet2012"):
        if not os.path.isdir(parent):
            continue
        versions = [name for name in _listing(parent) if re.fullmatch(r"\d+\.\d+\.\d+", name)]
        versions.sort(key=lambda name: [int(number) for number in name.split(".")], reverse=True)
        for directory in (parent, *(parent / version for version in versions)):
            if all(os.path.isfile(directory / name) for name in (_INFO, "features.json")):
                return Path(os.path.abspath(directory))
    return None


def read(root: Path) -> tuple[Found, Found, list[str]]:
    """Return the training part, the validation (or test) part and the class names.

    Without label.labels.txt the classes are called "0", "1", …

    Raises DataError naming a shard that is missing, truncated or damaged.
    """
    info = _info(root)
    shards = {split: _shards(root, split) for split in ("train", "validation", "test")}
    test = "validation" if shards["validation"] else "test"
    for split in ("train", test):
        if not shards[split]:
            raise DataError(
                f"{root}: no shards *-{split}.tfrecord-00000-of-*; prepare the set in tfds's "
                "tfrecord format and with this split"
            )
    train_part, test_part = (
        _index(root, shards[split], _lengths(root, info, split)) for split in ("train", test)
    )
    return train_part, test_part, _class_names(root, train_part, test_part)


def _listing(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise DataError(f"{directory}: cannot be read ({error.strerror})") from error


def _info(root: Path) -> dict[str, Any]:
    path = root / _INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    if not isinstance(info, dict):
        raise DataError(f"{path}: not a description of a data set; {_AGAIN}")
    return info


def _shards(root: Path, split: str) -> list[str]:
    """Return the file names of a split's shards in order; all of them must be there."""
    pattern = re.compile(rf"(.+-{split}\.tfrecord-)(\d+)-of-(\d+)")
    matches = [match for name in _listing(root) if (match := pattern.fullmatch(name))]
    if not matches:
        return []
    prefix, number, total = matches[0].groups()
    names = [match[0] for match in matches]
    for index in range(int(total)):
        wanted = f"{prefix}{index:0{len(number)}}-of-{total}"
        if wanted not in names:
            raise DataError(f"{root / wanted}: missing, one of {int(total):,} shards; {_AGAIN}")
    if len(names) > int(total):
        raise DataError(f"{root}: shards of more than one set ({names[0]}, {names[-1]})")
    return names


def _lengths(root: Path, info: dict[str, Any], split: str) -> list[int] | None:
    """Return the numbers of records that dataset_info.json declares, None if it does not."""
    try:
        declared = [one for one in info.get("splits", []) if one.get("name") == split]
        lengths = (
            [int(length) for length in declared[0].get("shardLengths", [])] if declared else []
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{root / _INFO}: splits cannot be read ({error}); {_AGAIN}") from error
    return lengths or None


def _index(root: Path, shards: list[str], lengths: list[int] | None) -> Found:
    if lengths is not None and len(lengths) != len(shards):
        raise DataError(
            f"{root / shards[0]}: one of {len(shards):,} shards, but {_INFO} declares "
            f"{len(lengths):,}; {_AGAIN}"
        )

    def look(number: int) -> tuple[npt.NDArray[np.int64], list[str]]:
        path = root / shards[number]
        rows, corrupt, records = [], [], 0
        try:
            with path.open("rb", buffering=0) as file:
                source = tfrecord.Source(file.fileno())
                for records, record in enumerate(tfrecord.examples(path, source), 1):
                    reason = damage(functools.partial(_within, source, record.start), record.size)
                    if reason is None:
                        rows.append((number, record.start, record.size, record.label))
                    else:
                        corrupt.append(f"{path}, record {records - 1} ({reason})")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if lengths is not None and records != lengths[number]:
            raise DataError(
                f"{path}: {records:,} records, but {_INFO} declares {lengths[number]:,}; {_AGAIN}"
            )
        return np.array(rows, dtype=np.int64).reshape(-1, 4), corrupt

    found = Found(paths=shards)
    for places, corrupt in map_threads(look, range(len(shards))):
        found.places.append(places)
        found.corrupt += corrupt
    return found


def _within(source: tfrecord.Source, offset: int, start: int, stop: int) -> bytes:
    return source.read(offset + start, offset + stop)


def _class_names(root: Path, *parts: Found) -> list[str]:
    path = root / _NAMES
    if not os.path.isfile(path):
        highest = max(int(part.rows()[:, 3].max(initial=0)) for part in parts)
        if highest >= _MOST_CLASSES:
            raise DataError(f"{root}: label {highest} is not one of {_MOST_CLASSES:,} classes")
        return [str(label) for label in range(highest + 1)]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    return [line.strip() for line in lines if line.strip()]
