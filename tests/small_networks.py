"""Small networks with weights that are not trivial, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import reszoo

#: A ResNet-20 with one block a stage and a quarter of the channels.
TINY: dict[str, Any] = {"depths": (1, 1, 1), "widths": (4, 8, 16), "stem_width": 4}
SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "stem_width": 8}
SMALL_IMAGES: dict[str, Any] = {**SMALL, "input_shape": (64, 64, 3)}


def randomized(model: keras.Model, seed: int = 3) -> keras.Model:
    """Give every normalisation and bias values that are not the initial ones."""
    draw = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(draw.normal(0, 0.3, layer.gamma.shape))
            layer.moving_variance.assign(draw.uniform(0.5, 2, layer.gamma.shape))
        if hasattr(layer, "gamma"):
            layer.gamma.assign(draw.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(draw.normal(0, 0.3, layer.beta.shape))
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(draw.normal(0, 0.3, layer.bias.shape))
    return model


def tiny(**arguments: Any) -> keras.Model:
    return reszoo.build("resnet20", **{**TINY, "seed": 0, **arguments})


def images(model: keras.Model, seed: int = 0) -> np.ndarray:
    shape = [n or 40 for n in model.input_shape[1:]]
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


def outputs(model: keras.Model, batch: np.ndarray | None = None) -> np.ndarray:
    return np.asarray(model(images(model) if batch is None else batch, training=False))


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: np.asarray(variable) for variable in model.variables}


def write(model: keras.Model, kind: str, directory: Path) -> Path:
    """Write a model's weights as one of the kinds of files that `weights` takes."""
    if kind in ("keras", "weights.h5"):
        path = directory / f"model.{kind}"
        (model.save if kind == "keras" else model.save_weights)(path)
        return path
    if kind == "safetensors":
        path = directory / "model.safetensors"
        reszoo.export_torch(model, path)
        return path
    torch = pytest.importorskip("torch")
    state = {k: torch.from_numpy(v.copy()) for k, v in reszoo.export_torch(model).items()}
    path = directory / f"model.{kind.split()[-1]}"
    if kind.startswith("legacy"):
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind.startswith("checkpoint"):  # of a training script: wrapped, with its optimizer
        wrapped = {f"module.model.{name}": value for name, value in state.items()}
        momentum = {0: {"momentum_buffer": torch.ones(3)}}
        optimizer = {"state": momentum, "param_groups": [{"lr": 0.1, "params": [0]}]}
        torch.save({"state_dict": wrapped, "optimizer": optimizer, "epoch": 90}, path)
    else:
        torch.save(state, path)
    return path


def damaged(path: Path, directory: Path, **changes: Any) -> Path:
    """Copy a state dict without what it says of its network, as others write them.

    With tensors replaced (None: left out); "__" in a name stands for ".".
    """
    state = load_file(path)
    for name, value in changes.items():
        state.pop(name.replace("__", "."), None)
        if value is not None:
            state[name.replace("__", ".")] = value
    save_file(state, directory / "changed.safetensors")
    return directory / "changed.safetensors"


def unreachable(*args: Any, **kwargs: Any) -> None:
    raise OSError("no route to host")


def refusal(error: type[Exception], network: str = "resnet20", **arguments: Any) -> str:
    with pytest.raises(error) as caught:
        reszoo.build(network, **arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text
