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
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        pad: str = "end",
        pool: str = "subsample",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = int(filters)
        self.stride = int(stride)
        self.pad = pad
        self.pool = pool

    def call(self, inputs: Any) -> Any:
        """Return the halved and widened map."""
        x = inputs
        if self.stride > 1 and self.pool == "average":
            x = keras.ops.average_pool(x, self.stride, self.stride, "same", "channels_last")
        elif self.stride > 1:
            x = x[:, :: self.stride, :: self.stride, :]
        before, after = zero_channels(inputs.shape[-1], self.filters, self.pad)
        return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [before, after]])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (N, ceil(H / stride), ceil(W / stride), filters)."""
        batch, *size, _ = input_shape
        return (batch, *(n and -(-n // self.stride) for n in size), self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "stride": self.stride,
            "pad": self.pad,
            "pool": self.pool,
        }


def zero_channels(before: int, after: int, pad: str) -> tuple[int, int]:
    """Return how many zero channels stand before and after the old ones."""
    missing = after - before
    first = missing // 2 if pad == "both" else 0
    return first, missing - first
