"""The factors of a run's arms: which vary, their levels, main effects and interaction of two."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ablations import inference
from ablations.grids.declared import levels
from ablations.records import Arm, Run


def varying(run: Run) -> list[str]:
    """Return the grid's factors whose level is not the same in all arms."""
    names = dict.fromkeys(name for arm in run.arms for name in arm.factors)
    found = [level_texts(arm, names) for arm in run.arms]
    return [name for name in names if len({texts.get(name) for texts in found}) > 1]


def level_texts(arm: Arm, factors: Iterable[str]) -> dict[str, str]:
    """Return `levels` of an arm as text: equal levels give equal texts."""
    return {name: _text(value) for name, value in levels(arm, factors).items()}


def effects(
    run: Run, values: Mapping[str, Mapping[int, float]], factors: Sequence[str]
) -> tuple[inference.Effects | None, str]:
    """Return main effects and interaction, or None and why a grid of two factors has none.

    Args:
        run: its arms.
        values: arm -> seed -> error in percent.
        factors: those that vary.

    Returns:
        None, "": there are not two factors, not three seeds, or no levels (a comparator).
    """
    if len(factors) != 2:
        return None, ""
    one, two = factors
    table: dict[tuple[Hashable, Hashable], Mapping[int, float]] = {}
    names: dict[tuple[Hashable, Hashable], str] = {}
    for arm in run.arms:
        found = level_texts(arm, factors)
        if len(found) < 2:
            return None, ""
        key = (found[one], found[two])
        if key in table:
            same = f"{names[key]} and {arm.name} both have {one}={key[0]}, {two}={key[1]}"
            return None, f"No main effects and interaction: {same}."
        names[key] = arm.name
        table[key] = values[arm.name]
    pairs = [(a, b) for a in dict.fromkeys(k[0] for k in table)
             for b in dict.fromkeys(k[1] for k in table)]  # fmt: skip
    if missing := [pair for pair in pairs if pair not in table]:
        return None, (
            f"No main effects and interaction: {len(table)} of the {len(pairs)} combinations of "
            f"{one} and {two} are there; none has {one}={missing[0][0]}, {two}={missing[0][1]}."
        )
    if min(map(len, table.values())) < 3:
        return None, ""
    return inference.two_factor(table), ""


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"  # a file's 0 and a default of 0.0 are one level
    return "none" if value is None else str(value)
