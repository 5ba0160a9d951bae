"""ImageNet's 224x224 views of a photograph: random in training, ten fixed ones in testing.

Sources. He et al. 2015 (arXiv 1512.03385, sec. 3.4): the shorter side is sampled in [256, 480], a
224x224 crop from the image or its flip, "the standard color augmentation in [21]", and 10-crop
testing. [21] is Krizhevsky et al. 2012, sec. 4.1: the ten crops, and the colour augmentation.

What the papers leave open is settled by convention:

- Interpolation is bilinear, widened by the reduction factor where it shrinks, so antialiased:
  Pillow's BILINEAR, which is torchvision's default.
- The longer side becomes int(side * longer / shorter) pixels, as in torchvision.
- Only the crop's pixels are computed, in a third of the time of resizing the whole image and
  cropping. About 1 % of values round to the neighbouring one of the 255 levels (Pillow keeps the
  crop's corners in float32); both ways are within one level of the exact value.
- EXIF orientation is not applied: ImageNet's published results all read the stored pixels
  (torchvision's ImageFolder, TensorFlow's decode_jpeg).
- JPEGs are decoded at full size. Pillow's draft mode decodes large ones faster at 1/2, 1/4 or 1/8
  in the DCT domain, with visibly other pixels.
- More than 8 bits a channel: the high byte. Transparency is dropped. CMYK: Pillow's conversion.

Everything is a function of the image and of `draws`; nothing here holds state or draws numbers.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ablations.data.decode import FORMATS

CROP = 224
"""Side of a view in pixels."""
TRAIN_SIDES = (256, 480)
"""Least and greatest shorter side of a resized training image, both included."""
TEST_SIDE = 256
"""Shorter side of a resized test image."""
VIEWS = 10
"""Test views: 0 centre, 1 top left, 2 top right, 3 bottom left, 4 bottom right, 5 to 9 mirrored."""
CENTRE = 0

DRAWS = ("side", "left", "top", "flip", "colour 1", "colour 2", "colour 3")
"""Entries of `draws`: four uniform in [0, 1), then three standard normal."""

COLOUR_SIGMA = 0.1
"""Standard deviation of Krizhevsky's alpha."""
EIGENVALUES = np.array((0.2175, 0.0188, 0.0045))
EIGENVECTORS = np.array(
    ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
)
"""Rows R, G, B; columns are the eigenvectors p1, p2, p3. Neither paper prints its values: these are
those of FAIR's fb.resnet.torch (datasets/imagenet.lua), for pixels in [0, 1]."""


@functools.cache
def pillow() -> tuple[Any, list[str]]:
    """PIL.Image with all its plugins loaded, and those of decode.FORMATS that it can read."""
    from PIL import Image

    Image.init()
    return Image, [name for name in FORMATS if name in Image.OPEN]


def decode(encoded: bytes) -> Any:
    """Return a fully decoded PIL image in mode RGB.

    Raises whatever the bytes lead Pillow's decoders to: any Exception.
    """
    image_module, formats = pillow()
    with image_module.open(io.BytesIO(encoded), formats=formats) as image:
        image.load()
        return to_rgb(image)


def to_rgb(image: Any) -> Any:
    """Return a PIL image of any mode of 8 or 16 bits in mode RGB; raise ValueError for others."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grayscale; Pillow's own conversion clips at 255
        high = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        image = pillow()[0].fromarray(high.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) after resizing (width, height) to a shorter side of `side` pixels."""
    short, long = min(size), max(size)
    other = side * long // short
    return (side, other) if size[0] <= size[1] else (other, side)


def train_geometry(
    size: tuple[int, int], draws: npt.NDArray[np.float64]
) -> tuple[int, int, int, bool]:
    """Return shorter side, left and top of the crop in the resized image (pixels), and the flip.

    size: (width, height) of the image. draws: DRAWS.
    """
    assert draws.shape == (len(DRAWS),), draws.shape
    low, high = TRAIN_SIDES
    side = low + _integer(draws[0], high - low + 1)
    width, height = resized(size, side)
    left, top = _integer(draws[1], width - CROP + 1), _integer(draws[2], height - CROP + 1)
    return side, left, top, bool(draws[3] < 0.5)


def colour_shift(draws: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return what is added to R, G, B in [0, 1], float32 (3,): [p1 p2 p3] [a1 l1, a2 l2, a3 l3]'.

    draws: DRAWS; a = 0.1 times the three normals. One shift a view; the sum is not clipped.
    """
    return (EIGENVECTORS @ (COLOUR_SIGMA * draws[4:] * EIGENVALUES)).astype(np.float32)


def train_view(image: Any, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return a training view, float32 (224, 224, 3): pixels in [0, 1] plus the colour shift.

    image: PIL, mode RGB, any size. draws: DRAWS. The per-pixel mean is not subtracted here.
    """
    side, left, top, flip = train_geometry(image.size, draws)
    return scaled(_crop(image, side, left, top, flip)) + colour_shift(draws)


def test_view(image: Any, view: int) -> npt.NDArray[np.float32]:
    """Return a test view, float32 (224, 224, 3) in [0, 1].

    image: PIL, mode RGB, any size. view: 0 to 9, see VIEWS; the 1-crop protocol takes CENTRE.
    """
    return scaled(test_pixels(image, view))


def test_pixels(image: Any, view: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of `test_view`, uint8 (224, 224, 3)."""
    width, height = resized(image.size, TEST_SIDE)
    right, bottom = width - CROP, height - CROP
    corners = ((round(right / 2), round(bottom / 2)), (0, 0), (right, 0), (0, bottom))
    left, top = (*corners, (right, bottom))[view % 5]
    return _crop(image, TEST_SIDE, left, top, view >= 5)


def scaled(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return uint8 pixels as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def _integer(uniform: float, count: int) -> int:
    """Return an integer in 0 to count - 1 from a number in [0, 1)."""
    return min(int(uniform * count), count - 1)


def _crop(image: Any, side: int, left: int, top: int, flip: bool) -> npt.NDArray[np.uint8]:
    """Crop 224x224 at (left, top) from the image resized to shorter side `side`, then mirror."""
    (old_width, old_height), (width, height) = image.size, resized(image.size, side)
    box = (
        left * old_width / width,
        top * old_height / height,
        (left + CROP) * old_width / width,
        (top + CROP) * old_height / height,
    )
    view = image.resize((CROP, CROP), pillow()[0].Resampling.BILINEAR, box=box)
    pixels = np.asarray(view)
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels
