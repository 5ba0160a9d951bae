"""The parameter-free shortcut where the shape changes (option A, paper sec. 3.3 and 4.1)."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("reszoo")
class SubsamplePad(keras.layers.Layer):
    """Halve a map by subsampling or averaging, and add zero channels.

    Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), filters). No weights.

    Args:
        filters: channels of the output, at least those of the input.
        stride: 1 or 2.
        pad: ``"end"`` appends all zero channels (FAIR's code); ``"both"`` puts half before, half
            after (the public trained CIFAR weights). The paper does not say.
        pool: ``"subsample"`` takes every second pixel; ``"average"`` averages 2x2.
        data_format: ``"channels_last"`` or ``"channels_first"`` (maps (N, C, H, W)).
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        pad: str = "end",
        pool: str = "subsample",
        data_format: str = "channels_last",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = int(filters)
        self.stride = int(stride)
        self.pad = pad
        self.pool = pool
        self.data_format = data_format

    def call(self, inputs: Any) -> Any:
        """Return the halved and widened map."""
        x = inputs
        step, last = self.stride, self.data_format == "channels_last"
        if step > 1 and self.pool == "average":
            x = keras.ops.average_pool(x, step, step, "same", self.data_format)
        elif step > 1:
            x = x[:, ::step, ::step, :] if last else x[:, :, ::step, ::step]
        axis = 3 if last else 1
        sides = [[0, 0] for _ in range(4)]
        sides[axis] = list(zero_channels(inputs.shape[axis], self.filters, self.pad))
        return keras.ops.pad(x, sides)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (N, ceil(H / stride), ceil(W / stride), filters), or with channels first."""
        last = self.data_format == "channels_last"
        batch, *size = input_shape
        size = [n and -(-n // self.stride) for n in (size[:2] if last else size[1:])]
        return (batch, *size, self.filters) if last else (batch, self.filters, *size)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "stride": self.stride,
            "pad": self.pad,
            "pool": self.pool,
            "data_format": self.data_format,
        }


def zero_channels(before: int, after: int, pad: str) -> tuple[int, int]:
    """Return how many zero channels stand before and after the old ones."""
    missing = after - before
    first = missing // 2 if pad == "both" else 0
    return first, missing - first
