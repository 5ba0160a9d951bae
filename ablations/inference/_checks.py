"""Checks and words that the parts of inference share."""

from __future__ import annotations

import math

from ablations.errors import UserError

Interval = tuple[float, float]


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def check_positive(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name} {value:g}: must be above 0 (percentage points of error)")


def check_proper(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence {confidence:g}: must lie between 0 and 1")
