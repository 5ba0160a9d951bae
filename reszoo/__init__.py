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
    "ExportError": "reszoo.exporting",
    "Preprocessing": "reszoo.preprocessing",
    "ResNetSpec": "reszoo.specs",
    "SpecError": "reszoo.errors",
    "WeightFileError": "reszoo.weights.readers",
    "WeightsError": "reszoo.weights.index",
    "WeightsNotice": "reszoo.weights.loading",
    "backbone": "reszoo.models",
    "build": "reszoo.models",
    "complexity": "reszoo.costs",
    "describe": "reszoo.tables",
    "export": "reszoo.exporting",
    "export_torch": "reszoo.exporting",
    "fold_batch_norm": "reszoo.folding",
    "load": "reszoo.models",
    "names": "reszoo.catalog",
    "plan": "reszoo.plans",
    "spec": "reszoo.catalog",
}
__all__ = [
    "Complexity",
    "ExportError",
    "Preprocessing",
    "ResNetSpec",
    "SpecError",
    "WeightFileError",
    "WeightsError",
    "WeightsNotice",
    "backbone",
    "build",
    "complexity",
    "describe",
    "export",
    "export_torch",
    "fold_batch_norm",
    "load",
    "names",
    "plan",
    "spec",
]

if TYPE_CHECKING:
    from reszoo.catalog import names, spec
    from reszoo.costs import Complexity, complexity
    from reszoo.errors import SpecError
    from reszoo.exporting import ExportError, export, export_torch
    from reszoo.folding import fold_batch_norm
    from reszoo.models import backbone, build, load
    from reszoo.plans import plan
    from reszoo.preprocessing import Preprocessing
    from reszoo.specs import ResNetSpec
    from reszoo.tables import describe
    from reszoo.weights.index import WeightsError
    from reszoo.weights.loading import WeightsNotice
    from reszoo.weights.readers import WeightFileError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reszoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
