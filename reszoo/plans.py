"""spec -> layer plan: the one description of a network that everything else is derived from.

A plan is a list of layers in topological order. The Keras graph (models.py), the counts
(costs.py), the printed architecture (tables.py) and the names in foreign weight files
(weights/) all read the same list, so that they cannot drift. Pure Python: importing this needs
neither numpy nor keras.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError
from reszoo.specs import ResNetSpec


@dataclass(frozen=True)
class Layer:
    """One operation of a network.

    Attributes:
        name: structural and stable: stage, block, branch ("stage2_block1_conv1").
        op: input, conv, norm, relu, sigmoid, scale, add, multiply, max_pool, average_pool,
            blur_pool, subsample_pad, global_pool, channel_conv, flatten, dense, dropout,
            drop_branch or activation.
        inputs: names of the layers it reads.
        size: (height, width) of its output, None where unknown; () once the map is a vector.
        channels: channels (or features) of its output.
        in_channels: channels (or features) of its first input.
        kernel, stride, padding, dilation: in pixels, the same in both directions; padding on all
            four sides.
        groups: of a convolution, or of a group normalisation (0: batch normalisation).
        bias: whether a conv or dense layer has one.
        stage: 0 for the stem, 1… for the stages, -1 for the head.
        block: 1… within its stage; 0 outside blocks.
        role: "main", "shortcut", "attention" or "gate". The paper counts only the main path's
            layers as weighted ones.
        options: what only this op needs (pad, pool, momentum, epsilon, rate, activation, …).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    size: tuple[int | None, ...]
    channels: int
    in_channels: int = 0
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = False
    stage: int = 0
    block: int = 0
    role: str = "main"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def projection(self) -> bool:
        """Whether it belongs to a shortcut."""
        return self.role == "shortcut"

    def option(self, name: str, default: Any = None) -> Any:
        """Return one of the options by name."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True)
class Plan:
    """A network as a list of layers.

    Attributes:
        name: label of the network.
        spec: the ResNetSpec it came from; None for the VGG comparators.
        layers: in topological order, the input first.
        endpoints: last layer of the stem before its pooling (index 0) and of each stage (1…), as
            timm counts them for `out_indices`.
        strides: input size / size of each endpoint.
        logits: name of the layer before the classifier's activation, or None without a classifier.
        features: name of the last map: what enters the global pooling.
        initializer: name of the initialiser of every kernel.
    """

    name: str
    spec: ResNetSpec | None
    layers: tuple[Layer, ...]
    endpoints: tuple[str, ...]
    strides: tuple[int, ...]
    logits: str | None
    features: str
    initializer: str

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def stage(self, number: int) -> list[Layer]:
        """Return the layers of one stage (0 stem, 1… stages, -1 head)."""
        return [layer for layer in self.layers if layer.stage == number]


class Draft:
    """A plan being written: `add` appends one layer and returns its name."""

    def __init__(self, input_shape: tuple[int | None, int | None, int]) -> None:
        height, width, channels = input_shape
        self.layers: dict[str, Layer] = {}
        self.stage = 0
        self.block = 0
        self._append(Layer("input", "input", (), (height, width), channels))

    def _append(self, layer: Layer) -> str:
        self.layers[layer.name] = layer
        return layer.name

    def channels(self, name: str) -> int:
        """Return the channels of a layer's output."""
        return self.layers[name].channels

    def add(
        self,
        name: str,
        op: str,
        *inputs: str,
        channels: int | None = None,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        role: str = "main",
        size: tuple[int | None, ...] | None = None,
        ceil: bool = False,
        **options: Any,
    ) -> str:
        """Append a layer; `size` None: what the kernel leaves of its first input's map."""
        source = self.layers[inputs[0]]
        if size is None:
            reach = dilation * (kernel - 1) + 1
            spare = stride - 1 if ceil else 0
            size = tuple(
                None if n is None else (n + 2 * padding - reach + spare) // stride + 1
                for n in source.size
            )
            if any(n is not None and n < 1 for n in size):
                raise SpecError(
                    f"{name}: a map of {source.size[0]}x{source.size[1]} is too small for kernel "
                    f"{kernel}, stride {stride}, padding {padding}; use a larger input_shape"
                )
        if ceil:
            options["ceil"] = True
        return self._append(
            Layer(
                name,
                op,
                inputs,
                size,
                source.channels if channels is None else channels,
                source.channels,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                bias,
                self.stage,
                self.block,
                role,
                tuple(options.items()),
            )
        )

    def classifier(self, x: str, classes: int, rate: float = 0.0) -> str | None:
        """Append the classifier's layers; return the logits' name, or None for no classes."""
        if not classes:
            return None
        if rate:
            x = self.add("head_dropout", "dropout", x, size=(), rate=rate)
        logits = self.add("head_dense", "dense", x, channels=classes, bias=True, size=())
        self.add("head_activation", "activation", logits, size=())
        return logits


def plan(network: str | ResNetSpec, **overrides: Any) -> Plan:
    """Return the layer plan of a catalogue name or spec.

    Args:
        network: a name or a ResNetSpec.
        **overrides: fields of ResNetSpec, `depth`, `width`; for VGG only `classes`, `input_shape`
            and `name`.

    Raises:
        SpecError: the network cannot be built as described.
    """
    from reszoo import comparators, residual

    if isinstance(network, str) and network in catalog.VGG:
        return comparators.vgg_plan(network, overrides)
    return residual.residual_plan(catalog.spec(network, **overrides))
