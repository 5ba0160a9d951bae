"""plan -> Keras functional model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from reszoo import layers as reszoo_layers
from reszoo.catalog import VGG
from reszoo.errors import SpecError, unknown
from reszoo.layers import deep_graph
from reszoo.layers.shortcuts import zero_channels
from reszoo.plans import Layer, Plan, plan
from reszoo.specs import ResNetSpec, plain_int

_ACTIVATIONS = (None, "softmax", "sigmoid", "linear")
_POOLING = (None, "avg", "max")


def build(
    network: str | ResNetSpec,
    weights: None = None,
    include_top: bool = True,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    pooling: str | None = None,
    input_shape: Sequence[int | None] | None = None,
    input_tensor: Any = None,
    dtype: Any = None,
    name: str | None = None,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    portable: bool = False,
    seed: int | None = None,
    **overrides: Any,
) -> keras.Model:
    """Build a Keras functional model from a catalogue name or a spec.

    Args:
        network: a name (`reszoo.names()`) or a ResNetSpec.
        weights: None: nothing is ever downloaded unasked. Published weights are not read yet.
        include_top: whether to end with global pooling and the classifier.
        classes: outputs of the classifier; None: the spec's; 0: pooled features (N, channels).
        classifier_activation: "softmax" (probabilities), "sigmoid", "linear" or None (logits).
        pooling: without a classifier: None (map, (N, H, W, C)), "avg" or "max" ((N, C)).
        input_shape: (height, width, channels) in pixels; None for a size not known yet.
        input_tensor: a Keras tensor (N, H, W, C) to build on, e.g. the output of preprocessing
            layers, which become part of the model; its shape replaces `input_shape`.
        dtype: Keras dtype policy of every layer, e.g. "mixed_bfloat16"; the classifier's
            activation is always float32.
        name: the Keras model's name; None: the network's.
        features_only: return the maps of `out_indices` instead of a classifier.
        out_indices: which maps (timm's count): 0 the stem's activation, 1… the stages; negative
            from the end. None: all. With one index the model returns that map, else a list.
        portable: use stock Keras layers only, so that the saved file loads without reszoo.
        seed: initial values become a function of (seed, layer name, shape) only, so that networks
            built with the same seed share the values of every tensor they have in common.
            None: Keras' global seed.
        **overrides: fields of ResNetSpec; also the derived `depth` and `width`.

    Returns:
        A functional model with `.spec` (None for VGG). Input: float images (N, H, W, C).

    Raises:
        SpecError: an argument or a combination that is not possible; the message is one line.
    """
    _check(weights, include_top, classifier_activation, pooling, features_only, out_indices)
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
        raise SpecError(f"seed takes an integer of at least 0, not {seed!r}")
    if input_tensor is not None and not isinstance(input_tensor, keras.KerasTensor):
        raise SpecError(
            f"input_tensor takes a Keras tensor (keras.Input), not {type(input_tensor).__name__}"
        )
    if classes is not None:
        overrides["classes"] = classes
    if input_tensor is not None:
        overrides["input_shape"] = tuple(input_tensor.shape[1:])
    elif input_shape is not None:
        overrides["input_shape"] = input_shape
    if network in VGG and not (include_top and not features_only):
        overrides["classes"] = 0  # its fully connected layers alone need a known size
    description = plan(network, **overrides)
    writer = _KerasWriter(description, portable, seed, dtype, classifier_activation)

    indices: list[int] = []
    if features_only:
        indices = _indices(out_indices, len(description.endpoints))
        wanted = [description.endpoints[i] for i in indices]
    elif include_top:
        wanted = [description.layers[-1].name]
    else:
        wanted = [description.endpoints[-1]]
    needed = _ancestors(description, wanted)
    for layer in description:
        if layer.name in needed:
            writer.write(layer, input_tensor)
    outputs = [writer.tensors[key] for key in wanted]
    if pooling and not include_top and not features_only:
        pool = "GlobalAveragePooling2D" if pooling == "avg" else "GlobalMaxPooling2D"
        make = getattr(keras.layers, pool)
        outputs = [make(name="head_pool", data_format="channels_last", dtype=dtype)(outputs[0])]

    label = name or description.name
    source: Any = writer.tensors["input"]
    if input_tensor is not None:
        source = keras.utils.get_source_inputs(input_tensor)
        source = source[0] if len(source) == 1 else source
    with deep_graph(2 * len(needed)):
        arguments = {"inputs": source, "outputs": outputs if len(outputs) > 1 else outputs[0]}
        if portable or description.spec is None:
            model = keras.Model(**arguments, name=label)
            model.spec = description.spec
        else:
            model = reszoo_layers.ResNet(**arguments, name=label, spec=description.spec)
    return model


def load(path: str | Path) -> keras.Model:
    """Load a `.keras` file that `build(...).save(path)` wrote, with equal outputs.

    `.spec` is the spec that the network was built from; None for VGG and for portable files, which
    hold stock Keras layers only. An optimizer in the file is left out (`keras.saving.load_model`
    loads it too).

    Args:
        path: the file. Only open files that you trust.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is not a Keras model file.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no model file at {file}")
    if file.suffix != ".keras":
        raise ValueError(f"{file} is not a .keras file; load(path) reads what model.save wrote")
    # The number of layers stands inside the file; portable models have no class of ours to ask.
    with deep_graph(20_000):
        model = keras.saving.load_model(file, compile=False)
    if not hasattr(model, "spec"):
        model.spec = None
    return model


def logits_model(model: keras.Model) -> keras.Model:
    """Return a model that shares the weights of `model` and ends before its last activation."""
    with deep_graph(len(model.layers)):
        return keras.Model(model.input, model.get_layer("head_dense").output, name=model.name)


def _check(
    weights: object,
    include_top: bool,
    activation: object,
    pooling: object,
    features_only: bool,
    out_indices: object,
) -> None:
    if weights is not None:
        raise SpecError(
            f"weights={weights!r}: published weights are not read yet; build with weights=None, "
            "then model.load_weights(file) takes weights that reszoo saved"
        )
    if activation not in _ACTIVATIONS:
        raise SpecError(unknown("classifier_activation", activation, map(str, _ACTIVATIONS)))
    if pooling not in _POOLING:
        raise SpecError(unknown("pooling", pooling, map(str, _POOLING)))
    if out_indices is not None and not features_only:
        raise SpecError("out_indices chooses feature maps: give features_only=True with it")
    if pooling and include_top and not features_only:
        raise SpecError("pooling is for models without a classifier: give include_top=False")
    if pooling and features_only:
        raise SpecError("features_only returns maps, so pooling does not apply")


def _indices(wanted: Sequence[int] | None, count: int) -> list[int]:
    if wanted is None:
        return list(range(count))
    if isinstance(wanted, int) or not hasattr(wanted, "__iter__"):
        raise SpecError(f"out_indices takes a sequence of integers, not {wanted!r}")
    indices: list[int] = []
    for index in wanted:
        index = plain_int(index)
        if not isinstance(index, int) or isinstance(index, bool) or not -count <= index < count:
            raise SpecError(
                f"out_indices: {index!r} is not between {-count} and {count - 1} "
                f"(0 the stem, 1 to {count - 1} the stages)"
            )
        if index % count in indices:
            raise SpecError(f"out_indices names map {index % count} twice")
        indices.append(index % count)
    if not indices:
        raise SpecError("out_indices is empty: name at least one map")
    return indices


def _ancestors(description: Plan, wanted: Sequence[str]) -> set[str]:
    needed = {"input", *wanted}
    for layer in reversed(description.layers):
        if layer.name in needed:
            needed.update(layer.inputs)
    return needed


class _KerasWriter:
    """Turns layers of a plan into Keras layers, one after another."""

    def __init__(
        self,
        description: Plan,
        portable: bool,
        seed: int | None,
        dtype: Any,
        classifier_activation: str | None,
    ) -> None:
        self.tensors: dict[str, Any] = {}
        self._plan = description
        self._portable = portable
        self._seed = seed
        self._dtype = dtype
        self._classifier_activation = classifier_activation

    def write(self, layer: Layer, input_tensor: Any = None) -> None:
        """Add one layer; its inputs must have been written."""
        if layer.op == "input":
            if input_tensor is None:
                shape = (*layer.size, layer.channels)
                policy = keras.dtype_policies.get(self._dtype) if self._dtype else None
                dtype = policy.compute_dtype if policy else None
                input_tensor = keras.Input(shape, name="input", dtype=dtype)
            self.tensors[layer.name] = input_tensor
            return
        writer: Callable[..., Any] = getattr(self, f"_{layer.op}")
        self.tensors[layer.name] = writer(layer, *(self.tensors[i] for i in layer.inputs))

    def _common(self, layer: Layer, suffix: str = "") -> dict[str, Any]:
        return {"name": layer.name + suffix, "dtype": self._dtype}

    def _initializer(self, layer: Layer) -> keras.initializers.Initializer:
        seed = None
        if self._seed is not None:
            digest = hashlib.sha256(f"{self._seed}/{layer.name}".encode()).digest()
            seed = int.from_bytes(digest[:4], "little") >> 1
        kind = self._plan.initializer
        if kind == "glorot_uniform":
            return keras.initializers.GlorotUniform(seed=seed)
        # Keras' own HeNormal is truncated; the paper's reference [13] is a plain normal.
        mode = "fan_out" if kind == "he_normal_fan_out" else "fan_in"
        return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal", seed=seed)

    def _conv(self, layer: Layer, x: Any) -> Any:
        # "same" pads stride-2 maps on the other side than Caffe and torch do: pad explicitly.
        padding = "valid"
        if layer.padding and layer.stride == 1 and 2 * layer.padding == layer.kernel - 1:
            padding = "same"
        elif layer.padding:
            x = keras.layers.ZeroPadding2D(
                layer.padding, data_format="channels_last", **self._common(layer, "_pad")
            )(x)
        return keras.layers.Conv2D(
            layer.channels,
            layer.kernel,
            layer.stride,
            padding,
            data_format="channels_last",
            use_bias=layer.bias,
            kernel_initializer=self._initializer(layer),
            **self._common(layer),
        )(x)

    def _norm(self, layer: Layer, x: Any) -> Any:
        home = keras.layers if self._portable else reszoo_layers
        return home.BatchNormalization(
            epsilon=layer.option("epsilon"),
            momentum=layer.option("momentum"),
            **self._common(layer),
        )(x)

    def _relu(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Activation("relu", **self._common(layer))(x)

    def _add(self, layer: Layer, x: Any, y: Any) -> Any:
        return keras.layers.Add(**self._common(layer))([x, y])

    def _max_pool(self, layer: Layer, x: Any) -> Any:
        if layer.padding:
            # The map comes out of a ReLU, so zeros never exceed the maximum (torch pads -inf).
            x = keras.layers.ZeroPadding2D(
                layer.padding, data_format="channels_last", **self._common(layer, "_pad")
            )(x)
        return keras.layers.MaxPooling2D(
            layer.kernel, layer.stride, data_format="channels_last", **self._common(layer)
        )(x)

    def _subsample_pad(self, layer: Layer, x: Any) -> Any:
        pad, pool = layer.option("pad"), layer.option("pool")
        if not self._portable:
            return reszoo_layers.SubsamplePad(
                layer.channels, layer.stride, pad, pool, **self._common(layer)
            )(x)
        if layer.stride > 1:
            size = layer.stride if pool == "average" else 1
            x = keras.layers.AveragePooling2D(
                size,
                layer.stride,
                "same",
                data_format="channels_last",
                **self._common(layer, "_pool"),
            )(x)
        if layer.channels > layer.in_channels:
            # Stock Keras pads only height and width: swap width and channels around the padding.
            sides = zero_channels(layer.in_channels, layer.channels, pad)
            x = keras.layers.Permute((1, 3, 2), **self._common(layer, "_swap"))(x)
            x = keras.layers.ZeroPadding2D(
                ((0, 0), sides), data_format="channels_last", **self._common(layer)
            )(x)
            x = keras.layers.Permute((1, 3, 2), **self._common(layer, "_back"))(x)
        return x

    def _global_pool(self, layer: Layer, x: Any) -> Any:
        return keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", **self._common(layer)
        )(x)

    def _flatten(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Flatten(data_format="channels_last", **self._common(layer))(x)

    def _dense(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Dense(
            layer.channels, kernel_initializer=self._initializer(layer), **self._common(layer)
        )(x)

    def _dropout(self, layer: Layer, x: Any) -> Any:
        return keras.layers.Dropout(layer.option("rate"), **self._common(layer))(x)

    def _activation(self, layer: Layer, x: Any) -> Any:
        kind = self._classifier_activation or "linear"
        return keras.layers.Activation(kind, name=layer.name, dtype="float32")(x)
