"""Normalisation of images inside the network, so that a saved model takes pixels of 0..255."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reszoo.errors import SpecError
from reszoo.preprocessing import Preprocessing


def normalized(images: Any, preprocessing: Preprocessing, axis: int = -1) -> Any:
    """Return a tensor of images, channels on `axis` (-1 or -3), normalised in float32."""
    channels = len(preprocessing.mean)
    x = keras.ops.cast(images, "float32")
    if preprocessing.channel_order == "bgr":
        x = keras.ops.take(x, list(range(channels))[::-1], axis=axis)
    shape = (channels,) if axis == -1 else (channels, 1, 1)
    factor, offset = (np.reshape(values, shape) for values in preprocessing.affine)
    return x * factor.astype("float32") + offset.astype("float32")


@keras.saving.register_keras_serializable("reszoo")
class InputPreprocessing(keras.layers.Layer):
    """Map RGB pixels of 0..255 to ``(x * scale - mean) / std``, a channel at a time.

    Takes integers or floats of the shape (N, H, W, C), or (N, C, H, W) with
    ``data_format="channels_first"``; also without N. Computes in float32, also under mixed
    precision, and returns the layer's compute type. No weights; a gather (BGR only), a product and
    a sum, which every export format knows.

    Args:
        mean: one value a channel, in the network's channel order.
        std: one positive value a channel, in the network's channel order.
        scale: multiplied with the pixels first.
        channel_order: ``"rgb"``, or ``"bgr"`` to reverse the channels first.
        data_format: default: Keras' own setting.

    Raises:
        SpecError: an argument or the number of channels is impossible.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        scale: float = 1 / 255,
        channel_order: str = "rgb",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        # Autocast would round 0..255 to half precision before the mean is subtracted.
        super().__init__(trainable=False, autocast=False, **kwargs)
        self._preprocessing = Preprocessing(
            mean=tuple(mean), std=tuple(std), scale=scale, channel_order=channel_order
        )
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise SpecError(
                f"data_format is channels_last or channels_first, not {self.data_format!r}"
            )

    def call(self, inputs: Any) -> Any:
        """Return the normalised images."""
        axis = -1 if self.data_format == "channels_last" else -3
        channels = len(self._preprocessing.mean)
        if len(inputs.shape) not in (3, 4) or inputs.shape[axis] != channels:
            raise SpecError(
                f"layer {self.name} takes images of {channels} channels, {self.data_format}, "
                f"not of the shape {tuple(inputs.shape)}"
            )
        return keras.ops.cast(normalized(inputs, self._preprocessing, axis), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config.pop("trainable", None)
        return {
            **config,
            "mean": list(self._preprocessing.mean),
            "std": list(self._preprocessing.std),
            "scale": self._preprocessing.scale,
            "channel_order": self._preprocessing.channel_order,
            "data_format": self.data_format,
        }
