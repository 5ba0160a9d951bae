"""Batch normalisation folded into the convolutions before it, for inference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from reszoo import layers as own
from reszoo.errors import SpecError
from reszoo.layers import deep_graph
from reszoo.layers.convolution import standardized
from reszoo.layers.network import adopt_policy
from reszoo.weights.own_files import state, stated

_CONVOLUTIONS = (keras.layers.Conv2D, own.Conv2D)
_NORMS = (keras.layers.BatchNormalization, own.BatchNormalization)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return a model with the same outputs in inference and fewer layers.

    Every batch normalisation that directly follows a convolution becomes part of its kernel and
    bias: w' = w gamma / sqrt(variance + epsilon), b' = beta + (b - mean) gamma / sqrt(variance +
    epsilon). What cannot be folded stays: norms after an addition or a pooling (pre-activation
    nets have them), group normalisation, subclasses that may compute something else, convolutions
    with LoRA. Norms from and to maps that `feature_info` names stay too, so that it and
    `pyramid_outputs` are the same before and after. The given model is not changed; its spec
    describes the folded one too, except that these norms are gone: it says "folded" in its `meta`,
    or where a model of stock layers states it, in its file.

    Args:
        model: a functional model, of reszoo or not. Fine-tune before folding: a folded model has
            no statistics left to learn.

    Returns:
        A new model; `model` itself where nothing can be folded.

    Raises:
        SpecError: the model is not functional, so that nobody knows what follows what.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise SpecError(
            f"fold_batch_norm takes a functional Keras model, not {type(model).__name__}"
        )
    statement = stated(model)
    pairs = _pairs(model, {entry[0] for entry in statement.meta.get("maps", ())})
    if not pairs:
        return model
    norms = {norm.name for norm in pairs.values()}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in pairs:
            return layer.__class__.from_config(layer.get_config())
        config = layer.get_config() | {"use_bias": True}
        if getattr(layer, "standardize", None):
            config["standardize"] = None  # the folded kernel is the standardised one, scaled
        # Keras 3.15 adds the bias of channels_first maps along rows of as many pixels as filters.
        first = type(layer) is keras.layers.Conv2D and layer.data_format == "channels_first"
        return (own.Conv2D if first else type(layer)).from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in norms else layer(*args, **kwargs)

    with deep_graph(len(model.layers)):
        plain = keras.Model(_single(model.inputs), _single(model.outputs))
        folded = keras.models.clone_model(plain, clone_function=clone, call_function=call)
        arguments = {"inputs": _single(folded.inputs), "outputs": _single(folded.outputs)}
        spec, meta = getattr(model, "spec", None), {**statement.meta, "folded": True}
        if isinstance(model, own.ResNet):
            result = own.ResNet(**arguments, name=model.name, spec=spec, meta=meta)
        else:
            result = keras.Model(**arguments, name=model.name)
            state(result, spec, meta)
            adopt_policy(result)
    originals = {layer.name: layer for layer in model.layers}
    for layer in result.layers:
        old = originals.get(layer.name)
        if old is None or not layer.variables:
            continue
        if layer.name in pairs:
            kernel, bias = _folded(old, pairs[layer.name])
            layer.kernel.assign(kernel)
            layer.bias.assign(bias)
        else:
            layer.set_weights(old.get_weights())
    return result


def _single(tensors: list[Any]) -> Any:
    return tensors if len(tensors) > 1 else tensors[0]


def _pairs(
    model: keras.Model, maps: Collection[str]
) -> Mapping[str, keras.layers.BatchNormalization]:
    """Return convolution's name -> the norm that is its only reader; neither is one of `maps`."""
    outputs = {id(tensor) for tensor in model.outputs}
    names = {layer.name for layer in model.layers} - set(maps)
    found = {}
    for layer in model.layers:
        # A subclass may call otherwise; LoRA adds to the kernel.
        if type(layer) not in _CONVOLUTIONS or layer.lora_enabled or layer.name not in names:
            continue
        readers = [node.operation for node in layer._outbound_nodes]
        linear = layer.activation in (None, keras.activations.linear)
        if (
            len(layer._inbound_nodes) == 1
            and len(readers) == 1
            and linear
            and type(readers[0]) in _NORMS
            and len(readers[0]._inbound_nodes) == 1
            and readers[0].axis in (-1, 3, 1)
            and (readers[0].axis == 1) == (layer.data_format == "channels_first")
            and id(layer.output) not in outputs
            and readers[0].name in names
        ):
            found[layer.name] = readers[0]
    return found


def _folded(
    conv: keras.layers.Conv2D, norm: keras.layers.BatchNormalization
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    kernel = np.asarray(keras.ops.convert_to_numpy(conv.kernel), np.float64)
    if epsilon := getattr(conv, "standardize", None):
        kernel = np.asarray(keras.ops.convert_to_numpy(standardized(kernel, epsilon)))

    def array(variable: Any, default: float) -> np.ndarray[Any, Any]:
        if variable is None:
            return np.full(kernel.shape[-1], default)
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)

    mean, variance = array(norm.moving_mean, 0), array(norm.moving_variance, 1)
    factor = array(norm.gamma, 1) / np.sqrt(variance + norm.epsilon)
    bias = array(norm.beta, 0) + (array(conv.bias if conv.use_bias else None, 0) - mean) * factor
    return kernel * factor, bias
