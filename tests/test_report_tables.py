"""Tables of tests, statistics.csv, and what captions say where arms or protocols differ."""

from __future__ import annotations

import csv
import dataclasses
import io
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_run import compared, made_up
from scipy import stats

from ablations import grids
from ablations.audit import Audit
from ablations.errors import UserError
from ablations.recipes import recipe
from ablations.records import Run
from ablations.report import captions, figures, html, latex, table, tensorboard, terminal
from ablations.report.tidy import statistics_csv

ERRORS = {
    "base": [10.0, 10.4, 9.8, 10.1, 10.2],
    "worse": [15.1, 15.2, 14.8, 15.3, 15.0],
    "noise": [10.9, 9.2, 10.6, 9.0, 10.8],
    "other": [9.0, 9.9, 9.6, 9.1, 9.4],
}
FACTORS = {arm: {"a": i // 2, "b": i % 2} for i, arm in enumerate(ERRORS)}


def tidy(run: Run, **options: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(statistics_csv(compared(run, **options)))))


def changed(run: Run, arm: str, **fields: Any) -> Run:
    arms = [dataclasses.replace(a, **fields) if a.name == arm else a for a in run.arms]
    return dataclasses.replace(run, arms=arms)


def test_every_form_has_the_statistics_of_the_training_error(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    comparison = compared(run)
    for text in (
        table.markdown(comparison), terminal(comparison, 160), terminal(comparison, 60),
        html.page(run, comparison), latex.document(comparison),
    ):  # fmt: skip
        assert text.count("Statistics of the training error") == 1
    assert "Two families of tests" in table.markdown(comparison)
    head, rows = table.statistics(comparison, "train")
    for row in rows:
        found = stats.ttest_rel(ERRORS[row[0]], ERRORS["base"])  # half of both: the same p
        shown = row[head.index("p")]
        assert shown == ("< 0.001" if found.pvalue < 0.001 else f"{found.pvalue:.3f}")


def test_table_csv_has_the_training_error_s_p(tmp_path: Path) -> None:
    text = table.table_csv(compared(made_up(tmp_path, ERRORS)))
    for row in csv.DictReader(io.StringIO(text)):
        if row["arm"] == "base":
            assert row["train_p"] == row["train_holm_p"] == ""
        else:
            expected = stats.ttest_rel(ERRORS[row["arm"]], ERRORS["base"]).pvalue
            assert float(row["train_p"]) == pytest.approx(expected, rel=1e-4)


def test_statistics_csv_agrees_with_scipy(tmp_path: Path) -> None:
    rows = tidy(made_up(tmp_path, ERRORS, factors=FACTORS), margin=1.0, detect=0.5)
    paired = [row for row in rows if row["kind"] == "paired"]
    assert {(row["error"], row["arm"]) for row in paired} == {
        (error, arm) for error in ("train", "test") for arm in list(ERRORS)[1:]
    }
    for row in paired:
        scale = 0.5 if row["error"] == "train" else 1.0
        difference = scale * np.subtract(ERRORS[row["arm"]], ERRORS["base"])
        assert float(row["p"]) == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
        assert float(row["std"]) == pytest.approx(difference.std(ddof=1))
        tost = max(
            stats.ttest_1samp(difference, 1.0, alternative="less").pvalue,
            stats.ttest_1samp(difference, -1.0, alternative="greater").pvalue,
        )
        assert float(row["tost_p"]) == pytest.approx(tost)
        assert int(row["seeds_needed_holm"]) >= int(row["seeds_needed"]) >= 3
    assert sum(row["kind"] == "block" for row in rows) == len(paired)
    effects = {row["factor"]: row for row in rows if row["kind"] == "effect"}
    assert list(effects) == ["a", "b", "a x b"]
    deviations = [float(r["mean"]) for r in rows if r["kind"] == "deviation" and r["factor"] == "a"]
    assert sum(deviations) == pytest.approx(0, abs=1e-9)
    contrast = next(row for row in rows if row["kind"] == "contrast")
    signs = {"base": 1, "worse": -1, "noise": -1, "other": 1}
    expected = stats.ttest_1samp(sum(s * np.array(ERRORS[arm]) for arm, s in signs.items()), 0)
    assert float(contrast["p"]) == pytest.approx(expected.pvalue)


# Levels that arms leave at their default

SHORT: dict[str, dict[str, Any]] = {
    "base": {}, "worse": {"shortcut": "none"}, "noise": {"depth": 14},
    "other": {"shortcut": "none", "depth": 14},
}  # fmt: skip


def test_levels_left_at_their_default_are_those_of_the_network(tmp_path: Path) -> None:
    """resnet20 has 20 layers and shortcut A."""
    comparison = compared(made_up(tmp_path, ERRORS, factors=SHORT))
    assert {row.arm.name: row.differs for row in comparison.rows} == {
        "base": "shortcut=A, depth=20", "worse": "shortcut=none, depth=20",
        "noise": "shortcut=A, depth=14", "other": "shortcut=none, depth=14",
    }  # fmt: skip
    mean = {arm: float(np.mean(errors)) for arm, errors in ERRORS.items()}
    plain = (mean["worse"] + mean["other"] - mean["base"] - mean["noise"]) / 4
    line = next(x for x in table.effect_lines(comparison) if x.startswith("shortcut:"))
    assert line.endswith(f"deviations A {-plain:+.2f}, none {plain:+.2f}".replace("-", "−"))
    (first, *_) = csv.DictReader(io.StringIO(table.table_csv(comparison)))
    assert (first["factor.shortcut"], first["factor.depth"]) == ("A", "20")
    assert "None" not in table.markdown(comparison) + statistics_csv(comparison)
    assert tensorboard.arm_hparams(tmp_path, [r.arm for r in comparison.rows], "base") == {
        "grid": tmp_path.name, "arm": "base", "shortcut": "A", "depth": 20.0,
    }  # fmt: skip


def test_a_default_that_is_written_out_is_no_other_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"base": ERRORS["base"], "deep": ERRORS["other"]}
    deep = {"shortcut": "A", "depth": 32, "recipe.l2": 0}
    run = made_up(tmp_path, errors, factors={"base": {}, "deep": deep})
    run = changed(run, "deep", weighted_layers=32)
    assert compared(run).factors == ["depth"]  # the quick protocol's l2 is 0.0
    monkeypatch.setattr(Run, "audit", Audit(("x", "y"), ()))
    assert "depth" not in figures.skipped(run)
    run.grid.update(planned_baseline="deep")
    small = figures.depth(run).get_supxlabel().replace("\n", " ")
    assert "NOT MATCHED: 2 differences" in small
    assert "THE BASELINE WAS CHOSEN AFTERWARDS." in small


@pytest.mark.parametrize(
    ("arm", "levels", "sentence"),
    [
        ("other", {"depth": 32}, "4 of the 6 combinations of shortcut and depth are there; none "
         "has shortcut=none, depth=14"),
        ("other", {"depth": 14}, "noise and other both have shortcut=A, depth=14"),
    ],
)  # fmt: skip
def test_a_grid_with_a_hole_says_why_it_has_no_main_effects(
    arm: str, levels: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    comparison = compared(made_up(tmp_path, ERRORS, factors=SHORT | {arm: levels}))
    assert comparison.effects is None
    text = table.markdown(comparison)
    assert "No main effects and interaction: " in text and sentence in text
    one_seed = {name: errors[:1] for name, errors in ERRORS.items()}
    few = compared(made_up(tmp_path, one_seed, factors=SHORT | {arm: levels}))
    assert "No main effects" not in table.markdown(few)


# What stands on top, and what only where it is true


def test_not_matched_stands_above_every_table(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    for problems in ((), ("A saw other data",)):
        comparison = compared(run, problems)
        for text in (table.markdown(comparison), terminal(comparison, 120)):
            top = text.splitlines()[:4]
            assert any("NOT MATCHED: 1 difference " in line for line in top) == bool(problems)
        rows = csv.DictReader(io.StringIO(statistics_csv(comparison)))
        assert {row["matched"] for row in rows} == {str(not problems)}
        assert latex.table(comparison).count("NOT MATCHED") == len(problems)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_intervals_and_words_are_explained_where_there_are_any(seeds: int, tmp_path: Path) -> None:
    text = table.markdown(compared(made_up(tmp_path, {k: v[:seeds] for k, v in ERRORS.items()})))
    assert ("An interval is of its comparison" in text) == ("More below" in text) == (seeds > 2)


def test_no_effect_above_a_hundred_points_is_printed(tmp_path: Path) -> None:
    run = made_up(tmp_path, {"base": [50.0, 50.0, 50.0], "a": [20.0, 55.0, 90.0],
                             "b": [50.0, 52.0, 61.0], "c": [50.0, 66.0, 70.0]})  # fmt: skip
    head, rows = table.statistics(compared(run))
    place = head.index("detectable")
    shown = [row[place] for row in rows]
    # 5.653 and 9.816 standard errors: quadrature in test_inference.
    errors = [np.std(d, ddof=1) / 3**0.5 for d in ([-30, 5, 40], [0, 2, 11], [0, 16, 20])]
    assert shown[0] == "> 100" and 5.653 * errors[0] > 100
    for text, error in zip(shown[1:], errors[1:], strict=True):
        numbers = [float(number) for number in text.rstrip(")").split(" (")]
        assert numbers == pytest.approx([5.653 * error, 9.816 * error], abs=0.01)


def test_cells_csv_counts_attempts(tmp_path: Path) -> None:
    run = made_up(tmp_path, {"base": [1.0, None], "arm": [2.0, 3.0]})
    rows = list(csv.DictReader(io.StringIO(table.cells_csv(run))))
    assert [row["attempts"] for row in rows] == ["1", "1", "0", "1"]


def test_one_of_something_is_no_plural(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    for arm in ERRORS:
        run = changed(run, arm, recipe=recipe("quick", epochs=0, iterations=1).to_dict())
    text = " ".join(captions.caption(run))
    assert "(1 step, batch 128)" in text and "1 cells" not in text


def test_one_seed_has_mcnemar_s_rows_and_its_warning_once(tmp_path: Path) -> None:
    run = made_up(tmp_path, {arm: errors[:1] for arm, errors in ERRORS.items()})
    rows = [row for row in tidy(run) if row["kind"] == "mcnemar"]
    assert [row["arm"] for row in rows] == list(ERRORS)[1:]
    assert {row["images"] for row in rows} == {"50"}
    text = table.markdown(compared(run))
    assert text.count("One seed: the variance between seeds is unknown") == 1
    assert "Statistics of the training error" not in text


def test_the_reference_of_budgets_is_not_called_baseline(tmp_path: Path) -> None:
    match = {"budget": "macs", "widths": [8, 16, 32], "mismatch": -0.01}
    run = made_up(tmp_path, ERRORS)
    for arm in ("base", "noise", "other"):
        run = changed(run, arm, match=match)
    comparison = compared(run)  # against base, whose budget was matched to that of "worse"
    text = table.markdown(comparison)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    budget = rows[0].index("budget")
    cells = {row[0].removeprefix("| "): row[budget] for row in rows[2:6]}
    assert cells["worse"] == "reference"
    assert cells["base"].startswith("macs −1.00 %")
    assert "matched to worse's" in text
    assert "−1.00 %, widths 8x16x32 from worse's" in unescape(html.page(run, comparison))
    assert "matched to" not in table.markdown(compared(made_up(tmp_path, ERRORS)))


def test_captions_name_the_arms_that_differ(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    quick = recipe("quick").to_dict()
    run = changed(
        run, "noise", recipe={**quick, "batch": 64, "statistics": "population", "test_views": 10}
    )
    text = " ".join(captions.caption(run))
    assert "batch 128 (base, worse, other), 64 (noise)" in text
    assert "noise: BN at test time: population statistics" in text
    assert "noise: Test error: 10 crops" in text
    same = " ".join(captions.caption(made_up(tmp_path, ERRORS)))
    assert "batch 128)." in same


def test_sought_seeds_are_explained(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS, factors=FACTORS)
    decision = "Stein's rule: 40 seeds; --max_seeds 5 stops there"
    stage = {"target": 0.5, "first_stage": [0, 1, 2, 3, 4]}
    run.grid["analysis"] = {**stage, "decision": decision}
    text = table.markdown(compared(run))
    assert "target ± 0.5 points" in text
    assert decision in text
    assert "Main effects and interaction (test error; not adjusted for Stein's rule)" in text
    run.grid["analysis"] = stage
    assert "not decided yet" in table.markdown(compared(run))


def test_a_title_stays_on_one_line(tmp_path: Path) -> None:
    comparison = compared(made_up(tmp_path, ERRORS, title="Two\nlines"))
    assert table.markdown(comparison).startswith("# Two lines\n")
    assert terminal(comparison, 100).startswith("Two lines\n")


# What the paper's numbers are of


def test_differences_are_from_what_the_numbers_are_of(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS, paper={"base": 25.0})
    assert any("instead of CIFAR-10" in line for line in captions.protocol_differences(run))
    run.grid["paper"] |= {"recipe": "paper-imagenet", "network": "resnet34"}
    narrow = {**(run.arms[0].spec or {}), "stem_width": 8}
    for arm in ERRORS:
        run = changed(run, arm, spec=narrow)
    lines = captions.protocol_differences(run)
    assert any("instead of ImageNet" in line for line in lines)
    assert any("600,000 of 256" in line for line in lines)
    assert "networks: resnet20 of width 8 (the paper's number: resnet34)" in lines
    run.grid["paper"]["network"] = "resnet20"
    for arm in ERRORS:
        run = changed(run, arm, spec={**narrow, "stem_width": 16})
    assert not any(line.startswith("networks") for line in captions.protocol_differences(run))


@pytest.mark.parametrize(
    ("grid", "preset", "line"),
    [
        ("cardinality", "paper-imagenet", "test view"),  # 1611.05431: one crop
        ("activation_order", "paper", "warm-up"),  # 1603.05027, sec. 3.1: 400 iterations at 0.01
        ("identity_shortcuts", "paper", "warm-up"),
    ],
)
def test_the_papers_own_protocol_is_no_difference(
    grid: str, preset: str, line: str, tmp_path: Path
) -> None:
    chosen = grids.load(grid, preset)
    run = made_up(tmp_path, ERRORS)
    run.grid["paper"] = chosen.paper
    for arm in ERRORS:
        run = changed(run, arm, recipe=recipe(chosen.recipe, **chosen.recipe_fields).to_dict())
    lines = captions.protocol_differences(run)
    assert not any(line in text for text in lines)
    assert any("aspect ratio" in text for text in lines) == (grid == "cardinality")
    run.grid["paper"] = {**chosen.paper, "recipe_fields": {}}
    assert any(line in text for text in captions.protocol_differences(run))


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_table_3_is_of_imagenet(preset: str) -> None:
    paper = grids.load("shortcuts", preset).paper
    assert (paper["recipe"], paper["network"]) == ("paper-imagenet", "resnet34")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("recipe: quick", "recipe"),
        ("network: resnet35", "resnet34"),
        ("recip: x", "recipe"),
        ("recipe.test_view: 1", "recipe.test_views"),
        ("recipe.test_views: 1", "recipe missing"),
        ("recipe: paper-cifar\n  recipe.test_views: 3", "test_views is 1 or 10, not 3"),
        ("recipe: paper-cifar\n  recipe.epochs: 9", "give recipe.iterations"),
    ],
)
def test_unknown_papers_are_refused(tmp_path: Path, line: str, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "factors: {shortcut: [A, B]}\n"
        "presets: {quick: {network: resnet20, recipe: quick, dataset: fashion}}\n"
        f"paper:\n  metric: m\n  protocol: p\n  n: 1\n  source: s\n  {line}\n  values: {{A: 1}}\n"
    )
    with pytest.raises(UserError, match=text):
        grids.load(str(path))
