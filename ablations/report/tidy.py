"""statistics.csv: every number that the words of a comparison rest on, one row a test."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from ablations.inference import Effect, Estimate, Family
from ablations.report.comparison import Comparison

#: Columns of statistics.csv, version 1. Errors in percent, differences in percentage points.
COLUMNS = (
    "schema", "error", "kind", "arm", "baseline", "factor", "level", "n", "mean", "std",
    "standard_error", "degrees", "degrees_below", "t", "f", "p", "holm_p", "mid_p", "confidence",
    "low", "high", "simultaneous_low", "simultaneous_high", "margin", "tost_p", "tost_holm_p",
    "detectable", "detectable_holm", "detect", "seeds_needed", "seeds_needed_holm", "images",
    "only_baseline", "only_arm", "word", "first_stage", "note", "matched",
)  # fmt: skip

#: Of the intervals of effects and of McNemar's test, which `compare` leaves at the default.
_CONFIDENCE = 0.95


def statistics_csv(comparison: Comparison) -> str:
    """Return the tests as CSV (tidy), columns as in `COLUMNS`; what does not apply is empty.

    `kind` says what a row is: "paired", an arm's differences from the baseline by seed; "block",
    the same in the arm + seed model; "mcnemar", over the test images of one seed; "effect", an F
    test of a main effect or the interaction; "deviation", one level of these; "contrast", the
    interaction of a 2 x 2 grid by seed.
    """
    rows: list[dict[str, Any]] = []
    for error, family in (("train", comparison.train), ("test", comparison.test)):
        if family is not None:
            rows += [{"error": error, **row} for row in _family(family)]
    rows += [{"error": "test", **row} for row in (*_images(comparison), *_effects(comparison))]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    matched = comparison.audit.matched
    for row in rows:
        row["matched"] = matched
        writer.writerow({"schema": 1, **{name: _plain(value) for name, value in row.items()}})
    return text.getvalue()


def _family(family: Family) -> Iterator[dict[str, Any]]:
    for arm, x in family.comparisons.items():
        common = {
            "arm": arm,
            "baseline": family.baseline,
            "confidence": family.confidence,
            "first_stage": len(family.first_stage) or None,
        }
        yield {
            **common,
            "kind": "paired",
            "n": x.n,
            "mean": x.mean,
            "std": x.std,
            **_estimate(x.paired),
            "margin": family.margin,
            "tost_p": x.tost,
            "tost_holm_p": x.tost_holm,
            "detectable": x.detectable,
            "detectable_holm": x.detectable_holm,
            "detect": family.detect,
            "seeds_needed": x.seeds_needed,
            "seeds_needed_holm": x.seeds_needed_holm,
            "word": x.word,
            "note": x.reason,
        }
        if x.block:
            yield {
                **common,
                "kind": "block",
                "n": x.block.n,
                "mean": x.block.mean,
                "std": family.block.std,
                **_estimate(x.block),
                "note": "std: of the residual",
            }


def _estimate(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "standard_error": found.error,
        "degrees": found.degrees,
        "t": found.t,
        "p": found.p,
        "holm_p": found.holm,
        "low": found.interval[0],
        "high": found.interval[1],
        "simultaneous_low": found.simultaneous[0],
        "simultaneous_high": found.simultaneous[1],
    }


def _images(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for arm, x in comparison.images.items():
        yield {
            "kind": "mcnemar",
            "arm": arm,
            "baseline": comparison.baseline,
            "n": 1,
            "mean": x.difference,
            "p": x.p,
            "mid_p": x.mid_p,
            "confidence": _CONFIDENCE,
            "low": x.interval[0],
            "high": x.interval[1],
            "images": x.images,
            "only_baseline": x.only_baseline,
            "only_arm": x.only_arm,
            "note": "interval over test images",
        }


def _effects(comparison: Comparison) -> Iterator[dict[str, Any]]:
    effects, test = comparison.effects, comparison.test
    if effects is None:
        return
    note = "not adjusted for Stein's rule" if test and test.first_stage else ""
    both = " x ".join(comparison.factors)
    found: list[tuple[str, Effect]] = list(
        zip(
            (*comparison.factors, both), (effects.a, effects.b, effects.interaction), strict=True
        )
    )  # fmt: skip
    for name, effect in found:
        common = {"factor": name, "n": len(effects.seeds), "note": note}
        yield {
            **common,
            "kind": "effect",
            "std": effects.std,
            "degrees": effect.degrees,
            "degrees_below": effects.degrees,
            "f": effect.f,
            "p": effect.p,
        }
        for level, mean in effect.deviations.items():
            text = " ".join(map(str, level)) if isinstance(level, tuple) else str(level)
            yield {**common, "kind": "deviation", "level": text, "mean": mean}
    if (contrast := effects.contrast) is not None:
        yield {
            "kind": "contrast",
            "factor": both,
            "n": contrast.n,
            "mean": contrast.mean,
            "low": contrast.low,
            "high": contrast.high,
            "p": effects.contrast_p,
            "confidence": _CONFIDENCE,
            "note": note,
        }


def _plain(value: Any) -> Any:
    """Return a value for CSV: nothing for None and nan, numbers to full precision."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value
