"""Images as arrays of pixels: taken in, checked, resized.

Importing this needs neither numpy nor keras.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from reszoo.errors import SpecError, shown

if TYPE_CHECKING:
    import numpy as np

#: The longest side, in pixels, to which an image's longer one is resized before the crop.
MAX_LONGER_SIDE = 65536


# Pillow's modes of 8 bits or less a channel. It makes white of most pixels of the others.
_PIL_MODES = (
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB",
)  # fmt: skip


def is_pil(value: Any) -> bool:
    """Return whether this is one of Pillow's images."""
    # Without Pillow there is no such image, and importing it takes time.
    return any(cls.__module__ == "PIL.Image" for cls in type(value).__mro__)


def batch(images: Any, channels: int) -> np.ndarray:
    """Return an array of images (N, H, W, C), or of one (H, W, C), checked.

    Raises:
        SpecError: no such array; integers outside 0..255. Floats outside are warned about.
    """
    array = _array(images)
    check_shape(array.shape, channels)
    _check_range([array])
    return array


def singles(images: Any, channels: int) -> list[Any]:
    """Return single images, checked: PIL images, and arrays (H, W, C). Raises as `batch`."""
    if is_pil(images):
        images = [images]
    if not isinstance(images, (list, tuple)):
        if not hasattr(images, "__array_interface__"):
            name = type(images).__name__
            raise SpecError(f"resize takes PIL images and numpy arrays, not {name}")
        array = batch(images, channels)
        return [array] if array.ndim == 3 else list(array)
    singles = [image if is_pil(image) else _array(image) for image in images]
    arrays = [image for image in singles if not is_pil(image)]
    _check_range(arrays)
    for array in arrays:
        if array.ndim != 3 or array.shape[-1] != channels:
            raise SpecError(
                f"an image in a list has the shape (H, W, {channels}) here, not {array.shape}"
            )
    return singles


def stacked(images: Any, channels: int) -> np.ndarray:
    """Return a list of images of one size as a batch (N, H, W, C), one PIL image as (H, W, C)."""
    import numpy as np

    arrays = [decoded(image, channels) for image in singles(images, channels)]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise SpecError(f"images of {len(shapes)} shapes make no batch; resize=True does")
    return arrays[0] if is_pil(images) else np.stack(arrays)


def decoded(image: Any, channels: int) -> np.ndarray:
    """Return one of `singles` as an array (H, W, C).

    Raises:
        SpecError: a PIL image of more than 8 bits a channel, or of a mode that cannot be converted.
    """
    if not is_pil(image):
        return image
    import numpy as np

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise SpecError(f"a PIL image has 1 or 3 channels, not {channels}")
    mode = modes[channels]
    known = image.mode in _PIL_MODES
    try:
        array = np.asarray(image.convert(mode)) if known else None
    except ValueError:  # a mode that this Pillow does not convert
        array = None
    if array is None:
        raise SpecError(
            f"PIL images of mode {image.mode!r} are none of 8 bits a channel that become "
            f'"{mode}": scale them to 0..255 and convert them first'
        )
    return array if array.ndim == 3 else array[..., None]


def check_shape(shape: tuple[int | None, ...], channels: int) -> None:
    """Refuse what is no shape of images with so many channels."""
    if len(shape) not in (3, 4) or shape[-1] != channels:
        raise SpecError(
            f"images have the shape (N, H, W, {channels}) or (H, W, {channels}) here, not {shape}"
        )


def resized(array: np.ndarray, short: int, size: int, interpolation: str) -> np.ndarray:
    """Return an image (H, W, C) whose shorter side became `short` pixels, cut to its centre.

    Args:
        array: uint8, or floats 0..255, which are resized without rounding.
        short: pixels of the shorter side; the longer one keeps the proportion.
        size: pixels of the result's sides.
        interpolation: name of one of Pillow's filters.

    Raises:
        SpecError: a side of 0, or one that would become longer than MAX_LONGER_SIDE.
    """
    import numpy as np
    from PIL import Image

    height, width = array.shape[:2]
    if not height or not width:
        raise SpecError(f"an image of {height}x{width} pixels cannot be resized")
    if width <= height:
        wide, high = short, int(short * height / width)
    else:
        wide, high = int(short * width / height), short
    if max(wide, high) > MAX_LONGER_SIDE:
        raise SpecError(
            f"an image of {height}x{width} pixels would be resized to {high}x{wide} before the "
            f"crop, at most {MAX_LONGER_SIDE} pixels a side: cut it first"
        )
    if array.dtype == np.uint8 and array.shape[-1] == 3:
        planes = [Image.fromarray(np.ascontiguousarray(array))]
    else:
        # Pillow has no images of floats or of many channels: one plane a channel.
        kind = array.dtype if array.dtype == np.uint8 else np.dtype(np.float32)
        channels = np.ascontiguousarray(np.moveaxis(array, -1, 0), kind)
        planes = [Image.fromarray(channel) for channel in channels]
    method = Image.Resampling[interpolation.upper()]
    left, top = round((wide - size) / 2), round((high - size) / 2)
    box = (left, top, left + size, top + size)
    cut = [np.asarray(p.resize((wide, high), method).crop(box)) for p in planes]
    # Bicubic filters overshoot; Pillow clips bytes but not floats.
    return np.clip(np.dstack(cut), 0, 255)


def _array(images: Any) -> np.ndarray:
    import numpy as np

    try:
        array = np.asarray(images)
    except (TypeError, ValueError) as error:  # ragged lists, tensors on other devices
        raise SpecError(f"no array of pixels: {shown(error, str)}") from None
    if array.dtype.kind not in "uif":
        raise SpecError(f"images are integers or floats in 0..255, not {array.dtype}")
    return array


def _check_range(arrays: Iterable[np.ndarray]) -> None:
    """Refuse integers outside 0..255; warn where floats look like something else, all together."""
    ends: list[float] = []
    for array in arrays:
        if array.dtype == "uint8" or not array.size:
            continue
        low, high = array.min(), array.max()
        if array.dtype.kind == "f":
            ends += float(low), float(high)
        elif low < 0 or high > 255:
            how = "images / 257" if array.dtype == "uint16" else "scale them first"
            raise SpecError(
                f"images of {array.dtype} hold {low} to {high}, but pixels of 0..255 are expected: "
                f"{how}"
            )
    if not ends:
        return
    low, high = min(ends), max(ends)
    if not 0 <= low <= high <= 255 or 0 < high <= 1:  # NaN is not between any two
        meant = "of more than 8 bits" if high > 255 else "normalised already"
        warnings.warn(
            f"images hold {low:.3g} to {high:.3g}, but pixels of 0..255 are expected; "
            f"are they {meant}?",
            stacklevel=5,
        )
