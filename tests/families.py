"""One tiny network a family, for tests that must hold for each of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import reszoo

#: What replaces a catalogue network's size: two stages of one block.
_SMALL = {"depths": (1, 1), "widths": (8, 16), "stem_width": 8, "input_shape": (32, 32, 3)}
_CIFAR = {"depth": 8, "width": 4, "input_shape": (16, 16, 3)}

#: family -> (catalogue name, changes)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "basic": ("resnet18", _SMALL),
    "bottleneck": ("resnet50", _SMALL),
    "option A": ("resnet20", _CIFAR),
    "option A averaged": (
        "resnet20", {**_CIFAR, "shortcut_pad": "both", "shortcut_pool": "average"},
    ),
    "plain": ("plain20", _CIFAR),
    "deep stem": ("resnet50d", _SMALL),
    "tiered stem": ("resnet50t", _SMALL),
    "pre-activation": ("preresnet18", _SMALL),
    "timm v2": ("resnetv2_50d", _SMALL),
    "keras v2": ("resnet50v2", {**_SMALL, "depths": (2, 1)}),
    "grouped": ("resnext50_32x4d", {**_SMALL, "groups": 2, "width_per_group": 64}),
    "se": ("seresnet50", _SMALL),
    "legacy se": ("legacy_seresnet18", _SMALL),
    "rs": ("resnetrs50", _SMALL),
    "eca": ("ecaresnet50d", _SMALL),
    "blur": ("resnetblur18", _SMALL),
    "average antialias": ("resnetaa50d", _SMALL),
    "bit": ("resnetv2_50x1_bit", {**_SMALL, "norm_groups": 4}),
    "group norm": ("resnet50_gn", {**_SMALL, "norm_groups": 4}),
    "dilated": ("resnet50d", {**_SMALL, "output_stride": 4}),
    "stochastic depth": (
        "resnet20", {**_CIFAR, "stochastic_depth": 0.5, "dropout": 0.2, "block_dropout": 0.1},
    ),
    "exclusive gate": ("resnet20", {**_CIFAR, "shortcut": "exclusive_gate"}),
    "shortcut gate": ("resnet20", {**_CIFAR, "shortcut": "shortcut_gate", "gate_bias": -1.0}),
    "scaled": ("resnet20", {**_CIFAR, "shortcut": "scaled", "activation_order": "pre"}),
    "norm after addition": ("resnet20", {**_CIFAR, "activation_order": "norm_after_add"}),
}  # fmt: skip


def tiny(family: str, **changes: Any) -> keras.Model:
    """Return the small network of a family, 5 classes, every tensor with a value that shows."""
    name, arguments = FAMILIES[family]
    arguments = {"classes": 5, **arguments, **changes}
    if changes.get("data_format") == "channels_first":
        *size, channels = arguments["input_shape"]
        arguments["input_shape"] = (channels, *size)
    if arguments.get("features_only"):
        arguments.pop("classes")
    model = reszoo.build(name, seed=0, **arguments)
    spread(model)
    return model


def spread(model: keras.Model, seed: int = 1) -> None:
    """Move scales, offsets, biases and moving statistics away from their initial 0 and 1."""
    draw = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(draw.normal(0, 0.2, variable.shape))


def images(model: keras.Model, batch: int = 2, seed: int = 0) -> np.ndarray:
    """Return normal noise that the model takes."""
    shape = [n or 33 for n in model.input_shape[1:]]
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Assert equality to `tolerance` of the largest expected value, output for output."""
    pairs = zip(found, expected, strict=True) if isinstance(expected, list) else [(found, expected)]
    for one, other in pairs:
        a, b = (np.asarray(keras.ops.convert_to_numpy(x), np.float64) for x in (one, other))
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
