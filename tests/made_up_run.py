"""A run that nothing trained: errors and curves are given, so that a report can be checked."""

from __future__ import annotations

import dataclasses
import unittest.mock
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import reszoo
from ablations.audit import Audit
from ablations.recipes import recipe
from ablations.records import Arm, Cell, Run
from ablations.report.comparison import Comparison, compare

Curve = Callable[[str, int, int], Mapping[str, float]]


def curve(arm: str, seed: int, epoch: int) -> dict[str, float]:
    """Return a history's quantities: no two cells alike, many digits."""
    place = sum(map(ord, arm)) % 17 + seed * 0.731
    fall = (20 + place) / (epoch + 1) ** 0.5
    return {
        "learning_rate": 0.1 / 1.01**epoch,
        "train_loss_running": fall / 31 + 0.001234567,
        "train_error_running": fall * 1.7182818,
        "test_loss": fall / 29 + 0.01234567,
        "test_error": fall * 1.9 + np.sin(epoch + place),
    }


def made_up(
    directory: Path,
    errors: Mapping[str, Sequence[float | None]],
    *,
    epochs: int = 5,
    title: str = "Made up",
    factors: Mapping[str, Mapping[str, Any]] | None = None,
    paper: Mapping[str, float] | None = None,
    history: Curve = curve,
    problem: str = "",
    argv: Sequence[str] = ("run.py", "--grid", "made-up"),
) -> Run:
    """Return a run; the first arm is the baseline.

    Args:
        directory: for the test images' file, which a report reads of a single seed.
        errors: arm -> test error of each seed, in percent; None: not done. Half of it is the
            training error.
        epochs: in each history; 10 steps of 128 images each.
        title: of the grid.
        factors: arm -> factor -> level; default: one factor, whose level is the arm's name.
        paper: arm -> the paper's number.
        history: (arm, seed, epoch) -> quantities.
        problem: cells that are not done failed for this reason; "": they are planned.
        argv: of the command.
    """
    draw = np.random.default_rng(0)
    images = {"label": draw.integers(0, 9, 50), "predicted": draw.integers(0, 9, 50)}
    np.savez(directory / "predictions.npz", **images)
    protocol = recipe("quick").to_dict()
    platform = {"kind": "cpu", "device": "some CPU", "threads": 1, "strategy": "none",
                "replicas": 1, "xla": False}  # fmt: skip
    data = {"name": "fashion", "title": "Some images", "digest": "cd" * 32, "notes": []}
    fields = dataclasses.asdict(reszoo.spec("resnet20"))
    levels = {name: dict(factors[name]) if factors else {"arm": name} for name in errors}
    specs = {name: fields | {k: v for k, v in mine.items() if k in fields}
             for name, mine in levels.items()}  # fmt: skip
    code = {"sources_sha256": "ef" * 32, "commit": "12" * 20}
    attempt = {"started": "2020-01-01T00:00:00+00:00", "argv": list(argv), "gpus": "",
               "driver": "", "code": code, "end": "done"}  # fmt: skip
    arms = [
        Arm(
            name, levels[name], "resnet20", specs[name], protocol,
            parameters=10_000 + place, macs=10**6 * (place + 1), weighted_layers=20,
            paper={"value": paper[name], "note": ""} if paper and name in paper else None,
        )
        for place, name in enumerate(errors)
    ]  # fmt: skip
    seeds = list(range(max(map(len, errors.values()))))
    cells = []
    for seed in seeds:
        for arm in arms:
            value = errors[arm.name][seed]
            config = {"recipe": protocol, "data": data, "platform": platform}
            if value is None:
                state = "failed" if problem else "planned"
                cells.append(Cell(arm.name, seed, directory, state, config, problem=problem))
                continue
            results = {
                "test_error": value, "train_error": value / 2, "train_images": 50_000,
                "test_images": 50, "selection": "last", "test_views": 1, "warmup_steps": 0,
                "images_per_second": 1000.0 + seed, "wall_seconds": 61.0,
            }  # fmt: skip
            environment = {"versions": {"python": "3.11"}, "os": "Linux", "host": "here",
                           "cpu": "some CPU", "cpus": 2, "variables": {"A": "1"}}  # fmt: skip
            record = {"results": results, "attempts": [attempt], "environment": environment,
                      "matched": {}}  # fmt: skip
            rows = [
                {"epoch": e, "step": 10 * e, "images": 1280 * e, "seconds": float(e),
                 "images_per_second": 1000.0, **history(arm.name, seed, e)}
                for e in range(1, epochs + 1)
            ]  # fmt: skip
            cells.append(Cell(arm.name, seed, directory, "done", config, record, rows))
    about = {"metric": "top-1 error, %", "protocol": "CIFAR-10", "n": "1", "source": "Table 6"}
    grid = {
        "schema": 1, "name": "made-up", "preset": "quick", "title": title, "reproduces": "",
        "expect": "", "baseline": arms[0].name, "recipe": "quick", "seeds": seeds,
        "arms": [dataclasses.asdict(arm) for arm in arms],
        "data": data, "platform": platform, "jobs": 1, "paper": about if paper else {},
    }  # fmt: skip
    return Run(directory, grid, arms, cells)


def compared(run: Run, problems: Sequence[str] = (), **options: Any) -> Comparison:
    """Return the comparison of a made-up run, whose records are too thin to be audited."""
    found = Audit(tuple(problems), ("all is equal",))
    with unittest.mock.patch.object(Run, "audit", found):
        return compare(run, **options)
