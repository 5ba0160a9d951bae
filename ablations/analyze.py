"""Look into the trained networks of a run, or draw its figures.

Examples:
  python -m ablations.analyze responses runs/degradation     std of every 3x3 layer's responses
  python -m ablations.analyze lesion runs/degradation        delete and reorder blocks
  python -m ablations.analyze calibration runs/degradation   reliability, ECE, NLL, Brier score
  python -m ablations.analyze figures runs/degradation       curves, depth, cost, differences
  python -m ablations.analyze lesion runs/depth --only residual-20 --seeds 0

A short table goes to standard output; CSV files and figures to RUN/analyses/NAME/ and RUN/figures/.
What is written covers the arms and seeds asked for, and replaces what an earlier call wrote.
The networks run on the processor, in float32. Exit status: 0, 1 a bug, 2 bad input.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from absl import flags

from ablations import cli, environment
from ablations.errors import UserError

if TYPE_CHECKING:
    from ablations.records import Run

#: Not absl's global flags: several commands must load in one process.
FLAGS = flags.FlagValues()
_ONLY = flags.DEFINE_list("only", None, "only these arms, e.g. A,B", flag_values=FLAGS)
_SEEDS = flags.DEFINE_list(
    "seeds", None, "only these seeds, by number, e.g. 0,2", flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "where the run's data are; fashion needs none", flag_values=FLAGS
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "folder: as the run was trained with", flag_values=FLAGS
)
_SKIP_CORRUPT = flags.DEFINE_boolean(
    "skip_corrupt", False, "folder, imagenet: as the run was trained with", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images",
    2000,
    "responses, lesion: test images, drawn at random; 0: all",
    lower_bound=0,
    flag_values=FLAGS,
)
_DRAWS = flags.DEFINE_integer(
    "draws",
    3,
    "lesion: random choices for each number of blocks",
    lower_bound=1,
    flag_values=FLAGS,
)
_FIGURES = "figures"


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    from ablations import records
    from ablations.analyses import ANALYSES, analyse
    from reszoo.errors import unknown

    if len(arguments) != 2:
        names = ", ".join([*ANALYSES, _FIGURES])
        raise UserError(f"give an analysis ({names}) and the directory of a run")
    name, directory = arguments
    if name not in (*ANALYSES, _FIGURES):
        raise UserError(unknown("analysis", name, [*ANALYSES, _FIGURES]))
    run = records.load(directory)
    if name == _FIGURES:
        return _figures(run)
    # Before TensorFlow is imported; a GPU would be taken whole for a little work.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    report = analyse(
        run,
        name,
        only=_ONLY.value,
        seeds=cli.numbers("seeds", _SEEDS.value),
        data_dir=_DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        skip_corrupt=_SKIP_CORRUPT.value,
        images=_IMAGES.value,
        draws=_DRAWS.value,
    )
    paths = report.write(run)
    print(f"{run.grid['title']}: {ANALYSES[name]}")
    print("\n".join([*report.summary, *(f"left out: {note}" for note in report.notes)]))
    print(f"written to {paths[0].parent}: {', '.join(path.name for path in paths)}")
    return cli.EXIT_OK


def _figures(run: Run) -> int:
    from ablations.report import figures

    if _ONLY.value or _SEEDS.value:
        raise UserError("figures show all finished cells: leave --only and --seeds")
    directory = run.directory / _FIGURES
    paths = figures.write(run, directory)
    for name, reason in figures.skipped(run).items():
        print(f"left out: {name}: {reason}")
    print(f"written to {directory}: {', '.join(path.name for path in paths) or 'nothing'}")
    return cli.EXIT_OK


def console() -> None:
    """Entry point of the console script."""
    cli.run(
        main,
        doc=__doc__ or "",
        version=environment.version_line,
        command="python -m ablations.analyze",
        flag_values=FLAGS,
        positionals=True,
    )


if __name__ == "__main__":
    console()
