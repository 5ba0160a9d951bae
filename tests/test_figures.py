"""Figures show what the records hold, look the same every time, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations import UserError, records
from ablations.records import Run
from ablations.report import _axes, figures
from ablations.report._cost import pareto

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return records.load(tiny_run)


def fabricated(run: Run, names: list[str], errors: Any, seeds: int = 3) -> Run:
    """Return a run with arms `FAMILY-DEPTH`; errors[arm, seed] is the test error, half the other.

    Its cells are the first of `run` with other errors and a history of 40 epochs.
    """
    arms, cells = [], []
    for number, name in enumerate(names):
        family, depth = name.rsplit("-", 1)
        spec = {**(run.arms[0].spec or {}), "shortcut": "none" if family == "plain" else "A"}
        arms.append(
            dataclasses.replace(
                run.arms[0], name=name, factors={"shortcut": family, "depth": int(depth)},
                spec=spec, weighted_layers=int(depth), macs=10**6 * int(depth) + 7 * number,
                parameters=10**4 * int(depth) + number, paper=None,
            )
        )  # fmt: skip
    for seed in range(seeds):
        for number, name in enumerate(names):
            error = float(errors[number][seed])
            record: Any = run.done()[0].record
            results = {**record["results"], "test_error": error, "train_error": error / 2}
            history = [
                {**run.done()[0].history[-1], "epoch": e, "step": 1000 * e,
                 "test_error": error * (1 + 8 / e), "train_error_running": error / 2}
                for e in range(1, 41)
            ]  # fmt: skip
            cells.append(
                dataclasses.replace(
                    run.done()[0], arm=name, seed=seed, history=history,
                    record={**record, "results": results},
                )
            )  # fmt: skip
    grid = {**run.grid, "baseline": names[0], "seeds": list(range(seeds)), "title": "Made up"}
    return Run(run.directory, grid, arms, cells)


NAMES = ["plain-20", "plain-56", "residual-20", "residual-56"]
ERRORS = np.array([[9, 10, 12], [14, 15, 13], [8, 9, 8.5], [6, 7, 8]], float)


def texts(figure: Any) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_curves_are_means_and_bands_the_range_of_the_seeds(run: Run) -> None:
    (axis,) = figures.curves(run).axes
    test, train = run.curves("test_error"), run.curves("train_error_running")
    for number, arm in enumerate(("plain", "A", "B")):
        dashed, bold = axis.lines[2 * number : 2 * number + 2]
        assert bold.get_ydata() == pytest.approx(test[arm].mean(axis=0))
        assert dashed.get_ydata() == pytest.approx(train[arm].mean(axis=0))
        assert bold.get_linewidth() > 2 * dashed.get_linewidth()
        assert bold.get_color() == dashed.get_color()
        corners = axis.collections[number].get_paths()[0].vertices[:, 1]
        assert corners.min() == pytest.approx(test[arm].min())
        assert corners.max() == pytest.approx(test[arm].max())
    assert len({line.get_color() for line in axis.lines}) == 3


def test_plain_and_residual_nets_stand_side_by_side(run: Run) -> None:
    figure = figures.curves(fabricated(run, NAMES, ERRORS))
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("plain", "residual")
    assert left.get_ylim() == right.get_ylim()
    assert right.get_xlabel() == "iter. (1e4)"
    assert left.lines[1].get_xdata()[-1] == pytest.approx(4.0)  # 40,000 steps
    # The first tenth of training does not stretch the axis: the paper's figures cut it too.
    assert 15 < left.get_ylim()[1] < 60 < 9 * ERRORS.max()


def test_depth_shows_means_standard_deviations_and_every_seed(run: Run) -> None:
    figure = figures.depth(fabricated(run, NAMES, ERRORS))
    _, test = figure.axes
    labels = [container.get_label() for container in test.containers]
    assert labels == ["plain", "residual"]
    for number, container in enumerate(test.containers):
        mine = ERRORS[2 * number : 2 * number + 2]
        line, _, (bars,) = container
        assert line.get_ydata() == pytest.approx(mine.mean(axis=1))
        heights = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
        assert heights == pytest.approx(mine.std(axis=1, ddof=1))
    dots = [line.get_ydata() for line in test.lines if line.get_marker() == "."]
    assert sorted(np.concatenate(dots)) == pytest.approx(sorted(ERRORS.ravel()))


def test_differences_have_student_s_interval(run: Run) -> None:
    from scipy.stats import ttest_1samp

    figure = figures.differences(fabricated(run, NAMES, ERRORS))
    _, test = figure.axes
    spans = [
        tuple(line.get_xdata())
        for line in test.lines
        if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    for span, errors in zip(spans, ERRORS[1:], strict=True):
        expected = ttest_1samp(errors - ERRORS[0], 0).confidence_interval(0.95)
        assert span == pytest.approx(tuple(expected))
    assert "Hollow" not in texts(figure)


def test_two_seeds_have_no_interval_and_it_is_said(run: Run) -> None:
    figure = figures.differences(run)
    for axis in figure.axes:
        bars = [line for line in axis.lines if line.get_marker() in ("", "None")]
        assert len(bars) == 1 and list(bars[0].get_xdata()) == [0, 0]  # the line at zero
        points = [line for line in axis.lines if line.get_marker() == "o"]
        assert [line.get_markerfacecolor() for line in points] == ["white", "white"]
    assert "no interval, for n ≤ 2" in texts(figure)
    assert "n = 2 seeds an arm (0, 1)" in texts(figure)


@pytest.mark.parametrize("words", [r"$\foo$ \$ $$ _{^ #%&~", "a $5 b $6 网络 नमस्ते"])
def test_texts_are_drawn_as_they_stand_and_in_silence(
    run: Run, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """No dollar begins a formula, which may not even be one; no missing letter is complained of."""
    monkeypatch.setitem(_axes._RC, "svg.fonttype", "none")  # letters stay letters in the file
    made = fabricated(run, NAMES, ERRORS)
    data = {**made.grid["data"], "title": f"Data {words}"}
    grid = {**made.grid, "title": f"Title {words}", "baseline": f"plain-20 {words}", "data": data}
    arms = [dataclasses.replace(arm, name=f"{arm.name} {words}") for arm in made.arms]
    cells = [dataclasses.replace(cell, arm=f"{cell.arm} {words}") for cell in made.cells]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        paths = figures.write(Run(run.directory, grid, arms, cells), tmp_path, formats=["svg"])
    assert [path.stem for path in paths] == list(figures.FIGURES)
    for path in paths:
        drawn = ["".join(e.itertext()) for e in ElementTree.parse(path).iter() if "text" in e.tag]
        together = re.sub(r"\s+", " ", " ".join(drawn))
        assert f"Title {words}" in together and f"Data {words}" in together
        if path.stem != "depth":  # whose lines are not called after one arm
            assert [arm.name for arm in arms if arm.name not in together] == []
    assert capfd.readouterr() == ("", "")


def test_steps_are_counted_in_whole_numbers(run: Run) -> None:
    cells = [
        dataclasses.replace(c, history=[{**row, "step": row["epoch"]} for row in c.history[:2]])
        for c in run.cells
    ]
    figure = figures.curves(dataclasses.replace(run, cells=cells))
    figure.draw_without_rendering()
    (axis,) = figure.axes
    steps = list(axis.get_xticks())
    assert steps[:3] == [0, 1, 2]
    assert [label.get_text() for label in axis.get_xticklabels()] == [f"{x:.0f}" for x in steps]


@pytest.mark.parametrize(("errors", "shown"), [([5, 6, 7, 8], False), ([8, 6, 7, 5], True)])
def test_a_front_of_one_arm_is_no_line(run: Run, errors: list[float], shown: bool) -> None:
    figure = figures.cost(fabricated(run, NAMES, [[error] * 3 for error in errors]))
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    texts = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert texts == ["Pareto front"] * shown


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    def beaten(p: tuple[int, int]) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)

    front = [points[i] for i in pareto(points)]
    assert front == sorted({p for p in points if not beaten(p)})


def test_labels_cover_neither_labels_nor_points(run: Run) -> None:
    names = [f"{family}-{depth}" for family in ("plain", "residual") for depth in (20, 21, 32, 56)]
    errors = np.array([[9.0, 9.1, 9.2, 9.0, 8.9, 9.05, 9.1, 9.15]] * 3).T
    figure: Any = figures.cost(fabricated(run, names, errors))
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        notes = [text for text in axis.texts if text.get_text() in names]
        assert sorted(text.get_text() for text in notes) == sorted(names)
        boxes = [Text.get_window_extent(note, renderer) for note in notes]
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[number + 1 :])
            for note in notes:
                assert not box.contains(*axis.transData.transform(note.xy))


def test_what_does_not_suit_is_left_out_with_a_reason(run: Run, tmp_path: Path) -> None:
    assert figures.skipped(run) == {"depth": "all finished arms have 8 weighted layers"}
    paths = figures.write(run, tmp_path / "new" / "folder", formats=["png"])
    assert [path.name for path in paths] == ["curves.png", "cost.png", "differences.png"]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.name for path in paths
    )
    planned = [dataclasses.replace(c, state="planned", record=None, history=[]) for c in run.cells]
    empty = dataclasses.replace(run, cells=planned)
    assert set(figures.skipped(empty)) == set(figures.FIGURES)
    assert figures.write(empty, tmp_path) == []
    assert "baseline" in figures.skipped(empty)["differences"]


def test_unfinished_runs_are_drawn_and_say_so(run: Run) -> None:
    cells = [
        c if (c.arm, c.seed) != ("B", 1) else
        dataclasses.replace(c, state="planned", record=None, history=[])
        for c in run.cells
    ]  # fmt: skip
    part = dataclasses.replace(run, cells=cells)
    for name in ("curves", "cost", "differences"):
        caption = texts(figures.FIGURES[name].draw(part))
        assert "n = 1 to 2 seeds an arm (0, 1). UNFINISHED: 5 of 6 cells are done." in caption


def test_equal_runs_give_equal_bytes_and_no_date(run: Run, tmp_path: Path) -> None:
    made, names = fabricated(run, NAMES, ERRORS), ["cost", "curves"]
    first = figures.write(made, tmp_path / "1", names, ["png", "svg", "pdf"])
    assert len(first) == 2 * 3
    for path in figures.write(made, tmp_path / "2", names, ["png", "svg", "pdf"]):
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()
        assert not re.search(rb"dc:date|CreationDate|20[0-9]{2}-[0-9]{2}-", path.read_bytes())


def test_a_png_is_a_thousand_pixels_wide(run: Run, tmp_path: Path) -> None:
    (path,) = figures.write(run, tmp_path, ["curves"], ["png"])
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(content[16:20], "big") == 1000


@pytest.mark.parametrize(
    ("names", "formats", "message"),
    [
        (["curve"], ["png"], 'unknown figure "curve"; did you mean "curves"'),
        (["curves"], ["pgn"], 'unknown figure format "pgn"; did you mean "png"'),
    ],
)
def test_bad_names(
    run: Run, tmp_path: Path, names: list[str], formats: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        figures.write(run, tmp_path / "x", names, formats)
    assert not (tmp_path / "x").exists()


def test_nothing_global_is_touched(tiny_run: Path, tmp_path: Path) -> None:
    """Importing needs no matplotlib; drawing needs no pyplot and leaves settings as they were."""
    code = """
import sys
from ablations import records
from ablations.report import figures
assert "matplotlib" not in sys.modules
import matplotlib
matplotlib.rcParams["font.size"] = 23.0
matplotlib.rcParams["axes.grid"] = False
def now():  # but for the backend: to look at it would choose one
    return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
before = now()
figures.write(records.load(sys.argv[1]), sys.argv[2])
assert now() == before
assert not {"matplotlib.pyplot", "tensorflow", "keras"} & set(sys.modules)
"""
    arguments = [sys.executable, "-c", code, str(tiny_run), str(tmp_path / "drawn")]
    subprocess.run(arguments, check=True, cwd=ROOT)
    # The caller's settings do not show in the figures either.
    again = figures.write(records.load(tiny_run), tmp_path / "here")
    for path in again:
        assert path.read_bytes() == (tmp_path / "drawn" / path.name).read_bytes()
