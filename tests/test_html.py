"""The HTML page says what the records say, works in a browser, and trusts nobody."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_run import compared, curve, made_up

from ablations.records import Run
from ablations.report import html

ERRORS = {"plain": [20.5, 22.25, 21.0], "A": [17.0, 18.75, 16.5], "B": [16.0, 17.5, 30.0]}


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br", "wbr"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def data(self) -> dict[str, Any]:
        """Return the curves' data; NaN and Infinity are no JSON."""

        def refuse(name: str) -> None:
            raise AssertionError(name)

        return json.loads(self.texts["script"][0], parse_constant=refuse)


def page(run: Run, problems: tuple[str, ...] = ()) -> str:
    return html.page(run, compared(run, problems))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_up(tmp_path, ERRORS, epochs=20, paper={"A": 8.75})


def test_it_holds_the_table(run: Run) -> None:
    words = " ".join(re.sub("<[^>]*>", " ", page(run)).split())
    for name, errors in ERRORS.items():
        mean, std = statistics.mean(errors), statistics.stdev(errors)
        assert f"{mean:.2f} ± {std:.2f}" in words
        assert f"{mean / 2:.2f} ± {std / 2:.2f}" in words
        for error, base in zip(errors, ERRORS["plain"], strict=True):
            assert f"{error:.2f}" in words
            if name != "plain":
                assert f"{error - base:+.2f}".replace("-", "−") in words
    for text in ("8.75", "Table 6", "9 of 9 cells done", "MATCHED", "10,002", "3.00 M", "1,001",
                 "1 min 01 s", "python -m ablations.run --grid made-up"):  # fmt: skip
        assert text in words
    assert "NOT MATCHED" not in words


def test_it_says_what_is_not_matched(run: Run) -> None:
    text = page(run, ("B/seed1 saw <other> data",))
    assert "NOT MATCHED" in text
    assert "B/seed1 saw &lt;other&gt; data" in text
    assert "all is equal" not in text


def test_only_factors_that_vary_are_columns(tmp_path: Path) -> None:
    factors = {n: {"shortcut": n, "depth": 20} for n in ERRORS}
    head = Parsed(page(made_up(tmp_path, ERRORS, factors=factors))).texts["th"]
    assert "shortcut" in head
    assert "depth" not in head


def test_bars_share_one_scale(run: Run) -> None:
    """A pixel is the same number of points in every bar; the zero line is at 0."""
    parts = Parsed(page(run)).elements
    zeros = [float(a["x1"] or "") for _, a in parts if a.get("class") == "zero"]
    means = [float(a["cx"] or "") for _, a in parts if a.get("class") == "middle"]
    differences = [
        statistics.mean(x - y for x, y in zip(ERRORS[arm], ERRORS["plain"], strict=True)) / part
        for arm in ("A", "B")
        for part in (2, 1)
    ]
    scale = (means[1] - zeros[1]) / differences[1]
    assert scale > 1
    assert len(means) == 4
    for mean, zero, difference in zip(means, zeros, differences, strict=True):
        assert mean - zero == pytest.approx(scale * difference, abs=0.2)  # rounded to 0.1 pixel


def test_it_fits_in_1_mb_with_every_epoch(tmp_path: Path) -> None:
    errors = {f"arm-{a}": [20 - a + s / 3 for s in range(5)] for a in range(12)}
    text = page(made_up(tmp_path, errors, epochs=182))
    assert len(text.encode()) < 1_000_000
    data = Parsed(text).data()
    assert len(data["cells"]) == 60
    for cell in data["cells"]:
        epochs = data["series"][cell["x"]["epoch"]]
        assert epochs == list(range(1, 183))
        assert data["series"][cell["x"]["step"]] == [10 * e for e in epochs]
        for name, place in cell["y"].items():
            exact = [curve(f"arm-{cell['arm']}", cell["seed"], e)[name] for e in epochs]
            assert data["series"][place] == pytest.approx(exact, rel=5.01e-4)


def test_larger_runs_are_thinned(tmp_path: Path) -> None:
    errors = {f"arm-{a}": [20 - a + s / 3 for s in range(8)] for a in range(20)}
    text = page(made_up(tmp_path, errors, epochs=300))
    assert len(text.encode()) < 1_000_000
    data = Parsed(text).data()
    step = data["step"]
    assert step > 1
    assert f"one epoch in {step}" in text
    for cell in data["cells"]:
        epochs = data["series"][cell["x"]["epoch"]]
        assert epochs[-1] == 300
        assert {b - a for a, b in itertools.pairwise(epochs[:-1])} == {step}


@pytest.mark.parametrize(
    "errors",
    [
        {"only": [None]},
        {"only": [9.0]},
        {"a": [9.0], "b": [8.0]},
        {"a": [9.0, 8.0], "b": [8.0, None]},
        {"a": [None, None, None], "b": [8.0, 7.0, 6.5]},
        {"a": [9.0, 9.0, 9.0], "b": [8.0, 8.0, 8.0]},
        {"a": [9.0, 8.0, 8.5], "b": [8.0, math.nan, 7.0]},
    ],
)
def test_partial_results(tmp_path: Path, errors: dict[str, list[float | None]]) -> None:
    def diverged(arm: str, seed: int, epoch: int) -> dict[str, float]:
        return {**curve(arm, seed, epoch), "test_loss": math.nan if epoch > 2 else math.inf}

    run = made_up(tmp_path, errors, history=diverged, problem="out of <memory>")
    text = page(run)
    parsed = Parsed(text)
    done = sum(e is not None for each in errors.values() for e in each)
    assert f"{done} of {len(run.cells)} cells done" in text
    assert ("UNFINISHED" in text) == (done < len(run.cells))
    assert text.count("out of &lt;memory&gt;") == 2 * (len(run.cells) - done)
    assert len(parsed.data()["cells"]) == done
    assert ('id="plot"' in text) == (done > 0)
    # A quantity that is nowhere finite cannot be drawn.
    assert "test_loss" not in {name for cell in parsed.data()["cells"] for name in cell["y"]}


def test_it_is_the_same_every_time(run: Run) -> None:
    assert page(run) == page(run)


def test_its_policy_allows_its_own_style_and_script_only(run: Run) -> None:
    parsed = Parsed(page(run))
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, text in (("style", parsed.texts["style"][0]), ("script", parsed.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    # Nothing that would be refused: attributes with code or style in them.
    assert not [a for _, attributes in parsed.elements for a in attributes if a.startswith("on")]
    assert not [a for _, attributes in parsed.elements if (a := attributes.get("style"))]


HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=http://example.com/x onerror='window.pwned = 1'>",
    '" onclick="window.pwned = 1',
    "' onfocus='window.pwned = 1' autofocus='",
    "<!--<script>",
    "&lt;b&gt; &amp;",
    "]]> \u2028 \u2029 \x00 \x1b \ud800 \u202e",
    "${1} `x` \\u003c \\",
]


@settings(max_examples=60)
@given(
    texts=st.lists(
        st.one_of(
            st.sampled_from(HOSTILE), st.text("<>&'\"/!-=; \nabscriptö\ud800\x00", min_size=1)
        ),
        min_size=3,
        max_size=3,
        unique=True,
    )
)
def test_what_users_write_stays_text(tmp_path: Path, texts: list[str]) -> None:
    def written(one: str, other: str, title: str) -> Parsed:
        run = made_up(
            tmp_path, {one: [9.0, 8.0], other: [8.0, None]}, title=title, problem=title,
            factors={one: {title: one}, other: {title: other}}, argv=["run.py", title], epochs=2,
        )  # fmt: skip
        run.grid["data"]["title"] = run.grid["reproduces"] = run.grid["expect"] = title
        text = page(run)
        assert text.encode()  # can be written
        # Names may break after "_" and ".", wherever users put these.
        return Parsed(text.replace("<wbr>", ""))

    harmless, found = written("one", "other", "title"), written(*texts)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in harmless.elements]
    assert [list(a) for _, a in found.elements] == [list(a) for _, a in harmless.elements]
    assert found.data()["arms"] == texts[:2]
    shown = [re.sub("[\x00-\x08\x0b-\x1f\ud800]", "\ufffd", text) for text in texts]
    assert found.texts["title"] == found.texts["h1"] == [shown[2]]
    assert [a["data-arm"] for _, a in found.elements if "data-arm" in a] == shown[:2]
