"""grid -> arms and cells, each with a resolved configuration and an identity."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import reszoo
from ablations import files
from ablations.data import Dataset
from ablations.grids import Grid, GridError
from ablations.recipes import recipe
from ablations.records import Arm
from reszoo import catalog


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
    def identity(self) -> str:
        """Hash of the configuration."""
        return files.sha256(files.canonical(self.config))


def arms(
    grid: Grid, image_shape: tuple[int, ...], classes: int, overrides: dict[str, Any]
) -> list[Arm]:
    """Return a grid's arms with networks and recipes resolved.

    Args:
        grid: what to compare.
        image_shape: (height, width, channels) of the data set.
        classes: of the data set.
        overrides: fields of the recipe that replace every arm's, e.g. {"epochs": 5}.

    Raises:
        GridError, SpecError, RecipeError: an arm is not possible; the message names it.
    """
    resolved = []
    for level in grid.arms:
        shared = {"input_shape": tuple(image_shape), "classes": classes}
        protocol = recipe(grid.recipe).replace(
            **{**grid.recipe_fields, **level.recipe, **level.exceptions, **overrides}
        )
        if grid.network in catalog.VGG:
            if grid.spec or level.spec:
                raise GridError(f"{grid.network} is a comparator: it takes no factors of the spec")
            spec = None
            cost = reszoo.complexity(grid.network, **shared)
        else:
            try:
                network = reszoo.spec(grid.network, **{**grid.spec, **level.spec, **shared})
            except reszoo.SpecError as error:
                raise GridError(f"arm {level.name}: {error}") from None
            spec = {k: v for k, v in network.to_dict().items() if k != "name"}
            cost = reszoo.complexity(network)
        value = grid.paper.get("values", {}).get(level.name)
        resolved.append(
            Arm(
                name=level.name,
                factors=level.factors,
                network=grid.network,
                spec=spec,
                recipe=protocol.to_dict(),
                exceptions=level.exceptions,
                reason=level.reason,
                parameters=cost.parameters,
                macs=cost.macs,
                weighted_layers=cost.weighted_layers,
                paper=None if value is None else {"value": value},
            )
        )
    return resolved


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
                "data": {"name": dataset.name, "digest": dataset.digest},
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
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
