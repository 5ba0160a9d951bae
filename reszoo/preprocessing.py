"""What happens to an image before a network with given weights sees it.

Importing this needs neither numpy nor keras.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reszoo.errors import SpecError, unknown

if TYPE_CHECKING:
    import numpy as np

CHANNEL_ORDERS = ("rgb", "bgr")
INTERPOLATIONS = ("bilinear", "bicubic")
CROP_MODES = ("center",)
#: The longest side, in pixels, to which preprocessing resizes an image's shorter one.
MAX_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The input that a set of weights was trained for: ``(x * scale - mean) / std``, x in 0..255.

    Calling it makes network input of images: ``preprocessing([PIL image, …])`` resizes, crops
    and normalises, ``preprocessing(batch)`` only normalises.

    Attributes:
        scale: multiplied with pixels of 0..255 first; 1/255 for the usual "unit" range.
        mean: subtracted after scaling, one value a channel, in the network's channel order.
        std: divided by, one value a channel, in the network's channel order.
        channel_order: ``"rgb"``, or ``"bgr"`` where the network wants the channels reversed
            (Caffe's weights, among them those of keras.applications' ResNets).
        input_size: height and width in pixels, of training or where no test size is given.
        crop_fraction: part of the shorter side that the centre crop keeps.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both with Pillow's anti-aliasing.
        test_input_size: height and width in pixels for evaluation, where they differ.
        test_crop_fraction: the crop fraction that belongs to `test_input_size`.
        crop_mode: ``"center"``.

    Raises:
        SpecError: a value is impossible.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: str = "rgb"
    input_size: int = 224
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    test_input_size: int | None = None
    test_crop_fraction: float | None = None
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise SpecError(f"{name} takes one number a channel, not {value!r}")
            object.__setattr__(self, name, tuple(_number(name, item) for item in value))
        object.__setattr__(self, "scale", _number("scale", self.scale))
        if not self.mean or len(self.mean) != len(self.std):
            raise SpecError(f"mean {self.mean} and std {self.std} need one entry a channel")
        if self.scale <= 0 or min(self.std) <= 0:
            raise SpecError(f"scale {self.scale} and std {self.std} must be positive")
        choices = {
            "channel_order": CHANNEL_ORDERS,
            "interpolation": INTERPOLATIONS,
            "crop_mode": CROP_MODES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SpecError(unknown(name, getattr(self, name), allowed))
        for name in ("input_size", "test_input_size"):
            size = getattr(self, name)
            if name == "input_size" or size is not None:
                object.__setattr__(self, name, _pixels(name, size))
        for name in ("crop_fraction", "test_crop_fraction"):
            fraction = getattr(self, name)
            if name == "test_crop_fraction" and fraction is None:
                continue
            object.__setattr__(self, name, _number(name, fraction))
            if not 0 < fraction <= 1:
                raise SpecError(f"{name} takes a number in (0, 1], not {fraction!r}")
        # A file of weights may hold any of them, and the next image would be made as large.
        for size, fraction in ((self.input_size, self.crop_fraction), self.evaluation):
            if size > MAX_SIDE * fraction:
                raise SpecError(
                    f"images are resized to size / crop fraction, at most {MAX_SIDE} pixels, "
                    f"not {size} / {fraction:g}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` takes them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_dict` described.

        Raises:
            SpecError: a field is unknown or its value impossible.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise SpecError(unknown("preprocessing field", name, known))
        return cls(**values)

    @property
    def evaluation(self) -> tuple[int, float]:
        """(size in pixels, crop fraction) of evaluation; timm reports its accuracies with these."""
        if self.test_input_size is None:
            return self.input_size, self.crop_fraction
        return self.test_input_size, self.test_crop_fraction or self.crop_fraction

    @property
    def affine(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(factor, offset) a channel: ``(x * scale - mean) / std == x * factor + offset``."""
        return (
            tuple(self.scale / deviation for deviation in self.std),
            tuple(
                -average / deviation for average, deviation in zip(self.mean, self.std, strict=True)
            ),
        )

    def for_channels(self, channels: int) -> Preprocessing:
        """Return the preprocessing for weights adapted to another number of channels.

        One channel gets the average mean and deviation, more get them in turn (timm), red first.
        """
        if channels == len(self.mean):
            return self
        step = -1 if self.channel_order == "bgr" else 1
        mean: tuple[float, ...]
        std: tuple[float, ...]
        if channels == 1:
            mean, std = ((math.fsum(values) / len(values),) for values in (self.mean, self.std))
        else:
            mean, std = (
                tuple(values[i % len(values)] for i in range(channels))
                for values in (self.mean[::step], self.std[::step])
            )
        return dataclasses.replace(self, channel_order="rgb", mean=mean, std=std)

    def layer(self, **kwargs: Any) -> Any:
        """Return the normalisation as a Keras layer (see InputPreprocessing)."""
        from reszoo.layers.preprocessing import InputPreprocessing

        return InputPreprocessing(
            mean=self.mean,
            std=self.std,
            scale=self.scale,
            channel_order=self.channel_order,
            **kwargs,
        )

    def normalize(self, images: Any) -> Any:
        """Return images as the network takes them.

        Args:
            images: numpy array or tensor of Keras' backend, (N, H, W, C) or (H, W, C), RGB,
                integers or floats in 0..255. Float arrays that look like 0..1 are warned about.

        Returns:
            Array (of an array) or tensor (of a tensor) of the same shape, float32.

        Raises:
            SpecError: the shape or type is not that of images.
        """
        images = self._checked(images)
        if not hasattr(images, "__array_interface__"):
            from reszoo.layers.preprocessing import normalized

            return normalized(images, self)
        import numpy as np

        if self.channel_order == "bgr":
            images = images[..., ::-1]
        factor, offset = self.affine
        out = images.astype(np.float32)
        out *= np.asarray(factor, np.float32)
        out += np.asarray(offset, np.float32)
        return out

    def pixels(self, images: Any) -> Any:
        """Return images in float32, checked as by `normalize` and not normalised.

        For networks that normalise in their graph.

        Args:
            images: as in `normalize`.

        Raises:
            SpecError: the shape or type is not that of images.
        """
        images = self._checked(images)
        if hasattr(images, "__array_interface__"):
            return images.astype("float32")
        import keras

        return keras.ops.cast(images, "float32")

    def _checked(self, images: Any) -> Any:
        """Return images as an array or a tensor."""
        if not (hasattr(images, "__array_interface__") or isinstance(images, (list, tuple))):
            if not hasattr(images, "shape"):
                raise SpecError(f"images are an array or a tensor, not {type(images).__name__}")
            self._check_shape(tuple(images.shape))
            return images
        import numpy as np

        if isinstance(images, (list, tuple)):
            shapes = {np.shape(image) for image in images}
            if len(shapes) != 1:
                raise SpecError(f"images of {len(shapes)} shapes make no batch; resize=True does")
        images = np.asarray(images)
        _check_pixels(images.dtype)
        self._check_shape(images.shape)
        if images.dtype.kind == "f" and images.size:
            low, high = float(images.min()), float(images.max())
            if low < 0 or 0 < high <= 1:
                warnings.warn(
                    f"images hold {low:.3g} to {high:.3g}, but pixels of 0..255 are expected; "
                    "are they normalised already?",
                    stacklevel=3,
                )
        return images

    def _check_shape(self, shape: tuple[int | None, ...]) -> None:
        if len(shape) not in (3, 4) or shape[-1] != len(self.mean):
            raise SpecError(
                f"images have the shape (N, H, W, {len(self.mean)}) or (H, W, {len(self.mean)}) "
                f"here, not {shape}"
            )

    def resize(self, images: Any, size: int | None = None) -> np.ndarray:
        """Return images resized and cropped as torchvision and timm do for evaluation.

        The shorter side becomes floor(size / crop fraction) pixels, the longer one keeps the
        proportion; then the centre is cut out. Pillow's filters, which anti-alias.

        Args:
            images: list of PIL images or of arrays (H, W, C), RGB, each of any size; or one array
                (N, H, W, C); or one image. Arrays of uint8 give what PIL images give; other types
                are resized in float32 without rounding.
            size: height and width of the result in pixels; default: those of `evaluation`.

        Returns:
            Array (N, size, size, C), uint8 or float32, 0..255.

        Raises:
            SpecError: something is not an image, or size is not a positive integer.
        """
        import numpy as np

        size, fraction = self._crop(size)
        short = math.floor(size / fraction)
        cut = [self._resized(image, short, size) for image in _as_list(images)]
        if not cut:
            raise SpecError("no images to resize")
        return np.stack(cut)

    def _crop(self, size: int | None) -> tuple[int, float]:
        """Return (size, crop fraction) for a wanted size."""
        if size is None:
            return self.evaluation
        size = _pixels("size", size)
        at_training_size = size == self.input_size != self.test_input_size
        return size, self.crop_fraction if at_training_size else self.evaluation[1]

    def _resized(self, image: Any, short: int, size: int) -> np.ndarray:
        import numpy as np
        from PIL import Image

        method = Image.Resampling[self.interpolation.upper()]
        if isinstance(image, Image.Image):
            modes = {1: "L", 3: "RGB"}
            if len(self.mean) not in modes:
                raise SpecError(f"a PIL image has 1 or 3 channels, not {len(self.mean)}")
            planes = [image.convert(modes[len(self.mean)])]
        else:
            array = np.asarray(image)
            _check_pixels(array.dtype)
            self._check_shape((1, *array.shape))
            if array.dtype == np.uint8 and array.shape[-1] == 3:
                planes = [Image.fromarray(np.ascontiguousarray(array))]
            else:
                # Pillow has no images of floats or of many channels: one plane a channel.
                kind = array.dtype if array.dtype == np.uint8 else np.dtype(np.float32)
                channels = np.ascontiguousarray(np.moveaxis(array, -1, 0), kind)
                planes = [Image.fromarray(channel) for channel in channels]
        width, height = planes[0].size
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        left, top = round((width - size) / 2), round((height - size) / 2)
        box = (left, top, left + size, top + size)
        cut = [np.asarray(p.resize((width, height), method).crop(box)) for p in planes]
        # Bicubic filters overshoot; Pillow clips bytes but not floats.
        return np.clip(np.dstack(cut), 0, 255)

    def __call__(self, images: Any, resize: bool | None = None) -> Any:
        """Return network input, float32.

        Args:
            images: as in `normalize` or `resize`.
            resize: whether to resize and crop first; default: lists and PIL images yes, arrays and
                tensors no.
        """
        if resize is None:
            resize = isinstance(images, (list, tuple)) or _is_pil(images)
        return self.normalize(self.resize(images) if resize else images)


def _as_list(images: Any) -> list[Any]:
    """Return the single images of a list, of a batch, or of one image."""
    if isinstance(images, (list, tuple)):
        return list(images)
    if _is_pil(images):
        return [images]
    if not hasattr(images, "__array_interface__"):
        raise SpecError(f"resize takes PIL images and numpy arrays, not {type(images).__name__}")
    return [images] if images.ndim == 3 else list(images)


def _is_pil(value: Any) -> bool:
    # Without Pillow there is no such image, and importing it takes time.
    return any(cls.__module__ == "PIL.Image" for cls in type(value).__mro__)


def _check_pixels(dtype: Any) -> None:
    if dtype.kind not in "uif":
        raise SpecError(f"images are integers or floats in 0..255, not {dtype}")


def _pixels(name: str, size: Any) -> int:
    if isinstance(size, bool) or not hasattr(size, "__index__") or operator.index(size) < 1:
        raise SpecError(f"{name} takes a positive number of pixels, not {size!r}")
    return operator.index(size)


def _number(name: str, value: Any) -> float:
    try:
        known = not isinstance(value, bool) and isinstance(value, (int, float))
        known = known and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        known = False
    if not known:
        raise SpecError(f"{name} takes finite numbers, not {value!r}")
    return float(value)
