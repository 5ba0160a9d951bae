"""Watching a run from outside while it writes: files and directories come and go meanwhile."""

from __future__ import annotations

import glob
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def cells_with(run: Path, name: str) -> list[Path]:
    """Return the files of the cells whose names match; what vanishes in between is left out.

    `Path.rglob` does not do: it raises where a temporary directory vanishes before it is read.
    """
    return [Path(path) for path in glob.glob(str(run / "cells" / "*" / "*" / name))]


def processes(run: Path) -> list[int]:
    """Return the ids of the processes that train, or trained, the run's cells."""
    return [json.loads(path.read_text())["pid"] for path in cells_with(run, "progress.json")]


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 120
) -> None:
    """Wait for the condition; fail if the process has ended or the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "it ended before that"
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.002)


def wait_for_checkpoint(run: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until a cell of the run has a valid checkpoint."""
    wait_until(lambda: cells_with(run, "checkpoint-*.json"), process, seconds)
