"""Train a matched grid of networks, or one network, and print a comparison table.

Examples:
  python -m ablations.run --grid shortcuts            plain, A, B, C; 3 seeds; minutes on a laptop
  python -m ablations.run --grid degradation          plain and residual, 20 and 56 layers
  python -m ablations.run --net resnet20              one network
  python -m ablations.run --axis shortcut=A,B --axis depth=20,32 --base resnet20
  python -m ablations.run --grid shortcuts --seeds 5  more seeds: continues the same directory
  python -m ablations.run --grid depth --dry_run      what it would train, and what it would cost
  python -m ablations.run --list                      the grids
  python -m ablations.run --status runs/shortcuts     what is done
  python -m ablations.run --reproduce runs/shortcuts  train it again, compare bit for bit

The table goes to standard output, progress to standard error, and everything else to --out
(default runs/<grid>). The same command continues a grid that was stopped.
Exit status: 0 all cells done, 1 a bug, 2 bad input, 3 some cells failed, 130 interrupted.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from absl import flags

from ablations import cli, environment, shared_flags

#: Not absl's global flags: several commands must load in one process.
FLAGS = flags.FlagValues()
_GRID = flags.DEFINE_string(
    "grid", None, "a built-in grid (--list shows them) or a .yaml file", flag_values=FLAGS
)
_NET = flags.DEFINE_string(
    "net", None, "one network of the zoo, e.g. resnet20, instead of a grid", flag_values=FLAGS
)
_AXIS = flags.DEFINE_multi_string(
    "axis",
    None,
    "a grid without a file: a field and its levels, e.g. shortcut=A,B,C; may be repeated; fields "
    "of the recipe begin with recipe.; needs --base",
    flag_values=FLAGS,
)
_BASE = flags.DEFINE_string(
    "base", None, "--axis: the network that every arm starts from", flag_values=FLAGS
)
_PRESET = flags.DEFINE_string(
    "preset",
    "quick",
    "protocol: quick (a laptop, minutes), paper or paper-imagenet",
    flag_values=FLAGS,
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "fashion, cifar10, cifar100, imagenet or folder; default: the preset's",
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "where the data are; folder: train/CLASS/* and test/CLASS/* or val/CLASS/*",
    flag_values=FLAGS,
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "folder: resize the shorter side to this many pixels, crop the centre",
    flag_values=FLAGS,
)
_SKIP_CORRUPT = flags.DEFINE_boolean(
    "skip_corrupt",
    False,
    "folder, imagenet: leave out images that cannot be read; the table says how many",
    flag_values=FLAGS,
)
_SPLIT = flags.DEFINE_string(
    "split",
    "full",
    "training images held out for validation: full (none), 45k/5k (cifar10, cifar100), 9k/1k "
    "(fashion), holdout (10 %) or holdout:PERCENT; the same for all cells",
    flag_values=FLAGS,
)
_SELECTION = flags.DEFINE_string(
    "selection",
    None,
    "weights that are tested: last, or best_validation (needs --split); default: the recipe's",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", None, "directory of the run; default runs/<grid>", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_string(
    "seeds",
    None,
    "number of seeds, from 0; default 3; auto: as many as --target needs",
    flag_values=FLAGS,
)
_TARGET = flags.DEFINE_float(
    "target",
    None,
    "--seeds auto: wanted half-width of the 95 % intervals, percentage points of error",
    flag_values=FLAGS,
)
_MAX_SEEDS = flags.DEFINE_integer(
    "max_seeds", None, "--seeds auto: stop there, and say so; default: 30", flag_values=FLAGS
)
_MARGIN = shared_flags.margin(FLAGS)
_DETECT = shared_flags.detect(FLAGS)
_SEED_LIST = flags.DEFINE_list("seed_list", None, "seeds by number, e.g. 3,4,5", flag_values=FLAGS)
_ONLY = flags.DEFINE_list("only", None, "train only these arms, e.g. A,B", flag_values=FLAGS)
_BASELINE = shared_flags.baseline(FLAGS)
_EPOCHS = flags.DEFINE_integer("epochs", None, "passes over the training images", flag_values=FLAGS)
_JOBS = flags.DEFINE_integer(
    "jobs", None, "cells side by side; default: by cores and memory", flag_values=FLAGS
)
_THREADS = flags.DEFINE_integer(
    "threads",
    None,
    "threads of a cell; part of its identity; default: cores / jobs",
    flag_values=FLAGS,
)
_DEVICES = flags.DEFINE_string(
    "devices",
    None,
    "cpu, gpu, or GPUs by number, e.g. 0,1; default: all GPUs, else the processor",
    flag_values=FLAGS,
)
_STRATEGY = flags.DEFINE_string(
    "strategy",
    None,
    "mirrored (default on GPUs) or none (one device a cell, XLA on GPUs)",
    flag_values=FLAGS,
)
_CPU_REPLICAS = flags.DEFINE_integer(
    "cpu_replicas",
    None,
    "share each batch over so many logical devices of the processor",
    flag_values=FLAGS,
)
_ALLOW_UNMATCHED = flags.DEFINE_boolean(
    "allow_unmatched",
    False,
    "train a grid whose arms differ in more than its factors; the table says NOT MATCHED",
    flag_values=FLAGS,
)
_RETRY = flags.DEFINE_boolean("retry_failed", False, "train failed cells again", flag_values=FLAGS)
_HUNG = flags.DEFINE_float(
    "hung_minutes",
    None,
    "stop a cell that makes no progress for so long; default: 10 epochs, at least 10 minutes",
    flag_values=FLAGS,
)
_STATUS = flags.DEFINE_string(
    "status", None, "say what is done in this run directory, and exit", flag_values=FLAGS
)
_REPRODUCE = flags.DEFINE_string(
    "reproduce",
    None,
    "train the finished cells of this run directory again, and compare bit for bit",
    flag_values=FLAGS,
)
_LIST = flags.DEFINE_boolean("list", False, "list the grids and exit", flag_values=FLAGS)
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "show what would be trained and exit", flag_values=FLAGS
)


#: What --reproduce can be asked for besides; all else is in the run's own records.
_REPRODUCIBLE = (
    "out", "only", "seed_list", "data_dir", "image_size", "skip_corrupt", "jobs", "devices",
    "retry_failed", "hung_minutes", "dry_run",
)  # fmt: skip


def _alone(mode: str, allowed: tuple[str, ...] = ()) -> None:
    """Refuse flags that would do nothing beside one that says what the command does."""
    for name in FLAGS:
        if FLAGS[name].present and name not in (mode, *allowed):
            raise cli.UserError(f"--{name} does nothing with --{mode}: leave it out")


def main() -> int:
    """Run the command; return its exit status."""
    if _LIST.value:
        _alone("list")
        from ablations.grids.listing import listing

        print(listing(_width(), sys.stdout.isatty()))
        return cli.EXIT_OK
    if _STATUS.value is not None:
        _alone("status")
        from ablations import records
        from ablations.status import status

        print(status(records.load(_STATUS.value)))
        return cli.EXIT_OK
    if _HUNG.value is not None and not _HUNG.value > 0:
        raise cli.UserError(f"--hung_minutes takes a positive number, not {_HUNG.value}")
    from ablations import runner

    try:
        if _REPRODUCE.value is not None:
            return _reproduce(_REPRODUCE.value)
        return _train()
    except runner.Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return cli.EXIT_INTERRUPTED


def _options() -> dict[str, Any]:
    """Return the arguments of `ablations.plan.plan` that the flags stand for, but seeds."""
    return {
        "grid": _GRID.value,
        "net": _NET.value,
        "base": _BASE.value,
        "axis": _AXIS.value,
        "preset": _PRESET.value,
        "dataset": _DATASET.value,
        "data_dir": _DATA_DIR.value,
        "image_size": _IMAGE_SIZE.value,
        "skip_corrupt": _SKIP_CORRUPT.value,
        "split": _SPLIT.value,
        "selection": _SELECTION.value,
        "out": _OUT.value,
        "only": _ONLY.value,
        "baseline": _BASELINE.value,
        "epochs": _EPOCHS.value,
        "jobs": _JOBS.value,
        "threads": _THREADS.value,
        "devices": _DEVICES.value,
        "strategy": _STRATEGY.value,
        "cpu_replicas": _CPU_REPLICAS.value,
        "allow_unmatched": _ALLOW_UNMATCHED.value,
        "margin": _MARGIN.value,
        "detect": _DETECT.value,
    }


def _train() -> int:
    from ablations import preview, report, runner, sequential
    from ablations.plan import plan

    options = _options()
    automatic = _SEEDS.value == "auto"
    if _TARGET.value is not None and not automatic:
        raise cli.UserError("--target is for --seeds auto")
    if _MAX_SEEDS.value is not None and not automatic:
        raise cli.UserError("--max_seeds is for --seeds auto")
    most = sequential.MOST if _MAX_SEEDS.value is None else _MAX_SEEDS.value
    if automatic and _SEED_LIST.value is not None:
        raise cli.UserError("give --seeds auto or --seed_list, not both")

    def make(seeds: int | None, analysis: dict[str, Any] | None = None) -> Any:
        return plan(
            seeds=seeds,
            seed_list=cli.numbers("seed_list", _SEED_LIST.value),
            analysis=analysis,
            **options,
        )

    def execute(planned: Any) -> Any:
        return runner.execute(planned, True, _RETRY.value, _HUNG.value)

    if automatic:
        stage = sequential.first_stage(_TARGET.value, most)
        planned = make(stage, sequential.settings(_TARGET.value or 0.0))
        sequential.check(planned, _ONLY.value)
    else:
        planned = make(_count(_SEEDS.value))
    if _DRY_RUN.value:
        print(preview.preview(planned))
        return cli.EXIT_OK
    if automatic and _TARGET.value is not None:
        run = sequential.run_stages(
            planned, make, execute, _TARGET.value, most, lambda text: print(text, file=sys.stderr)
        )
    else:
        run = execute(planned)
    comparison = report.compare(run)
    print(report.terminal(comparison, _width(), sys.stdout.isatty()))
    written = [*report.FILES, *["figures/"] * report.drawn(comparison)]
    print(f"written to {run.directory}: {', '.join(written)}")
    print(_cost(run), file=sys.stderr)
    asked = {(cell.arm, cell.seed) for cell in planned.cells}
    missing = [
        c for c in run.cells if (automatic or (c.arm, c.seed) in asked) and c.state != "done"
    ]
    return cli.EXIT_FAILED_CELLS if missing else cli.EXIT_OK


def _cost(run: Any) -> str:
    """Return what the laboratory itself cost, beside training and evaluation steps."""
    beside = [
        cell.results["cpu_seconds"] - cell.results["work_cpu_seconds"]
        for cell in run.done()
        if "work_cpu_seconds" in cell.results
    ]
    text = (
        "cost of the laboratory, beside training and evaluation steps: "
        f"{time.process_time():.1f} CPU-seconds for planning, watching and reporting"
    )
    if beside:
        text += (
            f"; {sum(beside) / len(beside):.1f} a cell in the mean, {max(beside):.1f} at most, for "
            "importing TensorFlow, building and tracing the network, saving"
        )
    return text


def _reproduce(directory: str) -> int:
    from ablations import preview, records, reproduction, runner

    _alone("reproduce", _REPRODUCIBLE)
    old = records.load(directory)
    planned = reproduction.plan_again(
        old,
        out=_OUT.value,
        only=_ONLY.value,
        seeds=cli.numbers("seed_list", _SEED_LIST.value),
        data_dir=_DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        skip_corrupt=_SKIP_CORRUPT.value,
        jobs=_JOBS.value,
        devices=_DEVICES.value,
    )
    if _DRY_RUN.value:
        print(preview.preview(planned))
        return cli.EXIT_OK
    found = reproduction.finished(planned)
    new = runner.execute(planned, True, _RETRY.value, _HUNG.value)
    reproduction.refuse_copies(old, new)
    trained = reproduction.finished(planned, new) - found
    print(f"{trained} cells trained now, {found} found finished")
    equal, lines = reproduction.compare(old, new)
    print("\n".join(lines))
    print(f"written to {new.directory}")
    return cli.EXIT_OK if equal else cli.EXIT_FAILED_CELLS


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise cli.UserError(f"--seeds takes a number or auto, not {text!r}") from None


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def console() -> None:
    """Entry point of the console script."""
    cli.run(
        main,
        doc=__doc__ or "",
        version=environment.version_line,
        command="python -m ablations.run",
        flag_values=FLAGS,
        hint=_meant,
    )


def _meant(argument: str) -> str:
    """Return which flag a stray argument probably belongs to."""
    import reszoo
    from ablations import grids
    from reszoo.errors import closest

    for flag, known in (("grid", grids.names()), ("net", reszoo.names())):
        close = closest(argument, known)
        if close:
            return f"; did you mean --{flag} {close}?"
    return ""


if __name__ == "__main__":
    console()
