"""grid -> arms and cells, each with a resolved configuration and an identity."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import reszoo
from ablations import files
from ablations.data import Dataset
from ablations.grids import Grid, GridError, Level, matching
from ablations.grids.declared import by_hand
from ablations.recipes import recipe
from ablations.records import Arm
from reszoo import catalog
from reszoo.specs import ResNetSpec

#: Training runs of one grid. Each takes seconds at least, and its records are read again and again.
MOST_CELLS = 100_000


@dataclass(frozen=True)
class Platform:
    """What a result depends on besides the configuration: part of a cell's identity.

    Attributes:
        kind: "cpu" or "gpu".
        device: model of the processor or GPU.
        threads: intra-op threads of a cell; oneDNN's rounding depends on them.
        strategy: "none" or "mirrored" (tf.distribute.MirroredStrategy).
        replicas: devices that share a cell's batch.
        xla: whether the training step is compiled with XLA, which no strategy allows.
    """

    kind: str
    device: str
    threads: int
    strategy: str = "none"
    replicas: int = 1
    xla: bool = False


@dataclass(frozen=True)
class PlannedCell:
    """One training run to be made.

    Attributes:
        arm, seed: which.
        config: everything that can change the result, as plain JSON.
    """

    arm: str
    seed: int
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """What the cell is called: "arm/seed0"."""
        return f"{self.arm}/seed{self.seed}"

    @property
    def identity(self) -> str:
        """Hash of the configuration."""
        return files.sha256(files.canonical(self.config))


def arms(
    grid: Grid, image_shape: tuple[int, ...], classes: int, overrides: dict[str, Any]
) -> list[Arm]:
    """Return a grid's arms with networks and recipes resolved, budgets matched where it asks so.

    Args:
        grid: what to compare.
        image_shape: (height, width, channels) of the data set.
        classes: of the data set.
        overrides: fields of the recipe that replace every arm's, e.g. {"epochs": 5}.

    Raises:
        GridError, SpecError, RecipeError: an arm is not possible, or two are the same; the message
            names them.
    """
    shared = {"input_shape": tuple(image_shape), "classes": classes}
    networks = [_network(grid, level, shared) for level in grid.arms]
    matches = _matches(grid, networks)
    resolved = []
    for level, network, match in zip(grid.arms, networks, matches, strict=True):
        _check_overrides(grid, level, overrides)
        protocol = recipe(grid.recipe).replace(
            **{**grid.recipe_fields, **level.recipe, **level.exceptions, **overrides}
        )
        if match is not None:
            network = match.spec
        cost = reszoo.complexity(network) if network else reszoo.complexity(grid.network, **shared)
        value = grid.paper.get("values", {}).get(level.name)
        resolved.append(
            Arm(
                name=level.name,
                factors=level.factors,
                undeclared=sorted(set(by_hand(level.spec)) - set(by_hand(level.factors))),
                network=grid.network,
                spec={k: v for k, v in network.to_dict().items() if k != "name"}
                if network
                else None,
                recipe=protocol.to_dict(),
                exceptions=level.exceptions,
                reason=level.reason,
                parameters=cost.parameters,
                macs=cost.macs,
                weighted_layers=cost.weighted_layers,
                paper=None if value is None else {"value": value},
                match=match.to_dict() if match else None,
            )
        )
    _check_distinct(resolved)
    return resolved


def _check_distinct(resolved: list[Arm]) -> None:
    """Refuse arms that would train the same: their difference is noise under two names."""
    seen: dict[str, str] = {}
    for arm in resolved:
        first = seen.setdefault(files.canonical([arm.network, arm.spec, arm.recipe]), arm.name)
        if first != arm.name:
            raise GridError(
                f'arms "{first}" and "{arm.name}" are the same network under the same recipe: '
                "leave one out, or change one"
            )


def _check_overrides(grid: Grid, level: Level, overrides: dict[str, Any]) -> None:
    """Refuse to set what the grid varies: arms named after their levels would all be the same."""
    length = {"epochs", "iterations"}  # either excludes the other
    for name in overrides:
        for varied in length if name in length else {name}:
            if f"recipe.{varied}" in level.factors:
                raise GridError(
                    f"recipe.{varied} is a factor of grid {grid.name}: it cannot be set to one "
                    f"value for all arms ({name} was given)"
                )


def _network(grid: Grid, level: Level, shared: dict[str, Any]) -> ResNetSpec | None:
    """Return an arm's network before any matching; None for a comparator."""
    if grid.network in catalog.VGG:
        if grid.spec or level.spec or grid.match:
            raise GridError(f"{grid.network} is a comparator: it takes no factors of the spec")
        return None
    try:
        return reszoo.spec(grid.network, **{**grid.spec, **level.spec, **shared})
    except reszoo.SpecError as error:
        raise GridError(f"arm {level.name}: {error}") from None


def _matches(grid: Grid, networks: list[ResNetSpec | None]) -> list[matching.Match | None]:
    """Return, for grids that match a budget, what each arm but the baseline becomes."""
    names = [level.name for level in grid.arms]
    reference = networks[names.index(grid.baseline)]
    if not grid.match or reference is None:
        return [None] * len(networks)
    target = matching.budget(reference, grid.match)
    return [
        None
        if name == grid.baseline or network is None
        else matching.solve(network, grid.match, target, grid.tolerance)
        for name, network in zip(names, networks, strict=True)
    ]


def cells(
    planned: list[Arm], seeds: list[int], dataset: Dataset, platform: Platform
) -> list[PlannedCell]:
    """Return every cell, seed by seed: an interrupted grid then holds complete comparisons."""
    return [
        PlannedCell(
            arm.name,
            seed,
            {
                "network": arm.network,
                "spec": arm.spec,
                "overrides": {}
                if arm.spec
                else {
                    "input_shape": list(dataset.image_shape),
                    "classes": len(dataset.class_names),
                },
                "recipe": arm.recipe,
                "data": {
                    "name": dataset.name,
                    "digest": dataset.digest,
                    **dataset.split_facts,
                },
                "seed": seed,
                "platform": dataclasses.asdict(platform),
            },
        )
        for seed in seeds
        for arm in planned
    ]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one line for each field in which two configurations differ."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return lines


def _short(value: Any) -> str:
    """Return a value as text; of a SHA-256 its beginning."""
    text = repr(value)
    return f"{text[:13]}…'" if re.fullmatch("'[0-9a-f]{64}'", text) else text
