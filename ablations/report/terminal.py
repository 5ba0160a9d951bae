"""The comparison table on a terminal of any width; no number is ever cut off."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from ablations.report.comparison import Comparison, Row, duration, each, interval, percent
from ablations.report.table import (
    budget,
    macs,
    mean,
    one_line,
    planned_of,
    sections,
    sentences,
    state,
    tests,
)
from ablations.stats import Difference, Summary


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
    console.print(Text(one_line(comparison.title), style="bold"))
    for line in state(comparison):
        console.print(Text(line))
    console.print(table)
    if not layout.train_difference and len(comparison.rows) > 1:
        console.print(Text("(Δ of the training error: in table.md, or in a wider terminal)"))
    console.print()
    for line in comparison.caption:
        console.print(Text(line))
    for title, head, body in tests(comparison):
        console.print(Text(title, style="bold"))
        console.print(_tests(head, body, width))
    for line in sentences(comparison):
        console.print(Text(line))
    if comparison.paper:
        console.print(Text(f"¹ The paper's {comparison.paper}"))
    for title, lines in sections(comparison):
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
    matched = any(row.mismatch for row in comparison.rows)
    for row in comparison.rows:
        cells = _cells(row, layout, bool(comparison.paper), matched)
        table.add_row(*map(Text, cells))
    return table


def _difference(difference: Difference | None, word: str, seeds: int) -> str:
    text = interval(difference, seeds).replace(" [", "\n[").replace(" (", "\n(")
    return f"{text}\n{word}" if word else text


def _tests(head: list[str], body: list[list[str]], width: int) -> Any:
    """Return the table of tests; where it is too wide, one line an entry and not columns."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column, title in enumerate(head):
        table.add_column(title.replace(", ", "\n"), justify="left" if column == 0 else "right",
                         overflow="fold")  # fmt: skip
    for row in body:
        table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
    free = Console(width=1000).options
    if Measurement.get(Console(width=1000), free, table).maximum <= width:
        return table
    lines = [
        f"{row[0]}: " + "; ".join(f"{h} {c}" for h, c in zip(head[1:], row[1:], strict=True))
        for row in body
    ]
    return Text("\n".join(lines))


def _cells(row: Row, layout: _Layout, paper: bool, matched: bool) -> list[str]:
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
        cells.append(_difference(row.train_difference, row.train_word, row.train_error.n))
    cells += [
        _difference(row.test_difference, row.word, row.test_error.n),
        f"{row.arm.parameters:,}\n{macs(row.arm.macs)}"
        + (f"\n{budget(row).replace(' ', chr(0xA0))}" if matched else ""),
        f"{mean(row.images_per_second.mean)}\n{wall}",
    ]
    return [*cells, row.paper or "–"] if paper else cells
