"""The parameter-free shortcut where the shape changes (option A, paper sec. 3.3 and 4.1)."""

from __future__ import annotations

from typing import Any

import keras

from reszoo.errors import choice
from reszoo.layers.convolution import whole
from reszoo.layers.pooling import Subsampling


@keras.saving.register_keras_serializable("reszoo")
class SubsamplePad(Subsampling):
    """Halve a map by subsampling or averaging, and add zero channels.

    Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), filters). No weights.

    Args:
        filters: channels of the output, at least those of the input.
        stride: 1 or 2.
        pad: ``"end"`` appends all zero channels (FAIR's code); ``"both"`` puts half before, half
            after (the public trained CIFAR weights). The paper does not say.
        pool: ``"subsample"`` takes every second pixel; ``"average"`` averages 2x2, at the border
            what there is of them.
        data_format: ``"channels_last"`` or ``"channels_first"`` (maps (N, C, H, W)); None: Keras'
            setting.

    Raises:
        ValueError: for an argument out of range, and for maps of more channels than `filters`.
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        pad: str = "end",
        pool: str = "subsample",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.filters = whole("filters", filters, least=1)
        if stride not in (1, 2):  # averages of 3x3 would pad on both sides
            raise ValueError(f"stride must be 1 or 2, not {stride!r}")
        self.stride = int(stride)
        self.pad = choice("pad", pad, ("end", "both"))
        self.pool = choice("pool", pool, ("subsample", "average"))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Refuse maps of more channels than the output has."""
        channels = input_shape[self._axis]
        if channels is None or channels > self.filters:
            raise ValueError(f"{self.name}: filters {self.filters} of maps of {channels} channels")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Return the halved and widened map."""
        x = inputs
        step, last = self.stride, self.data_format == "channels_last"
        if step > 1 and self.pool == "average":
            x = keras.ops.average_pool(x, step, step, "same", self.data_format)
        elif step > 1:
            x = x[:, ::step, ::step, :] if last else x[:, :, ::step, ::step]
        sides = [[0, 0] for _ in range(4)]
        before = inputs.shape[self._axis]
        sides[self._axis] = list(zero_channels(before, self.filters, self.pad))
        return keras.ops.pad(x, sides)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (N, ceil(H / stride), ceil(W / stride), filters), or with channels first."""
        shape = list(super().compute_output_shape(input_shape))
        shape[self._axis] = self.filters
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "stride": self.stride,
            "pad": self.pad,
            "pool": self.pool,
        }

    @property
    def _axis(self) -> int:
        return 3 if self.data_format == "channels_last" else 1

    def _windows(self, size: int) -> int:
        return -(-size // self.stride)


def zero_channels(before: int, after: int, pad: str) -> tuple[int, int]:
    """Return how many zero channels stand before and after the old ones."""
    missing = after - before
    first = missing // 2 if pad == "both" else 0
    return first, missing - first
