"""Split protocols as data: which training images are held out for validation.

    full               none; the data set's own training and test parts (default)
    45k/5k             CIFAR, 5,000 of the 50,000 (He et al. 2015, sec. 4.2)
    9k/1k              fashion, 1,000 of the 10,000
    holdout[:PERCENT]  any data set, 10 % unless named

The paper does not say which 5,000. Here every class gives its share, and which of its images it
gives depends on their labels and order alone: not on a seed of a cell, nor on the test part, nor on
the version of NumPy (`random_raw` of a bit generator is fixed, `Generator.permutation` is not). So
all cells of a data set hold out the same images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ablations.data.base import DataError, Dataset, content_digest
from ablations.data.encoded import EncodedDataset, encoded_digest
from reszoo.errors import unknown

FULL = "full"
HOLDOUT = "holdout"
MOST_PERCENT = 50


@dataclass(frozen=True)
class Split:
    """A protocol.

    Attributes:
        name: as `--split` takes it.
        percent: of the training images that are held out; 0: none.
        images: training images that the set must have; 0: any number.
    """

    name: str
    percent: int
    images: int = 0


#: Data set -> its protocols besides full and holdout.
SPLITS: dict[str, tuple[Split, ...]] = {
    "fashion": (Split("9k/1k", 10, 10_000),),
    "cifar10": (Split("45k/5k", 10, 50_000),),
    "cifar100": (Split("45k/5k", 10, 50_000),),
}


def names(dataset: str) -> tuple[str, ...]:
    """Return the names of a data set's protocols."""
    return FULL, *(split.name for split in SPLITS.get(dataset, ())), HOLDOUT


def find(dataset: str, name: str) -> Split:
    """Return a protocol of a data set by name.

    Raises:
        DataError: it has no such protocol, or the percentage is not possible.
    """
    for split in (Split(FULL, 0), *SPLITS.get(dataset, ()), Split(HOLDOUT, 10)):
        if split.name == name:
            return split
    match = re.fullmatch(rf"{HOLDOUT}:(.*)", name)
    if not match:
        raise DataError(unknown(f"split of {dataset}", name, names(dataset)))
    if not re.fullmatch(r"\d{1,3}", match[1]) or not 1 <= int(match[1]) <= MOST_PERCENT:
        raise DataError(
            f"split {name}: {HOLDOUT}:PERCENT takes a whole number from 1 to {MOST_PERCENT}, e.g. "
            f"{HOLDOUT}:5"
        )
    percent = int(match[1])
    return Split(HOLDOUT if percent == 10 else f"{HOLDOUT}:{percent}", percent)


def held_out(labels: npt.NDArray[np.int32], percent: int) -> npt.NDArray[np.int64]:
    """Return the ascending rows of the training images that are held out, int64 (k,).

    k is `percent` of all, rounded; a class gives its share, rounded down, and the classes with the
    largest remainders one more. Every class keeps an image.

    Args:
        labels: int32 (n,), of all training images.
        percent: 1 to MOST_PERCENT.
    """
    sizes = np.bincount(labels).astype(np.int64)
    shares, remainders = np.divmod(sizes * percent, 100)
    more = (len(labels) * percent + 50) // 100 - int(shares.sum())
    remainders[sizes < 2] = 0
    largest = np.argsort(-remainders, kind="stable")[:more]
    shares[largest[remainders[largest] > 0]] += 1
    key = int.from_bytes(hashlib.sha256(b"reszoo/held-out").digest()[:16], "little")
    draws = np.random.Philox(key=key).random_raw(len(labels))
    order = np.lexsort((draws, labels))  # class by class, at random within a class
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(labels)) - starts[labels[order]]  # within the class
    return np.sort(order[place < shares[labels[order]]])


def apply(dataset: Dataset, split: Split) -> Dataset:
    """Return a data set whose validation part was held out of its training part.

    The digest then covers all three parts.

    Raises:
        DataError: the data set has another number of training images than the protocol's, or too
            few to hold any out.
    """
    count = len(dataset.train.labels)
    if split.images and count != split.images:
        raise DataError(
            f"split {split.name} is for {split.images:,} training images, {dataset.title} has "
            f"{count:,}; {HOLDOUT} fits any number"
        )
    if not split.percent:
        return dataset
    rows = held_out(dataset.train.labels, split.percent)
    if not len(rows):
        raise DataError(
            f"split {split.name} holds no image out of the {count:,} training images of "
            f"{dataset.title}"
        )
    kept = np.setdiff1d(np.arange(count), rows)
    train, validation = dataset.train.take(kept), dataset.train.take(rows)
    encoded = isinstance(dataset, EncodedDataset)
    digest_of: Any = encoded_digest if encoded else content_digest
    return dataclasses.replace(
        dataset,
        title=f"{dataset.title}; split {split.name}: {len(kept):,} to train on, {len(rows):,} held "
        "out for validation",
        train=train,
        validation=validation,
        digest=digest_of(train, dataset.test, dataset.class_names, validation),
        split=split.name,
        held_out_sha256=hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
    )
