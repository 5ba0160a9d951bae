"""Does a cell agree with itself: its record with its files, and both with its arm's plan?

And is it a cell of its own? Two seeds of one arm that hold the same training are one, copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import reszoo
from ablations import files
from ablations.records import Arm, Cell

#: Points by which two ways to the same percentage may differ.
_ROUNDING = 1e-9
#: Cells, or pairs of them, that a line names before it only counts.
SHOWN = 3
#: Training images below which two seeds may draw the same order by chance: 8! is 40,320.
_FEW = 8


def record_of(cell: Cell) -> dict[str, Any]:
    """Return the record of a finished cell."""
    assert cell.record is not None
    return cell.record


def fields_of(spec: dict[str, Any] | None, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what an arm's network and protocol are: the recipe's fields begin with "recipe."."""
    return {**(spec or {}), **{f"recipe.{name}": value for name, value in recipe.items()}}


def shown(value: Any) -> str:
    """Return a value as a line of the audit has it."""
    return f"{value:,}" if type(value) is int else "none" if value is None else str(value)


def some(texts: Sequence[str], most: int = SHOWN, separator: str = ", ") -> str:
    """Return the first of some texts in one, and how many more there are."""
    more = len(texts) - most
    return separator.join(texts[:most]) + (f" and {more:,} more" if more > 0 else "")


def attempt_key(attempt: dict[str, Any]) -> str:
    """Return what tells an attempt at a cell from others: when, and by which command."""
    return files.canonical([attempt["started"], attempt["argv"]])


def contradictions(cell: Cell, arm: Arm) -> Iterator[tuple[str, str]]:
    """Yield where a cell's record contradicts its files or its plan: what, and a line."""
    mine, who, platform = record_of(cell), cell.label, cell.config["platform"]
    if (mine["arm"], mine["seed"]) != (cell.recorded_arm or cell.arm, cell.seed):
        yield "cell", f"{who} holds the record of {mine['arm']}/seed{mine['seed']}"
    if mine["identity"] != files.sha256(files.canonical(cell.config)):
        yield "identity", f"{who}: the record belongs to another configuration"
    planned, trained = (fields_of(x["spec"], x["recipe"]) for x in (vars(arm), cell.config))
    for key in dict.fromkeys([*planned, *trained]):
        if planned.get(key) != trained.get(key):
            yield (
                key,
                f"{who} was trained with {key} {shown(trained.get(key))}, the grid has "
                f"{shown(planned.get(key))}",
            )
    yield from _digests(cell)
    yield from _results(cell)
    for key, value in mine.get("machine", {}).items():
        if value != platform.get(key, value):
            yield key, f"{who} ran with {key} {value}, planned {platform[key]}"
    if len({attempt["code"]["sources_sha256"] for attempt in mine["attempts"]}) > 1:
        text = f"the code of reszoo or ablations changed between attempts of {who}"
        yield "code", text


def _digests(cell: Cell) -> Iterator[tuple[str, str]]:
    """Compare what was fed and the initial values with the sums over them."""
    matched, who = record_of(cell)["matched"], cell.label
    fed = cell.fed()
    if len(fed) != matched["steps"]:
        yield "steps", f"{who} fed {len(fed)} steps and records {matched['steps']}"
    elif matched["fed_sha256"] != files.sha256(bytes.fromhex("".join(fed))):
        yield "data fed", f"{who}: fed.sha256 is not what the record's digest is of"
    if matched["initial_sha256"] != files.sha256(files.canonical(matched["initial_tensors"])):
        yield "initial tensors", f"{who}: their digests are not what the record summed"


def _results(cell: Cell) -> Iterator[tuple[str, str]]:
    """Compare the errors with the counts, the predictions and the history that they come from."""
    results, recipe, who = record_of(cell)["results"], cell.config["recipe"], cell.label
    for part in ("train", "validation", "test"):
        error, wrong, images = (results.get(f"{part}_{x}") for x in ("error", "wrong", "images"))
        if error is None:
            continue
        if wrong is None or images is None or abs(error - 100 * wrong / images) > _ROUNDING:
            counts = f"{shown(wrong)} of {shown(images)} wrong"
            yield f"{part}_error", f"{who} records {part}_error {error:g} % and {counts}"
    if cell.tested is not None:
        for key, value in (("test_wrong", cell.tested.wrong), ("test_images", cell.tested.images)):
            if results[key] != value:
                text = f"{who} records {key} {results[key]:,}, its predictions.npz has {value:,}"
                yield "predictions", text
    selection = results.get("selection", "last")
    if selection != recipe["selection"]:
        text = f"{who} selected weights by {selection!r}, planned {recipe['selection']!r}"
        yield "selection", text
    yield from _selected(cell)


def _selected(cell: Cell) -> Iterator[tuple[str, str]]:
    """Compare the result with the epoch of the history whose weights gave it."""
    results, recipe, who = record_of(cell)["results"], cell.config["recipe"], cell.label
    # The same weights were evaluated twice, in the same way: other BN statistics are another way,
    # and so are several views of a test image; a GPU may round two evaluations differently.
    if recipe["statistics"] != "moving" or cell.config["platform"]["kind"] != "cpu":
        return
    selected = results.get("selected_epoch", len(cell.history))
    rows = [row for row in cell.history if row["epoch"] == selected]
    if not rows:
        yield "history", f"{who} selected epoch {selected}, which its history.csv does not have"
        return
    for key in ("validation_error", "test_error"):
        if key not in rows[0] or (key == "test_error" and recipe["test_views"] > 1):
            continue
        if abs((value := results.get(key) or 0.0) - rows[0][key]) > _ROUNDING:
            yield (
                "history",
                f"{who} records {key} {value:g} %, its history.csv {rows[0][key]:g} % in epoch "
                f"{selected}",
            )


def counts(arm: Arm, cells: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    """Yield where the sizes that the grid gives an arm are not those of its network."""
    try:
        found = vars(
            reszoo.complexity(reszoo.ResNetSpec.from_dict(arm.spec))
            if arm.spec
            else reszoo.complexity(arm.network, **cells[0].config["overrides"])
        )
    except reszoo.SpecError as error:
        yield "network", f"{arm.name}: {error}"
        return
    for key in ("parameters", "macs", "weighted_layers"):
        if getattr(arm, key) != found[key]:
            text = f"the grid gives {arm.name} {getattr(arm, key):,} {key}, its network has"
            yield key, f"{text} {found[key]:,}"


def copies(cells: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    """Yield which cells hold another cell's training or files: what, and a line.

    Args:
        cells: finished ones, of all arms.
    """
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        arms.setdefault(cell.arm, []).append(cell)
    for mine in arms.values():
        shared: dict[tuple[str, str], list[str]] = {}  # two cells -> what they share
        for what, keys in _unique(mine):
            for pair in _equal(mine, keys):
                shared.setdefault(pair, []).append(what)
        alike: dict[str, list[str]] = {}  # what is shared -> the pairs
        for (one, other), found in shared.items():
            alike.setdefault(", ".join(found), []).append(f"{other} of {one}")
        for text, pairs in alike.items():
            line = f"no replicate: {some(pairs)} (they have the same {text})"
            yield "replicates", line
    # Two networks that are surely right, or surely the same, of every image may say just the same.
    telling = [one for one in cells if one.tested and one.tested.wrong and one.tested.classes > 1]
    weights = {cell.label: record_of(cell)["final_sha256"] for cell in cells}
    for file, those in (("model.keras", cells), ("predictions.npz", telling)):
        # Otherwise the same bytes come of the same weights only: one of the two is the other's.
        for one, other in _equal(those, {cell.label: {cell.digests.get(file)} for cell in those}):
            if weights[one] != weights[other]:
                yield file, f"{other} and {one} have the same {file}, but not the same weights"


def _unique(cells: Sequence[Cell]) -> Iterator[tuple[str, dict[str, set[Any]]]]:
    """Yield what no two seeds of an arm can share: in words, and each cell's."""
    each = {cell.label: record_of(cell) for cell in cells}
    yield "final weights", {label: {one["final_sha256"]} for label, one in each.items()}
    matched = {label: one["matched"] for label, one in each.items()}
    yield "initial values", {label: {one["initial_sha256"]} for label, one in matched.items()}
    yield (
        "data fed",
        {
            label: {matched[label]["fed_sha256"]}
            for label, one in each.items()
            if one["results"]["train_images"] >= _FEW
        },
    )
    yield "attempt", {label: set(_attempts(one["attempts"])) for label, one in each.items()}


def _attempts(attempts: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield what identifies attempts; of older versions, which kept whole seconds, nothing does."""
    for attempt in attempts:
        if "." in attempt["started"]:
            yield attempt_key(attempt)


def _equal(cells: Sequence[Cell], keys: dict[str, set[Any]]) -> Iterator[tuple[str, str]]:
    """Yield the first cell and each later one that have a key in common, None excepted."""
    first: dict[Any, str] = {}
    for who in (cell.label for cell in cells):
        found = {first.setdefault(key, who) for key in keys.get(who, ()) if key is not None}
        yield from ((other, who) for other in sorted(found - {who}))
