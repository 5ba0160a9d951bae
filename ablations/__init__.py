"""ablations: matched grids of residual networks, with honest statistics.

import ablations
run = ablations.run_grid("shortcuts")
run = ablations.load("runs/shortcuts")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "UserError": "ablations.errors",
    "load": "ablations.records",
    "recipe": "ablations.recipes",
    "run_grid": "ablations.runner",
}
__all__ = ["UserError", "load", "recipe", "run_grid"]

if TYPE_CHECKING:
    from ablations.errors import UserError
    from ablations.recipes import recipe
    from ablations.records import load
    from ablations.runner import run_grid


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ablations' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
