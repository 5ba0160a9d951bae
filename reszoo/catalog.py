"""Names of published networks and what they stand for, as data."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from reszoo.errors import SpecError, unknown
from reszoo.specs import IMAGENET_DEPTHS, ResNetSpec, merge, named

# Sec. 4.2: 6n+2 layers.
_CIFAR = (20, 32, 44, 56, 110, 1202)


def _paper_networks() -> dict[str, dict[str, Any]]:
    networks: dict[str, dict[str, Any]] = {}
    for family, shortcut in (("resnet", None), ("plain", "none")):
        for block, table in IMAGENET_DEPTHS.items():
            for depth, depths in table.items():
                networks[f"{family}{depth}"] = {
                    "stem": "imagenet",
                    "block": block,
                    "depths": depths,
                    "widths": (64, 128, 256, 512),
                    "shortcut": shortcut,
                    "classes": 1000,
                    "input_shape": (224, 224, 3),
                }
        for depth in _CIFAR:
            networks[f"{family}{depth}"] = {
                "stem": "cifar",
                "block": "basic",
                "depths": ((depth - 2) // 6,) * 3,
                "widths": (16, 32, 64),
                "shortcut": shortcut,
                "classes": 10,
                "input_shape": (32, 32, 3),
            }
    return networks


#: name -> fields of its ResNetSpec; fields left out or None take the spec's defaults.
NETWORKS: dict[str, dict[str, Any]] = _paper_networks()

#: Comparators that are not residual networks (arXiv 1409.1556, configurations D and E):
#: name -> output channels of the convolutions of each stage. ResNetSpec does not know them.
VGG: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def names(pattern: str = "*") -> list[str]:
    """Return the catalogue's names that match a shell pattern, in natural order.

    >>> names("resnet1?")
    ['resnet18']
    """
    every = [*NETWORKS, *VGG]
    return sorted(
        fnmatch.filter(every, pattern),
        key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)],
    )


def spec(network: str | ResNetSpec, **overrides: Any) -> ResNetSpec:
    """Return the spec of a catalogue name, with fields replaced.

    Args:
        network: a name (`names()` lists them) or a ResNetSpec to start from.
        **overrides: fields of ResNetSpec; also the derived `depth` (see ResNetSpec.replace) and
            `width` (channels of the first stage; the others scale with it).

    Raises:
        SpecError: the name, a field or the combination is not possible.
    """
    if isinstance(network, ResNetSpec):
        return network.replace(**overrides)
    if not isinstance(network, str):
        raise SpecError(f"a network is a name or a ResNetSpec, not {network!r}")
    if network in VGG:
        raise SpecError(
            f"{network} is a comparator and not a residual network, so it has no ResNetSpec; "
            "build, describe and complexity take its name"
        )
    if network not in NETWORKS:
        raise SpecError(unknown("network", network, names()))
    values = merge({"name": network, **NETWORKS[network]}, overrides)
    return named(ResNetSpec.from_dict(values), overrides)
