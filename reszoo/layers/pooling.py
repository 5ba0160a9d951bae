"""Pooling that Keras lacks: torch's padding and ceil mode, and anti-aliased subsampling.

Average pooling needs no layer of its own. torch's ``AvgPool2d(2, 2, ceil_mode=True,
count_include_pad=False)`` is ``keras.layers.AveragePooling2D(2, 2, "same")``.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from reszoo.errors import switch
from reszoo.layers.capabilities import device_kind
from reszoo.layers.convolution import pad_map, same_padding, spatial_axes, whole


class Subsampling(keras.layers.Layer):
    """Shared by layers that make maps smaller: data format and the shape of the output."""

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f'data_format must be "channels_last" or "channels_first", not {data_format!r}'
            )
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the output map."""
        shape = list(input_shape)
        for axis in spatial_axes(self.data_format):
            size = shape[axis]
            shape[axis] = None if size is None else self._windows(size)
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "data_format": self.data_format}

    def _windows(self, size: int) -> int:
        raise NotImplementedError


@keras.saving.register_keras_serializable("reszoo")
class MaxPool2D(Subsampling):
    """Max-pooling as `torch.nn.MaxPool2d`: padding by -inf, and ceil mode.

    Maps (N, H, W, C), or (N, C, H, W) for channels_first, to windows at
    floor or ceil((n + 2 p - k) / s) + 1 places. No weights.

    Args:
        pool_size: pixels of the square window, k.
        strides: pixels between windows, s.
        explicit_padding: pixels of -inf on each side, p; at most half a window.
        ceil: also pool the last window that lies only partly in the map.
        data_format: "channels_last" or "channels_first"; None: Keras' setting.

    Raises:
        ValueError: for sizes out of range, and for a `ceil` whose last window could lie wholly
            outside the map (torch drops such windows): p + s must not exceed k.
    """

    def __init__(
        self,
        pool_size: int,
        strides: int,
        explicit_padding: int = 0,
        ceil: bool = False,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.pool_size = whole("pool_size", pool_size, least=1)
        self.strides = whole("strides", strides, least=1)
        self.explicit_padding = whole("explicit_padding", explicit_padding, least=0)
        self.ceil = switch("ceil", ceil)
        if 2 * self.explicit_padding > self.pool_size:
            raise ValueError(
                f"explicit_padding must be at most half of pool_size {pool_size}, "
                f"not {explicit_padding}"
            )
        if self.ceil and self.explicit_padding + self.strides > self.pool_size:
            raise ValueError(
                f"ceil needs explicit_padding + strides of at most pool_size {pool_size}, "
                f"not {explicit_padding} + {strides}"
            )

    def call(self, inputs: Any) -> Any:
        """Return the maxima of the windows."""
        k, s = self.pool_size, self.strides
        sizes = [inputs.shape[axis] for axis in spatial_axes(self.data_format)]
        pads = [self._pads(size) for size in sizes]
        if pads == [same_padding(size, k, s) for size in sizes]:
            # The same windows without a copy of the map.
            return ops.max_pool(inputs, k, s, "same", self.data_format)
        inputs = pad_map(inputs, pads, self.data_format, constant_values=-math.inf)
        return ops.max_pool(inputs, k, s, "valid", self.data_format)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "explicit_padding": self.explicit_padding,
            "ceil": self.ceil,
        }

    def _windows(self, size: int) -> int:
        more = self.strides - 1 if self.ceil else 0
        return (size + 2 * self.explicit_padding - self.pool_size + more) // self.strides + 1

    def _pads(self, size: int | None) -> tuple[int, int]:
        """Return the pixels before and after that the windows need."""
        before = self.explicit_padding
        if size is None:
            # Ceil mode is floor mode on a map that is longer by stride - 1.
            return before, before + (self.strides - 1 if self.ceil else 0)
        end = (self._windows(size) - 1) * self.strides + self.pool_size
        return before, max(end - size - before, 0)


@keras.saving.register_keras_serializable("reszoo")
class BlurPool2D(Subsampling):
    """Subsampling after a binomial blur, arXiv 1904.11486; borders are reflected.

    Maps (N, H, W, C), or (N, C, H, W) for channels_first, to the same channels at
    floor((n + 2 p - filters) / strides) + 1 places, p = (filters + strides - 2) // 2; for the
    defaults that is ceil(n / 2). No weights.

    Args:
        filters: taps of the blur in each direction, at least 2: 3 is (1, 2, 1) / 4.
        strides: pixels between samples.
        data_format: "channels_last" or "channels_first"; None: Keras' setting.

    Raises:
        ValueError: for sizes out of range.
    """

    def __init__(
        self, filters: int = 3, strides: int = 2, data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.filters = whole("filters", filters, least=2)
        self.strides = whole("strides", strides, least=1)

    def call(self, inputs: Any) -> Any:
        """Return the blurred and subsampled map."""
        pad = self._padding
        sizes = [inputs.shape[axis] for axis in spatial_axes(self.data_format)]
        if any(size is not None and size <= pad for size in sizes):
            raise ValueError(
                f"{self.name}: maps of {sizes[0]}x{sizes[1]} have too few pixels to reflect: "
                f"at least {pad + 1}x{pad + 1}"
            )
        x = pad_map(inputs, [(pad, pad), (pad, pad)], self.data_format, mode="reflect")
        last = self.data_format == "channels_last"
        # TensorFlow's processors have no depthwise kernel for (N, C, H, W) without oneDNN.
        turn = not last and keras.backend.backend() == "tensorflow" and device_kind() == "CPU"
        if turn:
            x = ops.transpose(x, (0, 2, 3, 1))
        taps = np.array([math.comb(self.filters - 1, k) for k in range(self.filters)], "float32")
        taps /= taps.sum()
        channels = inputs.shape[-1 if last else 1]
        kernel = np.tile(np.outer(taps, taps)[..., None, None], (1, 1, channels, 1))
        x = ops.depthwise_conv(
            x,
            ops.convert_to_tensor(kernel, keras.backend.standardize_dtype(inputs.dtype)),
            self.strides,
            "valid",
            "channels_last" if turn else self.data_format,
        )
        return ops.transpose(x, (0, 3, 1, 2)) if turn else x

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}

    @property
    def _padding(self) -> int:
        return (self.filters + self.strides - 2) // 2

    def _windows(self, size: int) -> int:
        return (size + 2 * self._padding - self.filters) // self.strides + 1
