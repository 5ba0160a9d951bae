"""The sentences under a comparison table: protocol, machine, data, what differs from the paper."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import reszoo
from ablations.audit import Audit
from ablations.recipes import RECIPES, Recipe, differences, weights_sentence
from ablations.records import Arm, Run

Key = TypeVar("Key", bound=Hashable)


def caption(run: Run, tested: bool = True) -> list[str]:
    """Return what a reader needs to judge the table: data, recipe, spread, machine.

    Args:
        run: its records.
        tested: whether any arm has an interval and a word.
    """
    grid, arms = run.grid, run.arms
    seeds = ", ".join(map(str, grid["seeds"]))
    lengths = _each(arms, _length)
    batches = _each(arms, lambda arm: str(arm.recipe["batch"]))
    text = [
        f"Data: {grid['data']['title']}. Recipe: {grid['recipe']} ({lengths}, batch {batches}).",
        f"Error in % of wrong top-1 predictions, mean ± sample standard deviation over n seeds "
        f"({seeds}); between seeds the initial values, the order of the images and the "
        "augmentation vary. Training error: the tested weights, inference mode, un-augmented "
        "training images. "
        + weights_sentence(
            [arm.recipe["selection"] for arm in arms], grid["data"].get("held_out", 0)
        ),
    ]
    if len(arms) > 1:
        text.append(
            f"Δ: difference from {grid['baseline']} in percentage points, paired by seed."
            + " An interval is of its comparison alone; the word allows for all comparisons "
            "(Holm), so an interval may exclude 0 beside 'not distinguishable'. More below."
            * tested
        )
        text += [head + meaning for head, meaning in afterwards(grid)]
    text += _budgets(arms)
    text += _seeds_sought(grid.get("analysis", {}))
    text += [f"Data note: {note}." for note in grid["data"]["notes"]]
    platform = grid["platform"]
    machines = dict.fromkeys(_machine(cell.config["platform"]) for cell in run.done())
    text.append(
        f"Machine: {'; or '.join(machines or [_machine(platform)])}; {_jobs(grid['jobs'])}. "
        "Images/s: training steps only. Wall: whole cell."
    )
    groups = _groups(arms, lambda arm: (arm.recipe["replicas"], arm.recipe["bn_batch"]))
    for (replicas, bn_batch), names in groups.items():
        if platform["replicas"] == replicas:
            continue
        same = (
            f"BN takes its statistics over groups of {bn_batch} images all the same"
            if bn_batch
            else "BN sees larger batches than under the recipe's own protocol"
        )
        text.append(
            f"{_of(names, groups)}The recipe names {replicas} replicas; {platform['replicas']} "
            f"shared each batch here; {same}."
        )
    crops: dict[int, list[str]] = _groups(arms, lambda arm: arm.recipe["test_views"])
    for views, names in crops.items():
        if views > 1:
            text.append(
                f"{_of(names, crops)}Test error: {views} crops, softmax averaged; training error "
                "and curves: centre crops."
            )
    late = [c.label for c in run.done() if c.results.get("warmup_steps", 0) is None]
    if late:
        text.append(f"THE WARM-UP NEVER ENDED in {', '.join(late)}: the rate stayed at its level.")
    moments: dict[str, list[str]] = _groups(arms, lambda arm: arm.recipe["statistics"])
    if "population" in moments:
        text.append(
            f"{_of(moments['population'], moments)}BN at test time: population statistics (mean of "
            "per-batch moments over the training images, taken after training). Curves during "
            "training use moving averages."
        )
    return text


def afterwards(grid: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what of a comparison was chosen when its results could be seen.

    Args:
        grid: the content of grid.json; what differs from its `planned_` keys was.

    Returns:
        Sentences in two parts: that it was, which stands alone in a figure, and what it means.
    """
    text = []
    if grid.get("lost"):
        text.append(
            (
                "THE PLAN WAS LOST",
                ": grid.json and its copy were gone when cells were there. It was written again; "
                "what was planned before, and what was chosen since, is not known.",
            )
        )
    planned = grid.get("planned_baseline") or grid["baseline"]
    if planned != grid["baseline"]:
        text.append(
            (
                "THE BASELINE WAS CHOSEN AFTERWARDS",
                f": the grid's is {planned}. The tests here are another family than those of the "
                "planned table, not adjusted for each other.",
            )
        )
    margin = grid.get("analysis", {}).get("margin")
    planned = grid.get("planned_margin", margin)
    if margin is not None and planned != margin:
        was = "none was planned" if planned is None else f"{planned:g} points were planned"
        text.append(
            (
                "THE MARGIN WAS CHOSEN AFTERWARDS",
                f": {was}. A margin chosen by the differences makes false words more frequent than "
                "stated.",
            )
        )
    planned = grid.get("planned_seeds", grid["seeds"])
    if added := [seed for seed in grid["seeds"] if seed not in planned]:
        text.append(
            (
                "SEEDS WERE ADDED AFTERWARDS",
                f" ({', '.join(map(str, added))}), when results could be seen, so the stated "
                "levels no longer hold exactly: looking at 3 seeds and again at 5, 9 % of tests "
                "err instead of 5 % (simulated). --seeds auto keeps them.",
            )
        )
    return text


def not_matched(found: Audit) -> str:
    """Return in a line that the arms of a table are not matched, or ""."""
    if found.matched:
        return ""
    count = len(found.problems)
    return f"NOT MATCHED: {count} difference{'s' * (count > 1)} besides the factors."


def cautions(run: Run) -> list[str]:
    """Return in short what must stand below every figure of a run, read from its records."""
    lines = [f"{head}." for head, _ in afterwards(run.grid)]
    return [*filter(None, [not_matched(run.audit)]), *lines]


def _machine(platform: dict[str, Any]) -> str:
    strategy = platform["strategy"]
    if strategy == "mirrored":
        many = "s" * (platform["replicas"] > 1)
        strategy = f"MirroredStrategy over {platform['replicas']} replica{many}"
    return (
        f"{platform['device']}, {platform['threads']} thread{'s' * (platform['threads'] > 1)} a "
        f"cell, strategy {strategy}{' with XLA' * platform['xla']}"
    )


def _groups(arms: Sequence[Arm], value: Callable[[Arm], Key]) -> dict[Key, list[str]]:
    """Return each value -> names of the arms that have it."""
    found: dict[Key, list[str]] = {}
    for arm in arms:
        found.setdefault(value(arm), []).append(arm.name)
    return found


def _each(arms: Sequence[Arm], value: Callable[[Arm], str]) -> str:
    """Return the value that all arms have, or each value with its arms: "64 (A, B), 128 (C)"."""
    groups = _groups(arms, value)
    if len(groups) == 1:
        return next(iter(groups))
    return ", ".join(f"{text} ({', '.join(names)})" for text, names in groups.items())


def _of(names: Sequence[str], groups: dict[Any, list[str]]) -> str:
    """Return "A, B: " for a sentence that does not hold of all arms, else ""."""
    return f"{', '.join(names)}: " if len(groups) > 1 else ""


def _length(arm: Arm) -> str:
    epochs = arm.recipe["epochs"]
    if epochs:
        return f"{epochs} epoch{'s' * (epochs > 1)}"
    steps = arm.recipe["iterations"]
    return f"{steps:,} step{'s' * (steps > 1)}"


def _jobs(jobs: int) -> str:
    return f"up to {jobs} cells side by side" if jobs > 1 else "one cell at a time"


def _budgets(arms: Sequence[Arm]) -> list[str]:
    """Return which arm's budget the others were matched to, in grids that match one."""
    budgets = dict.fromkeys(str(arm.match["budget"]) for arm in arms if arm.match)
    if not budgets:
        return []
    reference = ", ".join(arm.name for arm in arms if not arm.match)
    whose = f"{reference}'s" if reference else "those of an arm that is not in this table"
    return [f"Budgets ({', '.join(budgets)}) are matched to {whose}, by the width."]


def _seeds_sought(analysis: dict[str, Any]) -> list[str]:
    """Return how the number of seeds was chosen, where --seeds auto chose it."""
    chosen = [
        f"The number of seeds of {name} was chosen from its own differences (--seeds auto). This "
        "table of several runs does not allow for that: its 95 % intervals may cover less."
        for name in analysis.get("sequential", ())
    ]
    if "target" not in analysis:
        return chosen
    text = (
        f"Number of seeds: --seeds auto, target ± {analysis['target']:g} points of test error, "
        f"first stage of {len(analysis.get('first_stage', ()))} seeds"
    )
    if "decision" not in analysis:
        return [f"{text}; not decided yet."]
    return [f"{text}. {analysis['decision']}."]


def protocol_differences(run: Run) -> list[str]:
    """Return what separates the run from the paper's protocol; per arm where arms differ.

    The paper's protocol is what the grid says its numbers are of, or else that of the arm's stem.
    """
    grid, found = run.grid, {}
    images = next((c.record["results"]["train_images"] for c in run.done() if c.record), None)
    if images is None:
        return []
    for arm in run.arms:
        imagenet = (arm.spec or {}).get("stem", "imagenet") == "imagenet"
        name = grid["paper"].get("recipe") or ("paper-imagenet" if imagenet else "paper-cifar")
        residual = (arm.spec or {}).get("shortcut", "none") != "none"
        if (
            "recipe" not in grid["paper"]
            and not imagenet
            and residual
            and arm.weighted_layers == 110
        ):
            name = "paper-cifar-warmup"  # sec. 4.2
        found[arm.name] = differences(
            Recipe.from_dict(arm.recipe),
            RECIPES[name].replace(**grid["paper"].get("recipe_fields", {})),
            grid["data"]["name"], grid["platform"]["replicas"], images,
            grid["data"].get("held_out", 0),
        )  # fmt: skip
    common = [line for line in found[run.arms[0].name] if all(line in x for x in found.values())]
    some: dict[str, list[str]] = {}  # line -> arms
    for arm_name, lines in found.items():
        for line in lines:
            if line not in common:
                some.setdefault(line, []).append(arm_name)
    if differs := grid["paper"].get("differs"):
        common.append(differs)
    special = [f"{', '.join(names)}: {line}" for line, names in some.items()]
    widths = {(arm.spec or {}).get("stem_width") for arm in run.arms}
    if network := grid["paper"].get("network"):
        if set(_groups(run.arms, _network)) != {network}:
            common.append(f"networks: {_each(run.arms, _network)} (the paper's number: {network})")
    elif len(widths) == 1 and (width := widths.pop()) not in (16, 64, None):
        common.append(f"networks of width {width} (the paper: 16 for CIFAR, 64 for ImageNet)")
    return common + special


def _network(arm: Arm) -> str:
    """Return an arm's network: the catalogue's name, and where it is not that its size."""
    if not arm.spec:
        return arm.network
    named = reszoo.spec(arm.network)
    layers = reszoo.complexity(named).weighted_layers
    changes = []
    if arm.weighted_layers != layers:
        changes.append(f"of {arm.weighted_layers} layers")
    if (width := arm.spec.get("stem_width")) != named.stem_width:
        changes.append(f"of width {width}")
    return " ".join([arm.network, " and ".join(changes)]).strip()
