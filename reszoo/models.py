"""plan -> Keras functional model."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from reszoo import layers as own
from reszoo.catalog import VGG
from reszoo.errors import (
    SpecError,
    choice,
    integer,
    nearby,
    shown,
    switch,
    unknown,
)
from reszoo.graphs import KerasWriter
from reszoo.layers import deep_graph
from reszoo.layers.network import adopt_policy
from reszoo.plans import Plan, plan
from reszoo.specs import ResNetSpec, as_tuple, check_classes
from reszoo.weights import own_files

_ACTIVATIONS = (None, "softmax", "sigmoid", "linear")
_POOLING = (None, "avg", "max")
_PREPROCESSING = ("none", "in_graph")
_FORMATS = ("channels_last", "channels_first")
_DTYPES = ("float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")


def build(
    network: str | ResNetSpec,
    weights: str | Path | None = None,
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
    preprocessing: str = "none",
    data_format: str | None = None,
    portable: bool = False,
    seed: int | None = None,
    verify: bool = True,
    allow_noncommercial: bool = False,
    **overrides: Any,
) -> keras.Model:
    """Build a Keras functional model from a catalogue name or a spec.

    Args:
        network: a name (`reszoo.names()`), with a weights tag after a dot ("resnet50.a1_in1k") or
            without, or a ResNetSpec.
        weights: None: initial values; nothing is ever downloaded unasked. "imagenet": the name's
            default published weights; a tag of the index (`reszoo.weights.index.entries(name)`);
            or the path of a file: `.keras` or `.weights.h5` of ours, a checkpoint with
            torchvision's, timm's or akamaster's names (`.pth`, `.th`, `.safetensors`),
            keras.applications' `.h5`, BiT's `.npz`. Foreign files are read, never executed.
        include_top: whether to end with global pooling and the classifier.
        classes: outputs of the classifier; None: the weights' or the spec's; another number than
            the weights': a new classifier on their backbone; 0: pooled features (N, channels).
            Only for models with a classifier.
        classifier_activation: "softmax" (probabilities), "sigmoid", "linear" or None (logits).
        pooling: without a classifier: None (map, (N, H, W, C)), "avg" or "max" ((N, C)).
        input_shape: (height, width, channels) in pixels, with channels_first (channels, height,
            width); None for a size not known yet. With weights, one channel gets the sum over RGB
            of the first kernel, n channels the kernel repeated, times 3/n.
        input_tensor: a Keras tensor (N, H, W, C), or (N, C, H, W), to build on, e.g. the output of
            preprocessing layers, which become part of the model; it has the shape, so that
            `input_shape` is not needed. It holds floats, or with `preprocessing="in_graph"` also
            integers. Layers' names are the same in every network, and one Keras model holds a name
            once: for two networks on one input build both without it, with different `name=`, and
            call them, `a(x)` and `b(x)`.
        dtype: Keras dtype policy of every layer, e.g. "mixed_bfloat16", and of the model, so that
            `fit` scales the losses of "mixed_float16"; the classifier's activation is always
            float32. None: Keras' setting.
        name: the Keras model's name; None: the network's.
        features_only: return the maps of `out_indices` instead of a classifier.
        out_indices: which maps (timm's count): 0 the stem before its pooling, 1… the stages (of VGG
            0… the stages); negative from the end. None: all. With one index the model returns that
            map, else a list.
        preprocessing: "none", or "in_graph": the model takes pixels of 0..255 and normalises them
            itself, so that exported models do too. Needs weights with known preprocessing.
        data_format: "channels_last" or "channels_first"; None: Keras' setting.
        portable: use stock Keras layers and keras.Model only, so that the saved file loads without
            reszoo; without what `reszoo.layers.ResNet` adds (`feature_info`, `freeze`, …). What
            it would know of its spec and weights stands in the file, for `build` and `load`.
        seed: initial values become a function of (seed, layer name, shape) only, so that networks
            built with the same seed share the values of every tensor they have in common.
            None: Keras' global seed.
        verify: refuse published files whose hash or revision is not known.
        allow_noncommercial: take weights whose licence forbids commercial use.
        **overrides: fields of ResNetSpec; also the derived `depth` and `width`.

    Returns:
        A functional model (`reszoo.layers.ResNet`, or a plain keras.Model for portable models)
        with `.spec`, which is None for VGG. Input: float images (N, H, W, C).

    Raises:
        SpecError: an argument or a combination that is not possible; the message is one line.
        WeightsError: the weights cannot be had; the message says what to download and where to.
        WeightFileError: a file that is damaged, dangerous or of another network.
    """
    _check_names(overrides)
    include_top = switch("include_top", include_top)
    features_only = switch("features_only", features_only)
    portable = switch("portable", portable)
    verify = switch("verify", verify)
    allow_noncommercial = switch("allow_noncommercial", allow_noncommercial)
    if classes is not None:
        classes = check_classes(classes)
    _check(include_top, classifier_activation, pooling, features_only, out_indices, preprocessing)
    _check_classifier(classes, classifier_activation, include_top, features_only)
    if seed is not None:
        seed = integer("seed", seed, 0, math.inf)
    if name is not None and (not isinstance(name, str) or "/" in name):
        raise SpecError(f"name takes text without a slash, not {shown(name)}")
    _check_dtype(dtype)
    if input_shape is not None:
        input_shape = as_tuple("input_shape", input_shape)
    _check_input(input_tensor, input_shape, preprocessing == "in_graph")
    form = _data_format(data_format)
    if classes is not None:
        overrides["classes"] = classes
    if input_tensor is not None:
        input_shape = tuple(input_tensor.shape[1:])
    if input_shape is not None:
        first = form == "channels_first" and len(input_shape) == 3
        overrides["input_shape"] = (*input_shape[1:], input_shape[0]) if first else input_shape
    source = None
    if weights is not None or _tag(network):
        from reszoo.weights.loading import resolve

        source = resolve(
            network, weights, overrides, verify=verify, allow_noncommercial=allow_noncommercial
        )
        network, overrides = source.network, source.overrides
    if isinstance(network, str) and network in VGG and not (include_top and not features_only):
        overrides["classes"] = 0  # its fully connected layers alone need a known size
    description = plan(network, **overrides)
    if classifier_activation == "sigmoid" and not description.logits:
        raise SpecError("classifier_activation has no effect with classes=0: drop one")
    if preprocessing == "in_graph" and (source is None or source.preprocessing is None):
        lacking = "give weights=" if source is None else f"{weights or network} does not state it"
        raise SpecError(
            f"preprocessing='in_graph' needs weights whose preprocessing is known: {lacking}"
        )
    if preprocessing == "in_graph" and portable:
        raise SpecError(
            "portable=True with preprocessing='in_graph': the normalisation is a layer of reszoo; "
            "use one of the two"
        )

    indices: list[int] = []
    if features_only:
        indices = _indices(out_indices, description)
        wanted = [description.endpoints[i] for i in indices]
    elif include_top:
        wanted = [description.layers[-1].name]
    else:
        wanted = [description.features]
    needed = _ancestors(description, wanted)
    if source is not None:
        source.check(description, needed, form)  # nothing is built that the file does not cover
    writer = KerasWriter(
        description,
        portable=portable,
        seed=seed,
        dtype=dtype,
        classifier_activation=classifier_activation,
        data_format=form,
    )
    start = writer.input(input_tensor, pixels=preprocessing == "in_graph")
    if preprocessing == "in_graph":
        assert source is not None and source.preprocessing is not None
        channels = description.layers[0].channels
        writer.tensors["input"] = source.preprocessing.for_channels(channels).layer(
            name="preprocessing", data_format=form, dtype=dtype
        )(start)
    for layer in description.layers[1:]:
        if layer.name in needed:
            writer.write(layer)
    outputs = [writer.tensors[key] for key in wanted]
    if pooling and not include_top and not features_only:
        pool = "GlobalAveragePooling2D" if pooling == "avg" else "GlobalMaxPooling2D"
        make = getattr(keras.layers, pool)
        outputs = [make(name="head_pool", data_format=form, dtype=dtype)(outputs[0])]

    label = name or description.name
    if input_tensor is not None:
        start = keras.utils.get_source_inputs(input_tensor)
        start = start[0] if len(start) == 1 else start
    meta: dict[str, Any] = {
        "maps": [
            [key, stride, description[key].channels]
            for key, stride in zip(description.endpoints, description.strides, strict=True)
        ],
        "data_format": form,
    }
    if description.spec is None:
        meta["network"] = network
    if features_only:
        meta["outputs"] = indices
    if source is not None:
        meta |= source.meta(description.layers[0].channels, preprocessing == "in_graph")
    with deep_graph(2 * len(needed)):
        arguments = {"inputs": start, "outputs": outputs if len(outputs) > 1 else outputs[0]}
        if portable:
            model = keras.Model(**arguments, name=label)
            own_files.state(model, description.spec, meta)
            adopt_policy(model)
        else:
            model = own.ResNet(**arguments, name=label, spec=description.spec, meta=meta)
    if source is not None:
        source.load_into(model, description)
    return model


def backbone(
    network: str | ResNetSpec,
    out_indices: Sequence[int] | None = None,
    *,
    frozen_norm: bool = False,
    **arguments: Any,
) -> keras.Model:
    """Build a feature extractor: `build(network, features_only=True, ...)`.

    Args:
        network: a name or a ResNetSpec.
        out_indices: which maps (see `build`); None: all. `model.feature_info` lists index, layer
            name, stride and channels of each.
        frozen_norm: freeze every normalisation layer, as detection does with small batches
            (paper, appendix A): statistics, scale and offset stay as they are. Setting
            `model.trainable` later undoes it.
        **arguments: those of `build`: `weights`, `input_shape`, …; `output_stride=8` or 16 keeps
            the last stages' maps larger by dilation.

    Raises:
        SpecError: as `build`.
    """
    if "features_only" in arguments:
        raise SpecError("features_only: backbone always returns feature maps; leave it out")
    frozen_norm = switch("frozen_norm", frozen_norm)
    _check_names(arguments, "frozen_norm")
    model = build(network, features_only=True, out_indices=out_indices, **arguments)
    if frozen_norm:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization | keras.layers.GroupNormalization):
                layer.trainable = False
    return model


def load(path: str | Path) -> keras.Model:
    """Load a `.keras` file that `build(...).save(path)` wrote, with equal outputs.

    `.spec` is the spec that the network was built from; None for VGG and for files of other models
    than `build`'s. An optimizer in the file is left out (`keras.saving.load_model` loads it too).

    Args:
        path: the file. Only open files that you trust.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is not a Keras model file.
    """
    if not isinstance(path, str | os.PathLike):
        raise SpecError(f"load takes a path, not {shown(path)}")
    file = Path(os.path.expanduser(path))
    if os.path.isdir(file):
        raise ValueError(f"{file} is a directory, not a .keras file")
    if not os.path.isfile(file):  # False of names that no file can have, too
        raise FileNotFoundError(f"no model file at {shown(file, str)}{nearby(file)}")
    if file.suffix != ".keras":
        raise ValueError(f"{file} is not a .keras file; load(path) reads what model.save wrote")
    damage = "as model.save writes them"
    config = None
    try:
        with zipfile.ZipFile(file) as archive:
            if broken := archive.testzip():
                damage = f"its {broken} is damaged"
            elif {"metadata.json", "model.weights.h5"} <= set(archive.namelist()):
                config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError, OSError) as error:
        damage = shown(error, str)
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a Keras model file: {damage}")
    # The number of layers stands inside the file; portable models have no class of ours to ask.
    with deep_graph(20_000):
        model = keras.saving.load_model(file, compile=False)
    if not hasattr(model, "spec"):
        known = own_files.Statement.of_build(config.get("build_config"))
        spec = None if known.spec is None else ResNetSpec.from_dict(known.spec)
        own_files.state(model, spec, known.meta)
        adopt_policy(model)
    return model


def logits_model(model: keras.Model) -> keras.Model:
    """Return a model that shares the weights of `model` and ends before its last activation."""
    with deep_graph(len(model.layers)):
        return keras.Model(model.input, model.get_layer("head_dense").output, name=model.name)


def _check_names(overrides: Iterable[str], *more: str) -> None:
    """Refuse a keyword that neither `build` nor a spec knows."""
    own_names = [
        n for n in inspect.signature(build).parameters if n not in ("network", "overrides")
    ]
    fields = [field.name for field in dataclasses.fields(ResNetSpec)]
    known = dict.fromkeys([*own_names, *more, "depth", "width", *fields])
    for name in overrides:
        if name not in known:
            raise SpecError(unknown("argument or spec field", name, known))


def _check_classifier(
    classes: int | None, activation: str | None, include_top: bool, features_only: bool
) -> None:
    if include_top and not features_only:
        return
    without = "features_only=True" if features_only else "include_top=False"
    if classes:
        raise SpecError(f"classes sizes the classifier, which {without} leaves out: drop one")
    if activation == "sigmoid":
        raise SpecError(f"classifier_activation has no effect with {without}: drop one")


def _check_dtype(dtype: Any) -> None:
    if dtype is None:
        return
    try:
        policy = keras.dtype_policies.get(dtype)
        known = keras.backend.is_float_dtype(policy.compute_dtype)
        known = known and getattr(policy, "quantization_mode", None) is None
    except (TypeError, ValueError):
        known = False
    if not known:
        raise SpecError(unknown("dtype", dtype, _DTYPES))


def _check_input(tensor: Any, shape: tuple[int | None, ...] | None, pixels: bool) -> None:
    if tensor is None:
        return
    if not isinstance(tensor, keras.KerasTensor):
        raise SpecError(
            f"input_tensor takes a Keras tensor (keras.Input), not {type(tensor).__name__}"
        )
    if len(tensor.shape) != 4:
        raise SpecError(f"input_tensor takes images of rank 4, not of the shape {tensor.shape}")
    # In the graph the normalisation casts; Keras' layers cast floats only.
    known = keras.backend.is_float_dtype(tensor.dtype)
    if not known and not (pixels and keras.backend.is_int_dtype(tensor.dtype)):
        raise SpecError(
            f"input_tensor takes floats, not {tensor.dtype}: give it through "
            'keras.layers.Rescaling(1.0), or weights= with preprocessing="in_graph"'
        )
    if shape is not None and shape != tuple(tensor.shape[1:]):
        raise SpecError(
            f"input_shape {shown(shape)} is not that of input_tensor, {tensor.shape[1:]}: drop one"
        )


def _check(
    include_top: bool,
    activation: object,
    pooling: object,
    features_only: bool,
    out_indices: object,
    preprocessing: object,
) -> None:
    choice("preprocessing", preprocessing, _PREPROCESSING)
    choice("classifier_activation", activation, _ACTIVATIONS)
    choice("pooling", pooling, _POOLING)
    if out_indices is not None and not features_only:
        raise SpecError("out_indices chooses feature maps: give features_only=True with it")
    if pooling and include_top and not features_only:
        raise SpecError("pooling is for models without a classifier: give include_top=False")
    if pooling and features_only:
        raise SpecError("features_only returns maps, so pooling does not apply")


def _tag(network: object) -> bool:
    """Return whether a name carries a weights tag ("resnet50.a1_in1k")."""
    return isinstance(network, str) and "." in network


def _data_format(wanted: str | None) -> str:
    form = choice(
        "data_format", keras.config.image_data_format() if wanted is None else wanted, _FORMATS
    )
    if form == "channels_first" and not own.channels_first_works():
        raise SpecError(
            "data_format channels_first: TensorFlow convolves such maps on CPU only with oneDNN; "
            "set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is imported, or use channels_last"
        )
    return str(form)


def _indices(wanted: Sequence[int] | None, description: Plan) -> list[int]:
    count = len(description.endpoints)
    if wanted is None:
        return list(range(count))
    indices: list[int] = []
    for index in as_tuple("out_indices", wanted):
        if not isinstance(index, int) or isinstance(index, bool) or not -count <= index < count:
            maps = f"0 the stem, 1 to {count - 1} the stages" if description.spec else "the stages"
            raise SpecError(
                f"out_indices: {shown(index)} is not between {-count} and {count - 1} ({maps})"
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
