"""Layer plans of the VGG nets (arXiv 1409.1556), the paper's comparators."""

from __future__ import annotations

from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError, unknown
from reszoo.plans import Draft, Plan
from reszoo.specs import check_classes, check_input_shape


def vgg_plan(network: str, overrides: dict[str, Any]) -> Plan:
    """Return the plan of one of `catalog.VGG`.

    Args:
        network: its name; "_bn" nets normalise after each convolution (torchvision).
        overrides: `classes`, `input_shape`, `name`.

    Raises:
        SpecError: another override, or an impossible value.
    """
    allowed = ("classes", "input_shape", "name")
    for name in overrides:
        if name not in allowed:
            raise SpecError(f"{network} is a comparator: {unknown('override', name, allowed)}")
    draft = Draft(check_input_shape(overrides.get("input_shape", (224, 224, 3))))
    classes = check_classes(overrides.get("classes", 1000))
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
        name=overrides.get("name") or network,
        spec=None,
        layers=tuple(draft.layers.values()),
        endpoints=tuple(endpoints),
        strides=tuple(2**index for index in range(len(endpoints))),
        logits=logits,
        features=features,
        initializer="he_normal",
    )
