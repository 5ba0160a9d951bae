"""Image files -> one uint8 array, with Pillow (imported on first use) in a pool of threads.

Two passes: headers of all files first, so that channels, sizes and memory are known before any
image is decoded.
"""

from __future__ import annotations

import errno
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ablations.data.base import DataError, check_size, counted
from ablations.data.threads import default_threads, map_chunks

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_CHUNK = 64
_ORIENTATION = 0x0112
_FILE_ERRORS = frozenset(
    {errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.EPERM, errno.ESTALE}
)
"""Errors of the file system, not of the image: never skipped."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Corrupt:
    """A file that Pillow cannot decode, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Decoded:
    """Images uint8 (m, h, w, c), None if no file could be decoded.

    kept: for each image the index of its file; m + corrupt files make all.
    """

    images: npt.NDArray[np.uint8] | None
    kept: list[int]
    corrupt: list[Corrupt]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]  # width, height, as displayed
    gray: bool
    alpha: bool
    animated: bool


def decode(files: Sequence[Path], image_size: int | None) -> Decoded:
    """Decode `files`: 1 channel if all are grayscale, else R, G, B; EXIF orientation applied.

    image_size: None (all files must have one size) or the side, in pixels, of the square that
    every image is resized and cropped to.

    Raises DataError for unequal sizes, unreadable files, decompression bombs, 16-bit grayscale
    and more than MAX_BYTES of pixels. Undecodable files do not raise: they are listed.
    """
    headers = _map(_header, files)
    good = [i for i, header in enumerate(headers) if isinstance(header, _Header)]
    found = [header for header in headers if isinstance(header, _Header)]
    failed = {i: h for i, h in enumerate(headers) if isinstance(h, Corrupt)}
    if not found:
        return Decoded(None, [], list(failed.values()), ())
    if image_size is None:
        _check_one_size([files[i] for i in good], [header.size for header in found])
    width, height = found[0].size if image_size is None else (image_size, image_size)
    mode, channels = ("L", 1) if all(header.gray for header in found) else ("RGB", 3)
    shape = (height, width, channels)
    check_size(str(_common_parent(files)), len(found), shape)
    images = np.empty((len(found), *shape), dtype=np.uint8)

    def fill(row: int) -> Corrupt | None:
        pixels = _pixels(files[good[row]], mode, image_size)
        if isinstance(pixels, Corrupt):
            return pixels
        if pixels.shape[:2] != (height, width):
            return Corrupt(files[good[row]], "its header tells another size than its pixels have")
        images[row] = pixels.reshape(shape)
        return None

    kept: list[int] = []
    for row, failure in enumerate(_map(fill, range(len(good)))):
        if failure is None:
            images[len(kept)] = images[row]  # closes the gap that a failure before it left
            kept.append(good[row])
        else:
            failed[good[row]] = failure
    corrupt = [failed[i] for i in sorted(failed)]
    return Decoded(images[: len(kept)] if kept else None, kept, corrupt, tuple(_notes(found)))


def _notes(headers: Sequence[_Header]) -> list[str]:
    alpha = sum(header.alpha for header in headers)
    animated = sum(header.animated for header in headers)
    notes = [f"transparency of {counted(alpha, 'image')} dropped"] if alpha else []
    return notes + (
        [f"only the first frame of {counted(animated, 'animated image')}"] if animated else []
    )


def _map(function: Callable[[Any], _T], items: Sequence[Any]) -> list[_T]:
    """Map in threads, in order; the first exception is raised."""
    _pillow()  # Pillow's plugins must not be imported by several threads at once
    return map_chunks(function, items, default_threads(), _CHUNK)


@functools.cache
def _pillow() -> tuple[Any, Any, list[str]]:
    """PIL.Image, PIL.ImageOps and those of FORMATS that this Pillow can read."""
    from PIL import Image, ImageOps

    Image.init()
    return Image, ImageOps, [name for name in FORMATS if name in Image.OPEN]


def _guarded(path: Path, use: Callable[[Any], _T]) -> _T | Corrupt:
    """use(opened image); Corrupt for what Pillow cannot make sense of, DataError for the rest."""
    image_module, _, formats = _pillow()
    try:
        with image_module.open(path, formats=formats) as image:
            return use(image)
    except image_module.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; remove the file or make it smaller") from error
    except (DataError, MemoryError):
        raise
    except image_module.UnidentifiedImageError:
        return Corrupt(path, "no image in a known format")
    except Exception as error:  # Pillow's decoders raise whatever their bytes lead to
        if isinstance(error, OSError) and error.errno in _FILE_ERRORS:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        return Corrupt(path, str(error)[:120] or type(error).__name__)


def _header(path: Path) -> _Header | Corrupt:
    def use(image: Any) -> _Header:
        if image.mode[0] in "IF":
            raise DataError(
                f"{path}: more than 8 bits per pixel (Pillow mode {image.mode}); "
                "convert it to 8-bit grayscale or RGB"
            )
        # Pillow decodes a whole PNG to look for an EXIF chunk behind the pixels.
        peek = image.format != "PNG" or "exif" in image.info
        size = image.size[::-1] if peek and _orientation(image) >= 5 else image.size
        alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
        animated = getattr(image, "is_animated", False)
        return _Header(size, image.mode in ("L", "1"), alpha, animated)

    return _guarded(path, use)


def _orientation(image: Any) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to lose the image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _pixels(path: Path, mode: str, image_size: int | None) -> npt.NDArray[np.uint8] | Corrupt:
    """Decoded, upright, converted, resized: uint8 (h, w) or (h, w, 3)."""

    def use(image: Any) -> npt.NDArray[np.uint8]:
        _, image_ops, _ = _pillow()
        image.load()
        if _orientation(image) != 1:
            image = image_ops.exif_transpose(image)
        if mode == "RGB" and image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        if image.mode != mode:
            image = image.convert(mode)
        if image_size is not None:
            image = _resize_and_crop(path, image, image_size)
        return np.asarray(image, dtype=np.uint8)

    return _guarded(path, use)


def _resize_and_crop(path: Path, image: Any, side: int) -> Any:
    """Shorter side to `side` (bilinear, antialiased), then the centre square."""
    image_module, _, _ = _pillow()
    short, long = min(image.size), max(image.size)
    size = tuple(side if edge == short else int(side * edge / short) for edge in image.size)
    limit = image_module.MAX_IMAGE_PIXELS
    if limit and math.prod(size) > limit:
        raise DataError(
            f"{path}: {image.size[0]}x{image.size[1]} is {long / short:.0f} times as long as wide, "
            f"too much to resize to {side}; remove it"
        )
    if size != image.size:
        image = image.resize(size, image_module.Resampling.BILINEAR)
    left, top = (round((edge - side) / 2) for edge in size)
    return image.crop((left, top, left + side, top + side))


def _check_one_size(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    counts = Counter(sizes)
    if len(counts) == 1:
        return
    (usual, _), *_ = counts.most_common(1)
    other = next(i for i, size in enumerate(sizes) if size != usual)
    raise DataError(
        f"images must have one size, but {files[sizes.index(usual)]} is {usual[0]}x{usual[1]} and "
        f"{files[other]} is {sizes[other][0]}x{sizes[other][1]} (width x height); --image_size N "
        "resizes the shorter side to N and takes the centre square"
    )


def _common_parent(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files]))
