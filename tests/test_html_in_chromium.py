"""The HTML page in a browser: arms go off and on, curves zoom, nobody's markup runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from made_up_run import compared, curve, made_up
from test_html import ERRORS, HOSTILE

from ablations.records import Run
from ablations.report import html

pytestmark = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="no chromium (Debian: apt-get install chromium)"
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_up(tmp_path, ERRORS, epochs=20, paper={"A": 8.75})


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.Page(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def browser(window: chromium.Page, run: Run, tmp_path: Path) -> Iterator[chromium.Page]:
    path = tmp_path / "report.html"
    path.write_text(html.page(run, compared(run)), encoding="utf-8")
    window.open(path)
    yield window
    assert window.complaints() == []
    assert window.requests() == [path.resolve().as_uri()]


def curves(browser: chromium.Page, kind: str) -> dict[str, list[str]]:
    """Return arm -> path data of its curves, of class "mean" or "seed"."""
    found: dict[str, list[str]] = {}
    for arm, d in browser(
        f"[...document.querySelectorAll('#lines .{kind}')].map((p) => "
        "[p.dataset.arm, p.getAttribute('d')])"
    ):
        found.setdefault(arm, []).append(d)
    return found


def scale(browser: chromium.Page, axis: str) -> tuple[float, float]:
    """Return offset and pixels a unit of an axis, from its first and last label."""
    rules = browser(
        f"[...document.querySelectorAll('.{axis}-axis line')].map("
        f"(r) => +r.getAttribute('{axis}1'))"
    )
    labels = browser(
        f"[...document.querySelectorAll('.{axis}-axis text')].map((t) => t.textContent)"
    )
    values = [float(label.replace("−", "-").replace(",", "")) for label in labels]
    unit = (rules[-1] - rules[0]) / (values[-1] - values[0])
    return rules[0] - unit * values[0], unit


def points(browser: chromium.Page, d: str) -> list[tuple[float, float]]:
    """Return a path's points in the units of the axes."""
    (x0, x), (y0, y) = scale(browser, "x"), scale(browser, "y")
    pairs = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", d)
    return [((float(a) - x0) / x, (float(b) - y0) / y) for a, b in pairs]


def edges(browser: chromium.Page, axis: str) -> tuple[float, float]:
    """Return the lowest and the highest value in the frame."""
    size = "width" if axis == "x" else "height"
    low, long = browser(
        "(() => { const r = document.querySelector('#frame rect');"
        f"return [+r.getAttribute('{axis}'), +r.getAttribute('{size}')]; }})()"
    )
    offset, unit = scale(browser, axis)
    ends = sorted(((low - offset) / unit, (low + long - offset) / unit))
    return ends[0], ends[1]


def position(browser: chromium.Page, axis: str) -> Callable[[float], float]:
    """Return the value, on the present scale, at a part of the figure's width or height."""
    size = browser("(() => { const b = document.querySelector('#plot svg').viewBox.baseVal;"
                   "return {x: b.width, y: b.height}; })()")[axis]  # fmt: skip
    offset, unit = scale(browser, axis)
    return lambda part: (part * size - offset) / unit


def drag(browser: chromium.Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the figure; positions in parts of its width and height."""
    left, top, width, height = browser.box("#plot svg")
    path = [(left + width * x, top + height * y) for x, y in (start, end)]
    browser.mouse("Moved", *path[0])
    browser.mouse("Pressed", *path[0])
    browser.mouse("Moved", *path[1])
    browser.mouse("Released", *path[1])


def choose(browser: chromium.Page, identity: str, value: str) -> None:
    browser(
        f"(() => {{ const s = document.getElementById('{identity}'); s.value = '{value}';"
        "s.dispatchEvent(new Event('change')); })()"
    )


def test_an_arm_goes_off_and_on(browser: chromium.Page) -> None:
    seeds, means = curves(browser, "seed"), curves(browser, "mean")
    assert {arm: len(d) for arm, d in seeds.items()} == dict.fromkeys(ERRORS, 3)
    assert {arm: len(d) for arm, d in means.items()} == dict.fromkeys(ERRORS, 1)
    pressed = "document.querySelector('#legend [data-arm=A]').getAttribute('aria-pressed')"
    assert browser(pressed) == "true"
    browser.click("#legend [data-arm=A]")
    assert browser(pressed) == "false"
    for kind in ("seed", "mean"):
        assert curves(browser, kind).keys() == {"plain", "B"}
    browser.click("#legend [data-arm=A]")
    assert browser(pressed) == "true"
    assert (curves(browser, "seed"), curves(browser, "mean")) == (seeds, means)
    browser.click("#none")
    assert not curves(browser, "mean")
    browser.click("#all")
    assert curves(browser, "mean") == means
    browser.click("#seeds")
    assert not curves(browser, "seed")
    assert curves(browser, "mean").keys() == ERRORS.keys()


@pytest.mark.parametrize("metric", ["test_error", "train_loss_running", "learning_rate"])
@pytest.mark.parametrize(("axis", "unit"), [("epoch", 1), ("step", 10)])
def test_curves_go_through_the_records(
    browser: chromium.Page, metric: str, axis: str, unit: int
) -> None:
    choose(browser, "metric", metric)
    choose(browser, "axis", axis)
    height = abs(1 / scale(browser, "y")[1])  # of a pixel
    for arm, (d,) in curves(browser, "mean").items():
        found = points(browser, d)
        assert len(found) == 20
        for epoch, (x, y) in enumerate(found, start=1):
            mean = statistics.mean(curve(arm, seed, epoch)[metric] for seed in range(3))
            assert x == pytest.approx(unit * epoch, abs=0.05 * unit)
            assert y == pytest.approx(mean, rel=1e-3, abs=height)
    for arm, lines in curves(browser, "seed").items():
        for seed, d in enumerate(lines):
            assert points(browser, d)[-1][1] == pytest.approx(
                curve(arm, seed, 20)[metric], rel=1e-3, abs=height
            )


def test_zoom_and_reset(browser: chromium.Page) -> None:
    before = curves(browser, "mean")
    across, unit = position(browser, "x"), scale(browser, "x")[1]
    # Flat: what lay 30 % to 60 % across now fills the frame.
    drag(browser, (0.3, 0.5), (0.6, 0.52))
    assert all(before[arm] != curves(browser, "mean")[arm] for arm in ERRORS)
    low, high = edges(browser, "x")
    assert (low, high) == pytest.approx((across(0.3), across(0.6)), abs=0.05)
    # The y axis holds the curves in view, with a little air.
    shown = [
        curve(arm, seed, e)["test_error"]
        for arm in ERRORS for seed in range(3) for e in range(1, 21) if low <= e <= high
    ]  # fmt: skip
    bottom, top = edges(browser, "y")
    air = 0.1 * (max(shown) - min(shown))
    assert max(shown) < top < max(shown) + air
    assert min(shown) - air < bottom < min(shown)
    # A square drag zooms both axes.
    across, down = position(browser, "x"), position(browser, "y")
    drag(browser, (0.4, 0.3), (0.6, 0.7))
    assert edges(browser, "x") == pytest.approx((across(0.4), across(0.6)), abs=0.05)
    height = edges(browser, "y")[1] - edges(browser, "y")[0]
    assert edges(browser, "y") == pytest.approx((down(0.7), down(0.3)), abs=height / 100)
    browser.click("#plot svg", times=2)
    assert curves(browser, "mean") == before
    drag(browser, (0.3, 0.5), (0.6, 0.5))
    assert curves(browser, "mean") != before
    browser.click("#reset")
    assert curves(browser, "mean") == before
    browser("document.querySelector('#plot svg').focus()")
    browser.key("+")
    assert scale(browser, "x")[1] == pytest.approx(2 * unit, rel=1e-3)
    browser.key("0")
    assert curves(browser, "mean") == before


def test_pointing_reads_values(browser: chromium.Page) -> None:
    left, top, _, height = browser.box("#plot svg")
    offset, unit = scale(browser, "x")
    browser.mouse("Moved", left + offset + 7.2 * unit, top + height / 2)
    assert browser("document.getElementById('hint').textContent") == "epoch 7"
    for arm in ERRORS:
        text = browser(f"document.querySelector('#legend [data-arm={arm}] output').textContent")
        mean, std = map(float, text.split(" ± "))
        values = [curve(arm, seed, 7)["test_error"] for seed in range(3)]
        assert mean == pytest.approx(statistics.mean(values), rel=1e-3)
        assert std == pytest.approx(statistics.stdev(values), rel=2e-2)


def test_seeds_fold(browser: chromium.Page) -> None:
    visible = "[...document.querySelectorAll('.each')].map((r) => r.offsetHeight > 0)"
    assert browser(visible) == [False] * 3
    browser.click("[aria-controls=seeds-1]")
    assert browser(visible) == [False, True, False]
    browser.click("#unfold")
    assert browser(visible) == [True] * 3


def test_a_browser_runs_nothing_of_the_users(window: chromium.Page, tmp_path: Path) -> None:
    names = HOSTILE[:4]
    run = made_up(tmp_path, {n: [9.0, 8.0] for n in names}, title="".join(HOSTILE), argv=names)
    run.grid["data"]["notes"] = list(HOSTILE)
    path = tmp_path / "report.html"
    path.write_text(html.page(run, compared(run)), encoding="utf-8")
    window.open(path)
    window.click("#legend button")
    found = window("[...document.querySelectorAll('#legend span')].map((s) => s.textContent)")
    assert found == names
    assert window("typeof window.pwned") == "undefined"
    assert window.requests() == [path.resolve().as_uri()]
    assert window.complaints() == []
    # The policy holds even where markup gets in.
    window(
        "document.body.insertAdjacentHTML('beforeend', "
        "'<img src=http://localhost:9/x onerror=\"window.pwned = 1\">')"
    )
    window("new Promise((done) => setTimeout(done, 200))")
    assert window("typeof window.pwned") == "undefined"
    assert any("Content Security Policy" in str(found) for found in window.complaints())
