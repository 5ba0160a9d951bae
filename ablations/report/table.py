"""The comparison table as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, Literal

from ablations import inference
from ablations.records import Run
from ablations.report.captions import not_matched
from ablations.report.comparison import (
    Comparison,
    Row,
    bounds,
    duration,
    each,
    interval,
    percent,
    probability,
    signed,
)
from ablations.report.factors import level_texts

#: Columns of cells.csv, version 1: one row a cell, finished or not.
CELLS = (
    "schema", "arm", "seed", "state", "identity", "network", "shortcut", "depth", "parameters",
    "macs", "epochs", "steps", "images", "train_error", "test_error", "train_wrong", "test_wrong",
    "train_images", "test_images", "images_per_second", "train_seconds", "wall_seconds", "attempts",
    "selection", "fed_sha256", "initial_sha256", "final_sha256", "device", "threads", "strategy",
)  # fmt: skip


def markdown(comparison: Comparison) -> str:
    """Return the table as a Markdown document."""
    several = len(comparison.rows) > 1
    matched = any(row.mismatch for row in comparison.rows)
    head = ["arm", *comparison.factors, "parameters", "MACs", *["budget"] * matched, "n"]
    head += ["train error %", "each seed", "test error %", "each seed"]
    head += ["Δ train [95 %]", "it is", "Δ test [95 %]", "it is"] * several
    head += ["images/s", "wall a cell", *["paper ¹"] * bool(comparison.paper)]
    body = []
    for row in comparison.rows:
        cells = [
            row.arm.name,
            *(row.factors.get(name, "–") for name in comparison.factors),
            f"{row.arm.parameters:,}",
            macs(row.arm.macs),
            *[budget(row)] * matched,
            planned_of(row),
            percent(row.train_error),
            each(row.train_error),
            percent(row.test_error),
            each(row.test_error),
            *_compared(row) * several,
            mean(row.images_per_second.mean),
            duration(row.wall_seconds.mean),
            *[row.paper or "–"] * bool(comparison.paper),
        ]
        body.append(cells)
    lines = [f"# {one_line(comparison.title)}", "", *state(comparison), *_pipes(head, body)]
    lines += [""] + [f"{line}\n" for line in comparison.caption]
    for title, head, body in tests(comparison):
        lines += [f"## {title}", "", *_pipes(head, body), ""]
    lines += [f"{line}\n" for line in sentences(comparison)]
    if comparison.paper:
        lines.append(f"¹ The paper's {comparison.paper}\n")
    for title, items in sections(comparison):
        lines += [title, "", *(f"- {item}" for item in items), ""]
    return "\n".join(lines).rstrip() + "\n"


def _compared(row: Row) -> list[str]:
    if row.test_difference is None:
        return ["baseline", "", "baseline", ""]
    return [
        interval(row.train_difference, row.train_error.n),
        row.train_word or "–",
        interval(row.test_difference, row.test_error.n),
        row.word or "–",
    ]


def _pipes(head: list[str], body: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
        for cells in [head, ["---"] * len(head), *body]
    ]


def tests(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, head and rows of the tables of tests that there are: test, training error."""
    found = []
    kinds: tuple[tuple[Literal["test", "train"], str], ...] = (
        ("test", "Statistics of the test error"), ("train", "Statistics of the training error"),
    )  # fmt: skip
    for error, title in kinds:
        head, body = statistics(comparison, error)
        if body:
            found.append((title, head, body))
    return found


def sentences(comparison: Comparison) -> list[str]:
    """Return the sentences under the tables of tests."""
    lines = list(comparison.statistics)
    test, train = comparison.test, comparison.train
    if test and train and test.tested and train.tested:
        level = 100 * (1 - test.confidence)
        lines.append(
            f"Two families of tests, training and test error, each held at {level:.3g} %; not "
            "adjusted for each other."
        )
    if train and train.tested:
        block = train.block
        text = "Training error: as above"
        out = [f"{a} ({c.reason.split(':')[0]})" for a, c in train.comparisons.items()
               if not c.paired]  # fmt: skip
        if out:
            text += f"; without a test and not counted: {'; '.join(out)}"
        if not block.note:
            stds = ", ".join(f"{arm} {std:.2f}" for arm, std in block.stds.items())
            text += f"; arm + seed model: residual std {block.std:.2f} points. Stds: {stds}"
        lines.append(f"{text}.")
    return lines


def statistics(
    comparison: Comparison, error: Literal["test", "train"] = "test"
) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of tests, one row an arm; of one seed, by test images.

    No rows where there is nothing to test.
    """
    family = comparison.test if error == "test" else comparison.train
    if comparison.images and error == "test":
        head = ["arm", "Δ test, points", "95 % over test images", "McNemar's p", "mid-p"]
        return head, [
            [arm, signed(x.difference), bounds(x.interval), probability(x.p), probability(x.mid_p)]
            for arm, x in comparison.images.items()
        ]
    if family is None or not family.tested:
        return [], []
    head = ["arm", f"Δ {error}", "simultaneous", "p", "Holm p"]
    if family.margin is not None:
        head.append(f"TOST ±{family.margin:g}, Holm p")
    head += ["std of Δ", "detectable", *["seeds needed"] * (family.detect is not None)]
    head += ["pooled model: Δ [95 %]", "Holm p"]
    body = []
    for arm, x in family.comparisons.items():
        paired, block = x.paired, x.block
        cells = [
            arm,
            signed(x.mean) if not math.isnan(x.mean) else "–",
            bounds(paired.simultaneous if paired else None),
            probability(paired.p if paired else None),
            probability(paired.holm if paired else None),
        ]
        cells += [probability(x.tost_holm)] * (family.margin is not None)
        cells += [
            f"{x.std:.2f}" if not math.isnan(x.std) else "–",
            "–" if x.detectable is None else _two(x.detectable, x.detectable_holm),
        ]
        if family.detect is not None:
            cells.append("–" if x.seeds_needed is None else _both(x))
        cells += [f"{signed(block.mean)} {bounds(block.interval)}" if block else "–"]
        body.append([*cells, probability(block.holm if block else None)])
    return head, body


def effects_head(comparison: Comparison) -> str:
    """Return the title of `effect_lines`."""
    staged = comparison.test is not None and comparison.test.first_stage
    also = "; not adjusted for Stein's rule" * bool(staged)
    return f"Main effects and interaction (test error{also}):"


def effect_lines(comparison: Comparison) -> list[str]:
    """Return one line for each main effect and the interaction of a grid of two factors."""
    effects = comparison.effects
    if effects is None or effects.a.f is None:
        return []
    lines = []
    names = (*comparison.factors, " x ".join(comparison.factors))
    for name, effect in zip(names, (effects.a, effects.b, effects.interaction), strict=True):
        levels = ", ".join(
            f"{' '.join(map(str, k)) if isinstance(k, tuple) else k} {signed(v)}"
            for k, v in effect.deviations.items()
        )
        lines.append(
            f"{name}: F({effect.degrees}, {effects.degrees}) = {effect.f:.2f}, "
            f"{_p(effect.p)}; deviations {levels}"
        )
    if effects.contrast is not None:
        lines.append(
            f"interaction as one contrast, by seed: {interval(effects.contrast)} points, "
            f"{_p(effects.contrast_p)}"
        )
    return lines


def _p(p: float | None) -> str:
    text = probability(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _two(plain: float, strict: float | None) -> str:
    def text(points: float) -> str:
        return "> 100" if points > 100 else f"{points:.2f}"  # no error differs by more

    if strict is None or text(strict) == text(plain):
        return text(plain)
    return f"{text(plain)} ({text(strict)})"


def _both(x: inference.Comparison) -> str:
    if x.seeds_needed_holm in (None, x.seeds_needed):
        return str(x.seeds_needed)
    return f"{x.seeds_needed} ({x.seeds_needed_holm})"


def table_csv(comparison: Comparison) -> str:
    """Return the table as CSV: one row an arm, plain numbers."""
    rows = []
    matched = any(row.mismatch for row in comparison.rows)
    factors = dict.fromkeys(name for row in comparison.rows for name in row.arm.factors)
    for row in comparison.rows:
        flat: dict[str, Any] = {
            "schema": 1,
            "arm": row.arm.name,
            **{f"factor.{name}": "" for name in factors},  # of a comparator, which has none
            **{f"factor.{k}": text for k, text in level_texts(row.arm, factors).items()},
            "parameters": row.arm.parameters,
            "macs": row.arm.macs,
            "n": row.test_error.n,
            "planned": row.planned,
        }
        for name, summary, difference in (
            ("train_error", row.train_error, row.train_difference),
            ("test_error", row.test_error, row.test_difference),
        ):
            flat[f"{name}_mean"] = _number(summary.mean)
            flat[f"{name}_std"] = _number(summary.std)
            flat[f"{name}_each"] = " ".join(map(repr, summary.values))
            flat[f"{name}_pairs"] = difference.n if difference else ""
            flat[f"{name}_difference"] = _number(difference.mean) if difference else ""
            flat[f"{name}_low"] = _number(difference.low) if difference else ""
            flat[f"{name}_high"] = _number(difference.high) if difference else ""
        found, trained = (
            family.comparisons.get(row.arm.name) if family else None
            for family in (comparison.test, comparison.train)
        )
        paired, train_paired = (x.paired if x else None for x in (found, trained))
        flat["train_word"] = row.train_word
        flat["train_p"] = _number(train_paired.p if train_paired else None)
        flat["train_holm_p"] = _number(train_paired.holm if train_paired else None)
        flat["test_word"] = row.word
        flat["test_p"] = _number(paired.p if paired else None)
        flat["test_holm_p"] = _number(paired.holm if paired else None)
        flat["test_simultaneous_low"] = _number(paired.simultaneous[0] if paired else None)
        flat["test_simultaneous_high"] = _number(paired.simultaneous[1] if paired else None)
        flat["test_detectable"] = _number(found.detectable if found else None)
        flat["budget_mismatch"] = budget(row) if matched else ""
        flat["images_per_second"] = _number(row.images_per_second.mean)
        flat["wall_seconds"] = _number(row.wall_seconds.mean)
        flat["baseline"] = comparison.baseline
        flat["matched"] = comparison.audit.matched
        flat["paper"] = row.paper
        flat["paper_protocol"] = comparison.paper if row.paper else ""
        rows.append(flat)
    return _csv(list(rows[0]), rows)


def cells_csv(run: Run) -> str:
    """Return one row a cell as CSV (tidy), columns as in `CELLS`."""
    arms = {arm.name: arm for arm in run.arms}
    rows = []
    for cell in run.cells:
        arm = arms[cell.arm]
        spec = arm.spec or {}
        results = cell.record["results"] if cell.record else {}
        matched = cell.record["matched"] if cell.record else {}
        values = {
            **results,
            **{k: v for k, v in matched.items() if k != "initial_tensors"},
            **(cell.record or {}),
            **(cell.config.get("platform") or run.grid["platform"]),
            "schema": 1,
            "arm": cell.arm,
            "seed": cell.seed,
            "state": cell.state,
            "network": arm.network,
            "shortcut": spec.get("shortcut", ""),
            "depth": arm.weighted_layers,
            "parameters": arm.parameters,
            "macs": arm.macs,
            "epochs": arm.recipe["epochs"],
            "attempts": len(cell.attempts()),
        }
        rows.append({name: values.get(name, "") for name in CELLS})
    return _csv(list(CELLS), rows)


def state(comparison: Comparison, mismatches: bool = True) -> list[str]:
    """Return what stands above the table of a run that is unfinished or not matched.

    Args:
        comparison: any.
        mismatches: False where the audit's lines themselves stand there.
    """
    lines = []
    if comparison.done != comparison.planned:
        lines.append(f"UNFINISHED: {comparison.done} of {comparison.planned} cells are done.")
    if mismatches and (line := not_matched(comparison.audit)):
        lines.append(f"{line} Listed below.")
    return [x for line in lines for x in (line, "")]


def sections(comparison: Comparison) -> list[tuple[str, Sequence[str]]]:
    """Return title and lines of what stands below the tables, as far as there is any."""
    every: list[tuple[str, Sequence[str]]] = [
        (effects_head(comparison), effect_lines(comparison)),
        (matching_head(comparison), comparison.audit.problems or comparison.audit.facts),
        ("Differences from the paper's protocol:", comparison.differences),
        ("Failed cells:", comparison.failures),
    ]
    return [(title, lines) for title, lines in every if lines]


def matching_head(comparison: Comparison) -> str:
    """Return the sentence above the audit's lines."""
    if not comparison.audit.matched:
        allowed = " (allowed by --allow_unmatched)" if comparison.audit.allowed else ""
        return f"NOT MATCHED{allowed}. These differences are not factors of the grid:"
    return "Matched (checked on the records):"


def planned_of(row: Row) -> str:
    """Return how many seeds a row rests on."""
    n = row.test_error.n
    return str(n) if n == row.planned else f"{n} of {row.planned}"


def budget(row: Row) -> str:
    """Return an arm's mismatch in a grid that matches a budget, of which one is the reference."""
    return row.mismatch or "reference"


def one_line(text: str) -> str:
    """Return a title without line breaks, which would end a heading."""
    return " ".join(text.split())


def macs(number: int) -> str:
    """Return multiply-accumulates in M or G."""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def mean(value: float) -> str:
    """Return a rounded mean, or a dash."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _csv(names: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
