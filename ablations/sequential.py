"""`--seeds auto --target 0.3`: as many seeds as a wanted precision needs (Stein's two stages)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ablations import inference
from ablations.errors import UserError
from ablations.plan import Plan
from ablations.records import Run

#: Seeds at most, unless --max_seeds says otherwise.
MOST = 30


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the first stage says.

    Attributes:
        total: seeds that Stein's rule asks for.
        seeds: seeds that will be trained: `total`, or the most allowed.
        text: one line for people.
    """

    total: int
    seeds: int
    text: str


def first_stage(target: float | None, most: int) -> int:
    """Return the number of seeds to begin with.

    Raises:
        UserError: no target, or a limit below the first stage.
    """
    if target is None:
        raise UserError(
            "--seeds auto needs --target: the wanted half-width of the 95 % intervals of the "
            "differences, in percentage points, e.g. --target 0.3"
        )
    if not (target > 0 and math.isfinite(target)):
        raise UserError(f"--target takes a positive, finite number, not {target}")
    if most < inference.FIRST_STAGE:
        raise UserError(
            f"--max_seeds takes at least {inference.FIRST_STAGE} (the first stage), not {most}"
        )
    return inference.FIRST_STAGE


def settings(target: float) -> dict[str, Any]:
    """Return what grid.json keeps of the first stage, before the decision."""
    return {"target": target, "first_stage": list(range(inference.FIRST_STAGE))}


def check(planned: Plan | Run, only: list[str] | None) -> None:
    """Refuse, before anything is trained, what the rule cannot decide about.

    Raises:
        UserError: there is one arm only, or only some arms are asked for.
    """
    if len(planned.arms) < 2:
        raise UserError("--seeds auto needs at least two arms: its target is about differences")
    if only:
        raise UserError(
            "--seeds auto decides by the differences of all arms: leave --only out, or give "
            "--seeds a number"
        )


def unfinished(run: Run) -> list[str]:
    """Return the cells of the first stage that are not done, as "arm/seed0"."""
    stage = range(inference.FIRST_STAGE)
    return [c.label for c in run.cells if c.seed in stage and c.state != "done"]


def decide(run: Run, target: float, most: int) -> Decision:
    """Return how many seeds the run needs, from the spread in its first stage.

    The rule: the largest over the arms of ceil((t(n0 - 1) s / target)²), s the standard deviation
    of the arm's differences from the baseline in test error (Stein 1945). Stopping when the running
    interval is narrow enough would cover less than 95 %.

    Raises:
        UserError: the first stage is not complete, or there is one arm only.
    """
    check(run, None)
    if missing := unfinished(run):
        raise UserError(_incomplete(missing))
    stage = range(inference.FIRST_STAGE)
    by_arm = {
        arm.name: {c.seed: c.results["test_error"] for c in run.done(arm.name) if c.seed in stage}
        for arm in run.arms
    }
    baseline = by_arm.pop(run.grid["baseline"])
    differences = {arm: [cells[s] - baseline[s] for s in stage] for arm, cells in by_arm.items()}
    plan = inference.stein_seeds(differences, target)
    seeds = min(plan.total, most)
    widest = max(plan.seeds, key=lambda arm: plan.seeds[arm])
    text = (
        f"Stein's rule: {plan.total} seeds for 95 % intervals of ± {target:g} points "
        f"({widest} has the widest spread)"
    )
    if seeds < plan.total:
        text += f"; --max_seeds {most} stops there, so intervals will be wider"
    return Decision(plan.total, seeds, text)


def _incomplete(missing: list[str]) -> str:
    return (
        f"--seeds auto: no decision, the first stage of {inference.FIRST_STAGE} seeds lacks "
        f"{', '.join(missing)}"
    )


def run_stages(
    first: Plan,
    make: Callable[[int, dict[str, Any]], Plan],
    execute: Callable[[Plan], Run],
    target: float,
    most: int,
    say: Callable[[str], None],
) -> Run:
    """Train the first stage, decide, and train the rest.

    Args:
        first: the plan of the first stage, with `settings` among its analysis fields.
        make: (number of seeds, analysis fields for grid.json) -> plan.
        execute: trains a plan.
        target: half-width, percentage points.
        most: seeds at most.
        say: where the decision is announced.

    Returns:
        The run; after the first stage alone, where cells of it failed.
    """
    run = execute(first)
    if missing := unfinished(run):
        say(_incomplete(missing))
        return run
    decision = decide(run, target, most)
    say(decision.text)
    return execute(make(decision.seeds, {**settings(target), "decision": decision.text}))
