"""Names of classes, and the classes that a network's scores stand for.

Importing this needs neither numpy nor keras.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from reszoo.errors import SpecError, unknown

#: The sets that `labels` knows, and their numbers of classes.
LABEL_SETS = {"imagenet1k": 1000, "cifar10": 10, "cifar100": 100}
_LABEL_FILES = {"imagenet1k": "imagenet_labels.csv"}


def labels(name: str) -> list[tuple[str, str]]:
    """Return (identifier, name) of each class of ``"imagenet1k"``, ``"cifar10"``, ``"cifar100"``.

    Identifiers are WordNet synsets for ImageNet and the names themselves for CIFAR. The sources
    are in data/README.md; the labels of ImageNet-21k and 12k are not shipped.

    Raises:
        SpecError: the set is unknown.
    """
    if name not in LABEL_SETS:
        raise SpecError(unknown("label set", name, LABEL_SETS))
    return list(_read_labels(name))


@functools.cache
def _read_labels(name: str) -> tuple[tuple[str, str], ...]:
    file = files("reszoo").joinpath("data", _LABEL_FILES.get(name, f"{name}_labels.csv"))
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return tuple((row["identifier"], row["name"]) for row in rows)


def decode(
    predictions: Any, labels: str | Sequence[str] | Sequence[tuple[str, str]], top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """Return the classes with the highest scores, as keras.applications' decode_predictions.

    Args:
        predictions: array or tensor (N, classes): probabilities or logits.
        labels: one name a class, or one (identifier, name), or the name of a set that `labels`
            knows.
        top: classes an image, at most all.

    Returns:
        For each image a list of (identifier, name, score), best first; equal scores in the order
        of the classes.

    Raises:
        SpecError: the number of labels is not that of the classes, or top is not positive.
    """
    import numpy as np

    classes = _read_labels(labels) if _is_set(labels) else _pairs(labels)
    if hasattr(predictions, "detach"):  # torch's: on a device, or part of a gradient
        predictions = predictions.detach().cpu()
    scores = np.asarray(predictions)
    if scores.ndim != 2:
        raise SpecError(f"predictions have the shape (N, classes), not {scores.shape}")
    if scores.shape[1] != len(classes):
        raise SpecError(
            f"{scores.shape[1]} classes are predicted, but there are {len(classes)} labels"
        )
    if isinstance(top, bool) or not hasattr(top, "__index__") or top < 1:
        raise SpecError(f"top takes a positive integer, not {top!r}")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*classes[index], float(row[index])) for index in order]
        for row, order in zip(scores, best, strict=True)
    ]


def _is_set(labels: Any) -> bool:
    if isinstance(labels, str) and labels not in LABEL_SETS:
        raise SpecError(unknown("label set", labels, LABEL_SETS))
    return isinstance(labels, str)


def _pairs(labels: Any) -> tuple[tuple[str, str], ...]:
    pairs = tuple((item, item) if isinstance(item, str) else tuple(item) for item in labels)
    for pair in pairs:
        if len(pair) != 2:
            raise SpecError(f"a label is a name or (identifier, name), not {pair!r}")
    return pairs
