"""What a command will train: cells, machine, place, cost. Nothing is trained or written here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations import audit, data, files, grids, matrix, records, run_directory, shapes
from ablations.devices import choose
from ablations.errors import UserError
from ablations.matrix import PlannedCell, Platform
from ablations.placement import place
from ablations.recipes import Recipe
from ablations.records import Arm
from reszoo.errors import unknown
from reszoo.plans import plan as layer_plan

#: Rough cost model for the estimates, refined by measurement while a grid runs: forward plus
#: backward is about three forward passes; multiply-accumulates a second of one CPU thread;
#: seconds to start, trace and evaluate a cell.
PASSES = 3
MACS_PER_SECOND = 24e9
STARTUP_SECONDS = 8.0


@dataclass(frozen=True)
class Plan:
    """A command's grid, resolved.

    Attributes:
        grid: what is compared.
        arms: all of the grid's arms.
        seeds: of the whole run directory, in order; old ones included.
        cells: those that this command asks for, seed by seed.
        dataset: loaded.
        platform: part of every cell's identity.
        jobs: cells side by side.
        slots: CUDA_VISIBLE_DEVICES of each cell side by side; empty on CPU.
        driver: version of the GPUs' driver, or "".
        directory: of the run.
        baseline: arm that the others are compared with.
        planned: baseline, margin and seeds as they were when the first cell here was finished;
            empty before that.
        analysis: what the table is asked for: margin, detect, target, first_stage, decision.
        unmatched: what makes the arms incomparable, allowed by the user (--allow_unmatched).
        reproduces_run: of --reproduce: path of the run that is trained again, and the sha256 of its
            grid.json.
        lost: whether the directory had cells and no grid.json, so that what was planned before is
            not known.
    """

    grid: grids.Grid
    arms: list[Arm]
    seeds: list[int]
    cells: list[PlannedCell]
    dataset: data.Dataset
    platform: Platform
    jobs: int
    slots: list[str]
    driver: str
    directory: Path
    baseline: str
    planned: dict[str, Any] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    reproduces_run: dict[str, str] | None = None
    lost: bool = False

    def arm(self, name: str) -> Arm:
        """Return an arm by name."""
        return next(arm for arm in self.arms if arm.name == name)

    def left(self) -> list[PlannedCell]:
        """Return the cells that are not done: read from disk, every file's hash checked."""
        return [
            cell
            for cell in self.cells
            if records.load_cell(self.directory, cell.arm, cell.seed).state != "done"
        ]

    def steps(self, name: str) -> int:
        """Return the training steps of one cell of an arm."""
        return Recipe.from_dict(self.arm(name).recipe).steps(len(self.dataset.train.labels))

    def work(self, name: str) -> float:
        """Return multiply-accumulates of one cell's training, forward and backward."""
        arm = self.arm(name)
        return PASSES * arm.macs * self.steps(name) * Recipe.from_dict(arm.recipe).batch

    def seconds(self, name: str) -> float:
        """Return a rough time for one cell on this machine."""
        return STARTUP_SECONDS + self.work(name) / (MACS_PER_SECOND * self.platform.threads)

    def disk(self) -> int:
        """Return a rough number of bytes that the finished cells take."""
        per_image = 4 * (2 + len(self.dataset.class_names))
        return sum(
            int(4.6 * self.arm(cell.arm).parameters)
            + 200_000
            + per_image * len(self.dataset.test.labels)
            + 65 * self.steps(cell.arm)
            for cell in self.cells
        )

    def grid_json(self) -> dict[str, Any]:
        """Return the content of grid.json."""
        now = {
            "baseline": self.baseline,
            "margin": self.analysis.get("margin"),
            "seeds": self.seeds,
        }
        return {
            "schema": shapes.SCHEMA,
            "name": self.grid.name,
            "preset": self.grid.preset,
            "title": self.grid.title,
            "reproduces": self.grid.reproduces,
            "expect": self.grid.expect,
            "baseline": self.baseline,
            **{f"planned_{k}": value for k, value in self.planned.items() if value != now[k]},
            "recipe": self.grid.recipe,
            "seeds": self.seeds,
            "arms": [dataclasses.asdict(arm) for arm in self.arms],
            "data": {
                "name": self.dataset.name,
                "title": self.dataset.title,
                "digest": self.dataset.digest,
                "notes": list(self.dataset.notes),
                **self.dataset.split_facts,
            },
            "platform": dataclasses.asdict(self.platform),
            "jobs": self.jobs,
            "paper": self.grid.paper,
            "analysis": self.analysis,
            "unmatched": list(self.unmatched),
            **({"reproduces_run": self.reproduces_run} if self.reproduces_run else {}),
            **({"lost": True} if self.lost else {}),
        }


def plan(
    grid: str | None = None,
    *,
    net: str | None = None,
    base: str | None = None,
    axis: list[str] | None = None,
    preset: str = "quick",
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    split: str = data.splits.FULL,
    selection: str | None = None,
    out: str | Path | None = None,
    seeds: int | None = None,
    seed_list: list[int] | None = None,
    only: list[str] | None = None,
    baseline: str | None = None,
    epochs: int | None = None,
    recipe: dict[str, Any] | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    devices: str | None = None,
    strategy: str | None = None,
    cpu_replicas: int | None = None,
    allow_unmatched: bool = False,
    margin: float | None = None,
    detect: float | None = None,
    analysis: dict[str, Any] | None = None,
) -> Plan:
    """Resolve a command into cells; arguments as in `ablations.run_grid`.

    Raises:
        UserError (or SpecError): something asked for is not possible; one line says what.
    """
    chosen = _chosen(grid, net, base, axis, preset)
    name = chosen.name if preset == "quick" else f"{chosen.name}-{preset}"
    directory = Path(out) if out else Path("runs") / name
    if only is not None and not any(only):
        raise UserError(f"--only names no arm; arms: {', '.join(a.name for a in chosen.arms)}")
    old = _existing(directory, chosen)

    arm_names = [arm.name for arm in chosen.arms]
    wanted_seeds = _seeds(seeds, seed_list, len(only or arm_names))
    for name in only or []:
        if name not in arm_names:
            raise UserError(f"--only: {unknown('arm', name, arm_names)}")
    if baseline is not None and baseline not in arm_names:
        raise UserError(f"--baseline: {unknown('arm', baseline, arm_names)}")
    positive = {"seeds": seeds, "epochs": epochs, "jobs": jobs, "threads": threads,
                "cpu_replicas": cpu_replicas}  # fmt: skip
    for label, number in positive.items():
        if number is not None and number < 1:
            raise UserError(f"--{label} takes a positive number, not {number}")

    loaded = data.load(
        dataset or chosen.dataset,
        data_dir,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        split=split,
    )
    if skip_corrupt and loaded.name not in ("folder", "imagenet"):
        raise UserError(f"--skip_corrupt is for folder and imagenet, not {loaded.name}")
    overrides = {
        **(recipe or {}),
        **({"epochs": epochs} if epochs else {}),
        **({"selection": selection} if selection else {}),
    }
    arms = matrix.arms(chosen, loaded.image_shape, len(loaded.class_names), overrides)
    for arm in arms:
        _check_fit(arm, loaded)
    unmatched = tuple(difference.text for difference in audit.planned(arms))
    if unmatched and not allow_unmatched:
        raise UserError(
            f"grid {chosen.name} is not matched: {'; '.join(unmatched)}. Make each a factor (or "
            "an exception with its reason), or give --allow_unmatched to train it all the same"
        )
    all_seeds = sorted({*wanted_seeds, *(old["seeds"] if old else [])})
    count = len(wanted_seeds) * len(only or arm_names)
    hardware = choose("cpu" if cpu_replicas else devices)
    platform, side_by_side, slots = place(
        hardware, arms, count, old, jobs, threads, strategy, cpu_replicas
    )
    cells = [
        cell
        for cell in matrix.cells(arms, wanted_seeds, loaded, platform)
        if not only or cell.arm in only
    ]
    asked = {"margin": margin, "detect": detect, **(analysis or {})}
    for label in ("margin", "detect"):
        if asked[label] is not None and not 0 < asked[label] < math.inf:
            raise UserError(
                f"--{label} takes a positive, finite number of points, not {asked[label]}"
            )
    kept = dict(old.get("analysis", {})) if old else {}
    # What --seeds auto decided stays: while seeds that it chose from the data are there, standard
    # errors must come from its first stage, whatever is asked for now.
    if "decision" not in kept and (seeds is not None or seed_list is not None):
        for label in ("target", "first_stage"):
            kept.pop(label, None)
    result = Plan(
        chosen,
        arms,
        all_seeds,
        cells,
        loaded,
        platform,
        side_by_side,
        slots,
        hardware.gpus[0].driver if hardware.gpus else "",
        directory,
        baseline or (old["baseline"] if old else chosen.baseline),
        _planned(old, all_seeds, analysis or {})
        if old and _begun(directory) and run_directory.has_grid(directory)
        else {},
        {**kept, **{name: value for name, value in asked.items() if value is not None}},
        unmatched,
        lost=bool(old and old.get("lost")),
    )
    if old:
        _check_identity(directory, result, old)
    return result


def _chosen(
    grid: str | None, net: str | None, base: str | None, axis: list[str] | None, preset: str
) -> grids.Grid:
    """Return the grid that was asked for by name, by its axes, or as a single network."""
    if sum(map(bool, (grid, net, axis))) != 1:
        if base and not axis:
            raise UserError("--base is the network that --axis changes: give --axis FIELD=A,B too")
        raise UserError(
            "give one of the three: --grid NAME (--list shows them) or FILE.yaml, --axis FIELD=A,B "
            "with --base NETWORK, or --net NETWORK"
        )
    if axis:
        if not base:
            raise UserError("--axis needs the network that it changes: --base resnet20")
        return grids.from_axes(base, axis, preset)
    if base:
        raise UserError("--base goes with --axis, not with --grid or --net")
    if net:
        layer_plan(net)  # an unknown network is named before data are read
        return grids.single(net, preset)
    return grids.load(str(grid), preset)


def _seeds(count: int | None, listed: list[int] | None, arms: int) -> list[int]:
    """Return the seeds that were asked for, of so many arms."""
    if count is not None and listed is not None:
        raise UserError("give --seeds or --seed_list, not both")
    many = len(listed) if listed is not None else 3 if count is None else count
    if many * arms > matrix.MOST_CELLS:
        raise UserError(
            f"a grid has at most {matrix.MOST_CELLS:,} cells, not {many:,} seeds of {arms:,} "
            f"arm{'s' * (arms > 1)}"
        )
    wanted = list(range(many)) if listed is None else listed
    if listed is not None and (
        not wanted or len(set(wanted)) != len(wanted) or any(seed < 0 for seed in wanted)
    ):
        raise UserError(f"--seed_list takes distinct numbers of at least 0, not {wanted}")
    return wanted


def _check_fit(arm: Arm, dataset: data.Dataset) -> None:
    """Refuse recipes that the data set cannot serve."""
    recipe = Recipe.from_dict(arm.recipe)
    photographs = isinstance(dataset, data.EncodedDataset)
    if photographs != (recipe.augmentation == "scale"):
        raise UserError(
            f"recipe {recipe.name} has augmentation {recipe.augmentation!r}, which is for "
            f"{'small images' if photographs else 'ImageNet'}, not for {dataset.name}; "
            f"{'--preset paper' if photographs else '--preset quick'} fits it"
        )
    if recipe.test_views > 1 and not photographs:
        raise UserError(
            f"recipe.test_views {recipe.test_views} is for imagenet, not {dataset.name}"
        )
    if recipe.selection == "best_validation" and dataset.validation is None:
        held_out = ", ".join(data.splits.names(dataset.name)[1:])
        raise UserError(
            f"selection best_validation needs images that are held out: give --split ({held_out})"
        )
    group = recipe.bn_batch or recipe.batch // recipe.replicas
    count = len(dataset.train.labels)
    if recipe.statistics == "population" and group > count:
        raise UserError(
            f"population statistics of recipe {recipe.name} need {group} training images, "
            f"{dataset.title} has {count}"
        )


def _existing(directory: Path, grid: grids.Grid) -> dict[str, Any] | None:
    """Return the grid.json of a directory that this command would continue."""
    if not run_directory.holds_run(directory):
        return None
    if run_directory.has_grid(directory):
        old = run_directory.read_grid(directory)
    else:
        old = _lost(directory, grid)
    if (old["name"], old["preset"]) != (grid.name, grid.preset):
        raise UserError(
            f"{directory} holds the grid {old['name']}, preset {old['preset']}; give another --out "
            f"for {grid.name}, preset {grid.preset}"
        )
    names = [arm.name for arm in grid.arms]
    gone = [arm["name"] for arm in old["arms"] if arm["name"] not in names]
    if gone and not old.get("reproduces_run"):
        raise UserError(
            f"{directory} holds arms that the grid no longer has: {', '.join(gone)}; its table "
            "would lose them silently. Give another --out, or put them back"
        )
    return old


def _lost(directory: Path, grid: grids.Grid) -> dict[str, Any]:
    """Return what the cells of a directory say of the plan that it has lost."""
    started = run_directory.cells(directory)
    path = records.cell_directory(directory, *started[0]) / "cell.json"
    return {
        "name": grid.name,
        "preset": grid.preset,
        "baseline": grid.baseline,
        "seeds": sorted({seed for _, seed in started}),
        "arms": [{"name": arm} for arm in dict.fromkeys(arm for arm, _ in started)],
        "platform": shapes.read(path, shapes.CELL)["config"]["platform"],
        "lost": True,
    }


def _planned(old: dict[str, Any], seeds: list[int], analysis: dict[str, Any]) -> dict[str, Any]:
    """Return what a begun directory was planned with, from its grid.json."""
    before = old.get("analysis", {})
    planned = {
        "baseline": old.get("planned_baseline", old["baseline"]),
        "margin": old.get("planned_margin", before.get("margin")),
        "seeds": old.get("planned_seeds", old["seeds"]),
    }
    # The seeds that Stein's rule first asks for are its plan, unless its first stage was not.
    stage = analysis.get("first_stage", ())
    first = "decision" in analysis and "decision" not in before
    if first and set(stage) <= set(planned["seeds"]):
        planned["seeds"] = seeds
    return planned


def _begun(directory: Path) -> bool:
    """Return whether a cell is finished, so that a result may have been looked at."""
    return any(directory.glob("cells/*/*/manifest.json"))


def _check_identity(directory: Path, new: Plan, old: dict[str, Any]) -> None:
    """Refuse to mix cells of different configurations in one directory."""
    lines: list[str] = []
    new_configs = {(cell.arm, cell.seed): cell.config for cell in new.cells}
    for arm in new.arms:
        for seed in old["seeds"]:
            path = records.cell_directory(directory, arm.name, seed) / "cell.json"
            config = new_configs.get((arm.name, seed)) or _any_config(new_configs, arm.name, seed)
            if config is None or not path.exists():
                continue
            try:
                before = files.read_json(path)["config"]
            except (ValueError, KeyError):
                continue  # a damaged cell is reported, and trained again, by the runner
            lines += matrix.differences(before, config)
    if lines:
        unique = list(dict.fromkeys(lines))
        raise UserError(
            f"{directory} holds cells of another configuration; give another --out, or the old "
            f"values: {'; '.join(unique[:8])}" + (" …" if len(unique) > 8 else "")
        )


def _any_config(
    configs: dict[tuple[str, int], dict[str, Any]], arm: str, seed: int
) -> dict[str, Any] | None:
    """Return what an arm's cell with an unplanned seed would be configured as."""
    for (name, _), config in configs.items():
        if name == arm:
            return {**config, "seed": seed}
    return None
