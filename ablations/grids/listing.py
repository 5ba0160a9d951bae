"""The table of the built-in grids."""

from __future__ import annotations

import io

from ablations import grids

_COLUMNS = ("grid", "preset", "arms", "baseline", "reproduces", "expected", "cost")
#: Columns of a terminal from which on every column has its own.
_WIDE = 120


def listing(width: int = 120, terminal: bool = False) -> str:
    """Return the built-in grids, a row a preset.

    Args:
        width: of the terminal, in characters.
        terminal: whether it is one: wrapped cells and colour; else a line a row, columns aligned.
    """
    rows = [_row(name, preset) for name in grids.names() for preset in grids.presets(name)]
    if not terminal:
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)).rstrip()
            for row in (_COLUMNS, *rows)
        )
    from rich.console import Console
    from rich.table import Table

    columns: tuple[str, ...] = _COLUMNS
    shown: list[tuple[str, ...]] = rows
    if width < _WIDE:  # two pairs of columns become two columns of two lines
        columns = ("grid\npreset", "arms\nbaseline", *_COLUMNS[4:])
        shown = [(f"{r[0]}\n{r[1]}", f"{r[2]}\nbaseline: {r[3]}", *r[4:]) for r in rows]
    table = Table(box=None, padding=(0, 1, 1, 0), header_style="bold")
    for column in columns:
        short = column.partition("\n")[0] in ("grid", "preset", "baseline")
        table.add_column(column, no_wrap=short, overflow="fold", ratio=None if short else 1)
    for row in shown:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=True).print(table)
    return text.getvalue().rstrip("\n")


def _row(name: str, preset: str) -> tuple[str, ...]:
    grid = grids.load(name, preset)
    return (
        name,
        preset,
        ", ".join(arm.name for arm in grid.arms),
        grid.baseline,
        grid.reproduces,
        grid.expect,
        grid.cost,
    )
