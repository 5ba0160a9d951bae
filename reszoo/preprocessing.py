"""What happens to an image before a network with given weights sees it.

Importing this needs neither numpy nor keras.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reszoo import pixels
from reszoo.errors import SpecError, choice, integer, number, ordered, shown, switch, unknown

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

    def __new__(cls, **values: Any) -> Preprocessing:
        """Refuse unknown fields with the nearest name, as the generated constructor does not."""
        _check_fields(cls, values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if (items := ordered(getattr(self, name))) is None:
                given = shown(getattr(self, name))
                raise SpecError(f"{name} takes one number a channel, not {given}")
            object.__setattr__(self, name, tuple(number(name, item) for item in items))
        object.__setattr__(self, "scale", number("scale", self.scale))
        if not self.mean or len(self.mean) != len(self.std):
            raise SpecError(
                f"mean {shown(self.mean)} and std {shown(self.std)} need one entry a channel"
            )
        if self.scale <= 0 or min(self.std) <= 0:
            raise SpecError(f"scale {self.scale} and std {shown(self.std)} must be positive")
        choice("channel_order", self.channel_order, CHANNEL_ORDERS)
        choice("interpolation", self.interpolation, INTERPOLATIONS)
        choice("crop_mode", self.crop_mode, CROP_MODES)
        for name in ("input_size", "test_input_size"):
            size = getattr(self, name)
            if name == "input_size" or size is not None:
                object.__setattr__(self, name, integer(name, size))
        for name in ("crop_fraction", "test_crop_fraction"):
            fraction = getattr(self, name)
            if name == "crop_fraction" or fraction is not None:
                checked = number(name, fraction, "a number in (0, 1]", lambda v: 0 < v <= 1)
                object.__setattr__(self, name, checked)
        # A file of weights may hold any of them, and the next image would be made as large.
        _check_side(self.input_size, self.crop_fraction)
        _check_side(*self.evaluation)

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
        if not isinstance(values, Mapping):
            raise SpecError(f"a preprocessing is made of a dict, not of {shown(values)}")
        _check_fields(cls, values)  # a name may be no text
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
                integers or floats in 0..255; or a list of PIL images or arrays of one size. Float
                arrays that look like 0..1, or leave 0..255, are warned about; the values of
                tensors are not looked at.

        Returns:
            Array (of an array) or tensor (of a tensor) of the same shape, float32.

        Raises:
            SpecError: the shape or type is not that of images; integers outside 0..255; a PIL
                image of more than 8 bits a channel.
        """
        return self._normalized(self._prepared(images, resize=False))

    def pixels(self, images: Any, resize: bool | None = False) -> Any:
        """Return images in float32, checked as by `normalize` and not normalised.

        For networks that normalise in their graph.

        Args:
            images: as in `normalize` or `resize`.
            resize: as in a call.

        Raises:
            SpecError: as `normalize` and `resize`.
        """
        images = self._prepared(images, resize)
        if hasattr(images, "__array_interface__"):
            return images.astype("float32")
        import keras

        return keras.ops.cast(images, "float32")

    def __call__(self, images: Any, resize: bool | None = None) -> Any:
        """Return network input, float32.

        Args:
            images: as in `normalize` or `resize`.
            resize: whether to resize and crop first; default: lists and PIL images yes, arrays and
                tensors no.

        Raises:
            SpecError: as `normalize` and `resize`, and for another `resize`.
        """
        return self._normalized(self._prepared(images, resize))

    def _normalized(self, images: Any) -> Any:
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

    def _prepared(self, images: Any, resize: bool | None) -> Any:
        """Return images as an array or a tensor of pixels, checked, and resized where wanted."""
        listed = isinstance(images, (list, tuple)) or pixels.is_pil(images)
        if listed if resize is None else switch("resize", resize):
            return self.resize(images)
        if not listed and not hasattr(images, "__array_interface__"):
            if not hasattr(images, "shape"):
                raise SpecError(f"images are an array or a tensor, not {type(images).__name__}")
            pixels.check_shape(tuple(images.shape), len(self.mean))
            return images
        if not listed:
            return pixels.batch(images, len(self.mean))
        return pixels.stacked(images, len(self.mean))

    def resize(self, images: Any, size: int | None = None) -> np.ndarray:
        """Return images resized and cropped as torchvision and timm do for evaluation.

        The shorter side becomes floor(size / crop fraction) pixels, the longer one keeps the
        proportion; then the centre is cut out. Pillow's filters, which anti-alias.

        Args:
            images: list of PIL images or of arrays (H, W, C), RGB, each of any size; or one array
                (N, H, W, C); or one image. PIL images of at most 8 bits a channel become RGB, or
                gray for one channel. Arrays of uint8 give what PIL images give; other types are
                resized in float32 without rounding, and checked first as by `normalize`.
            size: height and width of the result in pixels; default: those of `evaluation`.

        Returns:
            Array (N, size, size, C), uint8 or float32, 0..255.

        Raises:
            SpecError: something is not an image, or not of pixels in 0..255; size is not a
                positive integer, or size / crop fraction more than 8,192; an image is so thin that
                its longer side would become more than 65,536 pixels.
        """
        import numpy as np

        size, fraction = self._crop(size)
        short = math.floor(size / fraction)
        channels = len(self.mean)
        cut = [
            pixels.resized(pixels.decoded(one, channels), short, size, self.interpolation)
            for one in pixels.singles(images, channels)
        ]
        if not cut:
            raise SpecError("no images to resize")
        return np.stack(cut)

    def _crop(self, size: int | None) -> tuple[int, float]:
        """Return (size, crop fraction) for a wanted size."""
        if size is None:
            return self.evaluation
        size = integer("size", size)
        at_training_size = size == self.input_size != self.test_input_size
        fraction = self.crop_fraction if at_training_size else self.evaluation[1]
        _check_side(size, fraction)
        return size, fraction


def _check_side(size: int, fraction: float) -> None:
    if size > MAX_SIDE * fraction:
        raise SpecError(
            f"images are resized to size / crop fraction, at most {MAX_SIDE} pixels, "
            f"not {shown(size)} / {fraction:g}"
        )


def _check_fields(cls: type, values: Iterable[Any]) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise SpecError(unknown("preprocessing field", name, known))
