"""Layer plans of the VGG nets (arXiv 1409.1556), the paper's comparators."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError, unknown
from reszoo.plans import Draft, Plan
from reszoo.specs import ResNetSpec, check_classes, check_input_shape


def vgg_plan(network: str, overrides: dict[str, Any]) -> Plan:
    """Return the plan of one of `catalog.VGG`.

    Args:
        network: its name; "_bn" nets normalise after each convolution (torchvision).
        overrides: `classes`, `input_shape`, `name`; None, also of a spec's field: as it was.

    Raises:
        SpecError: another override, or an impossible value.
    """
    allowed = ("classes", "input_shape", "name")
    as_it_was = [*(field.name for field in dataclasses.fields(ResNetSpec)), "depth", "width"]
    for name, value in overrides.items():
        if name not in allowed and (value is not None or name not in as_it_was):
            raise SpecError(f"{network} is a comparator: {unknown('override', name, allowed)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    draft = Draft(check_input_shape(given.get("input_shape", (224, 224, 3))))
    classes = check_classes(given.get("classes", 1000))
    x = "input"
    endpoints = []
    for draft.stage, widths in enumerate(catalog.VGG[network], start=1):
        tag = f"stage{draft.stage}"
        for number, channels in enumerate(widths, start=1):
            x = draft.add(
                f"{tag}_conv{number}", "conv", x, channels=channels, kernel=3, padding=1, bias=True
            )
            if network.endswith("_bn"):
                x = draft.add(
                    f"{tag}_norm{number}", "norm", x, groups=0, epsilon=1e-5, momentum=0.9
                )
            x = draft.add(f"{tag}_relu{number}", "relu", x)
        endpoints.append(x)
        x = draft.add(f"{tag}_pool", "max_pool", x, kernel=2, stride=2)
    draft.stage = -1
    features = x
    size = draft.layers[x].size
    if classes:
        if None in size:
            raise SpecError(f"{network} needs a known input size for its fully connected layers")
        inputs = draft.channels(x) * size[0] * size[1]  # type: ignore[operator]
        x = draft.add("head_flatten", "flatten", x, channels=inputs, size=())
        for number in (1, 2):
            x = draft.add(f"head_fc{number}", "dense", x, channels=4096, bias=True, size=())
            x = draft.add(f"head_relu{number}", "relu", x, size=())
            x = draft.add(f"head_dropout{number}", "dropout", x, size=(), rate=0.5)
    else:
        x = draft.add("head_pool", "global_pool", x, size=())
    logits = draft.classifier(x, classes)
    return Plan(
        name=given.get("name") or network,
        spec=None,
        layers=tuple(draft.layers.values()),
        endpoints=tuple(endpoints),
        strides=tuple(2**index for index in range(len(endpoints))),
        logits=logits,
        features=features,
        initializer="he_normal",
    )


def image_size(network: str, flattened: int | None, asked: Any = None) -> tuple[int, int]:
    """Return the (height, width) in pixels of the images that weights are for.

    Args:
        network: one of `catalog.VGG`.
        flattened: what the weights' first fully connected layer reads, which tells how many pixels
            the last map has; None: they have none.
        asked: the input_shape that is asked for. It is taken if its map has so many pixels, else
            the shape nearest to a square.

    Raises:
        SpecError: asked is no input_shape.
    """
    height, width, _ = check_input_shape((224, 224, 3) if asked is None else asked)
    size = (height or 224, width or 224)
    if flattened is None:
        return size
    stages = catalog.VGG[network]
    stride = 2 ** len(stages)
    pixels = max(flattened // stages[-1][-1], 1)
    if math.prod(n // stride for n in size) == pixels:
        return size
    side = next(n for n in range(math.isqrt(pixels), 0, -1) if pixels % n == 0)
    return side * stride, pixels // side * stride
