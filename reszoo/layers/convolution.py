"""Convolution with torch's padding, fast groups and weight standardisation."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from reszoo.layers.capabilities import convolution_works, device_kind, tensorflow_format


@keras.saving.register_keras_serializable("reszoo")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with symmetric zero padding, fast groups and standardised weights.

    Weights have the names and shapes of the stock layer: ``kernel`` (H, W, channels / groups,
    filters) and ``bias`` (filters,). Maps are (N, H, W, C) or, channels_first, (N, C, H, W).

    On TensorFlow, Keras compiles every grouped convolution with XLA, which on processors is slower
    by two orders of magnitude than oneDNN's kernels. This layer calls them, or what else
    computes and trains the same where they are missing (`reszoo.layers.capabilities`): one
    convolution a group, space-to-batch for dilation, transposition for channels_first.

    Args:
        *args: those of `keras.layers.Conv2D`.
        explicit_padding: zeros on each of the four sides in pixels, as torch pads; needs
            `padding` "valid". Output sizes are floor((n + 2 p - (k - 1) d - 1) / s) + 1.
        standardize: epsilon of weight standardisation (arXiv 1903.10520; BiT, 1912.11370): the
            kernel that convolves is (w - mean) / sqrt(variance + epsilon), with mean and biased
            variance over (H, W, channels / groups) of each filter, computed in float32. The stored
            kernel is raw. None: no standardisation.
        **kwargs: those of `keras.layers.Conv2D`.

    Raises:
        ValueError: for a negative or fractional `explicit_padding`, for one beside another
            `padding` than "valid", for a `standardize` that is not positive, and as Keras does.
    """

    def __init__(
        self,
        *args: Any,
        explicit_padding: int = 0,
        standardize: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.explicit_padding = whole("explicit_padding", explicit_padding, least=0)
        if self.explicit_padding and self.padding != "valid":
            raise ValueError(
                f'explicit_padding {explicit_padding} needs padding "valid", not "{self.padding}"'
            )
        if standardize is not None and not standardize > 0:
            raise ValueError(f"standardize must be None or a positive epsilon, not {standardize!r}")
        self.standardize = None if standardize is None else float(standardize)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a weight; a kernel to standardise keeps its precision under mixed precision."""
        if self.standardize is not None and kwargs.get("name") == "kernel":
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def call(self, inputs: Any) -> Any:
        """Return activation(convolution + bias), a map."""
        outputs = self.convolution_op(inputs, self.kernel)
        if self.use_bias and self.data_format == "channels_last":
            outputs = ops.add(outputs, self.bias)
        elif self.use_bias:
            # Not ops.add: up to Keras 3.15 it adds the bias along a row that has as many pixels as
            # there are filters.
            outputs = outputs + ops.reshape(self.bias, (1, self.filters, 1, 1))
        return outputs if self.activation is None else self.activation(outputs)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Return the convolution of a map, without bias and activation."""
        if self.standardize is not None:
            kernel = standardized(kernel, self.standardize)
        inputs = ops.cast(inputs, self.compute_dtype)
        kernel = ops.cast(kernel, self.compute_dtype)
        padding = self.explicit_padding or self.padding
        if keras.backend.backend() == "tensorflow":
            return _convolve(
                inputs, kernel, self.strides, padding, self.dilation_rate, self.data_format
            )
        if isinstance(padding, int):
            inputs, padding = _pad(
                inputs, self.kernel_size, self.strides, padding, self.dilation_rate,
                self.data_format,
            )  # fmt: skip
        return ops.conv(
            inputs, kernel, list(self.strides), padding, self.data_format, self.dilation_rate
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the output map."""
        shape = list(input_shape)
        for axis in spatial_axes(self.data_format):
            size = shape[axis]
            shape[axis] = None if size is None else size + 2 * self.explicit_padding
        return tuple(super().compute_output_shape(tuple(shape)))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "explicit_padding": self.explicit_padding,
            "standardize": self.standardize,
        }


def standardized(kernel: Any, epsilon: float) -> Any:
    """Return a kernel (H, W, I, O) with mean 0 and variance 1 for each of its O filters.

    Computed and returned in float32 (float64 for a float64 kernel).
    """
    kernel = ops.convert_to_tensor(kernel)
    kernel = ops.cast(kernel, keras.backend.result_type(kernel.dtype, "float32"))
    centred = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(0, 1, 2), keepdims=True)
    return centred * ops.rsqrt(variance + epsilon)


def spatial_axes(data_format: str) -> tuple[int, int]:
    """Return the axes of height and width."""
    return (1, 2) if data_format == "channels_last" else (2, 3)


def same_padding(size: int | None, window: int, stride: int) -> tuple[int, int] | None:
    """Return the pixels before and after that padding "same" adds, or None where it depends.

    Args:
        size: pixels, or None where unknown.
        window: pixels that a window spans, dilation included.
        stride: pixels between windows.
    """
    if stride == 1:
        total = window - 1
    elif size is None:
        return None
    else:
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def pad_map(inputs: Any, pads: list[tuple[int, int]], data_format: str, **kwargs: Any) -> Any:
    """Return a map padded by (before, after) pixels in height and in width."""
    if not any(map(any, pads)):
        return inputs
    none = (0, 0)
    widths = [none, *pads, none] if data_format == "channels_last" else [none, none, *pads]
    return ops.pad(inputs, [list(pair) for pair in widths], **kwargs)


def whole(name: str, value: Any, least: int) -> int:
    """Return `value` as an int; ValueError where it is none or below `least`."""
    try:
        known = not isinstance(value, bool) and int(value) == value and value >= least
    except (TypeError, ValueError, OverflowError):  # text, or not finite
        known = False
    if not known:
        raise ValueError(f"{name} must be a whole number from {least} on, not {value!r}")
    return int(value)


def unsafe_in_onednn(kernel: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether oneDNN's gradient of this kernel (H, W, channels, filters) is unsafe.

    Up to oneDNN 3.14 the filter gradient of a strided 1x1 convolution of fewer channels than a
    vector register has lanes (8 with AVX2, 16 with AVX-512) writes beyond its buffer: wrong values
    or a crash, by map size and number of threads (github.com/uxlfoundation/oneDNN/issues/6035).
    """
    return kernel[0] == kernel[1] == 1 and kernel[2] < 16 and max(strides) > 1


def _pad(
    inputs: Any,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    padding: int,
    dilation: tuple[int, ...],
    data_format: str,
) -> tuple[Any, str]:
    """Return a map and "same" or "valid", which together pad by `padding` pixels on each side.

    "same" copies no map, and oneDNN takes it, whereas it leaves TensorFlow's explicit padding to
    slower kernels.
    """
    windows = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    shape = [inputs.shape[axis] for axis in spatial_axes(data_format)]
    same = [same_padding(*one) for one in zip(shape, windows, strides, strict=True)]
    if all(pads == (padding, padding) for pads in same):
        return inputs, "same"
    return pad_map(inputs, [(padding, padding)] * 2, data_format), "valid"


def _convolve(
    inputs: Any,
    kernel: Any,
    strides: tuple[int, ...],
    padding: str | int,
    dilation: tuple[int, ...],
    data_format: str,
) -> Any:
    """Return TensorFlow's convolution by the first route that can run and train here.

    Args:
        inputs: map (N, H, W, C) or (N, C, H, W).
        kernel: (H, W, C / groups, filters), of the map's dtype.
        strides: pixels, height and width.
        padding: "valid", "same", or pixels on each side.
        dilation: pixels between taps, height and width.
        data_format: "channels_last" or "channels_first".
    """
    import tensorflow as tf

    device = device_kind()
    unpadded = padding in (0, "valid", "same")  # a 1x1 kernel needs no padding
    if device == "CPU" and unpadded and unsafe_in_onednn(kernel.shape, strides):
        steps = [slice(None, None, stride) for stride in strides]
        lead = [slice(None)] * (1 if data_format == "channels_last" else 2)
        inputs, strides, padding = inputs[(*lead, *steps)], (1, 1), "valid"
    groups = inputs.shape[-1 if data_format == "channels_last" else 1] // kernel.shape[2]
    dilated = max(dilation) > 1
    if convolution_works(device, inputs.dtype.name, data_format, groups > 1, dilated):
        pads: Any
        if isinstance(padding, str):
            pads = padding.upper()
        elif device == "GPU":
            pair, none = [padding, padding], [0, 0]
            last = data_format == "channels_last"
            pads = [none, pair, pair, none] if last else [none, none, pair, pair]
        else:
            sizes = tuple(kernel.shape[:2])
            inputs, pads = _pad(inputs, sizes, strides, padding, dilation, data_format)
            pads = pads.upper()
        return tf.nn.conv2d(
            inputs, kernel, list(strides), pads, tensorflow_format(data_format), list(dilation)
        )
    if data_format == "channels_first":
        inputs = tf.transpose(inputs, [0, 2, 3, 1])
        outputs = _convolve(inputs, kernel, strides, padding, dilation, "channels_last")
        return tf.transpose(outputs, [0, 3, 1, 2])
    if groups > 1:
        parts = zip(tf.split(inputs, groups, -1), tf.split(kernel, groups, -1), strict=True)
        return tf.concat(
            [_convolve(*part, strides, padding, dilation, data_format) for part in parts], -1
        )
    # Dilated, which Keras allows with stride 1 only: "same" does not depend on the map's size.
    windows = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    if isinstance(padding, int):
        inputs = pad_map(inputs, [(padding, padding)] * 2, data_format)
    elif padding == "same":
        inputs = pad_map(
            inputs, [((w - 1) // 2, w - 1 - (w - 1) // 2) for w in windows], data_format
        )
    return tf.compat.v1.nn.with_space_to_batch(
        inputs,
        dilation_rate=list(dilation),
        padding="VALID",
        op=lambda batch, _, pads: tf.nn.conv2d(batch, kernel, 1, pads),
    )
