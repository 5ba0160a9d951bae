"""What a person sees while a grid runs: on standard error, rich on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ablations.report.comparison import duration


@dataclass(frozen=True)
class Running:
    """A cell in training: name, position, and images a second (0: not known yet)."""

    name: str
    phase: str
    epoch: float
    epochs: float
    images_per_second: float


@dataclass(frozen=True)
class Snapshot:
    """The state of a grid: cells by state, and seconds left (None: not known yet)."""

    done: int
    failed: int
    planned: int
    running: Sequence[Running]
    left: float | None

    def line(self) -> str:
        """Return the counts in one line."""
        text = f"cells {self.done}/{self.planned} done"
        if self.failed:
            text += f", {self.failed} failed"
        if self.left is not None and self.done + self.failed < self.planned:
            text += f", about {duration(self.left)} left"
        return text


class Display(Protocol):
    """Where progress goes."""

    def event(self, text: str) -> None:
        """Show a line that stays."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the current state."""

    def close(self) -> None:
        """Leave the screen in order."""


class Silent:
    """Shows nothing."""

    def event(self, text: str) -> None:
        """Ignore."""

    def update(self, snapshot: Snapshot) -> None:
        """Ignore."""

    def close(self) -> None:
        """Nothing to do."""


class Lines:
    """Plain lines with the time, for logs and pipes; a state line at most every `every` seconds."""

    def __init__(self, every: float = 30.0) -> None:
        self._every = every
        self._last = time.monotonic()

    def event(self, text: str) -> None:
        """Print a line."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def update(self, snapshot: Snapshot) -> None:
        """Print the state when it is due."""
        if time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        running = "; ".join(_running(cell) for cell in snapshot.running)
        self.event(f"{snapshot.line()} | {running}" if running else snapshot.line())

    def close(self) -> None:
        """Nothing to do."""


class Live:
    """A block at the bottom of the terminal that is redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(stderr=True, no_color="NO_COLOR" in os.environ)
        self._live = RichLive(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def event(self, text: str) -> None:
        """Print a line above the block."""
        self._console.print(text, markup=False, highlight=False)

    def update(self, snapshot: Snapshot) -> None:
        """Redraw the block."""
        from rich.text import Text

        total = max(1, snapshot.planned)
        partial = sum(cell.epoch / cell.epochs for cell in snapshot.running if cell.epochs)
        filled = round(40 * min(1.0, (snapshot.done + snapshot.failed + partial) / total))
        text = Text()
        text.append("█" * filled, style="green")
        text.append("░" * (40 - filled), style="dim")
        text.append(f" {snapshot.line()}\n")
        for cell in snapshot.running:
            text.append(f"  {_running(cell)}\n", style="dim")
        self._live.update(text)

    def close(self) -> None:
        """Remove the block."""
        self._live.stop()


def display() -> Display:
    """Return the display that fits standard error."""
    return Live() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()


def _running(cell: Running) -> str:
    if cell.phase != "training":
        return f"{cell.name} {cell.phase}"
    speed = f", {cell.images_per_second:,.0f} img/s" if cell.images_per_second else ""
    return f"{cell.name} epoch {cell.epoch:.1f}/{cell.epochs:g}{speed}"
