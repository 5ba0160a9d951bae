"""spec -> layer plan: the one description of a network that everything else is derived from.

A plan is a list of layers in topological order. The Keras graph (models.py), the counts
(costs.py) and the printed architecture (tables.py) all read the same list, so that they cannot
drift. Pure Python: importing this needs neither numpy nor keras.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError, unknown
from reszoo.specs import ResNetSpec, check_classes, check_input_shape


@dataclass(frozen=True)
class Layer:
    """One operation of a network.

    Attributes:
        name: structural and stable: stage, block, branch ("stage2_block1_conv1").
        op: input, conv, norm, relu, max_pool, subsample_pad, add, global_pool, flatten, dense,
            dropout or activation.
        inputs: names of the layers it reads.
        size: (height, width) of its output, None where unknown; () once the map is pooled.
        channels: channels (or features) of its output.
        in_channels: channels (or features) of its first input.
        kernel, stride, padding: in pixels, the same in both directions; padding on all four sides.
        bias: whether a conv or dense layer has one.
        stage: 0 for the stem, 1… for the stages, -1 for the head.
        block: 1… within its stage; 0 outside blocks.
        projection: a shortcut's layer, which the paper does not count as a weighted layer.
        options: what only this op needs (pad, pool, momentum, epsilon, rate, activation).
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
    bias: bool = False
    stage: int = 0
    block: int = 0
    projection: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def option(self, name: str) -> Any:
        """Return one of the options by name."""
        return dict(self.options)[name]


@dataclass(frozen=True)
class Plan:
    """A network as a list of layers.

    Attributes:
        name: label of the network.
        spec: the ResNetSpec it came from; None for the VGG comparators.
        layers: in topological order, the input first.
        endpoints: last layer of the stem's activation (index 0) and of each stage (1…), as timm
            counts them for `out_indices`.
        logits: name of the layer before the classifier's activation, or None without a classifier.
        initializer: name of the initialiser of every kernel.
    """

    name: str
    spec: ResNetSpec | None
    layers: tuple[Layer, ...]
    endpoints: tuple[str, ...]
    logits: str | None
    initializer: str

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def stage(self, number: int) -> list[Layer]:
        """Return the layers of one stage (0 stem, 1… stages, -1 head)."""
        return [layer for layer in self.layers if layer.stage == number]


class _Draft:
    """A plan being written: each method appends one layer and returns its name."""

    def __init__(self, input_shape: tuple[int | None, int | None, int]) -> None:
        height, width, channels = input_shape
        self.layers: dict[str, Layer] = {}
        self.stage = 0
        self.block = 0
        self._append(Layer("input", "input", (), (height, width), channels))

    def _append(self, layer: Layer) -> str:
        self.layers[layer.name] = layer
        return layer.name

    def add(
        self,
        name: str,
        op: str,
        *inputs: str,
        channels: int | None = None,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        projection: bool = False,
        pooled: bool = False,
        **options: Any,
    ) -> str:
        source = self.layers[inputs[0]]
        size: tuple[int | None, ...] = ()
        if not pooled:
            size = tuple(
                None if n is None else (n + 2 * padding - kernel) // stride + 1 for n in source.size
            )
            if any(n is not None and n < 1 for n in size):
                raise SpecError(
                    f"{name}: a map of {source.size[0]}x{source.size[1]} is too small for kernel "
                    f"{kernel}, stride {stride}, padding {padding}; use a larger input_shape"
                )
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
                bias,
                self.stage,
                self.block,
                projection,
                tuple(options.items()),
            )
        )


def plan(network: str | ResNetSpec, **overrides: Any) -> Plan:
    """Return the layer plan of a catalogue name or spec.

    Args:
        network: a name or a ResNetSpec.
        **overrides: fields of ResNetSpec, `depth`, `width`; for VGG only `classes`, `input_shape`
            and `name`.

    Raises:
        SpecError: the network cannot be built as described.
    """
    if isinstance(network, str) and network in catalog.VGG:
        return _vgg(network, **_vgg_overrides(network, overrides))
    return _resnet(catalog.spec(network, **overrides))


def _resnet(spec: ResNetSpec) -> Plan:
    draft = _Draft(spec.input_shape)
    norm: dict[str, Any] = {"epsilon": spec.norm_epsilon, "momentum": spec.norm_momentum}

    def conv_norm(
        tag: str, number: str, x: str, channels: int, kernel: int, stride: int, **kw: Any
    ) -> str:
        x = draft.add(
            f"{tag}_conv{number}",
            "conv",
            x,
            channels=channels,
            kernel=kernel,
            stride=stride,
            padding=kernel // 2,
            **kw,
        )
        return draft.add(f"{tag}_norm{number}", "norm", x, **kw, **norm)

    assert spec.stem_width is not None
    kernel, stride = (7, 2) if spec.stem == "imagenet" else (3, 1)
    x = conv_norm("stem", "", "input", spec.stem_width, kernel, stride)
    x = draft.add("stem_relu", "relu", x)
    endpoints = [x]
    if spec.stem == "imagenet":
        x = draft.add("stem_pool", "max_pool", x, kernel=3, stride=2, padding=1)

    for draft.stage, (depth, width, out) in enumerate(
        zip(spec.depths, spec.widths, spec.block_channels, strict=True), start=1
    ):
        for draft.block in range(1, depth + 1):
            tag = f"stage{draft.stage}_block{draft.block}"
            stride = 2 if draft.stage > 1 and draft.block == 1 else 1
            identity = x
            if spec.block == "basic":
                convs = [(width, 3, stride), (out, 3, 1)]
            else:
                first = spec.stride_placement == "1x1"
                convs = [
                    (width, 1, stride if first else 1),
                    (width, 3, 1 if first else stride),
                    (out, 1, 1),
                ]
            for number, (channels, kernel, step) in enumerate(convs, start=1):
                x = conv_norm(tag, str(number), x, channels, kernel, step)
                if number < len(convs):
                    x = draft.add(f"{tag}_relu{number}", "relu", x)
            if spec.shortcut != "none":
                changes = stride != 1 or draft.layers[identity].channels != out
                if spec.shortcut == "C" or (spec.shortcut == "B" and changes):
                    identity = conv_norm(
                        f"{tag}_shortcut", "", identity, out, 1, stride, projection=True
                    )
                elif changes:
                    identity = draft.add(
                        f"{tag}_shortcut_pad",
                        "subsample_pad",
                        identity,
                        channels=out,
                        stride=stride,
                        pad=spec.shortcut_pad,
                        pool=spec.shortcut_pool,
                    )
                x = draft.add(f"{tag}_add", "add", x, identity)
            x = draft.add(f"{tag}_relu{len(convs)}", "relu", x)
        endpoints.append(x)

    draft.stage, draft.block = -1, 0
    x = draft.add("head_pool", "global_pool", x, pooled=True)
    logits = _classifier(draft, x, spec.classes)
    return Plan(
        spec.name or "resnet",
        spec,
        tuple(draft.layers.values()),
        tuple(endpoints),
        logits,
        spec.initializer,
    )


def _classifier(draft: _Draft, x: str, classes: int) -> str | None:
    if not classes:
        return None
    logits = draft.add("head_dense", "dense", x, channels=classes, bias=True, pooled=True)
    draft.add("head_activation", "activation", logits, pooled=True)
    return logits


def _vgg_overrides(network: str, overrides: dict[str, Any]) -> dict[str, Any]:
    allowed = ("classes", "input_shape", "name")
    for name in overrides:
        if name not in allowed:
            raise SpecError(f"{network} is a comparator: {unknown('override', name, allowed)}")
    return overrides


def _vgg(
    network: str,
    classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    name: str = "",
) -> Plan:
    """Configurations D and E of arXiv 1409.1556: the paper's comparators."""
    draft = _Draft(check_input_shape(input_shape))
    classes = check_classes(classes)
    x = "input"
    endpoints = []
    for draft.stage, widths in enumerate(catalog.VGG[network], start=1):
        for number, channels in enumerate(widths, start=1):
            tag = f"stage{draft.stage}"
            x = draft.add(
                f"{tag}_conv{number}", "conv", x, channels=channels, kernel=3, padding=1, bias=True
            )
            x = draft.add(f"{tag}_relu{number}", "relu", x)
        endpoints.append(x)
        x = draft.add(f"{tag}_pool", "max_pool", x, kernel=2, stride=2)
    draft.stage = -1
    size = draft.layers[x].size
    if classes:
        if None in size:
            raise SpecError(f"{network} needs a known input size for its fully connected layers")
        features = draft.layers[x].channels * size[0] * size[1]  # type: ignore[operator]
        x = draft.add("head_flatten", "flatten", x, channels=features, pooled=True)
        for number in (1, 2):
            tag = f"head_fc{number}"
            x = draft.add(tag, "dense", x, channels=4096, bias=True, pooled=True)
            x = draft.add(f"head_relu{number}", "relu", x, pooled=True)
            x = draft.add(f"head_dropout{number}", "dropout", x, pooled=True, rate=0.5)
    else:
        x = draft.add("head_pool", "global_pool", x, pooled=True)
    logits = _classifier(draft, x, classes)
    return Plan(
        name or network,
        None,
        tuple(draft.layers.values()),
        tuple(endpoints),
        logits,
        "he_normal",
    )
