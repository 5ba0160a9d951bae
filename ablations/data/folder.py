"""Class folders: DIR/train/<class>/* and DIR/test/<class>/* (or DIR/val/<class>/*)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablations.data.base import DataError, Dataset, Images, counted, make_dataset
from ablations.data.decode import Corrupt, decode
from reszoo.errors import closest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
"""Taken as images, in any case; other files are left out, with a note."""

_LAYOUT = "DIR/train/<class>/ and DIR/test/<class>/ (or DIR/val/<class>/) with one folder a class"
_TEST_FOLDERS = ("test", "val")
_NO_CLASS = ("__MACOSX",)


@dataclass
class _Part:
    files: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignored: int = 0


def load(data_dir: Path | None, image_size: int | None, skip_corrupt: bool) -> Dataset:
    """Read the class folders under `data_dir`.

    Classes are the folders of train/, sorted by name; files are sorted by name within a class.
    Images become uint8 (n, h, w, 1) if all are grayscale, else (n, h, w, 3), R, G, B.

    image_size: None (all images must have one size) or pixels: the shorter side is resized to it
    (bilinear, antialiased), then the centre square is taken.
    skip_corrupt: leave undecodable images out and count them in the notes, instead of raising.

    Raises DataError naming the file or folder.
    """
    if data_dir is None:
        raise DataError(f"folder: give --data_dir DIR that holds {_LAYOUT}")
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise DataError(f"folder: --image_size {image_size} is not a number of pixels above 0")
    train_root, test_root, notes = _roots(data_dir)
    classes = [path.name for path in _class_folders(train_root)]
    if len(classes) < 2:
        raise DataError(
            f"{train_root}: {counted(len(classes), 'class folder')}, at least 2 are needed; "
            f"put {_LAYOUT}"
        )
    _check_test_classes(test_root, [path.name for path in _class_folders(test_root)], classes)
    train, test = _list_part(train_root, classes), _list_part(test_root, classes)
    files = train.files + test.files
    decoded = decode(files, image_size)
    if decoded.corrupt and not skip_corrupt:
        raise DataError(_corrupt_message(decoded.corrupt))
    kept = np.array(decoded.kept, dtype=np.int64)
    labels = np.array(train.labels + test.labels, dtype=np.int32)[kept]
    split = int(np.searchsorted(kept, len(train.files)))
    for root, part in ((train_root, labels[:split]), (test_root, labels[split:])):
        _check_no_class_is_empty(root, classes, part)
    assert decoded.images is not None  # no class is empty
    parts = (
        Images(decoded.images[:split], labels[:split]),
        Images(decoded.images[split:], labels[split:]),
    )
    notes += decoded.notes
    if decoded.corrupt:
        notes.append(f"{counted(len(decoded.corrupt), 'corrupt image')} skipped")
    if train.ignored + test.ignored:
        notes.append(f"{counted(train.ignored + test.ignored, 'non-image item')} left out")
    if shared := _shared_images(*parts):
        notes.append(f"{counted(shared, 'test image')} identical to a training image")
    height, width, channels = decoded.images.shape[1:]
    title = (
        f"{data_dir.resolve().name}, {len(classes)} classes, {width}x{height}x{channels}, "
        f"{split:,} training and {len(kept) - split:,} test images"
    )
    return make_dataset("folder", title, *parts, classes, notes)


def _entries(directory: Path) -> list[Path]:
    """What is in `directory`, sorted by name, without hidden names."""
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{directory}: cannot be read ({error.strerror})") from error
    return [directory / name for name in names]


def _class_folders(root: Path) -> list[Path]:
    return [path for path in _entries(root) if os.path.isdir(path) and path.name not in _NO_CLASS]


def _roots(data_dir: Path) -> tuple[Path, Path, list[str]]:
    """The training and the test folder, and notes."""
    if not os.path.isdir(data_dir):
        reason = "is not a directory" if os.path.exists(data_dir) else "cannot be found"
        raise DataError(f"folder: --data_dir {data_dir} {reason}; give one that holds {_LAYOUT}")
    present = [path.name for path in _class_folders(data_dir)]
    if "train" not in present:
        above = f"; give {data_dir.parent} instead?" if data_dir.name == "train" else ""
        raise DataError(
            f'{data_dir} has no folder "train"{above or _instead("train", present)}; '
            f"it must hold {_LAYOUT}"
        )
    tests = [name for name in _TEST_FOLDERS if name in present]
    if not tests:
        raise DataError(
            f'{data_dir} has neither a folder "test" nor "val"{_instead("test", present)}; '
            f"it must hold {_LAYOUT}"
        )
    notes = [f"{tests[1]}/ left out, {tests[0]}/ used"] if len(tests) > 1 else []
    return data_dir / "train", data_dir / tests[0], notes


def _instead(wanted: str, present: Sequence[str]) -> str:
    """Name a folder that may be meant: "Train", "training", "validation"."""
    stems = ("train",) if wanted == "train" else _TEST_FOLDERS
    meant = [name for name in present if name.lower().startswith(stems) and name != "train"]
    return f'; rename "{meant[0]}"?' if meant else ""


def _check_test_classes(root: Path, present: Sequence[str], classes: Sequence[str]) -> None:
    """The test folder must have exactly the classes of the training folder."""
    missing = [name for name in classes if name not in present]
    surplus = [name for name in present if name not in classes]
    if surplus:
        near = closest(surplus[0], missing or classes)
        hint = f'; did you mean "{near}"?' if near else ""
        raise DataError(f'{root / surplus[0]}: train/ has no class "{surplus[0]}"{hint}')
    if missing:
        raise DataError(
            f'{root}: class "{missing[0]}" of train/ has no folder here ({len(missing)} missing); '
            "both parts must have the same class folders"
        )


def _list_part(root: Path, classes: Sequence[str]) -> _Part:
    part = _Part()
    for label, name in enumerate(classes):
        entries = _entries(root / name)
        files = [e for e in entries if e.suffix.lower() in EXTENSIONS and os.path.isfile(e)]
        if not files:
            raise DataError(
                f"{root / name}: no image in this class folder; put {', '.join(EXTENSIONS)} files "
                "there or remove the class from both parts"
            )
        part.files += files
        part.labels += [label] * len(files)
        part.ignored += len(entries) - len(files)
    return part


def _check_no_class_is_empty(
    root: Path, classes: Sequence[str], labels: npt.NDArray[np.int32]
) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        name = classes[int(np.argmin(counts))]
        raise DataError(f"{root / name}: every image in this class folder is corrupt")


def _corrupt_message(corrupt: Sequence[Corrupt]) -> str:
    first = corrupt[0]
    what = counted(len(corrupt), "corrupt image") + (", the first" if len(corrupt) > 1 else "")
    return (
        f"{what}: {first.path} ({first.reason}); replace or remove what cannot be decoded, "
        "or leave it out with --skip_corrupt"
    )


def _shared_images(train: Images, test: Images) -> int:
    """How many test images have exactly the pixels of some training image."""
    seen = {hash(image.tobytes()) for image in train.images}
    suspects = [image.tobytes() for image in test.images if hash(image.tobytes()) in seen]
    if not suspects:
        return 0
    wanted = set(suspects)
    found = {pixels for image in train.images if (pixels := image.tobytes()) in wanted}
    return sum(pixels in found for pixels in suspects)
