"""How far a network's confidence can be believed: Guo et al. 2017 (arXiv 1706.04599).

Everything comes from the probabilities that a cell keeps of its test images; no network is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.analyses import common
from ablations.errors import UserError
from ablations.records import Cell, Run
from ablations.stats import Summary, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Bins of equal width, as in Guo et al.
BINS = 15


@dataclass(frozen=True)
class Bins:
    """Predictions by confidence; bin m of M holds confidences in ((m - 1) / M, m / M].

    Attributes:
        counts: int (M,), images.
        right: int (M,), images whose most probable class is theirs.
        confidence: float (M,), sum over the images of the highest probability.
    """

    counts: np.ndarray
    right: np.ndarray
    confidence: np.ndarray

    def __add__(self, other: Bins) -> Bins:
        return Bins(
            self.counts + other.counts,
            self.right + other.right,
            self.confidence + other.confidence,
        )

    @property
    def gaps(self) -> np.ndarray:
        """|accuracy - mean confidence| of each bin, float (M,); 0 where a bin is empty."""
        return np.abs(self.right - self.confidence) / np.maximum(self.counts, 1)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1: the gaps, weighted by the images in each bin."""
        return float((self.gaps * self.counts).sum() / self.counts.sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest gap."""
        return float(self.gaps.max())


def bins(probabilities: np.ndarray, labels: np.ndarray, count: int = BINS) -> Bins:
    """Return predictions sorted into bins by their confidence.

    Args:
        probabilities: (n, classes), rows that sum to 1.
        labels: (n,), classes.
        count: of bins.

    Raises:
        UserError: arrays that do not fit, or values that are no probabilities.
    """
    p = _checked(probabilities, labels)
    confidence = p.max(axis=1)
    place = np.clip(np.ceil(confidence * count).astype(int) - 1, 0, count - 1)
    right = p.argmax(axis=1) == labels
    return Bins(
        np.bincount(place, minlength=count),
        np.bincount(place[right], minlength=count),
        np.bincount(place, confidence, count),
    )


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood in nats; probabilities below 1e-38 count as 1e-38.

    Args:
        probabilities: (n, classes), rows that sum to 1.
        labels: (n,), classes.
    """
    p = _checked(probabilities, labels)
    return float(-np.log(p[np.arange(len(p)), labels].clip(1e-38)).mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the Brier score, 0 to 2: squared error summed over classes, mean over images.

    Args:
        probabilities: (n, classes), rows that sum to 1.
        labels: (n,), classes.
    """
    p = _checked(probabilities, labels).copy()
    p[np.arange(len(p)), labels] -= 1
    return float((p**2).sum(axis=1).mean())


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not len(p) or np.shape(labels) != (len(p),):
        raise UserError(
            f"calibration needs probabilities (n, classes) and labels (n,), n > 0, not {p.shape} "
            f"and {np.shape(labels)}"
        )
    if not (p >= 0).all() or not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise UserError("calibration needs probabilities: none negative, each row's sum 1")
    return p


def report(run: Run, cells: Sequence[Cell]) -> common.Report:
    """Return the calibration of all cells; see `analyses.analyse`."""
    rows: list[dict[str, Any]] = []
    by_bin: list[dict[str, Any]] = []
    pooled: dict[str, Bins] = {}
    for cell in cells:
        try:
            arrays = cell.predictions()
            p, labels = arrays["probabilities"], arrays["label"]
            found = bins(p, labels)
        except (OSError, KeyError, ValueError) as error:  # a UserError is a ValueError
            raise UserError(f"{cell.directory / 'predictions.npz'}: {error}") from error
        pooled[cell.arm] = pooled[cell.arm] + found if cell.arm in pooled else found
        n = int(found.counts.sum())
        numbers = {
            "error": 100 * (1 - found.right.sum() / n),
            "confidence": 100 * found.confidence.sum() / n,
            "ece": 100 * found.ece,
            "mce": 100 * found.mce,
            "nll": nll(p, labels),
            "brier": brier(p, labels),
        }
        texts = {key: f"{value:.6g}" for key, value in numbers.items()}
        rows.append({"arm": cell.arm, "seed": cell.seed, "images": n, **texts})
        for number, (count, right, total) in enumerate(
            zip(found.counts, found.right, found.confidence, strict=True)
        ):
            by_bin.append(
                {"arm": cell.arm, "seed": cell.seed, "low": f"{number / BINS:.6g}",
                 "high": f"{(number + 1) / BINS:.6g}", "images": int(count), "right": int(right),
                 "accuracy": f"{right / count:.6g}" if count else "",
                 "confidence": f"{total / count:.6g}" if count else ""}
            )  # fmt: skip
    table = [["arm", "seeds", "error %", "confidence %", "ECE %", "NLL", "Brier"]]
    eces = {}
    for arm in pooled:
        mine = [row for row in rows if row["arm"] == arm]
        found_ = {
            key: summarise([float(row[key]) for row in mine])
            for key in ("error", "confidence", "ece", "nll", "brier")
        }
        eces[arm] = found_["ece"]
        digits = (2, 2, 2, 4, 4)
        texts_ = [_plus_minus(s, d) for s, d in zip(found_.values(), digits, strict=True)]
        table.append([arm, str(len(mine)), *texts_])
    return common.Report(
        "calibration",
        {"calibration": rows, "bins": by_bin},
        lambda: draw(run, cells, pooled, eces),
        common.columns(table),
    )


def _plus_minus(summary: Summary, digits: int) -> str:
    spread = "" if math.isnan(summary.std) else f" ± {summary.std:.{digits}f}"
    return f"{summary.mean:.{digits}f}{spread}"


def draw(
    run: Run, cells: Sequence[Cell], pooled: dict[str, Bins], eces: dict[str, Summary]
) -> Figure:
    """Return a reliability diagram for each arm.

    Args:
        run: for titles and colours.
        cells: what it rests on.
        pooled: arm -> bins, summed over seeds.
        eces: arm -> ECE in percent over seeds.
    """
    from ablations.report import _axes

    columns = min(4, max(2, len(pooled)))
    lines = -(-len(pooled) // columns)
    with _axes.style():
        height = 0.7 + lines * (0.9 + 8.8 / columns)
        figure, panels = _axes.panels(height, lines, columns, sharex=True, sharey=True)
        for axis, (arm, found) in zip(panels, pooled.items(), strict=False):
            _draw_reliability(axis, found, _axes.colour(run, arm))
            axis.set_title(f"{arm}\nECE {_plus_minus(eces[arm], 2)} %", fontsize=11)
        for number, axis in enumerate(panels):
            axis.set_visible(number < len(pooled))
            if number >= len(pooled) - columns:
                axis.set_xlabel("confidence")
                axis.tick_params(labelbottom=True)
            if number % columns == 0:
                axis.set_ylabel("accuracy")
        sentences = [
            f"Bars: accuracy in {BINS} bins of confidence; line: their mean confidence; grey: "
            "share of the images. Counts pooled over seeds; ECE: mean ± sample standard deviation "
            "over seeds.",
            _axes.provenance(run, cells),
        ]
        return _axes.finish(figure, f"{run.grid['title']}: calibration", sentences)


def _draw_reliability(axis: Axes, found: Bins, tint: str) -> None:
    full = found.counts > 0
    middle = (np.arange(BINS) + 0.5) / BINS
    counts = np.maximum(found.counts, 1)
    axis.bar(
        middle[full], (found.right / counts)[full], 1 / BINS, color=tint, alpha=0.75,
        edgecolor="white", lw=0.6,
    )  # fmt: skip
    share = found.counts / found.counts.sum()
    axis.bar(middle, share, 0.35 / BINS, color="#444444", alpha=0.75)
    axis.plot((found.confidence / counts)[full], (found.confidence / counts)[full], "k.-", lw=1)
    axis.plot([0, 1], [0, 1], color="#888888", lw=0.8, ls="--", zorder=1)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_aspect("equal")
