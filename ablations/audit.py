"""Are the arms matched? Compared on what each cell recorded, not on what was intended."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from ablations.records import Arm, Cell, Run


@dataclass(frozen=True)
class Audit:
    """What the records of a run's finished cells show.

    Attributes:
        problems: one line for each unintended difference, naming cell and step, tensor or field.
        facts: what was compared and found equal, in sentences for the table.
    """

    problems: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def matched(self) -> bool:
        """Whether nothing differs that should not."""
        return not self.problems


#: Fields of the recipe that change what is fed, and of the spec that change initial values.
_FEED = {"batch", "epochs", "iterations", "augmentation", "flip", "crop_padding", "mean_images"}
_VALUES = {"initializer"}


def audit(run: Run) -> Audit:
    """Compare the finished cells of each seed, and the protocol over all of them."""
    done = run.done()
    if not done:
        return Audit((), ())
    problems: list[str] = []
    arms = {arm.name: arm for arm in run.arms}
    reference = done[0]
    for cell in done[1:]:
        declared = _declared(arms[reference.arm], arms[cell.arm])
        problems += _same_protocol(reference, cell, declared)
    tensors = fed = 0
    excused: set[str] = set()
    seeds = sorted({cell.seed for cell in done})
    for seed in seeds:
        block = [cell for cell in done if cell.seed == seed]
        for one, other in itertools.combinations(block, 2):
            declared = _declared(arms[one.arm], arms[other.arm])
            if declared & _FEED:
                excused |= declared & _FEED
            elif one is block[0] or _declared(arms[block[0].arm], arms[other.arm]) & _FEED:
                fed += 1
                problems += _same_feed(one, other)
            if declared & _VALUES:
                excused |= declared & _VALUES
                continue
            shared, different = _same_tensors(one, other)
            tensors += shared
            problems += different
    facts = _facts(run, reference, seeds, fed, tensors, excused) if len(done) > 1 else ()
    return Audit(tuple(dict.fromkeys(problems)), facts)


def _declared(one: Arm, other: Arm) -> set[str]:
    """Return the fields of spec and recipe in which two arms differ on purpose."""
    factors = {
        name.removeprefix("recipe.")
        for name in {*one.factors, *other.factors}
        if one.factors.get(name) != other.factors.get(name)
    }
    return factors | set(one.exceptions) | set(other.exceptions)


def _facts(
    run: Run, reference: Cell, seeds: list[int], fed: int, tensors: int, excused: set[str]
) -> tuple[str, ...]:
    """Return what was found equal, in sentences."""
    record, names = _matched(reference), ", ".join(map(str, seeds))
    facts = []
    if fed:
        facts.append(
            f"with one seed, arms saw the same bytes in each of {record['steps']:,} steps "
            f"({record['images']:,} augmented images; SHA-256 a step; seed"
            f"{'s' * (len(seeds) > 1)} {names})"
        )
    if tensors:
        facts.append(
            f"with one seed, all tensors that two arms share started equal ({tensors:,} pairs "
            "compared by SHA-256)"
        )
    facts.append(
        "one recipe, data set, device model, number of threads, strategy and software version for "
        "all cells, except for the factors"
    )
    if excused:
        facts.append(
            f"not compared between arms that differ in it on purpose: {', '.join(sorted(excused))}"
        )
    for arm in run.arms:
        if arm.exceptions:
            changes = ", ".join(f"{k}={v}" for k, v in arm.exceptions.items())
            facts.append(f"declared exception: {arm.name} has {changes} ({arm.reason})")
    return tuple(facts)


def _name(cell: Cell) -> str:
    return f"{cell.arm}/seed{cell.seed}"


def _matched(cell: Cell) -> dict[str, Any]:
    assert cell.record is not None
    return cell.record["matched"]


def _same_protocol(one: Cell, other: Cell, declared: set[str]) -> list[str]:
    assert one.record is not None and other.record is not None
    lines = []
    for part in ("recipe", "data", "platform"):
        before, after = one.config[part], other.config[part]
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key) and not (part == "recipe" and key in declared):
                lines.append(
                    f"{part}.{key} is {before.get(key)!r} in {_name(one)} and {after.get(key)!r} "
                    f"in {_name(other)}"
                )
    if not {"batch", "epochs", "iterations"} & declared:
        for key in ("steps", "images"):
            if _matched(one)[key] != _matched(other)[key]:
                lines.append(
                    f"{key}: {_matched(one)[key]:,} in {_name(one)}, {_matched(other)[key]:,} in "
                    f"{_name(other)}"
                )
    for key, before in one.record["environment"]["versions"].items():
        after = other.record["environment"]["versions"].get(key)
        if before != after:
            lines.append(f"{key} is {before} in {_name(one)} and {after} in {_name(other)}")
    codes = [
        {attempt["code"]["sources_sha256"] for attempt in cell.record["attempts"]}  # type: ignore[index]
        for cell in (one, other)
    ]
    for cell, code in zip((one, other), codes, strict=True):
        if len(code) > 1:
            lines.append(
                f"the code of reszoo or ablations changed between attempts of {_name(cell)}"
            )
    if codes[0] != codes[1] and max(map(len, codes)) == 1:
        lines.append(
            f"the code of reszoo or ablations differs between {_name(one)} and {_name(other)}"
        )
    onednn = [
        c.record["environment"]["variables"].get("TF_ENABLE_ONEDNN_OPTS")  # type: ignore[index]
        for c in (one, other)
    ]
    if onednn[0] != onednn[1]:
        lines.append(f"oneDNN is {onednn[0]} in {_name(one)} and {onednn[1]} in {_name(other)}")
    return lines


def _same_feed(one: Cell, other: Cell) -> list[str]:
    mine, theirs = one.fed(), other.fed()
    for step, (a, b) in enumerate(zip(mine, theirs, strict=False), start=1):
        if a != b:
            return [
                f"{_name(other)} saw other data than {_name(one)} from step {step} of {len(mine)} "
                "on (images, labels or their order)"
            ]
    if _matched(one)["fed_sha256"] != _matched(other)["fed_sha256"] and len(mine) == len(theirs):
        return [f"{_name(other)} and {_name(one)} record different digests of the data they saw"]
    return []


def _same_tensors(one: Cell, other: Cell) -> tuple[int, list[str]]:
    """Compare the tensors that have name and shape in common; return how many there are."""
    mine, theirs = (_matched(cell)["initial_tensors"] for cell in (one, other))
    lines, shared = [], 0
    for name, tensor in mine.items():
        twin = theirs.get(name)
        if twin is None or twin["shape"] != tensor["shape"]:
            continue
        shared += 1
        if twin["sha256"] != tensor["sha256"]:
            lines.append(f"tensor {name} starts differently in {_name(one)} and {_name(other)}")
    return shared, lines
