"""From files to an index of encoded images: what each source collects, and a look at each image."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablations.data import views
from ablations.data.base import DataError
from ablations.data.encoded import EncodedImages

_HEAD, _TAIL = 16 * 1024, 64
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


@dataclass
class Found:
    """Images of one part before they become arrays.

    paths: of the files, relative to the root. places: int64 arrays (n, 4), one row an image: the
    number of its path, and starts, sizes, labels as in EncodedImages. corrupt: names, with the
    reason. left_out: how many other items there were.
    """

    paths: list[str] = field(default_factory=list)
    places: list[npt.NDArray[np.int64]] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    left_out: int = 0

    def rows(self) -> npt.NDArray[np.int64]:
        """Return `places` as one array (n, 4)."""
        return np.concatenate(self.places)

    def images(self, root: Path) -> EncodedImages:
        """Return the index; raises DataError if there is no image."""
        files, starts, sizes, labels = (column.copy() for column in self.rows().T)
        if not len(labels):
            raise DataError(f"{root}: no undamaged image in one of the two parts")
        paths = [os.fsencode(path) for path in self.paths]
        return EncodedImages(
            root=str(root),
            labels=np.clip(labels, -1, 2**31 - 1).astype(np.int32),  # for check_labels to reject
            paths=np.frombuffer(b"".join(paths), dtype=np.uint8),
            ends=np.cumsum([len(path) for path in paths], dtype=np.int64),
            files=files.astype(np.int32),
            starts=starts,
            sizes=sizes,
        )


def damage(read: Callable[[int, int], bytes], size: int) -> str | None:
    """Say why an encoded image is damaged, from its two ends; None if nothing is seen.

    read: (start, stop) -> those bytes of the image. size: of the image in bytes.

    Pillow must identify the format and the size in pixels, and the end marker must be in the last
    bytes: JPEG's EOI, PNG's IEND. What has no marker there is decoded to see, as bytes behind the
    end are harmless, and so is every other format. Damage in between is not seen here; reading a
    PNG finds it, but libjpeg decodes most damaged JPEG data to grey or shifted blocks without an
    error, for everyone who reads ImageNet with it. OSError of `read` is raised.
    """
    if not size:
        return "empty file"
    image_module, formats = views.pillow()

    def identify(encoded: bytes) -> str:
        with image_module.open(io.BytesIO(encoded), formats=formats) as image:
            return str(image.format)

    try:
        try:
            format_name = identify(read(0, min(size, _HEAD)))
        except Exception:  # a long header: the size in pixels stands behind a preview, say
            format_name = identify(read(0, size))
        marker = _END_MARKERS.get(format_name)
        if marker is None or marker not in read(max(0, size - _TAIL), size):
            views.decode(read(0, size))
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever their bytes lead to
        if isinstance(error, image_module.UnidentifiedImageError):
            return "no image in a known format"
        if isinstance(error, OSError) and error.errno is not None:  # of the file system
            raise
        return str(error)[:120] or type(error).__name__
    return None
