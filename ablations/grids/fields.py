"""Names and types of what a grid can vary, and text -> values of those types."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

from ablations.errors import UserError
from ablations.recipes import Recipe
from reszoo.errors import shown, unknown
from reszoo.specs import CHOICES, ResNetSpec

_DERIVED = {"depth": int, "width": int}
#: Fields of the spec that the data set decides.
_FROM_DATA = ("input_shape", "classes")
_SWITCH = {"true": True, "false": False, "yes": True, "no": False}
#: Type -> (one value in words, several).
_IN_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true, false, yes or no", "values true, false, yes or no"),
    str: ("text", "texts"),
}


class GridError(UserError):
    """A grid that is unknown, malformed or contradictory. The message is one line."""


@functools.cache
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
        **{
            f"recipe.{f.name}": recipe[f.name]
            for f in dataclasses.fields(Recipe)
            if f.name != "name"
        },
    }


def canonical(name: str) -> str:
    """Return a field's name as it is used here: "spec.shortcut" is "shortcut".

    Raises:
        GridError: there is no such field; the message names the nearest.
    """
    short = name.removeprefix("spec.")
    if short in _FROM_DATA:
        raise GridError(f"{name} follows from the data set and cannot be a factor")
    if short == "recipe.name":
        raise GridError("recipe.name names a recipe and changes nothing; vary its fields instead")
    if short not in fields():
        raise GridError(unknown("factor", name, fields()))
    return short


def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the spec and those of the recipe, the latter without "recipe."."""
    spec = {k: v for k, v in values.items() if not k.startswith("recipe.")}
    return spec, {k[7:]: v for k, v in values.items() if k.startswith("recipe.")}


def parse(name: str, text: Any) -> Any:
    """Return a factor's level with the type of its field.

    Args:
        name: a field of the spec, "depth", "width", or "recipe." and a field of the recipe.
        text: what stands in the file: a string, or a list of strings.

    Raises:
        GridError: the name is unknown or the text does not fit.
    """
    name = canonical(name)
    kind = fields()[name]
    try:
        value = _convert(kind, text)
    except (ValueError, TypeError, KeyError):
        raise GridError(f"{name} takes {_allowed(kind)}, not {shown(text)}") from None
    if name in CHOICES and value not in CHOICES[name]:
        raise GridError(unknown(name, value, CHOICES[name]))
    return value


def axis_text(name: str, text: str) -> str | list[str]:
    """Return a level given on the command line as a file would hold it: 4x8x16 is a sequence."""
    several = typing.get_origin(fields()[canonical(name)]) is tuple
    return text.split("x") if several else text


def level_name(level: Any) -> str:
    """Return what a level is called in names of arms."""
    return "x".join(map(str, level)) if isinstance(level, tuple) else str(level)


def _allowed(kind: Any) -> str:
    """Return what a field of some type takes, in words."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is tuple:
        return f"a list of {_IN_WORDS[options[0]][1]}"
    return _IN_WORDS[options[0] if options else kind][0]


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
        return _SWITCH[str(text).lower()]
    if isinstance(text, (list, dict)):
        raise ValueError(text)
    if kind is int and not str(text).lstrip("+-").isdigit() and float(text).is_integer():
        return int(float(text))  # 64e3
    return kind(text)
