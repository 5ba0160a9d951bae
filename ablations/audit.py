"""Are the arms matched? Compared on what each cell recorded, not on what was intended."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ablations import files
from ablations.cell_audit import (
    SHOWN,
    contradictions,
    copies,
    counts,
    fields_of,
    record_of,
    shown,
    some,
)
from ablations.grids.declared import declared, sentences
from ablations.records import Arm, Cell, Run


@dataclass(frozen=True)
class Difference:
    """Something in which arms differ and which is no factor of the grid.

    Attributes:
        what: the tensor, the fact or the field.
        text: one line with the values, the cells that have them, and the pairs of arms.
        pairs: every pair of arms between which it stands; empty where only the seeds of one arm, or
            a cell and its own files, disagree.
    """

    what: str
    text: str
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Audit:
    """What a plan, or the records of a run's finished cells, show.

    Attributes:
        problems: one line for each unintended difference, naming cell and step, tensor or field.
        facts: what was compared and found equal, in sentences for the table.
        differences: the same as `problems`, with the pairs of arms.
        allowed: problems that the plan showed and the user allowed (--allow_unmatched).
    """

    problems: tuple[str, ...]
    facts: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    allowed: tuple[str, ...] = ()

    @property
    def matched(self) -> bool:
        """Whether nothing differs that should not."""
        return not self.problems

    def between(self, one: str, other: str) -> tuple[str, ...]:
        """Return what differs between two arms and is no factor."""
        return tuple(
            x.what for x in self.differences if (one, other) in x.pairs or (other, one) in x.pairs
        )


#: Fields of the recipe that change neither what is fed nor in what order.
_NOT_FED = {
    "name", "learning_rate", "schedule", "drops", "drop_factor", "warmup", "warmup_rate",
    "warmup_error", "warmup_window", "momentum", "l2", "l2_on", "replicas", "bn_batch",
    "statistics", "test_views", "selection",
}  # fmt: skip
_LENGTH = {"batch", "epochs", "iterations"}
_SCHEDULE = _LENGTH | {
    "learning_rate", "schedule", "drops", "drop_factor", "warmup", "warmup_rate", "warmup_error",
    "warmup_window",
}  # fmt: skip
#: Fields of the spec that change initial values -> the tensors whose values they change.
_VALUES = {"initializer": r"kernel$", "zero_gamma": r"gamma$", "gate_bias": r"gate_conv/bias$"}
#: The step at which a cell's own training error ended its warm-up.
_WARM = "last step of the warm-up"
#: Values, and pairs of arms, that a line names before it only counts.
_LISTED = 15


def planned(arms: list[Arm]) -> tuple[Difference, ...]:
    """Return what a plan's arms differ in without saying so, and budgets that do not match.

    All arms get the same seeds, data, machine and strategy by construction; what a grid's file can
    get wrong are fields of network and protocol that are no factors, follow from none, and are no
    declared exceptions.
    """
    found = [
        Difference(
            f"match {arm.match['budget']}",
            f"{arm.name} has {100 * arm.match['mismatch']:+.1f} % {arm.match['budget']} against a "
            f"tolerance of {100 * arm.match['tolerance']:g} %; nearest to {arm.match['target']:,} "
            f"are {arm.match['reachable']}",
        )
        for arm in arms
        if arm.match and abs(arm.match["mismatch"]) > arm.match["tolerance"]
    ]
    by_name = {arm.name: arm for arm in arms}
    values = {arm.name: fields_of(arm.spec, arm.recipe) for arm in arms}
    for name in dict.fromkeys(key for fields in values.values() for key in fields):
        difference = _difference(
            name,
            [(arm, arm, values[arm].get(name)) for arm in by_name],
            lambda one, other, name=name: name in declared(by_name[one], by_name[other]),  # type: ignore[misc]
        )
        found += [difference] if difference else []
    return tuple(found)


def audit(run: Run) -> Audit:
    """Compare the finished cells of each seed, and the protocol over all of them."""
    allowed = tuple(run.grid.get("unmatched", ()))
    problems = [f"planned so, and allowed by --allow_unmatched: {line}" for line in allowed]
    done = run.done()
    if not done:
        return Audit(tuple(problems), (), allowed=allowed)
    arms = {arm.name: arm for arm in run.arms}
    # Runs that were merged, or made before a grid's plan was checked, show it only here.
    plan = planned(run.arms)
    found = [one for one in plan if one.text not in allowed]
    own = [
        *(line for cell in done for line in contradictions(cell, arms[cell.arm])),
        *(line for arm in run.arms if (mine := run.done(arm.name)) for line in counts(arm, mine)),
        *copies(done),
    ]
    found += [Difference(what, text) for what, text in own]
    facts = _same_facts(done, arms)
    # Named with its arms already; a cell that is not as planned is among its own lines.
    known = {(one.what, pair) for one in plan for pair in one.pairs}
    repeated = {x.text for x in facts if x.pairs and {(x.what, p) for p in x.pairs} <= known}
    found += facts
    count = _Count()
    for seed in sorted({cell.seed for cell in done}):
        block = [cell for cell in done if cell.seed == seed]
        found += _same_feed(block, arms, count)
        found += _same_tensors(block, arms, count)
    problems += [difference.text for difference in found if difference.text not in repeated]
    equal = _facts(run, done, count) if len(done) > 1 else ()
    return Audit(tuple(dict.fromkeys(problems)), equal, tuple(found), allowed)


@dataclass
class _Count:
    """How many comparisons were made, and which were left out on purpose."""

    fed: int = 0
    tensors: int = 0
    lengths: set[tuple[int, int]] = field(default_factory=set)  # steps, images
    excused: set[str] = field(default_factory=set)


def _recipe(names: set[str]) -> set[str]:
    return {name[7:] for name in names if name.startswith("recipe.")}


def _difference(
    what: str,
    items: Iterable[tuple[str, str, Any]],
    excused: Callable[[str, str], bool],
) -> Difference | None:
    """Return the difference between items (cell or arm, arm, value), or None where they agree."""
    items = list(items)
    pairs: dict[tuple[str, str], None] = {}
    unequal = False
    for (_, one, x), (_, other, y) in itertools.combinations(items, 2):
        if x == y or (one != other and excused(one, other)):
            continue
        unequal = True
        if one != other and (other, one) not in pairs:
            pairs[one, other] = None
    if not unequal:
        return None
    groups: dict[str, list[str]] = {}
    for who, _, value in items:
        groups.setdefault(shown(value), []).append(who)
    values = some([f"{value} in {some(labels)}" for value, labels in groups.items()], _LISTED, "; ")
    return Difference(what, f"{what}: {values}{_between(pairs)}", tuple(pairs))


def _between(pairs: Iterable[tuple[str, str]]) -> str:
    listed = some([f"{one} and {other}" for one, other in pairs], _LISTED)
    return f" (between {listed})" if listed else ""


def surroundings(cell: Cell) -> dict[str, Any]:
    """Return what a finished cell ran in: versions, processor, variables, driver, code, devices."""
    mine = record_of(cell)
    environment, attempts = mine["environment"], mine["attempts"]
    variables = environment["variables"]
    return {
        **environment["versions"],
        "processor": environment["cpu"],
        "TF_ENABLE_ONEDNN_OPTS": variables.get("TF_ENABLE_ONEDNN_OPTS"),
        # Which of equal devices it was changes nothing.
        **{key: value for key, value in variables.items() if key != "CUDA_VISIBLE_DEVICES"},
        "driver": (attempts or [{}])[-1].get("driver") or None,
        "code of reszoo or ablations": ", ".join(
            sorted({attempt["code"]["sources_sha256"][:12] for attempt in attempts})
        )
        or None,
        **{f"platform.{key}": value for key, value in cell.config["platform"].items()},
        **{f"machine.{key}": value for key, value in mine.get("machine", {}).items()},
    }


def _comparable(cell: Cell) -> dict[str, tuple[Any, set[str]]]:
    """Return recorded facts: name -> (value, fields of the recipe that may change it)."""
    mine, config = record_of(cell), cell.config
    results = mine["results"]
    facts: dict[str, tuple[Any, set[str]]] = {
        key: (mine["matched"][key], _LENGTH) for key in ("steps", "images")
    }
    for key in ("train_images", "test_images", "test_views", "selection"):
        facts[key] = (results.get(key), {key, "split", "validation"})
    if cell.tested is not None:
        facts["test labels"] = (cell.tested.labels[:12], set())
    if config["recipe"].get("warmup_rate") and config["recipe"]["warmup_error"] <= 100:
        # It may differ between seeds, but arms between which it does had other learning rates.
        facts[f"{_WARM} of seed {cell.seed}"] = (results.get("warmup_steps"), _SCHEDULE)
    else:
        rates = [(row["step"], row["learning_rate"]) for row in cell.history]
        facts["learning rates"] = (files.sha256(files.canonical(rates))[:12], _SCHEDULE)
    for key, value in surroundings(cell).items():
        facts[key] = (value, set())
    for key, value in config["data"].items():
        facts[f"data.{key}"] = (value, set())
    for key, value in config["recipe"].items():
        facts[f"recipe.{key}"] = (value, {key})
    return facts


def _same_facts(done: list[Cell], arms: dict[str, Arm]) -> list[Difference]:
    facts = [(cell, _comparable(cell)) for cell in done]
    on_purpose = {
        (one, other): _recipe(declared(arms[one], arms[other]))
        for one, other in itertools.permutations(arms, 2)
    }
    found = []
    for key in dict.fromkeys(key for _, mine in facts for key in mine):
        optional = key.startswith(("learning rates", "machine.", _WARM))
        having = [
            (cell, mine.get(key, (None, set())))
            for cell, mine in facts
            if key in mine or not optional
        ]
        excuses: set[str] = set().union(*(excuse for _, (_, excuse) in having))
        difference = _difference(
            key,
            [(cell.label, cell.arm, value) for cell, (value, _) in having],
            lambda one, other, excuses=excuses: bool(on_purpose[one, other] & excuses),  # type: ignore[misc]
        )
        found += [difference] if difference else []
    return found


def _same_feed(block: list[Cell], arms: dict[str, Arm], count: _Count) -> list[Difference]:
    """Compare what the cells of one seed saw; name the first step in which two differ."""
    found: dict[str, tuple[Cell, Cell, dict[tuple[str, str], None]]] = {}
    for one, other in itertools.combinations(block, 2):
        varied = _recipe(declared(arms[one.arm], arms[other.arm])) - _NOT_FED
        if varied:
            count.excused |= varied
            continue
        count.fed += 1
        count.lengths |= {
            (record_of(cell)["matched"]["steps"], record_of(cell)["matched"]["images"])
            for cell in (one, other)
        }
        digests = [record_of(cell)["matched"]["fed_sha256"] for cell in (one, other)]
        if digests[0] != digests[1]:
            # The cell that fewer others agree with is the one to name.
            odd, usual = sorted((other, one), key=lambda cell: _company(cell, block))
            entry = found.setdefault(odd.label, (odd, usual, {}))
            entry[2][one.arm, other.arm] = None
    lines = []
    for odd, usual, pairs in found.values():
        mine, theirs = odd.fed(), usual.fed()
        steps = min(len(mine), len(theirs))
        first = next((n for n in range(steps) if mine[n] != theirs[n]), steps) + 1
        lines.append(
            Difference(
                "data fed",
                f"{odd.label} saw other data than {usual.label} from step {first} of "
                f"{len(theirs)} on (images, labels or their order){_between(pairs)}",
                tuple(pairs),
            )
        )
    return lines


def _company(cell: Cell, block: list[Cell]) -> int:
    digest = record_of(cell)["matched"]["fed_sha256"]
    return sum(record_of(other)["matched"]["fed_sha256"] == digest for other in block)


def _same_tensors(block: list[Cell], arms: dict[str, Arm], count: _Count) -> list[Difference]:
    """Compare the initial tensors that cells of one seed share by name and shape."""
    tensors = {cell.arm: record_of(cell)["matched"]["initial_tensors"] for cell in block}
    excuses: dict[tuple[str, str], list[str]] = {}
    for one, other in itertools.combinations(tensors, 2):
        fields = declared(arms[one], arms[other]) & _VALUES.keys()
        count.excused |= fields
        excuses[one, other] = [_VALUES[field] for field in fields]

    def excused(name: str) -> Callable[[str, str], bool]:
        return lambda one, other: any(re.search(x, name) for x in excuses[one, other])

    found: list[Difference] = []
    names = {(name, tuple(x["shape"])) for mine in tensors.values() for name, x in mine.items()}
    for name, shape in sorted(names):
        sharing = [
            (cell.label, cell.arm, tensors[cell.arm][name]["sha256"][:12])
            for cell in block
            if name in tensors[cell.arm] and tuple(tensors[cell.arm][name]["shape"]) == shape
        ]
        allow = excused(name)
        count.tensors += sum(
            not allow(one, other)
            for (_, one, _), (_, other, _) in itertools.combinations(sharing, 2)
        )
        difference = _difference(f"initial tensor {name}", sharing, allow)
        found += [difference] if difference else []
    if len(found) <= SHOWN:
        return found
    few = ", ".join(x.what.removeprefix("initial tensor ") for x in found[:SHOWN])
    pairs = tuple(dict.fromkeys(pair for x in found for pair in x.pairs))
    text = f"{len(found)} initial tensors of seed {block[0].seed} differ, {few} … among them"
    return [Difference("initial tensors", text + _between(pairs), pairs)]


def _every(steps: str) -> str:
    return "the only step" if steps == "1" else f"each of {steps} steps"


def _facts(run: Run, done: list[Cell], count: _Count) -> tuple[str, ...]:
    """Return what was found equal, in sentences."""
    seeds = sorted({cell.seed for cell in done})
    names = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    facts = []
    many = "s" * (count.fed > 1), "s" * (count.tensors > 1)
    if count.fed:
        steps, images = (
            " or ".join(f"{length:,}" for length in sorted(lengths))
            for lengths in map(set, zip(*count.lengths, strict=True))
        )
        facts.append(
            f"with one seed, arms saw the same bytes in {_every(steps)} ({images} augmented "
            f"images; SHA-256 a step; {names}; {count.fed:,} pair{many[0]} of cells)"
        )
    if count.tensors:
        facts.append(
            f"with one seed, all tensors that two arms share started equal ({count.tensors:,} "
            f"pair{many[1]} compared by SHA-256)"
        )
    facts.append(
        "one recipe, data set, device model, number of threads, strategy and software version for "
        "all cells, except for the factors"
    )
    if count.excused:
        listed = ", ".join(sorted(count.excused))
        facts.append(f"not compared between arms that differ in it on purpose: {listed}")
    return (*facts, *sentences(run.arms))
