"""Models for other programs: SavedModel, ONNX, torch state dicts."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from reszoo.errors import SpecError, choice, shown, switch
from reszoo.layers import deep_graph
from reszoo.plans import Plan, plan
from reszoo.weights.own_files import STATEMENT, Statement, stated

_FORMATS = {"saved_model": "tf_saved_model", "onnx": "onnx"}
_TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """An export that failed, or whose outputs are not the model's. The message is one line."""


def export(
    model: keras.Model,
    path: str | Path,
    format: str = "saved_model",
    *,
    fold: bool = True,
) -> Path:
    """Write a model for other programs, run what was written, and compare.

    Exported in float32 (a mixed-precision model is rebuilt, its weights copied), for batches of
    any size, with its preprocessing if that is in the graph. The largest difference from the
    Keras model is printed on stderr.

    Args:
        model: built by reszoo, or another functional Keras model of one input, on the TensorFlow
            backend.
        path: directory of the SavedModel, or the `.onnx` file.
        format: "saved_model" or "onnx" (needs the extra: ``pip install reszoo[onnx]``).
        fold: fold batch normalisation first (see `reszoo.fold_batch_norm`).

    Returns:
        `path`.

    Raises:
        SpecError: an unknown format, no path, a `fold` that is neither True nor False, or a model
            that is not functional or has several inputs.
        ExportError: a package is missing, Keras' exporter fails, or what it wrote does not run or
            differs by more than 1e-4 of the largest output; the file is there then.
    """
    choice("export format", format, _FORMATS)
    fold = switch("fold", fold)
    target = _target(path)
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"export works on Keras' tensorflow backend, not {keras.backend.backend()}"
        )
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or ()) != 1:
        raise SpecError(f"export takes a functional Keras model of one input, not {shown(model)}")
    if format == "onnx":
        for package in ("tf2onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise ExportError(f'ONNX needs {package}: pip install "reszoo[onnx]"')
        if target.suffix != ".onnx":
            raise SpecError(f"an ONNX file ends in .onnx, not {target.name!r}")
    from reszoo.folding import fold_batch_norm

    plain = _in_float32(model)
    written = fold_batch_norm(plain) if fold else plain
    images, expected = _example(plain)
    written(images, training=False)  # Keras exports to ONNX only what was called
    _make_parent(target)
    with deep_graph(len(model.layers)), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' patch of tf2onnx for NumPy 2
        try:
            written.export(str(target), format=_FORMATS[format], verbose=False)
        except Exception as error:
            raise ExportError(
                f"Keras' {format} exporter failed on {target}: {shown(error, str)}"
            ) from error
    try:
        found = _run_onnx(target, images) if format == "onnx" else _run_saved_model(target, images)
    except Exception as error:
        raise ExportError(f"{target} was written but does not run: {shown(error, str)}") from error
    if len(found) != len(expected):
        raise ExportError(f"{target} has {len(found)} outputs, the model {len(expected)}")
    worst = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
    little = " (a saturated softmax, which shows little)" * any(map(_saturated, expected))
    print(
        f"{target}: largest difference from the Keras model {worst:.1e} of the largest output"
        f"{little}",
        file=sys.stderr,
    )
    if not worst <= _TOLERANCE:
        raise ExportError(f"{target} differs from the model by {worst:.1e}, more than {_TOLERANCE}")
    return target


def export_torch(model: keras.Model, path: str | Path | None = None) -> dict[str, np.ndarray]:
    """Return a model's weights as a torch state dict with timm's names, and write it.

    The names and shapes are those of timm's and torchvision's networks of the same architecture,
    which load it with ``strict=True``. A WeightsNotice says so where theirs computes something else
    with these tensors: the paper's ResNet-50 strides in the 1x1, theirs in the 3x3. A
    `.safetensors` file also holds the spec, preprocessing and labels, which `build` reads back; a
    `.pth` file does not, so that what differs from torch's network must be given to `build` again.

    Args:
        model: built by reszoo with its classifier or pooled features, not folded.
        path: None, a `.safetensors` file, or a `.pth` file (needs torch). `build` reads both back.

    Returns:
        name -> array in torch's layout; batch normalisation has `num_batches_tracked` 0.

    Raises:
        SpecError: the model is folded, incomplete or not reszoo's; timm has no names for one of
            its layers; or the path is none or has another suffix.
        ExportError: a `.pth` file without torch, or the file or its directory cannot be written.
    """
    from reszoo.weights import conversion, grammars
    from reszoo.weights.agreement import elsewhere
    from reszoo.weights.loading import say

    target = None if path is None else _target(path)
    description = _plan_of(model)
    grammar = grammars.exported(description)
    layers = {layer.name: layer for layer in model.layers}
    state: dict[str, np.ndarray] = {}
    for tensor in grammars.tensors(description, grammar):
        if tensor.layer not in layers:
            raise SpecError(f"{model.name} ends before its {tensor.layer}: export a whole network")
        variable = getattr(layers[tensor.layer], tensor.variable)
        value = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
        state[tensor.name] = conversion.exported(value, tensor, description)
        if tensor.variable == "moving_variance":
            module = tensor.name.rpartition(".")[0]
            state[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
    if target is not None:
        _write_torch(state, target, stated(model))
    if description.spec is not None:
        theirs, lacking = elsewhere(description.spec, grammar)
        if theirs and not lacking:
            values = ", ".join(
                f"{n}={v!r} and not {getattr(description.spec, n)!r}" for n, v in theirs.items()
            )
            say(
                f"{model.name}: torch's networks whose tensors have these names have {values}: "
                "they take this file and compute something else"
            )
    return state


def _plan_of(model: Any) -> Plan:
    """Return the plan that a model was built from."""
    if not isinstance(model, keras.Model):
        raise SpecError(f"export_torch takes a model built by reszoo, not {shown(model)}")
    statement = stated(model)
    meta, layers = statement.meta, {layer.name: layer for layer in model.layers}
    network, overrides = getattr(model, "spec", None) or meta.get("network"), {}
    if network is None or meta.get("folded"):
        raise SpecError(f"{model.name}: only an unfolded model built by reszoo has torch's names")
    if statement.spec is None:  # VGG: its first fully connected layer fits one size
        shape = tuple(layers["stage1_conv1"].input.shape[1:])
        first = meta.get("data_format") == "channels_first"
        overrides["input_shape"] = (*shape[1:], shape[0]) if first else shape
    dense = layers.get("head_dense")
    return plan(network, classes=dense.units if dense is not None else 0, **overrides)


def _target(path: Any) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise SpecError(f"path takes where to write, not {shown(path)}")
    return Path(text)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"no directory can be made for {path}: {error.strerror}") from None


def _write_torch(state: dict[str, np.ndarray], path: Path, statement: Statement) -> None:
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise SpecError(f"torch's weights end in .safetensors or .pth, not {path.name!r}")
    if os.path.isdir(path):
        raise SpecError(f"{path} is a directory; give the path of a file")
    _make_parent(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            meta = {k: statement.meta.get(k) for k in ("preprocessing", "labels", "weights")}
            text = json.dumps({"spec": statement.spec, "meta": meta})
            save_file(state, path, metadata={"format": "pt", STATEMENT: text})
        else:
            import torch

            torch.save({n: torch.from_numpy(value.copy()) for n, value in state.items()}, path)
    except ImportError as error:
        raise ExportError(f"{path.name} needs {error.name}; write a .safetensors file") from None
    except Exception as error:  # the libraries' own
        reason = shown(error, str).partition(" at path ")[0]  # a scratch file's
        raise ExportError(f"{path} cannot be written: {reason}") from None


def _in_float32(model: keras.Model) -> keras.Model:
    if all(layer.dtype_policy.compute_dtype == "float32" for layer in model.layers):
        return model

    def rewritten(value: Any, key: Any = None) -> Any:
        if isinstance(value, dict):
            if value.get("class_name") == "DTypePolicy":
                return {**value, "config": {"name": "float32"}}
            return {name: rewritten(item, name) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(rewritten, value))
        half = key == "dtype" and value in ("float16", "bfloat16", "float64")
        return "float32" if half else value  # names and labels may be called so, too

    plain = type(model).from_config(rewritten(model.get_config()))
    plain.set_weights(model.get_weights())
    return plain


def _example(model: keras.Model) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return two images and the model's outputs, fainter ones where its softmax is saturated.

    Fresh weights of deep nets give logits of hundreds to billions: all classes but one are then
    exactly 0.
    """
    whole = _images(model)
    powers = range(13) if whole.dtype.kind == "f" else (0,)
    for power in powers:
        images = whole / np.asarray(10**power, whole.dtype) if power else whole
        outputs = _list(model(images, training=False))
        if not any(map(_saturated, outputs)):
            break
    return images, outputs


def _saturated(output: np.ndarray) -> bool:
    """Return whether all scores of an image are nearly 0 or 1.

    The one class of a softmax of one is always 1, whatever the image.
    """
    rows = output.reshape(len(output), -1)
    extreme = (np.abs(rows) < 1e-3) | (np.abs(rows - 1) < 1e-3)
    return bool(rows.shape[1] > 1 and rows.max() > 0.5 and extreme.all(1).any())


def _images(model: keras.Model) -> np.ndarray:
    shape = model.inputs[0].shape[1:]
    size = [64 if n is None else n for n in shape]
    random = np.random.default_rng(0)
    dtype = model.inputs[0].dtype
    if "int" in dtype or getattr(model, "meta", {}).get("in_graph"):
        return random.integers(0, 128 if dtype == "int8" else 256, (2, *size)).astype(dtype)
    return random.standard_normal((2, *size)).astype(dtype)


def _run_saved_model(path: Path, images: np.ndarray) -> list[np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # kept: its variables live as long as it does
    return _list(loaded.serve(tf.constant(images)))


def _run_onnx(path: Path, images: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(x) for x in session.run(None, {session.get_inputs()[0].name: images})]


def _list(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    items = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [np.asarray(keras.ops.convert_to_numpy(item)) for item in items]


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-30))
