"""The YAML form of a grid, checked: every mistake is one line that names file, key and value."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from ablations.grids.fields import GridError, axis_text, canonical, level_name, parse, split
from ablations.grids.matching import BUDGETS, SOLVED, TOLERANCE
from ablations.grids.naming import arm_name, check_name
from ablations.recipes import RecipeError, recipe
from reszoo import catalog
from reszoo.errors import shown, unknown

_TEXTS = ("title", "reproduces", "expect", "cost", "baseline")
#: Keys that stand at the top, or in a preset, which then has the last word. Factors, arms and
#: exceptions of a preset are added to those at the top; anything else replaces it.
_COMMON = (
    *_TEXTS, "factors", "zip", "exclude", "arms", "varies", "exceptions", "match", "tolerance",
    "paper",
)  # fmt: skip
KEYS = (*_COMMON, "labels", "presets")
_PRESET_KEYS = ("network", "recipe", "dataset")
_PAPER_KEYS = ("metric", "protocol", "n", "source", "values")
#: What the numbers are of: differences are listed against this recipe, with its fields replaced by
#: keys such as recipe.test_views, and from this network; `differs` says what no recipe can express.
_PAPER_OF = ("recipe", "network", "differs")
_PAPER_RECIPES = ("paper-cifar", "paper-imagenet")
#: Combinations that the axes of one grid may make: every pair of arms is audited.
_MOST_ARMS = 1_000


@dataclass(frozen=True)
class Level:
    """One arm before its network and recipe are resolved: a name and what it changes.

    `factors` are declared: what else `spec` and `recipe` hold makes the grid unmatched.
    `exceptions` are fields of the recipe that the grid changes for this arm alone, with a reason.
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
        paper: metric, protocol, n, source and values (arm -> number), and where given recipe,
            recipe_fields (replaced in it) and network that the numbers are of, and differs (a
            sentence: what else was different there); empty where none exist.
        cost: what it costs on which hardware, a sentence.
        match: "macs", "params" or "": which budget of the baseline every arm's width is solved for.
        tolerance: largest relative mismatch of that budget.
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
    cost: str = ""
    match: str = ""
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        name, _, tag = self.network.partition(".")
        if tag:
            raise GridError(
                f"network {self.network}: a tag names published weights, and cells train from "
                f"initial values; give {name}"
            )


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
            if key not in KEYS:
                raise self.error(unknown("key", key, KEYS))
        self.presets = self.mapping("presets", content.get("presets", {}))
        for key, value in self.presets.items():
            self.mapping(f"presets: {key}", value)

    # Shapes of what stands in the file

    def error(self, text: str) -> GridError:
        return GridError(f"grid {self.where}: {text}")

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(f"{key} is a mapping, not {shown(value)}")
        return value

    def mappings(self, key: str, value: Any) -> list[dict[str, Any]]:
        """Return a list of mappings; one alone may stand without its list."""
        if not isinstance(value, list):
            value = [value]
        return [self.mapping(f"each entry of {key}", item) for item in value]

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(f"{key} is text, not {shown(value)}")
        return value

    def field(self, name: str) -> str:
        try:
            return canonical(name)
        except GridError as error:
            raise self.error(str(error)) from None

    def level(self, name: str, text: Any) -> Any:
        try:
            return parse(name, text)
        except GridError as error:
            raise self.error(str(error)) from None

    def levels(self, where: str, name: str, values: Any) -> list[Any]:
        if not isinstance(values, list) or not values:
            raise self.error(f"{where}: {name} takes a list of levels, not {shown(values)}")
        return [self.level(name, value) for value in values]

    def common(self, key: str, preset: str, default: Any) -> Any:
        """Return what stands under a key in a preset, or else at the top."""
        return self.presets[preset].get(key, self.content.get(key, default))

    def merged(self, key: str, preset: str) -> dict[str, Any]:
        """Return a mapping at the top with a preset's entries on top."""
        return {
            **self.mapping(key, self.content.get(key, {})),
            **self.mapping(f"presets: {preset}: {key}", self.presets[preset].get(key, {})),
        }

    # The grid

    def grid(self, name: str, preset: str) -> Grid:
        if preset not in self.presets:
            raise self.error(unknown("preset", preset, self.presets))
        base = {k: v for k, v in self.presets[preset].items() if k not in _COMMON}
        arms = self.arms(preset)
        missing = [key for key in _PRESET_KEYS if key not in base]
        if missing:
            raise self.error(f"preset {preset}: {', '.join(missing)} missing")
        network, recipe, dataset = (
            self.text(f"presets: {preset}: {key}", base.pop(key)) for key in _PRESET_KEYS
        )
        defaults = {"title": name, "baseline": arms[0].name}
        texts = {
            # On one line, however the YAML folds it.
            key: " ".join(self.text(key, self.common(key, preset, defaults.get(key, ""))).split())
            for key in _TEXTS
        }
        arm_names = [arm.name for arm in arms]
        if texts["baseline"] not in arm_names:
            raise self.error(f"baseline: {unknown('arm', texts['baseline'], arm_names)}")
        match, tolerance = self.matching(preset, arms)
        spec, fields = split({self.field(key): self.level(key, v) for key, v in base.items()})
        return Grid(
            name=name,
            preset=preset,
            network=network,
            spec=spec,
            recipe=recipe,
            recipe_fields=fields,
            dataset=dataset,
            arms=tuple(arms),
            paper=self.paper(self.common("paper", preset, {})),
            match=match,
            tolerance=tolerance,
            **texts,
        )

    def axes(self, preset: str) -> list[list[dict[str, Any]]]:
        """Return the axes of the product: each a list of field -> level."""
        found = {
            self.field(name): self.levels("factors", name, values)
            for name, values in self.merged("factors", preset).items()
        }
        axes = [[{name: level} for level in levels] for name, levels in found.items()]
        for entry in self.mappings("zip", self.common("zip", preset, [])):
            zipped = {self.field(k): self.levels("zip", k, v) for k, v in entry.items()}
            counts = {name: len(levels) for name, levels in zipped.items()}
            if len(set(counts.values())) > 1:
                each = ", ".join(f"{name} {count}" for name, count in counts.items())
                raise self.error(f"zip: its fields need equally many levels, not {each}")
            for name in zipped:
                if name in found:
                    raise self.error(f"{name} stands in factors and zip, or twice in zip")
            found |= zipped
            axes.append(
                [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)]
            )
        return axes

    def known(self) -> dict[str, list[str]]:
        """Return field -> names of its levels over all presets."""
        found: dict[str, dict[str, None]] = {}
        for preset in self.presets:
            for axis in self.axes(preset):
                for row in axis:
                    for name, level in row.items():
                        found.setdefault(name, {})[level_name(level)] = None
        return {name: list(levels) for name, levels in found.items()}

    def labels(self) -> dict[str, dict[str, str]]:
        """Return factor -> level -> label, checked against the levels of all presets."""
        known = self.known()
        labels: dict[str, dict[str, str]] = {}
        for given, renamed in self.mapping("labels", self.content.get("labels", {})).items():
            factor = given.removeprefix("spec.")
            if factor not in known:
                raise self.error(f"labels: {unknown('factor', given, known)}")
            labels[factor] = {}
            for text, label in self.mapping(f"labels: {given}", renamed).items():
                level = level_name(self.level(factor, axis_text(factor, text)))
                if level not in known[factor]:
                    raise self.error(f"labels: {given}: {unknown('level', text, known[factor])}")
                if level in labels[factor]:
                    raise self.error(f"labels: {given}: the level {level} stands twice")
                labels[factor][level] = self.text(f"labels: {given}: {text}", label)
        return labels

    def excluded(self, preset: str) -> list[dict[str, list[Any]]]:
        """Return the combinations to leave out: field -> levels, all of which must hold."""
        known, rules = self.known(), []
        for entry in self.mappings("exclude", self.common("exclude", preset, [])):
            rule = {}
            for given, values in entry.items():
                name = given.removeprefix("spec.")
                if name not in known:
                    raise self.error(f"exclude: {unknown('factor', given, known)}")
                rule[name] = [
                    self.level(name, v) for v in (values if isinstance(values, list) else [values])
                ]
                for level in map(level_name, rule[name]):
                    if level not in known[name]:
                        text = unknown("level", level, known[name])
                        raise self.error(f"exclude: {given}: {text}")
            rules.append(rule)
        return rules

    def arms(self, preset: str) -> list[Level]:
        labels, axes, rules = self.labels(), self.axes(preset), self.excluded(preset)
        if (count := math.prod(map(len, axes))) > _MOST_ARMS:
            raise self.error(f"{count:,} combinations of levels are over {_MOST_ARMS:,}, the most")
        special = dict(self.merged("exceptions", preset))
        found: list[tuple[str, dict[str, Any], dict[str, Any]]] = []  # name, factors, all changes
        for rows in itertools.product(*axes) if axes else []:
            combination = {name: level for row in rows for name, level in row.items()}
            if any(
                rule and all(combination.get(f) in v for f, v in rule.items()) for rule in rules
            ):
                continue
            found.append((arm_name(combination, labels), combination, combination))
        found += self.named(preset)
        if not found:
            raise self.error(
                "no arms: factors is a mapping of a field to its levels, and it is empty"
                if not axes
                else "exclude leaves no arm"
            )
        arms: list[Level] = []
        names: dict[str, str] = {}
        for name, factors, changes in found:
            try:
                check_name(name, names)
            except GridError as error:
                raise self.error(str(error)) from None
            exceptions, reason = self.exceptions(name, special.pop(name, {}))
            arms.append(Level(name, factors, *split(changes), exceptions, reason))
        if special:
            every = [arm.name for arm in arms]
            raise self.error(f"exceptions: {unknown('arm', next(iter(special)), every)}")
        return arms

    def named(self, preset: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Return the named arms: name, declared factors, all changes.

        What they change of the network is a factor, unless `varies` lists other fields; what they
        change of the recipe only where `varies` or an axis names it.
        """
        varies = self.common("varies", preset, None)
        declared = {self.field(name) for name in self.listed(varies)}
        declared |= {name for axis in self.axes(preset) for row in axis for name in row}
        found = []
        for name, content in self.merged("arms", preset).items():
            changes = {
                self.field(key): self.level(key, text)
                for key, text in self.mapping(f"arms: {name}", content or {}).items()
            }
            factors = {
                key: value
                for key, value in changes.items()
                if key in declared or (varies is None and not key.startswith("recipe."))
            }
            found.append((name, factors, changes))
        return found

    def listed(self, varies: Any) -> list[str]:
        if varies is None:
            return []
        if not isinstance(varies, list):
            raise self.error(f"varies is a list of fields, not {shown(varies)}")
        return [self.text("each entry of varies", name) for name in varies]

    def exceptions(self, arm: str, content: Any) -> tuple[dict[str, Any], str]:
        """Return the fields of the recipe that one arm changes, and why."""
        changes = dict(self.mapping(f"exceptions: {arm}", content))
        reason = self.text(f"exceptions: {arm}: why", changes.pop("why", ""))
        for key in changes:
            if not key.startswith("recipe."):
                raise self.error(
                    f"exceptions: {arm}: only fields of the recipe (recipe.…), not {key!r}"
                )
        if changes and not reason:
            raise self.error(f"exceptions: {arm}: say why it differs (why: …)")
        return split({key: self.level(key, text) for key, text in changes.items()})[1], reason

    def matching(self, preset: str, arms: list[Level]) -> tuple[str, float]:
        """Return which budget is matched, and how closely."""
        match = self.text("match", self.common("match", preset, ""))
        given = self.common("tolerance", preset, str(TOLERANCE))
        if match and match not in BUDGETS:
            raise self.error(unknown("match", match, BUDGETS))
        try:
            tolerance = float(given)
        except (TypeError, ValueError):
            tolerance = -1.0
        if not 0 <= tolerance < 1:
            raise self.error(f"tolerance is a fraction from 0 to 1 (0.02: 2 %), not {given!r}")
        for arm in arms:
            for name in ("width", *SOLVED):
                if match and name in arm.spec:
                    raise self.error(f"match: {match} solves for the width, and arms vary {name}")
        return match, tolerance

    def paper(self, content: Any) -> dict[str, Any]:
        """Return the paper's numbers: {} or metric, protocol, n, source and values."""
        given = self.mapping("paper", content)
        paper = {key: value for key, value in given.items() if not key.startswith("recipe.")}
        if not given:
            return {}
        _, fields = split({self.field(k): self.level(k, given[k]) for k in given.keys() - paper})
        for key in paper:
            if key not in (*_PAPER_KEYS, *_PAPER_OF):
                raise self.error(f"paper: {unknown('key', key, (*_PAPER_KEYS, *_PAPER_OF))}")
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
        texts = {
            key: self.text(f"paper: {key}", value)
            for key, value in paper.items()
            if key != "values"
        }
        for key, allowed in (("recipe", _PAPER_RECIPES), ("network", catalog.names())):
            if key in texts and texts[key] not in allowed:
                raise self.error(f"paper: {unknown(key, texts[key], allowed)}")
        if fields and "recipe" not in texts:
            raise self.error("paper: recipe missing, whose fields the recipe. keys replace")
        if fields.get("epochs"):
            raise self.error("paper: give recipe.iterations, not recipe.epochs")
        try:
            recipe(texts.get("recipe", _PAPER_RECIPES[0]), **fields)
        except RecipeError as error:
            raise self.error(f"paper: {error}") from None
        return {**texts, "recipe_fields": fields, "values": values}
