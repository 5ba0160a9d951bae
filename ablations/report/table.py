"""The comparison table as terminal text, Markdown and CSV."""

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
from ablations.stats import Summary

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
    lines = [f"# {comparison.title}", "", *_state(comparison)]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in comparison.rows:
        cells = [
            row.arm.name,
            row.differs,
            f"{row.arm.parameters:,}",
            _macs(row.arm.macs),
            _n(row),
            percent(row.train_error),
            each(row.train_error),
            percent(row.test_error),
            each(row.test_error),
            interval(row.train_difference),
            interval(row.test_difference),
            _mean(row.images_per_second.mean),
            duration(row.wall_seconds.mean),
        ]
        if comparison.paper:
            cells.append(row.paper or "–")
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    lines += [""] + [f"{line}\n" for line in comparison.caption]
    if comparison.paper:
        lines.append(f"¹ The paper's {comparison.paper}\n")
    lines += _list(_matching_head(comparison), comparison.audit.problems or comparison.audit.facts)
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


def terminal(comparison: Comparison, width: int = 100, color: bool = False) -> str:
    """Return the table for a terminal of `width` columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide, narrow = width >= 112, width < 96
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        header_style="bold",
        show_edge=False,
    )
    head = ["arm", "train error %", "test error %"]
    head += ["Δ train\n[95 %]"] * wide + ["Δ test\n[95 %]", "params\nMACs", "img/s\nwall"]
    head += ["paper\n¹" if narrow else "paper¹"] if comparison.paper else []
    for column, title in enumerate(head):
        table.add_column(title, justify="left" if column == 0 else "right", no_wrap=column > 0)

    def seeds(summary: Summary) -> str:
        values = each(summary).split() if summary.n > 1 else []
        step = 2 if narrow else max(3, len(values))
        return "".join("\n" + " ".join(values[i : i + step]) for i in range(0, len(values), step))

    for row in comparison.rows:
        wall = duration(row.wall_seconds.mean).replace(" min ", "m").replace(" s", "s")
        cells = [
            f"{row.arm.name}\n"
            + ("" if row.arm.name == row.differs else f"{row.differs}, ")
            + f"n = {_n(row)}",
            percent(row.train_error) + seeds(row.train_error),
            percent(row.test_error) + seeds(row.test_error),
            *([interval(row.train_difference).replace(" [", "\n[")] * wide),
            interval(row.test_difference).replace(" [", "\n["),
            f"{row.arm.parameters:,}\n{_macs(row.arm.macs)}",
            f"{_mean(row.images_per_second.mean)}\n{wall}",
        ]
        if comparison.paper:
            cells.append(row.paper or "–")
        table.add_row(*(Text(cell) for cell in cells))
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=color, no_color=not color)
    console.print(Text(comparison.title, style="bold"))
    for line in _state(comparison):
        console.print(Text(line))
    console.print(table)
    if not wide and len(comparison.rows) > 1:
        console.print(Text("(Δ train: in table.md, or in a terminal of 112 columns)"))
    console.print()
    for line in comparison.caption:
        console.print(Text(line))
    if comparison.paper:
        console.print(Text(f"¹ The paper's {comparison.paper}"))
    for title, lines in (
        (_matching_head(comparison), comparison.audit.problems or comparison.audit.facts),
        ("Differences from the paper's protocol:", comparison.differences),
        ("Failed cells:", comparison.failures),
    ):
        if lines:
            console.print(Text(title, style="bold"))
            for line in lines:
                console.print(Text(f"  - {line}"))
    return text.getvalue()


def _state(comparison: Comparison) -> list[str]:
    if comparison.done == comparison.planned:
        return []
    return [f"UNFINISHED: {comparison.done} of {comparison.planned} cells are done.", ""]


def _matching_head(comparison: Comparison) -> str:
    if not comparison.audit.matched:
        return "NOT MATCHED. The records show differences that are not factors of the grid:"
    return "Matched (checked on the records):"


def _list(title: str, lines: Iterable[str]) -> list[str]:
    items = [f"- {line}" for line in lines]
    return [title, "", *items, ""] if items else []


def _n(row: Row) -> str:
    n = row.test_error.n
    return str(n) if n == row.planned else f"{n} of {row.planned}"


def _macs(macs: int) -> str:
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.2f} M"


def _mean(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _csv(names: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
