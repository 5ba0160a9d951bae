"""What the trained networks of a finished run look like inside.

    python -m ablations.analyze responses|lesion|calibration runs/NAME

`analyse` runs one of `ANALYSES` cell by cell and returns a `Report`; `Report.write` leaves CSV
files and a figure in runs/NAME/analyses/ANALYSIS/. The networks run in float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ablations import data
from ablations.analyses.common import Report
from ablations.errors import UserError
from ablations.records import Run
from reszoo.errors import unknown

__all__ = ["ANALYSES", "Report", "analyse"]

#: Name -> what it shows. Each is a module here with `report(run, cells, dataset, **options)`.
ANALYSES: dict[str, str] = {
    "responses": "standard deviation of every 3x3 layer's responses (arXiv 1512.03385, Fig. 7)",
    "lesion": "error after deleting and reordering blocks (arXiv 1605.06431, sec. 4)",
    "calibration": "reliability, ECE, NLL and Brier score (arXiv 1706.04599)",
}


def analyse(
    run: Run,
    name: str,
    *,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    images: int = 2000,
    draws: int = 3,
) -> Report:
    """Return the report of one analysis over the finished cells of a run.

    Args:
        run: from `records.load`.
        name: of `ANALYSES`.
        only: arms; None: all.
        seeds: None: all.
        data_dir: where the run's data are, for sources that do not ship with the package.
        image_size: see `data.load`.
        skip_corrupt: see `data.load`.
        images: of the test part, drawn at random, the same for all cells; 0: all. Calibration
            always takes all.
        draws: lesion: random choices for each number of blocks.

    Raises:
        UserError: an unknown name, arm or seed; no finished cell; other data than the run's.
    """
    from ablations.analyses import common

    if name not in ANALYSES:
        raise UserError(unknown("analysis", name, list(ANALYSES)))
    if images < 0 or draws < 1:
        what = f"images must be 0 or more, not {images}" if images < 0 else f"draws: {draws} < 1"
        raise UserError(what)
    cells = common.select(run, only, seeds)
    module: Any = importlib.import_module(f"ablations.analyses.{name}")
    if name == "calibration":
        return module.report(run, cells)
    dataset = data.load_recorded(run.grid["data"], data_dir, image_size, skip_corrupt)
    if name == "lesion":
        return module.report(run, cells, dataset, images, draws)
    return module.report(run, cells, dataset, images)
