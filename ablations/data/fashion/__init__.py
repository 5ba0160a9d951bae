"""The slice of Fashion-MNIST that ships with the package; README.md here says how it was made."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from ablations.data.base import DataError, Dataset, Images, make_dataset

SLICE = Path(__file__).parent / "slice.npz"
SLICE_SHA256 = "cef5c2fec94a10128005e5be3e8fc6bdea2f3db6a252eaa752aeb4a3cf76fc7e"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load() -> Dataset:
    """10,000 training and 2,000 test images, uint8 (n, 28, 28, 1), 1,000 and 200 of each class.

    Raises DataError naming the file if it is missing or not the one that was shipped.
    """
    try:
        payload = SLICE.read_bytes()
    except OSError as error:
        raise DataError(
            f"{SLICE}: cannot be read ({error.strerror}); install the package again"
        ) from error
    if hashlib.sha256(payload).hexdigest() != SLICE_SHA256:
        raise DataError(f"{SLICE}: not the file that was shipped; install the package again")
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        train, test = (
            Images(arrays[f"{part}_images"][..., None], arrays[f"{part}_labels"].astype(np.int32))
            for part in ("train", "test")
        )
    title = (
        f"Fashion-MNIST slice, {len(train.labels):,} training and {len(test.labels):,} test images"
    )
    return make_dataset("fashion", title, train, test, CLASS_NAMES)
