"""Data sources: name -> parts of uint8 images with labels, class names and a content digest.

ImageNet's parts are an index of encoded images instead, which stay where they are (EncodedDataset).
`load` reads a source, `save` writes prepared arrays once, `open_saved` maps them in any number of
processes. Every bad input raises DataError, whose message is one line. Nothing is downloaded and
TensorFlow is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ablations.data import cifar, fashion, folder, imagenet, splits
from ablations.data.base import DataError, Dataset, Images, content_digest, present
from ablations.data.encoded import EncodedDataset, EncodedImages
from ablations.data.saved import open_saved, save
from reszoo.errors import unknown

__all__ = [
    "SOURCES",
    "DataError",
    "Dataset",
    "EncodedDataset",
    "EncodedImages",
    "Images",
    "content_digest",
    "load",
    "load_recorded",
    "open_saved",
    "present",
    "save",
]

SOURCES: tuple[str, ...] = ("fashion", "cifar10", "cifar100", "folder", "imagenet")
"""Names that `load` takes."""


def load(
    name: str,
    data_dir: str | PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    split: str = splits.FULL,
) -> Dataset:
    """Read a source into memory; "imagenet": return an EncodedDataset, whose images stay on disk.

    name: one of SOURCES.
    data_dir: "folder": required, holds train/<class>/ and test/<class>/ (or val/<class>/).
        "cifar10", "cifar100": holds the original files or their archive's folder; None looks in
        the cache of keras.datasets. "imagenet": required, holds the unpacked archives' class
        folders or a prepared tfds set. "fashion": must be None, the slice ships with the package.
    image_size: "folder" only, pixels: shorter side resized to this, then the centre square.
    skip_corrupt: "folder" and "imagenet" (no effect elsewhere): leave undecodable images out, with
        a note.
    split: which training images are held out as the validation part; `splits` lists the protocols.

    Raises DataError (one line) for everything that is missing, damaged or does not fit.
    """
    if name not in SOURCES:
        raise DataError(unknown("data set", name, SOURCES))
    protocol = splits.find(name, split)  # an unknown one is named before data are read
    return splits.apply(_load(name, data_dir, image_size, skip_corrupt), protocol)


def load_recorded(
    recorded: Mapping[str, Any],
    data_dir: str | PathLike[str] | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
) -> Dataset:
    """Read the data set that a run was trained on again.

    recorded: what its grid.json says of the data: name, title, digest, and a split if any.
    data_dir, image_size, skip_corrupt: see `load`.

    Raises DataError (one line) as `load`, or because it is another one.
    """
    loaded = load(
        recorded["name"],
        data_dir,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        split=recorded.get("split", splits.FULL),
    )
    if loaded.digest != recorded["digest"]:
        raise DataError(
            f"{loaded.title}: not the data of this run, {recorded['title']} (the digests differ); "
            "give the --data_dir, --image_size and --skip_corrupt that it was trained with"
        )
    return loaded


def _load(
    name: str, data_dir: str | PathLike[str] | None, image_size: int | None, skip_corrupt: bool
) -> Dataset:
    directory = None if data_dir is None else Path(data_dir).expanduser()
    if name == "folder":
        return folder.load(directory, image_size, skip_corrupt)
    if image_size is not None:
        raise DataError(f"{name}: --image_size resizes only the folder source's images; leave it")
    if name == "imagenet":
        return imagenet.load(directory, skip_corrupt)
    if name == "fashion":
        if directory is not None:
            raise DataError(
                f"fashion: the slice ships with the package and takes no --data_dir ({directory}); "
                "leave it, or use --dataset folder for images of your own"
            )
        return fashion.load()
    return cifar.load(name, directory)
