"""The comparison table on a terminal of any width; no number is ever cut off."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from ablations.report.comparison import Comparison, Row, duration, each, interval, percent
from ablations.report.table import macs, matching_head, mean, planned_of, state
from ablations.stats import Summary


@dataclass(frozen=True)
class _Layout:
    """What a table leaves out, or stacks, to be narrower."""

    train_difference: bool
    seeds_a_line: int
    padding: tuple[int, int, int, int]


#: From the widest to the narrowest; the first that fits is taken.
_LAYOUTS = (
    _Layout(True, 5, (0, 1, 0, 1)),
    _Layout(True, 3, (0, 1, 0, 0)),
    _Layout(False, 3, (0, 1, 0, 1)),
    _Layout(False, 2, (0, 1, 0, 0)),
    _Layout(False, 1, (0, 1, 0, 0)),
)


def terminal(comparison: Comparison, width: int = 100, color: bool = False) -> str:
    """Return the table for a terminal of `width` columns."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.text import Text

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=color, no_color=not color)
    for layout in _LAYOUTS:
        table = _grid(comparison, layout)
        free = console.options.update(max_width=1000)
        if Measurement.get(console, free, table).maximum <= width:
            break
    console.print(Text(comparison.title, style="bold"))
    for line in state(comparison):
        console.print(Text(line))
    console.print(table)
    if not layout.train_difference and len(comparison.rows) > 1:
        console.print(Text("(Δ of the training error: in table.md, or in a wider terminal)"))
    console.print()
    for line in comparison.caption:
        console.print(Text(line))
    if comparison.paper:
        console.print(Text(f"¹ The paper's {comparison.paper}"))
    for title, lines in (
        (matching_head(comparison), comparison.audit.problems or comparison.audit.facts),
        ("Differences from the paper's protocol:", comparison.differences),
        ("Failed cells:", comparison.failures),
    ):
        if lines:
            console.print(Text(title, style="bold"))
            for line in lines:
                console.print(Text(f"  - {line}"))
    return text.getvalue()


def _grid(comparison: Comparison, layout: _Layout) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=layout.padding,
        header_style="bold",
        show_edge=False,
    )
    head = ["arm", "train\nerror %", "test\nerror %"]
    head += ["Δ train\n[95 %]"] * layout.train_difference
    head += ["Δ test\n[95 %]", "params\nMACs", "img/s\nwall"]
    head += ["paper\n¹"] if comparison.paper else []
    for column, title in enumerate(head):
        # Where even the last layout is too wide, numbers fold and do not end in an ellipsis.
        table.add_column(title, justify="left" if column == 0 else "right", overflow="fold")
    for row in comparison.rows:
        table.add_row(*(Text(cell) for cell in _cells(row, layout, bool(comparison.paper))))
    return table


def _cells(row: Row, layout: _Layout, paper: bool) -> list[str]:
    def seeds(summary: Summary) -> str:
        values = each(summary).split() if summary.n > 1 else []
        step = layout.seeds_a_line
        return "".join("\n" + " ".join(values[i : i + step]) for i in range(0, len(values), step))

    wall = duration(row.wall_seconds.mean).replace(" min ", "m").replace(" s", "s")
    differs = "" if row.arm.name == row.differs else row.differs.replace(", ", "\n") + "\n"
    cells = [
        f"{row.arm.name}\n{differs}n = {planned_of(row)}",
        percent(row.train_error) + seeds(row.train_error),
        percent(row.test_error) + seeds(row.test_error),
    ]
    if layout.train_difference:
        cells.append(interval(row.train_difference).replace(" [", "\n["))
    cells += [
        interval(row.test_difference).replace(" [", "\n["),
        f"{row.arm.parameters:,}\n{macs(row.arm.macs)}",
        f"{mean(row.images_per_second.mean)}\n{wall}",
    ]
    return [*cells, row.paper or "–"] if paper else cells
