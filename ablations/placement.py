"""Where cells run: devices, replicas, threads, and how many side by side."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ablations import environment
from ablations.devices import Hardware
from ablations.errors import UserError
from ablations.matrix import Platform
from ablations.recipes import Recipe
from ablations.records import Arm
from reszoo.errors import unknown
from reszoo.plans import plan as layer_plan
from reszoo.specs import ResNetSpec

#: Memory of a cell: TensorFlow itself, and copies of every layer's output during training.
BASE_BYTES = 700 * 2**20
ACTIVATION_COPIES = 3
MEMORY_SHARE = 0.7
#: Images evaluated at once (stream.PLAIN_BATCH, which this process does not import).
EVALUATION_BATCH = 250


def place(
    hardware: Hardware,
    arms: list[Arm],
    cells: int,
    old: dict[str, Any] | None,
    jobs: int | None,
    threads: int | None,
    strategy: str | None,
    cpu_replicas: int | None,
) -> tuple[Platform, int, list[str]]:
    """Return where cells run, how many side by side, and the GPUs of each."""
    if strategy not in (None, "none", "mirrored"):
        raise UserError(unknown("--strategy", strategy, ["mirrored", "none"]))
    if cpu_replicas and strategy == "none":
        raise UserError("--cpu_replicas shares batches by a strategy: leave --strategy none away")
    gpus = len(hardware.gpus)
    recipes = [Recipe.from_dict(arm.recipe) for arm in arms]
    if gpus:
        name = strategy or "mirrored"
        replicas = 1 if name == "none" else min(_replicas(r, gpus) for r in recipes)
        if old and old["platform"]["kind"] == "gpu" and old["platform"]["strategy"] == name:
            replicas = old["platform"]["replicas"]  # part of a cell's identity, as threads are
            if replicas > gpus:
                raise UserError(
                    f"the cells of this directory share batches over {replicas} GPUs, there are "
                    f"{gpus}; give another --out"
                )
        slots = hardware.groups(replicas)
    else:
        name = strategy or ("mirrored" if cpu_replicas else "none")
        replicas, slots = cpu_replicas or 1, []
    for one in recipes:
        if one.batch % replicas:
            raise UserError(f"batch {one.batch} cannot be shared by {replicas} replicas")
        if one.bn_batch and (one.batch // replicas) % one.bn_batch:
            raise UserError(
                f"{replicas} replicas hold {one.batch // replicas} images each, which is no "
                f"multiple of recipe.bn_batch {one.bn_batch}"
            )
    cpus = environment.cpu_count()
    by_memory = int(MEMORY_SHARE * total_memory() // max(map(cell_bytes, arms)))
    kept = threads or (old["platform"]["threads"] if old else 1)
    most = len(slots) if gpus else min(max(1, cpus // kept), by_memory)
    side_by_side = jobs or max(1, min(most, cells))
    if gpus and side_by_side > len(slots):
        raise UserError(
            f"--jobs {jobs}: {gpus} GPUs hold {len(slots)} cells of {replicas} replicas"
        )
    if threads is None:
        # Threads are part of a cell's identity: a directory keeps those that it began with.
        threads = old["platform"]["threads"] if old else max(1, cpus // side_by_side)
    if threads > 4 * cpus or side_by_side > max(cells, 4 * cpus):
        raise UserError(
            f"--jobs {side_by_side} and --threads {threads} are too many for {cpus} processors"
        )
    kind = "gpu" if gpus else "cpu"
    xla = bool(gpus) and name == "none"
    return Platform(kind, hardware.model, threads, name, replicas, xla), side_by_side, slots


def _replicas(recipe: Recipe, gpus: int) -> int:
    """Return the most replicas, up to the recipe's, that GPUs, batch and bn_batch allow."""
    for count in range(min(recipe.replicas, gpus), 1, -1):
        if recipe.batch % count == 0 and not (
            recipe.bn_batch and (recipe.batch // count) % recipe.bn_batch
        ):
            return count
    return 1


def cell_bytes(arm: Arm) -> int:
    """Return a rough peak memory of a cell in bytes."""
    network: str | ResNetSpec = ResNetSpec.from_dict(arm.spec) if arm.spec else arm.network
    outputs = [x.channels * math.prod(n or 1 for n in x.size) for x in layer_plan(network)]
    training = 4 * ACTIVATION_COPIES * sum(outputs) * arm.recipe["batch"]
    evaluation = 4 * ACTIVATION_COPIES * max(outputs) * EVALUATION_BATCH
    return BASE_BYTES + max(training, evaluation) + 16 * arm.parameters


def total_memory() -> int:
    """Return the memory of this machine (or of its control group) in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return min(total, int(limit)) if limit != "max" else total
    except OSError:
        return total
