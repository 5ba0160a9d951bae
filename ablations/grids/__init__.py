"""Grids as data: built-in YAML files, and users' files in the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import reszoo
from ablations.grids.fields import GridError, axis_text, canonical
from ablations.grids.parsing import KEYS, Grid, Level, parse_grid
from ablations.grids.reading import read
from reszoo.catalog import VGG
from reszoo.errors import unknown

__all__ = ["Grid", "GridError", "Level", "from_axes", "load", "names", "presets", "single"]

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the built-in grids."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def load(name: str, preset: str = "quick") -> Grid:
    """Return a grid by built-in name or path of a YAML file.

    Raises:
        GridError: it does not exist or is malformed; the message says where.
    """
    path = _HERE / f"{name}.yaml"
    if name not in names():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise GridError(unknown("grid", name, names()) + " (or the path of a .yaml file)")
        if not path.is_file():
            raise GridError(f"no grid file at {path}")
    return parse_grid(path.stem, read(path, KEYS), preset, str(name))


def presets(name: str) -> list[str]:
    """Return the presets of a built-in grid."""
    return list(read(_HERE / f"{name}.yaml", KEYS).get("presets", {}))


def single(network: str, preset: str = "quick") -> Grid:
    """Return the grid of one arm that trains a catalogue network as it stands.

    Raises:
        GridError: the preset does not exist.
        SpecError: the network does not exist.
    """
    recipe, dataset = _protocol(network, preset)
    return Grid(
        name=network,
        preset=preset,
        title=f"{network} alone",
        reproduces="",
        expect="",
        network=network,
        spec={},
        recipe=recipe,
        recipe_fields={},
        dataset=dataset,
        arms=(Level(network, {}, {}, {}),),
        baseline=network,
    )


def from_axes(base: str, axes: list[str], preset: str = "quick") -> Grid:
    """Return the grid of all combinations of axes given on the command line.

    Args:
        base: the catalogue network that every arm starts from, as it stands.
        axes: "FIELD=LEVEL,LEVEL"; a level of a sequence is written 4x8x16.
        preset: "quick" or "paper".

    Raises:
        GridError: an axis is malformed, or its field or a level is unknown.
        SpecError: the network does not exist.
    """
    recipe, dataset = _protocol(base, preset)
    factors: dict[str, list[Any]] = {}
    try:
        for axis in axes:
            name, _, values = axis.partition("=")
            if not values:
                raise GridError(f'write FIELD=LEVEL,LEVEL, not "{axis}"')
            name = canonical(name.strip())
            if name in factors:
                raise GridError(f"{name} is given twice")
            factors[name] = [axis_text(name, value.strip()) for value in values.split(",")]
    except GridError as error:
        raise GridError(f"--axis: {error}") from None
    content = {
        "title": f"{base}: {', '.join(factors)}",
        "factors": factors,
        "presets": {preset: {"network": base, "recipe": recipe, "dataset": dataset}},
    }
    return parse_grid("-".join([base, *factors]), content, preset, "of --axis")


def _protocol(network: str, preset: str) -> tuple[str, str]:
    """Return the recipe and the data set of one network under a preset."""
    stem = "imagenet" if network in VGG else reszoo.spec(network).stem
    choices = {
        "quick": ("quick", "fashion"),
        "paper": ("paper-cifar-warmup" if network == "resnet110" else "paper-cifar", "cifar10")
        if stem == "cifar"
        else ("paper-imagenet", "imagenet"),
    }
    if preset not in choices:
        raise GridError(unknown("preset", preset, choices))
    return choices[preset]
