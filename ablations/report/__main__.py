"""Report on a run, finished or not, or compare several runs.

Examples:
  python -m ablations.report runs/shortcuts                 table, and all files of the report
  python -m ablations.report runs/shortcuts --margin 0.5    also judge equivalence within 0.5 points
  python -m ablations.report runs/degradation --baseline plain-56    print it; --out writes it
  python -m ablations.report runs/A runs/B --out both       runs made elsewhere, side by side
  python -m ablations.report runs/shortcuts --format latex  only that, on standard output
  python -m ablations.report runs/shortcuts --tensorboard   its event files too, from the records

Written beside the run (or to --out): report.html, table.md, table.csv, table.tex, cells.csv,
statistics.csv, figures/. Runs on other data are refused; other differences between runs are listed
in the table.
Exit status: 0, 1 a bug, 2 bad input.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

from absl import flags

from ablations import cli, environment, shared_flags
from ablations.errors import UserError

#: Not absl's global flags: several commands must load in one process.
FLAGS = flags.FlagValues()
_MARGIN = shared_flags.margin(FLAGS)
_DETECT = shared_flags.detect(FLAGS)
_BASELINE = shared_flags.baseline(FLAGS)
_FORMAT = flags.DEFINE_enum(
    "format",
    "terminal",
    ["terminal", "markdown", "csv", "latex", "html"],
    "what to print; other than terminal: print only that and write nothing",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", None, "where to write; default: the run's own directory", flag_values=FLAGS
)
_TENSORBOARD = flags.DEFINE_boolean(
    "tensorboard",
    False,
    "also write TensorBoard's event files again from the records, e.g. where they were lost",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    from ablations import files, records, report, run_directory
    from ablations.report import html, latex, table, tensorboard
    from ablations.report.comparison import asked
    from ablations.report.merging import merge
    from reszoo.errors import unknown

    if not arguments:
        raise UserError("give the directory of a run, e.g. runs/shortcuts")
    if _FORMAT.value != "terminal" and _OUT.value is not None:
        raise UserError(f"--format {_FORMAT.value} prints only: --out does nothing beside it")
    elsewhere = _OUT.value is not None or _BASELINE.value is not None
    if _TENSORBOARD.value and (len(arguments) > 1 or elsewhere or _FORMAT.value != "terminal"):
        raise UserError("--tensorboard is for one run, in its own directory")
    for name, points in (("margin", _MARGIN.value), ("detect", _DETECT.value)):
        if points is not None and not math.isfinite(points):
            raise UserError(f"--{name} takes a positive, finite number of points, not {points}")
    directory = Path(_OUT.value or arguments[0])
    if _OUT.value is not None:
        run_directory.refuse_file(directory)
    run = merge([records.load(directory) for directory in arguments])
    if _BASELINE.value is not None:
        names = [arm.name for arm in run.arms]
        if _BASELINE.value not in names:
            raise UserError(f"--baseline: {unknown('arm', _BASELINE.value, names)}")
    run = asked(run, baseline=_BASELINE.value, margin=_MARGIN.value, detect=_DETECT.value)
    comparison = report.compare(run)
    printers = {
        "markdown": lambda: table.markdown(comparison),
        "csv": lambda: table.table_csv(comparison),
        "latex": lambda: latex.table(comparison),
        "html": lambda: html.page(run, comparison),
    }
    if _FORMAT.value in printers:
        print(printers[_FORMAT.value](), end="")
        return cli.EXIT_OK
    width = shutil.get_terminal_size((120, 24)).columns
    print(report.terminal(comparison, width, sys.stdout.isatty()))
    if _OUT.value is None and (len(arguments) > 1 or _BASELINE.value is not None):
        what = "several runs" if len(arguments) > 1 else f"the baseline {_BASELINE.value}"
        print(f"--out DIRECTORY writes the report of {what}")
        return cli.EXIT_OK
    try:
        paths = report.write_files(run, comparison, directory, figures=True)
        if _TENSORBOARD.value:
            with files.lock(directory / ".lock"):
                tensorboard.backfill(run, comparison, paths)
    except files.Locked as error:
        raise UserError(f"{directory} is in use by a runner, which writes them: {error}") from None
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    print(f"written to {directory}: {', '.join(str(p.relative_to(directory)) for p in paths)}")
    return cli.EXIT_OK


def console() -> None:
    """Entry point of the console script."""
    cli.run(
        main,
        doc=__doc__ or "",
        version=environment.version_line,
        command="python -m ablations.report",
        flag_values=FLAGS,
        positionals=True,
    )


if __name__ == "__main__":
    console()
