"""Grids as data: built-in YAML files, and users' files in the same form."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import reszoo
from ablations.errors import UserError
from ablations.recipes import Recipe
from reszoo.catalog import VGG
from reszoo.errors import unknown
from reszoo.specs import ResNetSpec

_HERE = Path(__file__).parent
_KEYS = (
    "title", "reproduces", "expect", "factors", "labels", "baseline", "presets", "paper",
)  # fmt: skip
_PRESET_KEYS = ("network", "recipe", "dataset")


class GridError(UserError):
    """A grid that is unknown, malformed or contradictory. The message is one line."""


@dataclass(frozen=True)
class Level:
    """One arm before its network and recipe are resolved: a name and what it changes.

    `exceptions` are fields of the recipe that the preset changes for this arm alone, with a reason.
    """

    name: str
    factors: dict[str, Any]
    spec: dict[str, Any]
    recipe: dict[str, Any]
    exceptions: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Grid:
    """A grid resolved for one preset.

    Attributes:
        name: of the file, or "resnet20" for a single network.
        preset: which of its presets.
        title, reproduces, expect: sentences for people.
        network: catalogue name that every arm starts from.
        spec: overrides that every arm shares.
        recipe: name of the recipe that every arm starts from.
        recipe_fields: fields of it that the preset replaces.
        dataset: name of the data set.
        arms: names and changes.
        baseline: name of the arm that the others are compared with.
        paper: metric, protocol, n, source and values (arm -> number); empty where none exist.
    """

    name: str
    preset: str
    title: str
    reproduces: str
    expect: str
    network: str
    spec: dict[str, Any]
    recipe: str
    recipe_fields: dict[str, Any]
    dataset: str
    arms: tuple[Level, ...]
    baseline: str
    paper: dict[str, Any] = field(default_factory=dict)


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
    return _parse(path.stem, _read(path), preset, str(name))


def presets(name: str) -> list[str]:
    """Return the presets of a built-in grid."""
    return list(_read(_HERE / f"{name}.yaml").get("presets", {}))


def single(network: str, preset: str = "quick") -> Grid:
    """Return the grid of one arm that trains a catalogue network as it stands.

    Raises:
        GridError: the preset does not exist.
        SpecError: the network does not exist.
    """
    if preset not in ("quick", "paper"):
        raise GridError(unknown("preset", preset, ["quick", "paper"]))
    stem = "imagenet" if network in VGG else reszoo.spec(network).stem
    recipe, dataset = "quick", "fashion"
    if preset == "paper":
        recipe, dataset = f"paper-{'imagenet' if stem == 'imagenet' else 'cifar'}", stem
        dataset = "imagenet" if stem == "imagenet" else "cifar10"
        if network == "resnet110":
            recipe = "paper-cifar-warmup"
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


def _read(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader leaves every scalar a string: YAML itself reads `no` as False and 1e-4 as text.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise GridError(f"{path} is not YAML: {first}") from None
    if not isinstance(content, dict):
        raise GridError(f"{path}: a grid is a mapping with the keys {', '.join(_KEYS)}")
    return content


def _parse(name: str, content: dict[str, Any], preset: str, where: str) -> Grid:
    for key in content:
        if key not in _KEYS:
            raise GridError(f"grid {where}: {unknown('key', key, _KEYS)}")
    chosen = content.get("presets", {})
    if preset not in chosen:
        raise GridError(f"grid {where}: {unknown('preset', preset, chosen)}")
    base = dict(chosen[preset])
    missing = [key for key in _PRESET_KEYS if key not in base]
    if missing:
        raise GridError(f"grid {where}, preset {preset}: {', '.join(missing)} missing")
    network, recipe, dataset = (base.pop(key) for key in _PRESET_KEYS)
    only_here = base.pop("arms", {})
    factors = {**content.get("factors", {}), **base.pop("factors", {})}
    if not isinstance(factors, dict) or not factors:
        raise GridError(f"grid {where}: factors is a mapping of a field to its levels")
    labels = content.get("labels", {})
    arms = []
    levels = {factor: [parse(factor, text) for text in texts] for factor, texts in factors.items()}
    for values in itertools.product(*levels.values()):
        combination = dict(zip(levels, values, strict=True))
        parts = [labels.get(f, {}).get(_label(v), _label(v)) for f, v in combination.items()]
        spec = {f: v for f, v in combination.items() if not f.startswith("recipe.")}
        changes = {f[7:]: v for f, v in combination.items() if f.startswith("recipe.")}
        name_of_arm = "-".join(parts)
        special = dict(only_here.pop(name_of_arm, {}))
        reason = special.pop("why", "")
        exceptions = {f[7:]: parse(f, v) for f, v in special.items()}
        arms.append(Level(name_of_arm, combination, spec, changes, exceptions, reason))
    if only_here:
        problem = unknown("arm", next(iter(only_here)), [arm.name for arm in arms])
        raise GridError(f"grid {where}, preset {preset}: {problem}")
    arm_names = [arm.name for arm in arms]
    for arm in arm_names:
        if not re.fullmatch(r"[\w.+=-]+", arm) or arm.startswith("."):
            raise GridError(
                f'grid {where}: arm "{arm}" names a directory: use letters, digits and ._+=- '
                "(labels: {factor: {level: label}} renames levels)"
            )
    doubled = {arm for arm in arm_names if arm_names.count(arm) > 1}
    if doubled:
        raise GridError(f'grid {where}: two arms are called "{doubled.pop()}"')
    baseline = base.pop("baseline", content.get("baseline", arm_names[0]))
    if baseline not in arm_names:
        raise GridError(f"grid {where}: baseline: {unknown('arm', baseline, arm_names)}")
    paper = dict(base.pop("paper", content.get("paper", {})))
    paper["values"] = {arm: float(v) for arm, v in paper.get("values", {}).items()}
    return Grid(
        name=name,
        preset=preset,
        title=base.pop("title", content.get("title", name)),
        reproduces=base.pop("reproduces", content.get("reproduces", "")),
        expect=content.get("expect", ""),
        network=network,
        spec={k: parse(k, text) for k, text in base.items() if not k.startswith("recipe.")},
        recipe=recipe,
        recipe_fields={k[7:]: parse(k, v) for k, v in base.items() if k.startswith("recipe.")},
        dataset=dataset,
        arms=tuple(arms),
        baseline=baseline,
        paper=paper if paper["values"] else {},
    )


def _label(level: Any) -> str:
    return "x".join(map(str, level)) if isinstance(level, tuple) else str(level)


_DERIVED = {"depth": int, "width": int}


def fields() -> dict[str, Any]:
    """Return every name that a factor can have, with its type."""
    spec = typing.get_type_hints(ResNetSpec)
    recipe = typing.get_type_hints(Recipe)
    return {
        **{f.name: spec[f.name] for f in dataclasses.fields(ResNetSpec) if f.name != "name"},
        **_DERIVED,
        **{f"recipe.{f.name}": recipe[f.name] for f in dataclasses.fields(Recipe)},
    }


def parse(name: str, text: Any) -> Any:
    """Return a factor's level with the type of its field.

    Args:
        name: a field of the spec, "depth", "width", or "recipe." and a field of the recipe.
        text: what stands in the file: a string, or a list of strings.

    Raises:
        GridError: the name is unknown or the text does not fit.
    """
    known = fields()
    if name not in known:
        raise GridError(unknown("factor", name, known))
    kind = known[name]
    try:
        return _convert(kind, text)
    except (ValueError, TypeError, KeyError):
        raise GridError(f"{name}: {text!r} is not {getattr(kind, '__name__', kind)}") from None


def _convert(kind: Any, text: Any) -> Any:
    options = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if not isinstance(text, list):
            raise ValueError(text)
        return tuple(_convert(options[0], item) for item in text)
    if options:  # X | None
        if text in ("", "null", "None", None):
            return None
        return _convert(next(option for option in options if option is not type(None)), text)
    if kind is bool:
        return {"true": True, "false": False, "yes": True, "no": False}[str(text).lower()]
    if isinstance(text, (list, dict)):
        raise ValueError(text)
    return kind(text)
