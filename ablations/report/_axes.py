"""What all figures share: palette, style, caption, saving.

matplotlib is imported when a figure is drawn, and pyplot never: figures are plain objects, and no
backend, no window and no setting outlives a call.
"""

from __future__ import annotations

import contextlib
import io
import logging
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

from ablations import files
from ablations.errors import UserError
from ablations.records import Arm, Cell, Run
from ablations.report.captions import cautions
from reszoo.errors import unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind readers tell apart; the palest, yellow, left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: One a turn of the palette, so that arm 8 is not taken for arm 1.
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"
#: Inches at 100 dots an inch.
WIDTH = 10.0
#: Characters of small print across a figure of `WIDTH`.
_CAPTION_COLUMNS = 150

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "figure.dpi": 100,
    "figure.titlesize": 14,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 11,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.7,
    "legend.fontsize": 10,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "savefig.dpi": "figure",
    "svg.fonttype": "path",
    "svg.hashsalt": "ablations",
    "text.parse_math": False,  # a user's "$" is a dollar: no text of ours has formulas
}
#: Drawn with, where installed, what DejaVu Sans lacks: names of arms may have any letters.
_MORE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Malgun Gothic",
    "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Devanagari",
)  # fmt: skip
#: Without these, two files of one figure would differ in date and version.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw and save under the laboratory's settings; the caller's come back afterwards."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = [_RC["font.family"], *(name for name in _MORE_FONTS if name in installed)]
    with matplotlib.rc_context(), _quiet():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_RC, "font.family": fonts})  # type: ignore[dict-item]
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep matplotlib from saying that a letter, or its bold form, is in no installed font.

    The letter is drawn as a box, or not bold: nothing that the reader of stderr could mend.
    """
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    with catch_warnings():
        filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        filterwarnings("ignore", r"Matplotlib currently does not support", UserWarning)
        fonts.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts.setLevel(level)


def panels(
    height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `WIDTH` x `height` inches and its axes, row by row.

    Args:
        height: inches.
        rows: of panels.
        columns: of panels.
        **options: of `Figure.subplots`, e.g. sharey.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def finish(figure: Figure, title: str, sentences: Sequence[str]) -> Figure:
    """Set the title, and the small print below; return the figure."""
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    text = "\n".join(textwrap.wrap(" ".join(filter(None, sentences)), _CAPTION_COLUMNS))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def colour(run: Run, arm: str) -> str:
    """Return an arm's colour: the same one in every figure of a run."""
    return PALETTE[_index(run, arm) % len(PALETTE)]


def marker(run: Run, arm: str) -> str:
    """Return an arm's marker."""
    return MARKERS[_index(run, arm) // len(PALETTE) % len(MARKERS)]


def _index(run: Run, arm: str) -> int:
    return [a.name for a in run.arms].index(arm)


def finished(run: Run) -> list[Arm]:
    """Return the arms with at least one finished cell, in the grid's order."""
    return [arm for arm in run.arms if run.done(arm.name)]


def several(run: Run) -> bool:
    """Return whether an arm has more than one finished seed."""
    return any(len(run.done(arm.name)) > 1 for arm in run.arms)


def no_cells(run: Run) -> str:
    """Return why a run without finished cells has no figures, or ""."""
    return "" if run.done() else "no cell is finished"


def provenance(run: Run, cells: Sequence[Cell] | None = None) -> str:
    """Return the sentences on seeds, data and recipe that stand below every figure.

    Args:
        run: the run.
        cells: what the figure rests on; None: all finished ones.
    """
    shown = run.done() if cells is None else cells
    counts = sorted(Counter(cell.arm for cell in shown).values()) or [0]
    n = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    seeds = ", ".join(str(seed) for seed in sorted({cell.seed for cell in shown}))
    text = f"n = {n} seed{'s' * (counts[-1] != 1)} an arm ({seeds})."
    done, planned = len(run.done()), len(run.cells)
    if done < planned:
        text += f" UNFINISHED: {done} of {planned} cells are done."
    text = " ".join([text, *cautions(run)])
    return f"{text} Data: {run.grid['data']['title']}. Recipe: {run.grid['recipe']}."


def encode(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file's content: equal figures give equal bytes.

    Args:
        figure: from `panels`.
        kind: "png", "svg" or "pdf".

    Raises:
        UserError: another kind.
    """
    if kind not in _METADATA:
        raise UserError(unknown("figure format", kind, list(_METADATA)))
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


def save(figure: Figure, directory: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Write a figure as NAME.FORMAT, each file whole or not at all; return the paths.

    Args:
        figure: from `panels`.
        directory: made if missing.
        name: without an ending.
        formats: see `encode`.
    """
    contents = {kind: encode(figure, kind) for kind in formats}
    directory.mkdir(parents=True, exist_ok=True)
    for kind, content in contents.items():
        files.write(directory / f"{name}.{kind}", content)
    return [directory / f"{name}.{kind}" for kind in contents]
