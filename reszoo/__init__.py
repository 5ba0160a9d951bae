"""reszoo: every residual network from one declarative spec, for Keras 3.

    import reszoo
    model = reszoo.build("resnet34", shortcut="B")

`names`, `spec`, `describe` and `complexity` need neither numpy nor keras; `build` and `load`
import keras on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Complexity": "reszoo.costs",
    "ResNetSpec": "reszoo.specs",
    "SpecError": "reszoo.errors",
    "build": "reszoo.models",
    "complexity": "reszoo.costs",
    "describe": "reszoo.tables",
    "load": "reszoo.models",
    "names": "reszoo.catalog",
    "plan": "reszoo.plans",
    "spec": "reszoo.catalog",
}
__all__ = [
    "Complexity",
    "ResNetSpec",
    "SpecError",
    "build",
    "complexity",
    "describe",
    "load",
    "names",
    "plan",
    "spec",
]

if TYPE_CHECKING:
    from reszoo.catalog import names, spec
    from reszoo.costs import Complexity, complexity
    from reszoo.errors import SpecError
    from reszoo.models import build, load
    from reszoo.plans import plan
    from reszoo.specs import ResNetSpec
    from reszoo.tables import describe


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reszoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
