"""Grids as data: built-in YAML files, and users' files in the same form."""

from __future__ import annotations

from pathlib import Path

import reszoo
from ablations.grids.parsing import Grid, GridError, Level, parse_grid, read
from reszoo.catalog import VGG
from reszoo.errors import unknown

__all__ = ["Grid", "GridError", "Level", "load", "names", "presets", "single"]

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
    return parse_grid(path.stem, read(path), preset, str(name))


def presets(name: str) -> list[str]:
    """Return the presets of a built-in grid."""
    return list(read(_HERE / f"{name}.yaml").get("presets", {}))


def single(network: str, preset: str = "quick") -> Grid:
    """Return the grid of one arm that trains a catalogue network as it stands.

    Raises:
        GridError: the preset does not exist.
        SpecError: the network does not exist.
    """
    stem = "imagenet" if network in VGG else reszoo.spec(network).stem
    choices = {
        "quick": ("quick", "fashion"),
        "paper": ("paper-imagenet", "imagenet")
        if stem == "imagenet"
        else ("paper-cifar-warmup" if network == "resnet110" else "paper-cifar", "cifar10"),
    }
    if preset not in choices:
        raise GridError(unknown("preset", preset, choices))
    recipe, dataset = choices[preset]
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
