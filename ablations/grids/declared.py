"""What the arms of a grid differ in on purpose, as a consequence of that, or by matching."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ablations.grids.matching import SOLVED
from ablations.records import Arm

#: Field -> fields that follow from it unless given (`reszoo.specs.defaults`, `depth`, `width`, and
#: the recipe's length, where epochs and iterations exclude each other).
FOLLOWS = {
    "depth": ("depths",),
    "width": ("widths", "stem_width"),
    "widths": ("stem_width",),
    "block": ("expansion", "shortcut", "depths"),
    "stem": ("shortcut", "stem_pool"),
    "recipe.epochs": ("recipe.iterations",),
    "recipe.iterations": ("recipe.epochs",),
}

#: What is no field of the spec, but sets some.
_SHORT = ("depth", "width")


def by_hand(fields: Iterable[str]) -> list[str]:
    """Return fields with those that `depth` and `width` stand for."""
    return [*fields, *(x for name in fields if name in _SHORT for x in FOLLOWS[name])]


def declared(one: Arm, other: Arm) -> set[str]:
    """Return the fields in which two arms may differ; the recipe's begin with "recipe.".

    Factors of different levels and what follows from them (unless an arm sets it by hand without
    declaring it), exceptions with a reason, and what matching solved for.
    """
    factors = {*one.factors, *other.factors}
    mine, theirs = levels(one, factors), levels(other, factors)
    names = {name for name in factors if mine.get(name) != theirs.get(name)}
    silent = {*one.undeclared, *other.undeclared}
    names |= {x for name in names for x in FOLLOWS.get(name, ()) if x not in silent}
    names |= {f"recipe.{name}" for name in {*one.exceptions, *other.exceptions}}
    return names | (set(SOLVED) if one.match or other.match else set())


def levels(arm: Arm, factors: Iterable[str]) -> dict[str, Any]:
    """Return factor -> what it is in an arm, also where the arm leaves it at its default.

    `depth` is the number of weighted layers, `width` that of channels in the first stage. Factors
    that the arm cannot have, such as fields of the spec in a comparator, are left out.
    """
    # Looked up one by one: this is asked for every pair of arms.
    spec = arm.spec or {}
    derived = {"depth": arm.weighted_layers}
    if "widths" in spec:
        derived["width"] = spec["widths"][0]
    found = {}
    for name in factors:
        kind, _, key = name.rpartition(".")
        if kind == "recipe" and key in arm.recipe:
            found[name] = arm.recipe[key]
        elif source := next((x for x in (spec, arm.factors, derived) if name in x), None):
            found[name] = source[name]
    return found


def sentences(arms: list[Arm]) -> list[str]:
    """Return what a reader of the table must know about the arms besides their factors."""
    lines = _matching(arms)
    varied = {name for arm in arms for name in arm.factors}
    for factor in ("block", "stem"):
        for field in FOLLOWS[factor] if factor in varied else ():
            values = {arm.name: (arm.spec or {}).get(field) for arm in arms}
            if varied.isdisjoint({field, "depth"}) and len(set(map(str, values.values()))) > 1:
                each = ", ".join(f"{value} in {name}" for name, value in values.items())
                lines.append(f"{field} follows from {factor}: {each}")
    for arm in arms:
        if arm.exceptions:
            changes = ", ".join(f"{k}={v}" for k, v in arm.exceptions.items())
            lines.append(f"declared exception: {arm.name} has {changes} ({arm.reason})")
    return lines


def widths(arm: Arm) -> str:
    """Return "9x18x37" for an arm whose width was solved for, else ""."""
    return "x".join(map(str, arm.match["widths"])) if arm.match else ""


def _matching(arms: list[Arm]) -> list[str]:
    """Return which widths make the arms' budgets equal, and how equal."""
    solved = {arm.name: arm.match for arm in arms if arm.match}
    if not solved:
        return []
    any_of = next(iter(solved.values()))
    each = [
        f"{arm.name} {widths(arm)} ({100 * arm.match['mismatch']:+.2f} %)"
        for arm in arms
        if arm.match
    ]
    rounded = [name for name, match in solved.items() if not match["uniform"]]
    return [
        f"{any_of['budget']} matched to the baseline's {any_of['target']:,} within "
        f"{100 * any_of['tolerance']:g} % by the widths of the stages, the stem in proportion: "
        + ", ".join(each)
        + (f"; rounded stage by stage: {', '.join(rounded)}" if rounded else "")
    ]
