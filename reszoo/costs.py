"""plan -> parameters, multiply-accumulates, weighted layers. No numpy, no keras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reszoo.errors import SpecError
from reszoo.plans import Layer, plan
from reszoo.specs import ResNetSpec


@dataclass(frozen=True)
class Complexity:
    """Size and cost of a network.

    Attributes:
        parameters: trainable scalars (moving statistics of batch normalisation not counted).
        macs: multiply-accumulates of convolutions and classifier for one image, biases not
            counted. The paper calls them FLOPs.
        weighted_layers: as the paper counts: convolutions and fully connected layers, projection
            shortcuts not.
    """

    parameters: int
    macs: int
    weighted_layers: int


def complexity(network: str | ResNetSpec, **overrides: Any) -> Complexity:
    """Return the size and cost of a network, from its plan, without building it.

    Args:
        network: a catalogue name or a ResNetSpec.
        **overrides: fields of ResNetSpec, `depth`, `width`.

    Raises:
        SpecError: the network is impossible, or its input size is unknown (MACs depend on it).
    """
    layers = plan(network, **overrides)
    return Complexity(
        sum(map(parameters, layers)),
        sum(map(macs, layers)),
        sum(map(weighted, layers)),
    )


def weighted(layer: Layer) -> bool:
    """Return whether the paper counts a layer: convolutions and classifier of the main path."""
    return layer.op in ("conv", "dense") and layer.role == "main"


def parameters(layer: Layer) -> int:
    """Return the trainable scalars of one layer."""
    if layer.op in ("conv", "dense"):
        return _kernel(layer) + (layer.channels if layer.bias else 0)
    if layer.op == "channel_conv":
        return layer.kernel
    return 2 * layer.channels if layer.op == "norm" else 0


def macs(layer: Layer) -> int:
    """Return the multiply-accumulates of one layer for one image, biases not counted.

    Raises:
        SpecError: the layer is a convolution of unknown size.
    """
    if layer.op == "channel_conv":
        return layer.kernel * layer.channels
    if layer.op not in ("conv", "dense"):
        return 0
    pixels = 1
    for n in layer.size:
        if n is None:
            raise SpecError("MACs depend on the input size: give input_shape=(height, width, c)")
        pixels *= n
    return _kernel(layer) * pixels


def _kernel(layer: Layer) -> int:
    return layer.kernel**2 * layer.in_channels // layer.groups * layer.channels
