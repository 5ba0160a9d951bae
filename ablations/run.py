"""Train a matched grid of networks, or one network, and print a comparison table.

Examples:
  python -m ablations.run --grid shortcuts            plain, A, B, C; 3 seeds; minutes on a laptop
  python -m ablations.run --grid degradation          plain and residual, 20 and 56 layers
  python -m ablations.run --net resnet20              one network
  python -m ablations.run --grid shortcuts --seeds 5  more seeds: continues the same directory
  python -m ablations.run --grid depth --dry_run      what it would train, and what it would cost
  python -m ablations.run --list                      the grids

The table goes to standard output, progress to standard error, and everything else to --out
(default runs/<grid>). The same command continues a grid that was stopped.
Exit status: 0 all cells done, 1 a bug, 2 bad input, 3 some cells failed, 130 interrupted.
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

from absl import flags

from ablations import cli, environment

#: Not absl's global flags: several commands must load in one process.
FLAGS = flags.FlagValues()
_GRID = flags.DEFINE_string(
    "grid", None, "a built-in grid (--list shows them) or a .yaml file", flag_values=FLAGS
)
_NET = flags.DEFINE_string(
    "net", None, "one network of the zoo, e.g. resnet20, instead of a grid", flag_values=FLAGS
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
_OUT = flags.DEFINE_string(
    "out", None, "directory of the run; default runs/<grid>", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "number of seeds, from 0; default 3", flag_values=FLAGS
)
_SEED_LIST = flags.DEFINE_list("seed_list", None, "seeds by number, e.g. 3,4,5", flag_values=FLAGS)
_ONLY = flags.DEFINE_list("only", None, "train only these arms, e.g. A,B", flag_values=FLAGS)
_BASELINE = flags.DEFINE_string(
    "baseline", None, "arm that the others are compared with", flag_values=FLAGS
)
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
_RETRY = flags.DEFINE_boolean("retry_failed", False, "train failed cells again", flag_values=FLAGS)
_HUNG = flags.DEFINE_float(
    "hung_minutes",
    None,
    "stop a cell that makes no progress for so long; default: 10 epochs, at least 10 minutes",
    flag_values=FLAGS,
)
_LIST = flags.DEFINE_boolean("list", False, "list the grids and exit", flag_values=FLAGS)
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "show what would be trained and exit", flag_values=FLAGS
)


def main() -> int:
    """Run the command; return its exit status."""
    if _LIST.value:
        print(_list())
        return cli.EXIT_OK
    from ablations import runner
    from ablations.plan import plan

    planned = plan(
        _GRID.value,
        net=_NET.value,
        preset=_PRESET.value,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        skip_corrupt=_SKIP_CORRUPT.value,
        out=_OUT.value,
        seeds=_SEEDS.value,
        seed_list=_numbers(_SEED_LIST.value),
        only=_ONLY.value,
        baseline=_BASELINE.value,
        epochs=_EPOCHS.value,
        jobs=_JOBS.value,
        threads=_THREADS.value,
        devices=_DEVICES.value,
        strategy=_STRATEGY.value,
        cpu_replicas=_CPU_REPLICAS.value,
    )
    if _DRY_RUN.value:
        print(_dry_run(planned))
        return cli.EXIT_OK
    try:
        run = runner.execute(planned, True, _RETRY.value, _HUNG.value)
    except runner.Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return cli.EXIT_INTERRUPTED
    from ablations import report

    print(report.terminal(report.compare(run), _width(), sys.stdout.isatty()))
    print(f"written to {run.directory}: table.md, table.csv, cells.csv, cells/")
    asked = {(cell.arm, cell.seed) for cell in planned.cells}
    missing = [c for c in run.cells if (c.arm, c.seed) in asked and c.state != "done"]
    return cli.EXIT_FAILED_CELLS if missing else cli.EXIT_OK


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def _numbers(texts: list[str] | None) -> list[int] | None:
    if texts is None:
        return None
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise cli.UserError(
            f"--seed_list takes numbers separated by commas, not {','.join(texts)!r}"
        ) from None


def _list() -> str:
    from ablations import grids

    lines = []
    for name in grids.names():
        for preset in grids.presets(name):
            grid = grids.load(name, preset)
            lines.append(f"{name}  ({preset})")
            lines.append(f"    {grid.title}: {', '.join(arm.name for arm in grid.arms)}")
            lines.append(f"    baseline {grid.baseline}; data {grid.dataset}; {grid.network}")
            lines.append(f"    reproduces {grid.reproduces}")
            lines.append(f"    expect: {grid.expect}")
    return "\n".join(lines)


def _dry_run(planned: Any) -> str:
    from ablations.report.comparison import duration

    cells = planned.cells
    seeds = len({cell.seed for cell in cells})
    lines = [
        f"{planned.grid.title}: {len(cells)} cells ({seeds} seed{'s' * (seeds > 1)}), "
        f"data {planned.dataset.title}",
        f"{'arm':<16}{'parameters':>14}{'MACs':>18}{'steps':>10}{'time a cell':>16}",
    ]
    for arm in planned.arms:
        if not any(cell.arm == arm.name for cell in cells):
            continue
        lines.append(
            f"{arm.name:<16}{arm.parameters:>14,}{arm.macs:>18,}{planned.steps(arm.name):>10,}"
            f"{duration(planned.seconds(arm.name)):>16}"
        )
    total = sum(planned.seconds(cell.arm) for cell in cells) / planned.jobs
    lines += [
        f"about {duration(total)} with {planned.jobs} cells side by side, "
        f"{planned.platform.threads} thread(s) each, on "
        f"{planned.platform.device} (rough, before measuring)",
        f"about {planned.disk() / 1e6:.1f} MB in {planned.directory}",
    ]
    return "\n".join(lines)


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
