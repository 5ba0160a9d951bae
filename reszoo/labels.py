"""Names of classes, and the classes that a network's scores stand for.

Importing this needs neither numpy nor keras.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from reszoo.errors import SpecError, integer, ordered, shown, unknown

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


def pairs(value: Any) -> list[tuple[str, str]]:
    """Return (identifier, name) of each class.

    Args:
        value: the name of a set that `labels` knows, or one name or (identifier, name) a class.

    Raises:
        SpecError: the set is unknown, or something is no label.
    """
    if isinstance(value, str):
        return labels(value)
    if (items := ordered(value)) is None:
        raise SpecError(f"labels takes one name a class or the name of a set, not {shown(value)}")
    found = []
    for item in items:
        pair = (item, item) if isinstance(item, str) else item
        texts = isinstance(pair, list | tuple) and all(isinstance(text, str) for text in pair)
        if not texts or len(pair) != 2:
            raise SpecError(f"a label is a name or (identifier, name), not {shown(item)}")
        found.append((str(pair[0]), str(pair[1])))
    return found


def decode(
    predictions: Any, labels: str | Sequence[str] | Sequence[tuple[str, str]], top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """Return the classes with the highest scores, as keras.applications' decode_predictions.

    Args:
        predictions: array or tensor (N, classes): probabilities or logits, of any integers or
            floats.
        labels: one name a class, or one (identifier, name), or the name of a set that `labels`
            knows.
        top: classes an image, at most all.

    Returns:
        For each image a list of (identifier, name, score), best first; equal scores in the order
        of the classes.

    Raises:
        SpecError: the number of labels is not that of the classes, top is not positive, or the
            scores are no numbers (NaN is none).
    """
    import numpy as np

    classes = pairs(labels)
    top = integer("top", top)
    scores = _scores(predictions)
    if scores.ndim != 2:
        raise SpecError(f"predictions have the shape (N, classes), not {scores.shape}")
    if scores.shape[1] != len(classes):
        raise SpecError(
            f"{scores.shape[1]} classes are predicted, but there are {len(classes)} labels"
        )
    undefined = np.isnan(scores).any(axis=1)
    if undefined.any():
        raise SpecError(f"predictions hold NaN, which has no rank: image {undefined.argmax()}")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*classes[index], float(row[index])) for index in order]
        for row, order in zip(scores, best, strict=True)
    ]


def _scores(predictions: Any) -> Any:
    """Return an array or tensor of real numbers as a float64 array."""
    import numpy as np

    if hasattr(predictions, "detach"):  # torch's: on a device, or part of a gradient
        predictions = predictions.detach().cpu()
        if predictions.is_floating_point():
            predictions = predictions.double()  # numpy has no bfloat16
    try:
        scores = np.asarray(predictions)
    except (TypeError, ValueError) as error:  # rows of several lengths
        raise SpecError(f"no predictions (N, classes): {shown(error, str)}") from None
    # Numpy counts TensorFlow's and JAX's bfloat16 among kinds that it does not know.
    if scores.dtype.kind not in "uif" and scores.dtype.name != "bfloat16":
        raise SpecError(f"predictions are integers or floats, not {scores.dtype}")
    # Before they are negated: unsigned integers, and the smallest of the others, wrap.
    return scores.astype(np.float64)
