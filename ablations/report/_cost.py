"""Error against cost, with the Pareto front and labels that do not overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.records import Run
from ablations.report._axes import (
    colour,
    finish,
    finished,
    marker,
    no_cells,
    panels,
    provenance,
    several,
    style,
)
from ablations.stats import summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def cost_suits(run: Run) -> str:
    """Return "", or why a run shows nothing about cost."""
    arms = finished(run)
    if len(arms) < 2:
        return no_cells(run) or "only one arm is finished"
    if len({(arm.macs, arm.parameters) for arm in arms}) < 2:
        return "all finished arms cost the same"
    return ""


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points no other point beats in both coordinates, by rising first coordinate.

    Args:
        points: (cost, error), both the smaller the better. Of equal points the first stands.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def cost(run: Run) -> Figure:
    """Return mean test error against MACs and against parameters, with the Pareto front."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    arms = finished(run)
    summaries = [summarise([c.results["test_error"] for c in run.done(arm.name)]) for arm in arms]
    with style():
        figure, axes = panels(5.4, 1, 2, sharey=True)
        lines: list[list[tuple[float, float]]] = []
        for axis, field, label in zip(
            axes, ("macs", "parameters"), ("multiply-accumulates", "parameters"), strict=True
        ):
            x = [float(getattr(arm, field)) for arm in arms]
            front = pareto([(a, s.mean) for a, s in zip(x, summaries, strict=True)])
            corners = [(x[b], summaries[a].mean) for a, b in itertools.pairwise(front)]
            ends = [(x[i], summaries[i].mean) for i in front]
            stairs = [ends[0], *itertools.chain(*zip(corners, ends[1:], strict=True))]
            lines.append(stairs)
            if len(front) > 1:  # one arm that beats all others is no line to explain
                axis.plot(
                    *zip(*stairs, strict=True),
                    color="#999999", lw=1.4, zorder=1, label="Pareto front",
                )  # fmt: skip
            for arm, place, s in zip(arms, x, summaries, strict=True):
                axis.errorbar(
                    place, s.mean, None if math.isnan(s.std) else s.std, elinewidth=1, capsize=3,
                    color=colour(run, arm.name), marker=marker(run, arm.name), markersize=7,
                )  # fmt: skip
            axis.set_xscale("log")
            # Room for labels on both sides, also where all arms cost nearly the same.
            room = max((max(x) / min(x)) ** 0.4, 1.02)
            axis.set_xlim(min(x) / room, max(x) * room)
            narrow = max(x) * room < 10 * min(x) / room
            axis.xaxis.set_major_locator(MaxNLocator(3) if narrow else LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
            axis.set_xlabel(f"{label} (log scale)")
        axes[0].set_ylabel("test error (%)")
        axes[0].margins(y=0.12)
        for axis in axes:
            if axis.get_legend_handles_labels()[1]:
                axis.legend(loc="upper right")
                break
        spread = "bars: ± sample standard deviation of the seeds." if several(run) else ""
        finish(figure, run.grid["title"], [f"Points: mean over seeds; {spread}", provenance(run)])
        for axis, field, stairs in zip(axes, ("macs", "parameters"), lines, strict=True):
            bars = [
                [(getattr(arm, field), s.mean + sign * s.std) for sign in (-1, 1)]
                for arm, s in zip(arms, summaries, strict=True)
                if s.n > 1
            ]
            _place_labels(
                axis,
                [
                    (getattr(arm, field), s.mean, arm.name, colour(run, arm.name))
                    for arm, s in zip(arms, summaries, strict=True)
                ],
                [stairs, *bars],
            )
        return figure


def _place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float, str, str]],
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    size: float = 9.5,
) -> None:
    """Write a label beside each point, where it covers no other label, no point and no line.

    Call it last: the axes' limits and the figure's layout must be final.

    Args:
        axes: where.
        points: x, y (data), text and colour.
        lines: corners (data) of lines to keep clear.
        size: of the letters, in points.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    frame = (axes.bbox.x0 + 4, axes.bbox.y0 + 4, axes.bbox.x1 - 4, axes.bbox.y1 - 4)
    centres = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [(cx - 5, cy - 5, cx + 5, cy + 5) for cx, cy in centres]
    corners = [[axes.transData.transform(point) for point in line] for line in lines]
    for start, end in itertools.chain.from_iterable(map(itertools.pairwise, corners)):
        pieces = max(1, int(math.dist(start, end) / 6))
        for piece in range(pieces + 1):
            cx, cy = start + (end - start) * piece / pieces
            taken.append((cx - 1, cy - 1, cx + 1, cy + 1))
    boxes = np.array(taken)
    for (x, y, text, tint), (cx, cy) in zip(points, centres, strict=True):
        note: Any = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", color=tint, fontsize=size,
            va="center", annotation_clip=False, arrowprops={"arrowstyle": "-", "color": tint,
            "lw": 0.6},
        )  # fmt: skip
        note.set_in_layout(False)
        width, height = _extent(note, renderer)
        for dx, dy, side in _offsets():
            left = cx + dx * scale - width * {"left": 0.0, "center": 0.5, "right": 1.0}[side]
            low = cy + dy * scale - height / 2
            box = (left, low, left + width, low + height)
            inside = frame[0] <= box[0] and frame[1] <= box[1]
            inside = inside and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not _overlaps(box, boxes):
                break
        note.xyann = (dx, dy)
        note.set_ha(side)
        if abs(dx) + abs(dy) <= 20:
            note.arrow_patch.set_visible(False)
        boxes = np.vstack([boxes, box])


def _overlaps(box: tuple[float, float, float, float], others: np.ndarray) -> bool:
    return bool(
        np.any(
            (box[0] < others[:, 2])
            & (others[:, 0] < box[2])
            & (box[1] < others[:, 3])
            & (others[:, 1] < box[3])
        )
    )


def _extent(note: Any, renderer: Any) -> tuple[float, float]:
    """Return width and height of an annotation's text in pixels, without its line."""
    from matplotlib.text import Text

    note.update_positions(renderer)
    box = Text.get_window_extent(note, renderer)
    return box.width, box.height


def _offsets() -> Iterator[tuple[float, float, str]]:
    """Yield where a label may stand, in points, the nearest first; the last is taken if all fail.

    The last one is right beside the point: a label that covers another is found, a lost one is not.
    """
    for reach in (0, 13, 26, 39, 52, 70, 90):
        for vertical in (reach, -reach) if reach else (0,):
            yield 8 + reach / 3, vertical, "left"
            yield -8 - reach / 3, vertical, "right"
            if reach:
                yield 0, vertical, "center"
    yield 8, 0, "left"
