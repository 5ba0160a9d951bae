"""Mapping a function over items in threads, for work that lets several run side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_S = TypeVar("_S")
_MAX_THREADS = 8


def default_threads() -> int:
    """Return one thread a core, at most 8."""
    return min(_MAX_THREADS, os.cpu_count() or 1)


def map_chunks(
    function: Callable[[_S], _T], items: Sequence[_S], threads: int, size: int
) -> list[_T]:
    """Map in order, `size` items a task; the first exception is raised and the rest given up."""
    chunks = [items[begin : begin + size] for begin in range(0, len(items), size)]
    with ThreadPoolExecutor(threads) as pool:
        try:
            parts = list(pool.map(lambda chunk: [function(item) for item in chunk], chunks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [result for part in parts for result in part]
