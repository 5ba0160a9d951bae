"""The comparison table as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from typing import Any

from ablations.records import Run
from ablations.report.comparison import (
    Comparison,
    Row,
    duration,
    each,
    interval,
    percent,
)

#: Columns of cells.csv, version 1: one row a cell, finished or not.
CELLS = (
    "schema", "arm", "seed", "state", "identity", "network", "shortcut", "depth", "parameters",
    "macs", "epochs", "steps", "images", "train_error", "test_error", "train_wrong", "test_wrong",
    "train_images", "test_images", "images_per_second", "train_seconds", "wall_seconds", "attempts",
    "selection", "fed_sha256", "initial_sha256", "final_sha256", "device", "threads", "strategy",
)  # fmt: skip


def markdown(comparison: Comparison) -> str:
    """Return the table as a Markdown document."""
    head = [
        "arm", "what differs", "parameters", "MACs", "n", "train error %", "each seed",
        "test error %", "each seed", "Δ train [95 %]", "Δ test [95 %]", "images/s", "wall a cell",
        "paper ¹",
    ]  # fmt: skip
    if not comparison.paper:
        head.pop()
    lines = [f"# {comparison.title}", "", *state(comparison)]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in comparison.rows:
        cells = [
            row.arm.name,
            row.differs,
            f"{row.arm.parameters:,}",
            macs(row.arm.macs),
            planned_of(row),
            percent(row.train_error),
            each(row.train_error),
            percent(row.test_error),
            each(row.test_error),
            interval(row.train_difference),
            interval(row.test_difference),
            mean(row.images_per_second.mean),
            duration(row.wall_seconds.mean),
        ]
        if comparison.paper:
            cells.append(row.paper or "–")
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    lines += [""] + [f"{line}\n" for line in comparison.caption]
    if comparison.paper:
        lines.append(f"¹ The paper's {comparison.paper}\n")
    lines += _list(matching_head(comparison), comparison.audit.problems or comparison.audit.facts)
    lines += _list("Differences from the paper's protocol:", comparison.differences)
    lines += _list("Failed cells:", comparison.failures)
    return "\n".join(lines).rstrip() + "\n"


def table_csv(comparison: Comparison) -> str:
    """Return the table as CSV: one row an arm, plain numbers."""
    rows = []
    for row in comparison.rows:
        flat: dict[str, Any] = {
            "schema": 1,
            "arm": row.arm.name,
            **{f"factor.{k}": v for k, v in row.arm.factors.items()},
            "parameters": row.arm.parameters,
            "macs": row.arm.macs,
            "n": row.test_error.n,
            "planned": row.planned,
        }
        for name, summary, difference in (
            ("train_error", row.train_error, row.train_difference),
            ("test_error", row.test_error, row.test_difference),
        ):
            flat[f"{name}_mean"] = _number(summary.mean)
            flat[f"{name}_std"] = _number(summary.std)
            flat[f"{name}_each"] = " ".join(map(repr, summary.values))
            flat[f"{name}_difference"] = _number(difference.mean) if difference else ""
            flat[f"{name}_low"] = _number(difference.low) if difference else ""
            flat[f"{name}_high"] = _number(difference.high) if difference else ""
        flat["images_per_second"] = _number(row.images_per_second.mean)
        flat["wall_seconds"] = _number(row.wall_seconds.mean)
        flat["baseline"] = comparison.baseline
        flat["matched"] = comparison.audit.matched
        flat["paper"] = row.paper
        flat["paper_protocol"] = comparison.paper if row.paper else ""
        rows.append(flat)
    return _csv(list(rows[0]), rows)


def cells_csv(run: Run) -> str:
    """Return one row a cell as CSV (tidy), columns as in `CELLS`."""
    arms = {arm.name: arm for arm in run.arms}
    rows = []
    for cell in run.cells:
        arm = arms[cell.arm]
        spec = arm.spec or {}
        results = cell.record["results"] if cell.record else {}
        matched = cell.record["matched"] if cell.record else {}
        values = {
            **results,
            **{k: v for k, v in matched.items() if k != "initial_tensors"},
            **(cell.record or {}),
            **run.grid["platform"],
            "schema": 1,
            "arm": cell.arm,
            "seed": cell.seed,
            "state": cell.state,
            "network": arm.network,
            "shortcut": spec.get("shortcut", ""),
            "depth": arm.weighted_layers,
            "parameters": arm.parameters,
            "macs": arm.macs,
            "epochs": arm.recipe["epochs"],
        }
        rows.append({name: values.get(name, "") for name in CELLS})
    return _csv(list(CELLS), rows)


def state(comparison: Comparison) -> list[str]:
    """Return what stands above the table of an unfinished run."""
    if comparison.done == comparison.planned:
        return []
    return [f"UNFINISHED: {comparison.done} of {comparison.planned} cells are done.", ""]


def matching_head(comparison: Comparison) -> str:
    """Return the sentence above the audit's lines."""
    if not comparison.audit.matched:
        return "NOT MATCHED. The records show differences that are not factors of the grid:"
    return "Matched (checked on the records):"


def _list(title: str, lines: Iterable[str]) -> list[str]:
    items = [f"- {line}" for line in lines]
    return [title, "", *items, ""] if items else []


def planned_of(row: Row) -> str:
    """Return how many seeds a row rests on."""
    n = row.test_error.n
    return str(n) if n == row.planned else f"{n} of {row.planned}"


def macs(number: int) -> str:
    """Return multiply-accumulates in M or G."""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def mean(value: float) -> str:
    """Return a rounded mean, or a dash."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _csv(names: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
