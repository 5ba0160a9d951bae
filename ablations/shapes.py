"""What the JSON files of a run must hold: names, types and ranges, checked when they are read.

A hand, a disk or another version may have left anything in them. What passes here, the rest of the
package uses without looking again.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ablations import files
from ablations.errors import UserError
from ablations.recipes import RECIPES, Recipe
from reszoo.errors import shown, unknown
from reszoo.specs import ResNetSpec

#: Version of grid.json, cell.json and record.json. Readers refuse versions that they do not know.
SCHEMA = 1


class RecordError(UserError):
    """A record that is damaged, or of a version that this code does not know. One line."""


class ShapeError(ValueError):
    """A value that is not what it must be; the message begins with a verb ("lacks seeds")."""


@dataclass(frozen=True)
class Kind:
    """One value: what it must be, in words, and the test, which may raise what is wrong with it."""

    words: str
    holds: Callable[[Any], Any]


@dataclass(frozen=True)
class Each:
    """A mapping of any names whose values have one shape."""

    shape: Shape


@dataclass(frozen=True)
class Nullable:
    """A value or null."""

    shape: Shape


@dataclass(frozen=True)
class Only:
    """A mapping with no other keys than those of `shape`."""

    shape: dict[str, Shape]


#: A dict of key -> shape ("key?": may be missing; other keys may be there), a list of one shape.
Shape: TypeAlias = "Kind | Each | Nullable | Only | dict[str, Shape] | list[Shape]"


def check(value: Any, shape: Shape, place: str = "") -> None:
    """Check a value of a JSON file.

    Args:
        value: as read.
        shape: what it must be.
        place: where it stands, e.g. "results."; for the message.

    Raises:
        ShapeError: it is something else. The message says where, and what is allowed.
    """
    match shape:
        case Kind():
            _kind(value, shape, place)
        case Nullable():
            if value is not None:
                check(value, shape.shape, place)
        case list():
            _is(list, value, place)
            for index, one in enumerate(value):
                check(one, shape[0], f"{place}{index}.")
        case Each():
            _is(dict, value, place)
            for name, one in value.items():
                check(one, shape.shape, f"{place}{name}.")
        case Only():
            _is(dict, value, place)
            known = [name.removesuffix("?") for name in shape.shape]
            for name in value:
                if name not in known:
                    raise ShapeError(f"has an {unknown(f'key of {place[:-1]}', name, known)}")
            check(value, shape.shape, place)
        case _:
            _is(dict, value, place)
            for key, inner in shape.items():
                name = key.removesuffix("?")
                if name in value:
                    check(value[name], inner, f"{place}{name}.")
                elif name == key:
                    raise ShapeError(f"lacks {place}{name}")


def _is(kind: type, value: Any, place: str) -> None:
    if not isinstance(value, kind):
        words = "a list" if kind is list else "a mapping"
        raise ShapeError(_wrong(value, words, place))


def _kind(value: Any, kind: Kind, place: str) -> None:
    try:
        good = kind.holds(value)
    except ShapeError as error:
        raise ShapeError(f"has {place[:-1]}, which {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ShapeError(f"has {place[:-1]} that cannot be: {error}") from None
    if not good:
        raise ShapeError(_wrong(value, kind.words, place))


def _wrong(value: Any, words: str, place: str) -> str:
    what = shown(value, most=40)
    return f"has {f'{place[:-1]} ' if place else ''}{what}; allowed: {words}"


def _whole(low: int, high: int = 2**63) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value < high


def _real(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: (
        type(value) in (int, float) and math.isfinite(value) and low <= value <= high
    )


def _level(value: Any) -> bool:
    each = value if isinstance(value, list) else [value]
    return all(x is None or type(x) in (str, bool) or NUMBER.holds(x) for x in each)


def _recipe(value: Any) -> bool:
    check(value, _RECIPE_FIELDS)
    return bool(Recipe.from_dict(value))


def _entry(value: Any) -> bool:
    return isinstance(value, str) and "/" not in value and value not in ("", ".", "..")


_SHA = re.compile("[0-9a-f]{64}")

TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number of at least 0", _whole(0))
POSITIVE = Kind("a whole number of at least 1", _whole(1))
NUMBER = Kind("a finite number", _real(-math.inf, math.inf))
DURATION = Kind("a finite number of at least 0", _real(0, math.inf))
POINTS = Kind("a positive, finite number", lambda x: NUMBER.holds(x) and x > 0)
PERCENT = Kind("a number from 0 to 100", _real(0, 100))
SHA = Kind("a SHA-256 in hex", lambda x: isinstance(x, str) and bool(_SHA.fullmatch(x)))
#: A factor's level, and any field of a recipe or spec.
LEVEL = Kind("text, a number, true, false, null, or a list of these", _level)
#: An arm's name is a directory's, inside the run's.
ENTRY = Kind("the name of a directory", _entry)

_FIELD = {"int": Kind("a whole number", _whole(-(2**63))), "float": NUMBER, "str": TEXT,
          "bool": FLAG, "tuple[int, ...]": [COUNT]}  # fmt: skip
_RECIPE_FIELDS: dict[str, Any] = {f.name: _FIELD[str(f.type)] for f in dataclasses.fields(Recipe)}
RECIPE = Kind("the fields of a recipe", _recipe)
SPEC = Kind("the fields of a ResNetSpec", lambda value: bool(ResNetSpec.from_dict(value)))

MATCH: Shape = {
    "budget": TEXT, "target": POSITIVE, "value": COUNT, "mismatch": NUMBER, "tolerance": NUMBER,
    "widths": [POSITIVE], "uniform": FLAG, "reachable": TEXT,
}  # fmt: skip
ARM = Only(
    {
        "name": ENTRY, "factors": Each(LEVEL), "network": TEXT, "spec": Nullable(SPEC),
        "recipe": RECIPE, "parameters": POSITIVE, "macs": POSITIVE, "weighted_layers": COUNT,
        "exceptions?": Each(LEVEL), "reason?": TEXT, "paper?": Nullable({"value": NUMBER}),
        "match?": Nullable(MATCH), "undeclared?": [TEXT],
    }
)  # fmt: skip
PLATFORM: Shape = {
    "kind": TEXT, "device": TEXT, "threads": POSITIVE, "strategy": TEXT, "replicas": POSITIVE,
    "xla": FLAG,
}  # fmt: skip
GRID: Shape = {
    "name": TEXT, "preset": TEXT, "title": TEXT, "reproduces": TEXT, "expect": TEXT,
    "baseline": TEXT, "planned_baseline?": TEXT, "planned_margin?": Nullable(POINTS),
    "planned_seeds?": [COUNT], "lost?": FLAG, "recipe": TEXT, "seeds": [COUNT], "arms": [ARM],
    "data": {"name": TEXT, "title": TEXT, "digest": SHA, "notes": [TEXT], "held_out?": COUNT},
    "platform": PLATFORM, "jobs": POSITIVE,
    "paper": {
        "metric?": TEXT, "protocol?": TEXT, "n?": TEXT, "source?": TEXT, "network?": TEXT,
        "recipe?": Kind(f"one of {', '.join(RECIPES)}", lambda name: name in RECIPES),
        "recipe_fields?": Each(LEVEL), "differs?": TEXT,
    },
    "analysis?": {
        "margin?": Nullable(POINTS), "detect?": Nullable(POINTS), "target?": Nullable(POINTS),
        "first_stage?": [COUNT], "decision?": TEXT,
    },
    "unmatched?": [TEXT], "reproduces_run?": Nullable({"path": TEXT, "sha256": TEXT}),
}  # fmt: skip
CELL: Shape = {
    "config": {
        "network": TEXT, "spec": Nullable(SPEC), "overrides": Each(LEVEL), "recipe": RECIPE,
        "data": {"name": TEXT, "digest": SHA}, "seed": COUNT, "platform": PLATFORM,
    },
}  # fmt: skip
ATTEMPT: Shape = {
    "started": TEXT, "argv": [TEXT], "driver?": Nullable(TEXT), "end?": Nullable(TEXT),
    "code": {
        "sources_sha256": TEXT, "commit?": Nullable(TEXT), "changes_sha256?": Nullable(TEXT),
    },
}  # fmt: skip
ATTEMPTS: Shape = {"attempts": [ATTEMPT]}
RECORD: Shape = {
    "arm": TEXT, "seed": COUNT, "identity": SHA,
    "results": {
        "train_error": PERCENT, "train_wrong": COUNT, "train_images": POSITIVE,
        "test_error": PERCENT, "test_wrong": COUNT, "test_images": POSITIVE,
        "validation_error?": Nullable(PERCENT), "validation_wrong?": COUNT,
        "validation_images?": POSITIVE,
        "train_loss?": NUMBER, "test_loss?": NUMBER, "validation_loss?": NUMBER,
        "selection?": TEXT, "selected_epoch?": POSITIVE, "selected_step?": POSITIVE,
        "test_views?": POSITIVE, "warmup_steps?": Nullable(COUNT), "batch_moments?": COUNT,
        "train_seconds?": DURATION, "wall_seconds": DURATION, "images_per_second": DURATION,
        "cpu_seconds?": DURATION, "work_cpu_seconds?": DURATION,
    },
    "matched": {
        "steps": POSITIVE, "images": POSITIVE, "fed_sha256": SHA, "initial_sha256": SHA,
        "initial_tensors": Each({"shape": [COUNT], "sha256": SHA}),
    },
    "final_sha256": SHA, "attempts": [ATTEMPT], "machine?": Each(LEVEL),
    "environment": {
        "versions": Each(TEXT), "os": TEXT, "host": TEXT, "cpu": TEXT, "cpus": POSITIVE,
        "variables": Each(TEXT),
    },
}  # fmt: skip
MANIFEST: Shape = {"files": Each({"size": COUNT, "sha256": SHA})}
FAILURE: Shape = {"reason": TEXT, "step?": COUNT}
PROGRESS: Shape = {
    "step?": COUNT, "epoch?": DURATION, "images_per_second?": DURATION, "phase?": TEXT,
    "evaluated?": COUNT, "warnings?": [TEXT],
}  # fmt: skip


def check_grid(grid: Mapping[str, Any]) -> None:
    """Check the content of grid.json: its shape, and that its parts fit together.

    Raises:
        ShapeError: they do not.
    """
    check(grid, GRID)
    names = [arm["name"] for arm in grid["arms"]]
    for what, values in (("arm", names), ("seed", grid["seeds"])):
        if not values:
            raise ShapeError(f"lists no {what}s")
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ShapeError(f"lists the {what} {twice[0]} twice")
    if grid["baseline"] not in names:
        raise ShapeError(
            f"has a baseline that is no arm: {unknown('arm', grid['baseline'], names)}"
        )
    if any(arm.get("paper") for arm in grid["arms"]):
        for key in ("metric", "protocol", "n", "source"):
            if key not in grid["paper"]:
                raise ShapeError(f"lacks paper.{key}")


def read(path: Path, shape: Shape, missing: str = "") -> dict[str, Any]:
    """Return the mapping in a JSON file of this schema, checked.

    Args:
        path: of the file.
        shape: what it must hold.
        missing: the message where there is no such file.

    Raises:
        RecordError: it is missing, cannot be read, is no JSON, of another version or shape.
    """
    try:
        value = files.read_json(path)
    except FileNotFoundError:
        raise RecordError(missing or f"{path} is missing") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(str(error)) from None
    version = value.get("schema") if isinstance(value, dict) else None
    if type(version) is not int or version != SCHEMA:
        raise RecordError(f"{path} has schema {version!r}; this version reads schema {SCHEMA}")
    try:
        check(value, shape)
    except ShapeError as error:
        raise RecordError(f"{path} {error}") from None
    return value
