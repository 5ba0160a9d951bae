"""plan -> Keras layers: how each operation of a plan is written with Keras."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import keras

from reszoo import layers as own
from reszoo.errors import SpecError
from reszoo.layers.convolution import unsafe_in_onednn
from reszoo.layers.shortcuts import zero_channels
from reszoo.plans import Layer, Plan


class KerasWriter:
    """Writes the layers of a plan as Keras layers, one after another.

    Args:
        plan: the network.
        portable: use stock Keras layers only.
        seed: see `reszoo.build`.
        dtype: Keras dtype policy of every layer but the classifier's activation.
        classifier_activation: of the layer "head_activation".
        data_format: "channels_last" or "channels_first".

    Attributes:
        tensors: layer name -> Keras tensor.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        portable: bool = False,
        seed: int | None = None,
        dtype: Any = None,
        classifier_activation: str | None = "softmax",
        data_format: str = "channels_last",
    ) -> None:
        self.tensors: dict[str, Any] = {}
        self._plan = plan
        self._portable = portable
        self._seed = seed
        self._dtype = dtype
        self._classifier_activation = classifier_activation
        self._format = data_format
        self._axis = -1 if data_format == "channels_last" else 1

    def input(self, tensor: Any = None, pixels: bool = False) -> Any:
        """Write the input layer, or take `tensor` for it; return the network's Keras input.

        Args:
            tensor: see `input_tensor` of `reszoo.build`.
            pixels: it takes 0..255, which half precision would round before normalisation.
        """
        layer = self._plan.layers[0]
        if tensor is None:
            policy = None if pixels or not self._dtype else keras.dtype_policies.get(self._dtype)
            tensor = keras.Input(
                self.shape(layer), name="input", dtype=policy.compute_dtype if policy else None
            )
        self.tensors[layer.name] = tensor
        return tensor

    def write(self, layer: Layer) -> None:
        """Write one layer; its inputs must have been written."""
        if self._portable:
            _check_portable(layer, self._plan, self._format)
        writer: Callable[..., Any] = getattr(self, f"_{layer.op}")
        self.tensors[layer.name] = writer(layer, *(self.tensors[i] for i in layer.inputs))

    def shape(self, layer: Layer) -> tuple[int | None, ...]:
        """Return the shape of a layer's map without the batch."""
        if self._format == "channels_first":
            return (layer.channels, *layer.size)
        return (*layer.size, layer.channels)

    def _common(self, layer: Layer, suffix: str = "") -> dict[str, Any]:
        return {"name": layer.name + suffix, "dtype": self._dtype}

    def _maps(self, layer: Layer, suffix: str = "") -> dict[str, Any]:
        return {**self._common(layer, suffix), "data_format": self._format}

    def _layer_seed(self, layer: Layer) -> int | None:
        if self._seed is None:
            return None
        digest = hashlib.sha256(f"{self._seed}/{layer.name}".encode()).digest()
        return int.from_bytes(digest[:4], "little") >> 1

    def _initializer(self, layer: Layer) -> keras.initializers.Initializer:
        seed = self._layer_seed(layer)
        kind = self._plan.initializer
        if kind == "glorot_uniform":
            return keras.initializers.GlorotUniform(seed=seed)
        # Keras' own HeNormal is truncated; the paper's reference [13] is a plain normal.
        mode = "fan_out" if kind == "he_normal_fan_out" else "fan_in"
        return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal", seed=seed)

    def _conv(self, layer: Layer, x: Any) -> Any:
        # "same" pads stride-2 maps on the other side than Caffe and torch do: pad explicitly.
        padding = "valid"
        if layer.padding and layer.stride == 1:
            padding = "same"
        elif layer.padding:
            x = keras.layers.ZeroPadding2D(layer.padding, **self._maps(layer, "_pad"))(x)
        arguments: dict[str, Any] = {
            "filters": layer.channels,
            "kernel_size": layer.kernel,
            "strides": layer.stride,
            "padding": padding,
            "dilation_rate": layer.dilation,
            "groups": layer.groups,
            "use_bias": layer.bias,
            "kernel_initializer": self._initializer(layer),
            **self._maps(layer),
        }
        if layer.option("bias_value") is not None:
            arguments["bias_initializer"] = keras.initializers.Constant(layer.option("bias_value"))
        standardize = layer.option("standardize")
        # Keras runs grouped convolutions through XLA, 6 to 200 times slower on CPU.
        # Keras 3.15 adds the bias of channels_first maps along their width where that has as many
        # pixels as there are filters.
        biased = layer.bias and self._format == "channels_first"
        shape = (layer.kernel, layer.kernel, x.shape[self._axis] // layer.groups, layer.channels)
        unsafe = unsafe_in_onednn(shape, (layer.stride, layer.stride))
        if standardize is not None or (
            not self._portable and (layer.groups > 1 or biased or unsafe)
        ):
            return own.Conv2D(standardize=standardize, **arguments)(x)
        return keras.layers.Conv2D(**arguments)(x)

    def _channel_conv(self, layer: Layer, x: Any) -> Any:
        x = keras.layers.Reshape((layer.channels, 1), **self._common(layer, "_in"))(x)
        x = keras.layers.Conv1D(
            1,
            layer.kernel,
            padding="same",
            use_bias=False,
            kernel_initializer=self._initializer(layer),
            data_format="channels_last",
            **self._common(layer),
        )(x)
        return keras.layers.Reshape(self.shape(layer), **self._common(layer, "_out"))(x)

    def _norm(self, layer: Layer, x: Any) -> Any:
        arguments = {
            "axis": self._axis,
            "epsilon": layer.option("epsilon"),
            "gamma_initializer": "zeros" if layer.option("zero") else "ones",
            **self._common(layer),
        }
        if layer.groups:
            return keras.layers.GroupNormalization(layer.groups, **arguments)(x)
        home = keras.layers if self._portable else own
        return home.BatchNormalization(momentum=layer.option("momentum"), **arguments)(x)

    def _relu(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Activation("relu", **self._common(layer))(x)

    def _sigmoid(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Activation("sigmoid", **self._common(layer))(x)

    def _scale(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Rescaling(
            layer.option("factor"), layer.option("offset"), **self._common(layer)
        )(x)

    def _add(self, layer: Layer, x: Any, y: Any) -> Any:
        return keras.layers.Add(**self._common(layer))([x, y])

    def _multiply(self, layer: Layer, x: Any, y: Any) -> Any:
        return keras.layers.Multiply(**self._common(layer))([x, y])

    def _max_pool(self, layer: Layer, x: Any) -> Any:
        signed = _signed(self._plan, layer)
        if (layer.padding and layer.option("pad") == "-inf" and signed) or layer.option("ceil"):
            return own.MaxPool2D(
                layer.kernel,
                layer.stride,
                explicit_padding=layer.padding,
                ceil=bool(layer.option("ceil")),
                **self._maps(layer),
            )(x)
        if layer.padding:
            # After a ReLU zeros never exceed the maximum, so they serve for -inf too.
            x = keras.layers.ZeroPadding2D(layer.padding, **self._maps(layer, "_pad"))(x)
        return keras.layers.MaxPooling2D(layer.kernel, layer.stride, **self._maps(layer))(x)

    def _average_pool(self, layer: Layer, x: Any) -> Any:
        if layer.option("same"):
            pad = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), **self._maps(layer, "_pad"))
            return keras.layers.AveragePooling2D(layer.kernel, 1, **self._maps(layer))(pad(x))
        # TensorFlow's "same" averages what is there, as torch does with ceil_mode and
        # count_include_pad=False.
        padding = "same" if layer.option("ceil") else "valid"
        return keras.layers.AveragePooling2D(
            layer.kernel, layer.stride, padding, **self._maps(layer)
        )(x)

    def _blur_pool(self, layer: Layer, x: Any) -> Any:
        return own.BlurPool2D(layer.kernel, layer.stride, **self._maps(layer))(x)

    def _subsample_pad(self, layer: Layer, x: Any) -> Any:
        pad, pool = layer.option("pad"), layer.option("pool")
        if not self._portable:
            return own.SubsamplePad(
                layer.channels, layer.stride, pad, pool, self._format, **self._common(layer)
            )(x)
        if layer.stride > 1:
            size = layer.stride if pool == "average" else 1
            x = keras.layers.AveragePooling2D(
                size, layer.stride, "same", **self._maps(layer, "_pool")
            )(x)
        if layer.channels > layer.in_channels:
            # Stock Keras pads only height and width: swap width and channels around the padding.
            sides = zero_channels(layer.in_channels, layer.channels, pad)
            x = keras.layers.Permute((1, 3, 2), **self._common(layer, "_swap"))(x)
            x = keras.layers.ZeroPadding2D(((0, 0), sides), **self._maps(layer))(x)
            x = keras.layers.Permute((1, 3, 2), **self._common(layer, "_back"))(x)
        return x

    def _global_pool(self, layer: Layer, x: Any) -> Any:
        return keras.layers.GlobalAveragePooling2D(keepdims=bool(layer.size), **self._maps(layer))(
            x
        )

    def _flatten(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Flatten(**self._maps(layer))(x)

    def _dense(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Dense(
            layer.channels, kernel_initializer=self._initializer(layer), **self._common(layer)
        )(x)

    def _dropout(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Dropout(
            layer.option("rate"), seed=self._layer_seed(layer), **self._common(layer)
        )(x)

    def _drop_branch(self, layer: Layer, x: Any) -> Any:
        # One draw an image for the whole map: dropout with this noise shape is stochastic depth.
        return keras.layers.Dropout(
            layer.option("rate"), (None, 1, 1, 1), self._layer_seed(layer), **self._common(layer)
        )(x)

    def _activation(self, layer: Layer, x: Any) -> Any:
        kind = self._classifier_activation or "linear"
        return keras.layers.Activation(kind, name=layer.name, dtype="float32")(x)


def _signed(plan: Plan, layer: Layer) -> bool:
    """Return whether a layer may read negative values: no ReLU right before it."""
    return plan[layer.inputs[0]].op != "relu"


_OURS: Mapping[str, Callable[[Layer, Plan], bool]] = {
    "weight standardisation": lambda layer, _: layer.option("standardize") is not None,
    "blur pooling": lambda layer, _: layer.op == "blur_pool",
    "a maximum over signed values padded with minus infinity": lambda layer, plan: (
        layer.op == "max_pool" and layer.option("pad") == "-inf" and _signed(plan, layer)
    ),
    "max-pooling rounded up": lambda layer, _: (
        layer.op == "max_pool" and bool(layer.option("ceil"))
    ),
}


def _check_portable(layer: Layer, plan: Plan, data_format: str) -> None:
    for what, needed in _OURS.items():
        if needed(layer, plan):
            raise SpecError(
                f"portable=True: {plan.name} needs {what} ({layer.name}), which no stock Keras "
                "layer has"
            )
    if data_format == "channels_first":
        lacking = {"subsample_pad": "pad channels"}
        if layer.bias:
            lacking["conv"] = "add biases to maps"
        if missing := lacking.get(layer.op):
            raise SpecError(
                f"portable=True with channels_first: stock Keras layers cannot {missing} there "
                f"({layer.name}); use channels_last"
            )
