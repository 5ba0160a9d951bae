"""A run as one self-contained HTML page: table, interactive curves, statistics, provenance.

The page asks the network for nothing: its style and script stand in it, and its
Content-Security-Policy forbids everything but these two, by their hashes. Whatever users can write
(names, titles, paths, notes) reaches the page through `h` and `json_text`, which escape it.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ablations.inference import Family
from ablations.records import Run
from ablations.report.comparison import Comparison, Row, duration, interval, percent, signed
from ablations.report.page import curves
from ablations.report.page.markup import Markup, digest, escape, h, json_text
from ablations.report.table import (
    effect_lines,
    effects_head,
    macs,
    matching_head,
    mean,
    planned_of,
    sentences,
    state,
    tests,
)
from ablations.stats import Difference

_PAGE = Path(__file__).parent / "page"

_WORDS = {"better": "good", "worse": "bad"}
_BAR = (170, 20)  # width, height of a difference's drawing, pixels


def page(run: Run, comparison: Comparison) -> str:
    """Return the page of a run, finished or not, as HTML.

    Args:
        run: its records.
        comparison: of the same run, from `compare`.
    """
    style = (_PAGE / "page.css").read_text(encoding="utf-8")
    script = (_PAGE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="referrer", content="no-referrer"),
        h("title", comparison.title),
        # Without an icon of its own, browsers ask the server for /favicon.ico.
        h("link", rel="icon", href="data:,"),
        Markup(f"<style>{style}</style>"),
    )
    data = curves.data(run)
    body = h(
        "body",
        h("header", *_headline(run, comparison)),
        h("main", *_sections(run, comparison, data)),
        Markup(f'<script type="application/json" id="data">{json_text(data)}</script>'),
        Markup(f"<script>{script}</script>"),
    )
    return f"<!DOCTYPE html>\n{h('html', head, body, lang='en')}\n"


def _headline(run: Run, comparison: Comparison) -> Iterator[Markup]:
    done, planned, audit = comparison.done, comparison.planned, comparison.audit
    yield h("h1", comparison.title)
    badges = [h("span", f"{done} of {planned} cells done", class_=_badge(done == planned))]
    if not audit.matched:
        badges.append(h("span", "NOT MATCHED", class_="badge bad"))
    elif audit.facts:
        badges.append(h("span", "MATCHED", class_="badge good"))
    else:
        badges.append(h("span", "nothing to match yet", class_="badge"))
    if failed := len(comparison.failures):
        badges.append(h("span", f"{failed} failed", class_="badge bad"))
    yield h("div", *badges, class_="state")
    for key, text in (("reproduces", "Reproduces"), ("expect", "Expected")):
        if run.grid.get(key):
            yield h("p", f"{text}: {run.grid[key]}")
    for line in filter(None, state(comparison, mismatches=False)):
        yield h("p", line, class_="warning")
    if not audit.matched:
        yield h("div", matching_head(comparison), _list(audit.problems), class_="warning")


def _badge(good: bool) -> str:
    return "badge good" if good else "badge note"


def _sections(run: Run, comparison: Comparison, data: dict[str, Any]) -> Iterator[Markup]:
    yield h("h2", "Comparison")
    yield from _table(run, comparison)
    for line in comparison.caption:
        yield h("p", line, class_="small")
    if comparison.paper:
        yield h("p", f"¹ The paper's {comparison.paper}", class_="small")
    yield h("h2", "Curves")
    yield from curves.plot(run, data)
    tables, explained = tests(comparison), sentences(comparison)
    for title, head, body in tables:
        yield h("h2", title)
        yield _plain(head, body)
    if explained and not tables:
        yield h("h2", "Statistics of the test error")
    for line in explained:
        yield h("p", line, class_="small")
    for title, lines in (
        (effects_head(comparison).rstrip(":"), effect_lines(comparison)),
        ("Matched (checked on the records)", comparison.audit.facts * comparison.audit.matched),
        ("Differences from the paper's protocol", comparison.differences),
        ("Failed cells", comparison.failures),
    ):
        if lines:
            yield h("h2", title)
            yield _list(lines)
    yield h("h2", "Reproduce")
    yield from _provenance(run)


def _list(lines: Iterable[str]) -> Markup:
    return h("ul", *(h("li", line) for line in lines))


def _plain(head: list[str], body: list[list[str]]) -> Markup:
    rows = [
        h("tr", h("th", line[0], scope="row"), *(h("td", cell) for cell in line[1:]))
        for line in body
    ]
    columns = [h("th", t, scope="col", class_=None if i else "left") for i, t in enumerate(head)]
    table = h("table", h("thead", h("tr", *columns)), h("tbody", *rows))
    return h("div", table, class_="scroll")


def _table(run: Run, comparison: Comparison) -> Iterator[Markup]:
    several = len(comparison.rows) > 1
    matched = any(row.mismatch for row in comparison.rows)
    whose = [f"{row.arm.name}'s" for row in comparison.rows if matched and not row.mismatch]
    reference = ", ".join(whose) or "the reference's" * matched
    bars = _Bars(comparison.rows)
    head = [h("th", "arm", scope="col", class_="left")]
    head += [h("th", _broken(name), scope="col", class_="left wrap") for name in comparison.factors]
    head += [h("th", text, scope="col") for text in ("n", "train error, %", "test error, %")]
    if several:
        for name in ("train", "test"):
            head.append(h("th", f"Δ {name}, points [95 %]", bars.axis(), scope="col"))
    for one, two in (("parameters", "MACs"), ("images/s", "wall a cell")):
        head.append(h("th", one, h("br"), two, scope="col"))
    head += [h("th", "paper ¹", scope="col")] * bool(comparison.paper)
    body = []
    for number, row in enumerate(comparison.rows):
        fold = f"seeds-{number}"
        toggle = h(
            "button", "▸", type="button", class_="toggle", aria_expanded="false",
            aria_controls=fold, aria_label=f"Seeds of {row.arm.name}", hidden=True,
        )  # fmt: skip
        cells = [h("th", toggle, row.arm.name, scope="row")]
        cells += [h("td", row.factors.get(f, "–"), class_="left") for f in comparison.factors]
        cells += [
            h("td", planned_of(row)),
            h("td", percent(row.train_error)),
            h("td", percent(row.test_error)),
        ]
        if several:
            for difference, seeds, word, reason in (
                (row.train_difference, row.train_error.n, row.train_word,
                 _reason(comparison.train, row)),
                (row.test_difference, row.test_error.n, row.word, row.reason),
            ):  # fmt: skip
                badge = [h("span", word, class_=f"badge {_WORDS.get(word, '')}")] if word else []
                drawn = bars.bar(difference)
                cells.append(h("td", interval(difference, seeds), drawn, *badge, *_small(reason)))
        budget = f"{row.mismatch} from {reference}" if row.mismatch else ""
        budget = budget or "budgets are matched to it" * bool(reference)
        cells += [
            h("td", f"{row.arm.parameters:,}", *_small(macs(row.arm.macs), budget)),
            h("td", mean(row.images_per_second.mean), *_small(duration(row.wall_seconds.mean))),
        ]
        cells += [h("td", row.paper or "–")] * bool(comparison.paper)
        body.append(h("tr", *cells))
        every = _seeds(run, row.arm.name, comparison.baseline)
        body.append(h("tr", h("td", every, colspan=len(head)), class_="each", id=fold))
    table = h("table", h("thead", h("tr", *head)), h("tbody", *body))
    button = h("button", "Show or hide every seed", type="button", id="unfold")
    yield h("div", button, class_="tools")
    yield h("div", table, class_="scroll", tabindex=0, role="region", aria_label="Comparison")


def _broken(name: str) -> Markup:
    """Return a field's name that may break after its underscores and dots."""
    parts = re.split(r"(?<=[._])", name)
    return Markup(h("wbr").join(Markup(escape(part)) for part in parts))


def _reason(family: Family | None, row: Row) -> str:
    """Return what a word on the training error rests on; why there is none stands once a row."""
    found = family.comparisons.get(row.arm.name) if family else None
    return found.reason if found and found.word else ""


def _small(*texts: str) -> list[Markup]:
    return [h("small", text) for text in texts if text]


def _seeds(run: Run, arm: str, baseline: str) -> Markup:
    """Return the values of each seed of an arm."""
    cells = [cell for cell in run.cells if cell.arm == arm]
    base = {cell.seed: cell.results for cell in run.done(baseline)} if arm != baseline else {}
    errors = ("train_error", "test_error")
    head = ["seed", "train error, %", "test error, %", *["Δ train", "Δ test"] * bool(base)]
    head += ["images/s", "wall", "state"]
    rows = []
    for cell in cells:
        texts = [str(cell.seed)]
        if cell.record:
            found = cell.results
            texts += [f"{found[name]:.2f}" for name in errors]
            if cell.seed in base:
                texts += [signed(found[name] - base[cell.seed][name]) for name in errors]
            elif base:
                texts += ["–"] * 2
            texts += [mean(found["images_per_second"]), duration(found["wall_seconds"])]
        else:
            texts += ["–"] * (len(head) - 2)
        status = f"{cell.state}: {cell.problem}" if cell.problem else cell.state
        rows.append(h("tr", *(h("td", t) for t in texts), h("td", status, class_="left problem")))
    columns = [h("th", t, scope="col", class_="left" if t == "state" else None) for t in head]
    return h("table", h("thead", h("tr", *columns)), h("tbody", *rows))


class _Bars:
    """Differences drawn around zero, on one scale for all arms and both errors."""

    def __init__(self, rows: list[Row]) -> None:
        found = [d for row in rows for d in (row.train_difference, row.test_difference) if d]
        ends = [x for d in found for x in (*d.values, d.mean, d.low, d.high)]
        sizes = [abs(x) for x in ends if x is not None and math.isfinite(x)]
        self.reach = max(sizes, default=0.0)

    def _x(self, value: float) -> float:
        return round(_BAR[0] / 2 + value / self.reach * (_BAR[0] / 2 - 5), 1)

    def axis(self) -> Markup:
        """Return the scale for the head of a column."""
        if not self.reach:
            return Markup("")
        ticks = [
            h("text", text, x=self._x(x), y=12, text_anchor=anchor)
            for x, text, anchor in (
                (-self.reach, f"−{self.reach:.3g}", "start"),
                (0, "0", "middle"),
                (self.reach, f"+{self.reach:.3g}", "end"),
            )
        ]
        return self._svg(*ticks)

    def bar(self, found: Difference | None) -> Markup:
        """Return a difference: its interval and mean, below them a ring for each seed."""
        if found is None or not found.n or not self.reach or not math.isfinite(found.mean):
            return Markup("")
        middle = 7
        parts = [h("line", class_="zero", x1=self._x(0), x2=self._x(0), y1=0, y2=_BAR[1])]
        if found.low is not None and found.high is not None:
            low, high = self._x(found.low), self._x(found.high)
            parts.append(h("line", class_="range", x1=low, x2=high, y1=middle, y2=middle))
        if found.n > 1:
            parts += [
                h("circle", class_="one", cx=self._x(value), cy=15, r=2.5) for value in found.values
            ]
        parts.append(h("circle", class_="middle", cx=self._x(found.mean), cy=middle, r=4))
        return self._svg(*parts)

    def _svg(self, *parts: Markup) -> Markup:
        return h(
            "svg", *parts, class_="bar", width=_BAR[0], height=_BAR[1], aria_hidden="true",
        )  # fmt: skip


def _provenance(run: Run) -> Iterator[Markup]:
    commands: dict[str, None] = {}
    code: dict[str, None] = {}
    facts: dict[str, dict[str, None]] = {}
    for cell in run.cells:
        for attempt in cell.attempts():
            commands[_command(attempt["argv"])] = None
            code[_code(attempt["code"])] = None
        if cell.record:
            found = cell.record["environment"]
            versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
            variables = " ".join(f"{k}={shlex.quote(v)}" for k, v in found["variables"].items())
            for name, text in (
                ("versions", versions), ("system", found["os"]), ("host", found["host"]),
                ("processor", f"{found['cpu']}, {found['cpus']} usable"), ("variables", variables),
            ):  # fmt: skip
                facts.setdefault(name, {})[text] = None
    if commands:
        yield h("pre", h("code", "\n".join(commands)))
    facts = {"code": code, **facts} if code else facts
    data = run.grid["data"]
    facts["data"] = {f"{data['title']}, SHA-256 {data['digest']}": None}
    platforms = [cell.config["platform"] for cell in run.done()] or [run.grid["platform"]]
    facts["device"] = {", ".join(f"{k} {v}" for k, v in x.items()): None for x in platforms}
    pairs = [
        h(tag, text)
        for name, found in facts.items()
        for tag, text in (("dt", name), ("dd", "; ".join(found)))
    ]
    yield h("dl", *pairs)


def _command(argv: list[str]) -> str:
    """Return a command line as one types it."""
    if argv and Path(argv[0]).name in ("run.py", "ablations-run"):
        return shlex.join(["python", "-m", "ablations.run", *argv[1:]])
    return shlex.join(argv)


def _code(code: dict[str, Any]) -> str:
    text = f"sources {code['sources_sha256'][:16]}"
    if code.get("commit"):
        text = f"commit {code['commit']}, {text}"
    return text + (" (with changes that are not committed)" if code.get("changes_sha256") else "")
