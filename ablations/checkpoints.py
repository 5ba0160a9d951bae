"""Checkpoints of a running cell: two are kept, and each is checked before it is used."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ablations import files


@dataclass(frozen=True)
class Checkpoint:
    """The state of a cell after some steps.

    Attributes:
        step: steps done.
        tensors: variable path -> value: weights, moving statistics, velocities, iteration count.
        fed: uint8 (step, 32): SHA-256 of what entered the network in each step.
        state: plain JSON: history, running sums, warm-up, selected epoch, seconds.
        selected: variable path -> value: the weights of the selected epoch, if they are kept.
    """

    step: int
    tensors: dict[str, np.ndarray]
    fed: np.ndarray
    state: dict[str, Any]
    selected: dict[str, np.ndarray] = field(default_factory=dict)


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then drop all but the newest two."""
    buffer = io.BytesIO()
    arrays = {
        "fed": checkpoint.fed,
        **{f"t/{k}": v for k, v in checkpoint.tensors.items()},
        **{f"s/{k}": v for k, v in checkpoint.selected.items()},
    }
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    name = f"checkpoint-{checkpoint.step:09d}"
    files.write(directory / f"{name}.npz", data)
    # Written second, with the hash of the first and of itself: valid only when both are whole.
    content = {"step": checkpoint.step, "npz": files.sha256(data), "state": checkpoint.state}
    files.write_signed(directory / f"{name}.json", content)
    _keep(directory, steps(directory)[-2:])


def steps(directory: Path) -> list[int]:
    """Return the steps at which checkpoints exist, oldest first."""
    found = [re.fullmatch(r"checkpoint-(\d+)\.json", path.name) for path in directory.iterdir()]
    return sorted(int(match[1]) for match in found if match)


def latest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a line for each damaged one passed over."""
    problems: list[str] = []
    for step in reversed(steps(directory)):
        name = f"checkpoint-{step:09d}"
        try:
            meta = files.read_signed(directory / f"{name}.json")
            data = (directory / f"{name}.npz").read_bytes()
            if files.sha256(data) != meta["npz"]:
                raise ValueError(f"{directory / name}.npz has changed since it was written")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                tensors, selected = (
                    {k[2:]: arrays[k] for k in arrays.files if k.startswith(kind)}
                    for kind in ("t/", "s/")
                )
                fed, state = arrays["fed"], meta["state"]
            return Checkpoint(meta["step"], tensors, fed, state, selected), problems
        except (ValueError, OSError, KeyError) as error:
            problems.append(f"checkpoint of step {step} is not usable: {error}")
    return None, problems


def clear(directory: Path) -> None:
    """Remove every checkpoint, halves that a crash left included."""
    _keep(directory, [])


def _keep(directory: Path, kept: list[int]) -> None:
    # ".json" sorts before ".npz": without it the other half is never taken for a checkpoint.
    for path in sorted(directory.glob("checkpoint-*")):
        match = re.match(r"checkpoint-(\d+)\.", path.name)
        if match and int(match[1]) not in kept:
            path.unlink(missing_ok=True)
