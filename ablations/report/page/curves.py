"""The curves of a page: their data, and the controls that page.js brings to life."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ablations.records import Run
from ablations.report.page.markup import Markup, h

#: Numbers in all curves together. With more, every k-th epoch is drawn, so that 12 arms x 5 seeds
#: x 182 epochs fit whole, and no page of curves exceeds 1 MB.
LARGEST = 100_000

#: Names of quantities, in the order of the choice; what else a history holds comes after them.
_METRICS = {
    "test_error": "test error, %",
    "validation_error": "validation error, %",
    "train_error_running": "training error while training, %",
    "test_loss": "test loss",
    "validation_loss": "validation loss",
    "train_loss_running": "training loss while training",
    "learning_rate": "learning rate",
}
_AXES = {"epoch": "epoch", "step": "iterations", "images": "images seen"}
_NOT_SHOWN = (*_AXES, "seconds", "images_per_second")


def data(run: Run) -> dict[str, Any]:
    """Return the data of the curves, for page.js.

    Keys: arms (names); step (every step-th epoch is there); series (columns, rounded to four
    digits, equal ones once; null: not finite); cells, each with arm (index), seed, done, and x and
    y: name of a column of the history -> index in series.
    """
    cells = [cell for cell in run.cells if cell.history]
    there = dict.fromkeys(name for cell in cells for row in cell.history for name in row)
    metrics = [name for name in {**_METRICS, **there} if name in there and name not in _NOT_SHOWN]
    total = sum(len(cell.history) for cell in cells) * len(metrics)
    step = math.ceil(total / LARGEST) or 1
    series: dict[str, int] = {}

    def column(rows: list[dict[str, float]], name: str) -> int:
        values = [_rounded(row.get(name, math.nan), name in _AXES) for row in rows]
        return series.setdefault(json.dumps(values), len(series))

    places = {arm.name: number for number, arm in enumerate(run.arms)}
    lines = []
    for cell in cells:
        rows = cell.history[step - 1 :: step]
        if not rows or rows[-1] is not cell.history[-1]:
            rows = [*rows, cell.history[-1]]
        lines.append(
            {
                "arm": places[cell.arm],
                "seed": cell.seed,
                "done": cell.state == "done",
                "x": {name: column(rows, name) for name in _AXES},
                "y": {
                    name: column(rows, name)
                    for name in metrics
                    if any(math.isfinite(row.get(name, math.nan)) for row in rows)
                },
            }
        )
    return {
        "arms": [arm.name for arm in run.arms],
        "step": step,
        "series": [json.loads(text) for text in series],
        "cells": lines,
    }


def _rounded(value: float, exact: bool) -> float | None:
    if not math.isfinite(value):
        return None
    short = float(value if exact else f"{value:.4g}")
    return int(short) if short.is_integer() else short


def plot(run: Run, data: dict[str, Any]) -> Iterator[Markup]:
    """Return legend, figure and controls.

    Args:
        run: its records.
        data: from the function of that name.
    """
    there = dict.fromkeys(name for cell in data["cells"] for name in cell["y"])
    if not there:
        yield h("p", "No curve yet: no cell is finished.")
        return
    names = {name: name.replace("_", " ") for name in there} | _METRICS
    options = [h("option", names[n], value=n) for n in {**_METRICS, **there} if n in there]
    metric = h("select", *options, id="metric")
    axis = h("select", *(h("option", t, value=n) for n, t in _AXES.items()), id="axis")
    buttons = [
        h("button", text, type="button", id=name)
        for name, text in (("reset", "Reset zoom"), ("all", "All arms"), ("none", "No arm"))
    ]
    tools = h(
        "div",
        h("label", "Show", metric),
        h("label", "over", axis),
        h("label", h("input", type="checkbox", id="seeds", checked=True), "each seed"),
        *buttons,
        class_="tools",
    )
    drawn = {cell["arm"] for cell in data["cells"]}
    legend = []
    for number, arm in enumerate(run.arms):
        stroke = h("line", class_="curve mean", x1=1, x2=25, y1=5, y2=5)
        swatch = h("svg", stroke, width=26, height=10, aria_hidden="true")
        legend.append(
            h(
                "button",
                swatch,
                h("span", arm.name),
                h("output"),
                type="button",
                class_=f"c{number % 7} d{number // 7 % 5}",
                aria_pressed="true",
                data_arm=arm.name,
                disabled=number not in drawn,
            )
        )
    arms = h("div", *legend, id="legend", role="group", aria_label="Arms shown")
    yield h("figure", tools, arms, h("div", id="plot"))
    hint = (
        "Drag to zoom, flat for the horizontal axis alone; double-click to reset. "
        "With the keyboard, in the figure: + − ← → 0."
    )
    yield h("p", hint, id="hint", class_="small screen", data_text=hint)
    text = "Bold: mean over the finished seeds of an arm; thin: each seed."
    if data["step"] > 1:
        text += f" Drawn: one epoch in {data['step']}, and the last; all are in history.csv."
    yield h("p", text, class_="small")
    yield h("noscript", h("p", "The curves need JavaScript; the numbers are in history.csv."))
