"""The YAML form of a grid, checked: every mistake is one line that names file, key and value."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ablations.errors import UserError
from ablations.recipes import Recipe
from reszoo.errors import unknown
from reszoo.specs import ResNetSpec

_KEYS = (
    "title", "reproduces", "expect", "factors", "labels", "baseline", "presets", "paper",
)  # fmt: skip
_PRESET_KEYS = ("network", "recipe", "dataset")
_PAPER_KEYS = ("metric", "protocol", "n", "source", "values")
_DERIVED = {"depth": int, "width": int}
#: Fields of the spec that the data set decides.
_FROM_DATA = ("input_shape", "classes")


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


def read(path: Path) -> dict[str, Any]:
    """Return the content of a grid's file; every scalar is a string.

    Raises:
        GridError: it is not a YAML mapping.
    """
    try:
        # BaseLoader leaves every scalar a string: YAML itself reads `no` as False and 1e-4 as text.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise GridError(f"{path} is not YAML: {first}") from None
    if not isinstance(content, dict):
        raise GridError(f"{path}: a grid is a mapping with the keys {', '.join(_KEYS)}")
    return content


def parse_grid(name: str, content: dict[str, Any], preset: str, where: str) -> Grid:
    """Return the grid that a file's content describes, for one preset.

    Args:
        name: of the grid.
        content: from `read`.
        preset: one of its presets.
        where: what the user called it, for messages.

    Raises:
        GridError: a key, a value or a combination is not possible.
    """
    return _Parser(content, where).grid(name, preset)


class _Parser:
    def __init__(self, content: dict[str, Any], where: str) -> None:
        self.content = content
        self.where = where
        for key in content:
            if key not in _KEYS:
                raise self.error(unknown("key", key, _KEYS))
        self.presets = self.mapping("presets", content.get("presets", {}))
        for key, value in self.presets.items():
            self.mapping(f"presets: {key}", value)

    def error(self, text: str) -> GridError:
        return GridError(f"grid {self.where}: {text}")

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(f"{key} is a mapping, not {value!r}")
        return value

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(f"{key} is text, not {value!r}")
        return value

    def grid(self, name: str, preset: str) -> Grid:
        if preset not in self.presets:
            raise self.error(unknown("preset", preset, self.presets))
        base = dict(self.presets[preset])
        arms = self.arms(preset)
        for key in ("arms", "factors"):
            base.pop(key, None)
        missing = [key for key in _PRESET_KEYS if key not in base]
        if missing:
            raise self.error(f"preset {preset}: {', '.join(missing)} missing")
        network, recipe, dataset = (
            self.text(f"presets: {preset}: {key}", base.pop(key)) for key in _PRESET_KEYS
        )
        texts = {
            key: self.text(key, base.pop(key, self.content.get(key, default)))
            for key, default in (
                ("title", name), ("reproduces", ""), ("expect", ""), ("baseline", arms[0].name),
            )
        }  # fmt: skip
        arm_names = [arm.name for arm in arms]
        if texts["baseline"] not in arm_names:
            raise self.error(f"baseline: {unknown('arm', texts['baseline'], arm_names)}")
        paper = self.paper(base.pop("paper", self.content.get("paper", {})))
        fields = {key: self.level(key, text) for key, text in base.items()}
        return Grid(
            name=name,
            preset=preset,
            network=network,
            spec={k: v for k, v in fields.items() if not k.startswith("recipe.")},
            recipe=recipe,
            recipe_fields={k[7:]: v for k, v in fields.items() if k.startswith("recipe.")},
            dataset=dataset,
            arms=tuple(arms),
            paper=paper,
            **texts,
        )

    def factors(self, preset: str) -> dict[str, list[Any]]:
        """Return factor -> levels of a preset."""
        own = self.presets[preset].get("factors", {})
        texts = {
            **self.mapping("factors", self.content.get("factors", {})),
            **self.mapping(f"presets: {preset}: factors", own),
        }
        if not texts:
            raise self.error("factors is a mapping of a field to its levels, and it is empty")
        levels = {}
        for factor, values in texts.items():
            if not isinstance(values, list) or not values:
                raise self.error(f"factors: {factor} takes a list of levels, not {values!r}")
            levels[factor] = [self.level(factor, value) for value in values]
        return levels

    def level(self, name: str, text: Any) -> Any:
        try:
            return parse(name, text)
        except GridError as error:
            raise self.error(str(error)) from None

    def labels(self) -> dict[str, dict[str, str]]:
        """Return factor -> level -> label, checked against the levels of all presets."""
        known: dict[str, set[str]] = {}
        for preset in self.presets:
            for factor, values in self.factors(preset).items():
                known.setdefault(factor, set()).update(map(level_name, values))
        labels = self.mapping("labels", self.content.get("labels", {}))
        for factor, renamed in labels.items():
            if factor not in known:
                raise self.error(f"labels: {unknown('factor', factor, known)}")
            for level, label in self.mapping(f"labels: {factor}", renamed).items():
                if level not in known[factor]:
                    raise self.error(f"labels: {factor}: {unknown('level', level, known[factor])}")
                self.text(f"labels: {factor}: {level}", label)
        return labels

    def arms(self, preset: str) -> list[Level]:
        labels, levels = self.labels(), self.factors(preset)
        special = dict(self.mapping("arms", self.presets[preset].get("arms", {})))
        arms: list[Level] = []
        for values in itertools.product(*levels.values()):
            combination = dict(zip(levels, values, strict=True))
            name = "-".join(
                labels.get(f, {}).get(level_name(v), level_name(v)) for f, v in combination.items()
            )
            if not re.fullmatch(r"[\w.+=-]+", name) or name.startswith("."):
                raise self.error(
                    f'arm "{name}" names a directory: use letters, digits and ._+=- '
                    "(labels: {factor: {level: label}} renames levels)"
                )
            if name in [arm.name for arm in arms]:
                raise self.error(f'two arms are called "{name}"')
            exceptions, reason = self.exceptions(name, special.pop(name, {}))
            spec = {f: v for f, v in combination.items() if not f.startswith("recipe.")}
            changes = {f[7:]: v for f, v in combination.items() if f.startswith("recipe.")}
            arms.append(Level(name, combination, spec, changes, exceptions, reason))
        if special:
            raise self.error(f"arms: {unknown('arm', next(iter(special)), [a.name for a in arms])}")
        return arms

    def exceptions(self, arm: str, content: Any) -> tuple[dict[str, Any], str]:
        """Return the fields of the recipe that one arm changes, and why."""
        changes = dict(self.mapping(f"arms: {arm}", content))
        reason = self.text(f"arms: {arm}: why", changes.pop("why", ""))
        for key in changes:
            if not key.startswith("recipe."):
                raise self.error(f"arms: {arm}: only fields of the recipe (recipe.…), not {key!r}")
        if changes and not reason:
            raise self.error(f"arms: {arm}: say why it differs (why: …)")
        return {key[7:]: self.level(key, text) for key, text in changes.items()}, reason

    def paper(self, content: Any) -> dict[str, Any]:
        """Return the paper's numbers: {} or metric, protocol, n, source and values."""
        paper = dict(self.mapping("paper", content))
        if not paper:
            return {}
        for key in paper:
            if key not in _PAPER_KEYS:
                raise self.error(f"paper: {unknown('key', key, _PAPER_KEYS)}")
        missing = [key for key in _PAPER_KEYS if key not in paper]
        if missing:
            raise self.error(f"paper: {', '.join(missing)} missing")
        known = [arm.name for preset in self.presets for arm in self.arms(preset)]
        values = {}
        for arm, value in self.mapping("paper: values", paper["values"]).items():
            if arm not in known:
                raise self.error(f"paper: values: {unknown('arm', arm, dict.fromkeys(known))}")
            try:
                values[arm] = float(value)
            except (TypeError, ValueError):
                raise self.error(f"paper: values: {arm}: {value!r} is not a number") from None
        texts = {key: self.text(f"paper: {key}", paper[key]) for key in _PAPER_KEYS[:-1]}
        return {**texts, "values": values}


def level_name(level: Any) -> str:
    """Return what a level is called in names of arms."""
    return "x".join(map(str, level)) if isinstance(level, tuple) else str(level)


def fields() -> dict[str, Any]:
    """Return every name that a factor can have, with its type."""
    spec = typing.get_type_hints(ResNetSpec)
    recipe = typing.get_type_hints(Recipe)
    return {
        **{
            f.name: spec[f.name]
            for f in dataclasses.fields(ResNetSpec)
            if f.name not in ("name", *_FROM_DATA)
        },
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
    if name in _FROM_DATA:
        raise GridError(f"{name} follows from the data set and cannot be a factor")
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
        # Nothing here may be unset: a factor's level is a value (shortcut: none is one).
        return _convert(next(option for option in options if option is not type(None)), text)
    if kind is bool:
        return {"true": True, "false": False, "yes": True, "no": False}[str(text).lower()]
    if isinstance(text, (list, dict)):
        raise ValueError(text)
    return kind(text)
