"""ImageNet (ILSVRC2012), read where it lies: class folders or a prepared tfds set. Never downloads.

Class folders, in DIR or DIR/ILSVRC/Data/CLS-LOC (as Kaggle's archive unpacks):

    train/<wnid>/*.JPEG   and   val/<wnid>/*.JPEG (or test/, or val/*.JPEG with
                                LOC_val_solution.csv in DIR)

tfds, in DIR, DIR/<version> or DIR/imagenet2012/<version>, with dataset_info.json, features.json:

    <name>-train.tfrecord-00000-of-01024 …   and   <name>-validation.tfrecord-00000-of-00064 …

In both the class index is the place of the class in the sorted list of WordNet ids, as everywhere.
Any subset in one of these layouts is taken as well. The images of tfds since its version 3 are the
original files, except 22 CMYK ones and one PNG, which tfds has converted.

Sources: image-net.org/challenges/LSVRC/2012, kaggle.com/c/imagenet-object-localization-challenge,
tensorflow.org/datasets/catalog/imagenet2012.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablations.data import prepared
from ablations.data.base import DataError, counted
from ablations.data.encoded import (
    EncodedDataset,
    EncodedImages,
    make_encoded,
    map_threads,
)
from ablations.data.folder import EXTENSIONS
from ablations.data.indexing import Found, damage

FULL = (1000, 1_281_167, 50_000)
"""Classes, training images and validation images of ILSVRC2012."""

_LAYOUT = (
    "the unpacked archives ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org "
    "as DIR/train/<wnid>/*.JPEG and DIR/val/<wnid>/*.JPEG, or a prepared tfds set imagenet2012; "
    "nothing is downloaded"
)
_CLS_LOC = Path("ILSVRC", "Data", "CLS-LOC")
_SOLUTION = "LOC_val_solution.csv"
_NOTES = (
    "data digest: names, sizes and labels of the images, not their content",
    "images checked before training: header and end marker only",
)


def load(data_dir: Path | None, skip_corrupt: bool) -> EncodedDataset:
    """Index the images under `data_dir`; the pixels stay on disk.

    skip_corrupt: leave out images found damaged now and count them in the notes, instead of
        raising. `indexing.damage` says what is looked at; deeper damage raises DataError with the
        image's name when it is read.

    Raises DataError naming the file or folder.
    """
    if data_dir is None:
        raise DataError(f"imagenet: give --data_dir DIR that holds {_LAYOUT}")
    if not os.path.isdir(data_dir):
        raise DataError(
            f"imagenet: --data_dir {data_dir} is not a directory; it must hold {_LAYOUT}"
        )
    root = prepared.find(data_dir)
    if root is not None:
        train, test, names = prepared.read(root)
    else:
        root = _root(data_dir)
        train, test, names = _read_folders(root, data_dir)
    corrupt = train.corrupt + test.corrupt
    if corrupt and not skip_corrupt:
        what = counted(len(corrupt), "corrupt image") + (", the first" if len(corrupt) > 1 else "")
        raise DataError(
            f"{what}: {corrupt[0]}; replace what cannot be decoded, or leave it out with "
            "--skip_corrupt"
        )
    notes = list(_NOTES)
    if corrupt:
        notes.append(f"{counted(len(corrupt), 'corrupt image')} skipped")
    if left_out := train.left_out + test.left_out:
        notes.append(f"{counted(left_out, 'non-image item')} left out")
    parts = train.images(root), test.images(root)
    _check_classes(root, parts[0], names)
    sizes = len(names), len(parts[0]), len(parts[1])
    title = "ImageNet" if sizes == FULL else f"{data_dir.resolve().name}, not all of ILSVRC2012"
    title += f", {sizes[0]:,} classes, {sizes[1]:,} training and {sizes[2]:,} test images"
    return make_encoded("imagenet", title, *parts, names, notes)


def _check_classes(root: Path, train: EncodedImages, names: Sequence[str]) -> None:
    if len(names) < 2:
        raise DataError(f"{root}: {counted(len(names), 'class')}, at least 2 are needed")
    counts = np.bincount(
        train.labels[(train.labels >= 0) & (train.labels < len(names))], minlength=len(names)
    )
    if not counts.all():
        raise DataError(f'{root}: no training image of class "{names[int(counts.argmin())]}"')


def _root(data_dir: Path) -> Path:
    """Return the absolute folder that holds train/; raise DataError if there is none."""
    for directory in (data_dir, data_dir / _CLS_LOC, data_dir / _CLS_LOC.relative_to("ILSVRC")):
        if os.path.isdir(directory / "train"):
            return Path(os.path.abspath(directory))
    archive = next((n for n in _names(data_dir)[1] if n.startswith("ILSVRC2012_img")), None)
    hint = f"unpack {archive} first; " if archive else ""
    raise DataError(f"imagenet: no train/ in {data_dir}; {hint}it must hold {_LAYOUT}")


def _names(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in `directory`, sorted, none hidden."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise DataError(f"{directory}: cannot be read ({error.strerror})") from error
    return sorted(folders), sorted(files)


def _read_folders(root: Path, data_dir: Path) -> tuple[Found, Found, list[str]]:
    classes, files = _names(root / "train")
    if not classes and any(name.endswith(".tar") for name in files):
        raise DataError(f"{root / 'train'}: unpack each <wnid>.tar into a folder of its name")
    test = next((n for n in ("val", "test") if os.path.isdir(root / n)), None)
    if test is None:
        raise DataError(f"imagenet: neither val/ nor test/ in {root}; it must hold {_LAYOUT}")
    present, flat = _names(root / test)
    if flat and not present:
        labelled = _labelled_by_solution(root / test, flat, classes, (data_dir, *root.parents[:3]))
    else:
        for name in present:
            if name not in classes:
                raise DataError(f'{root / test / name}: train/ has no class "{name}"')
        if missing := sorted(set(classes) - set(present)):
            raise DataError(
                f'{root / test}: no folder for class "{missing[0]}" of train/ ({len(missing)} '
                "missing); unpack both parts completely"
            )
        labelled = _labelled_by_folder(root / test, present, classes)
    train = _labelled_by_folder(root / "train", classes, classes)
    return _inspect(root, *train), _inspect(root, *labelled), classes


def _labelled_by_folder(
    part: Path, present: Sequence[str], classes: Sequence[str]
) -> tuple[list[str], list[int], int]:
    """Return paths relative to the root, labels, and how many items are no images."""
    paths, labels, left_out = [], [], 0
    index = {name: label for label, name in enumerate(classes)}
    for name in present:
        folders, files = _names(part / name)
        images = [file for file in files if file.lower().endswith(EXTENSIONS)]
        paths += [f"{part.name}/{name}/{file}" for file in images]
        labels += [index[name]] * len(images)
        left_out += len(folders) + len(files) - len(images)
    return paths, labels, left_out


def _labelled_by_solution(
    part: Path, files: Sequence[str], classes: Sequence[str], places: Sequence[Path]
) -> tuple[list[str], list[int], int]:
    """As `_labelled_by_folder`, for val/*.JPEG with Kaggle's list "ImageId,PredictionString"."""
    path = next((d / _SOLUTION for d in places if os.path.isfile(d / _SOLUTION)), None)
    if path is None:
        raise DataError(
            f"{part}: images without class folders; move each into {part.name}/<wnid>/, or put "
            f"Kaggle's {_SOLUTION} into --data_dir"
        )
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = {row[0]: row[1].split()[0] for row in csv.reader(stream) if len(row) > 1}
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as ImageId,PredictionString ({error})") from error
    index = {name: label for label, name in enumerate(classes)}
    images = [file for file in files if file.lower().endswith(EXTENSIONS)]
    labels = []
    for file in images:
        wnid = rows.get(os.path.splitext(file)[0])
        if wnid not in index:
            problem = "does not list it" if wnid is None else f'gives it the class "{wnid}"'
            raise DataError(f"{part / file}: {path} {problem}, train/ has no such class")
        labels.append(index[wnid])
    return [f"{part.name}/{file}" for file in images], labels, len(files) - len(images)


def _inspect(root: Path, paths: Sequence[str], labels: Sequence[int], left_out: int) -> Found:
    """Look at both ends of every image."""

    def look(path: str) -> tuple[int, str | None]:
        try:
            descriptor = os.open(root / path, os.O_RDONLY)
            try:
                size = os.fstat(descriptor).st_size
                reason = damage(lambda a, b: os.pread(descriptor, b - a, a), size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{root / path}: cannot be read ({error.strerror})") from error
        return size, reason

    found = Found(left_out=left_out)
    rows = []
    for path, label, (size, reason) in zip(paths, labels, map_threads(look, paths), strict=True):
        if reason is None:
            rows.append((len(found.paths), -1, size, label))
            found.paths.append(path)
        else:
            found.corrupt.append(f"{root / path} ({reason})")
    found.places.append(np.array(rows, dtype=np.int64).reshape(-1, 4))
    return found
