"""Words in the table, several runs as one, status, Stein's seeds, reproduction."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_run import compared, made_up
from scipy import stats

from ablations import cell_files, cli, files, inference, records, reproduction, run, sequential
from ablations.audit import Audit
from ablations.errors import UserError
from ablations.plan import plan
from ablations.records import Cell, Run
from ablations.report import __main__ as report_command
from ablations.report import html, latex, table, terminal
from ablations.report.merging import merge
from ablations.status import status

#: Clearly worse, clearly better within a point, and noise.
ERRORS = {
    "base": [10.0, 10.4, 9.8, 10.1, 10.2],
    "worse": [15.1, 15.2, 14.8, 15.3, 15.0],
    "near": [9.7, 10.12, 9.5, 9.83, 9.9],
    "noise": [10.9, 9.2, 10.6, 9.0, 10.8],
}


def test_words_and_tests_agree_with_scipy(tmp_path: Path) -> None:
    comparison = compared(made_up(tmp_path, ERRORS), margin=1.0, detect=0.5)
    words = {row.arm.name: row.word for row in comparison.rows}
    assert words == {
        "base": "",
        "worse": "worse",
        "near": "different, but within 1",
        "noise": "not distinguishable",
    }
    assert comparison.test is not None
    for arm, found in comparison.test.comparisons.items():
        expected = stats.ttest_rel(ERRORS[arm], ERRORS["base"])
        assert found.paired is not None
        assert found.paired.p == pytest.approx(expected.pvalue, rel=1e-6)
        interval = expected.confidence_interval(0.95)
        assert found.paired.interval == pytest.approx((interval.low, interval.high), rel=1e-6)
        row = next(row for row in comparison.rows if row.arm.name == arm)
        assert row.test_difference is not None and row.test_difference.low is not None
        assert row.test_difference.low == pytest.approx(interval.low, rel=1e-6)


def test_every_form_of_the_table_has_the_words(tmp_path: Path) -> None:
    comparison = compared(made_up(tmp_path, ERRORS), margin=1.0)
    for text in (
        table.markdown(comparison), table.table_csv(comparison), terminal(comparison, 160),
    ):  # fmt: skip
        assert "different, but within 1" in text
        assert "not distinguishable" in text
    head, rows = table.statistics(comparison)
    assert [row[0] for row in rows] == ["worse", "near", "noise"]
    assert {len(row) for row in rows} == {len(head)}
    # However narrow the terminal, no number is lost.
    narrow = terminal(comparison, 60)
    for row in comparison.rows:
        assert f"{row.test_error.mean:.2f}" in narrow


def test_two_seeds_give_no_interval_p_or_word(tmp_path: Path) -> None:
    comparison = compared(made_up(tmp_path, {k: v[:2] for k, v in ERRORS.items()}))
    assert {row.word for row in comparison.rows} == {""}
    assert table.statistics(comparison) == ([], [])
    assert all(
        row.test_difference is None or row.test_difference.low is None for row in comparison.rows
    )


def test_one_seed_compares_each_arm_with_the_baseline(tmp_path: Path) -> None:
    """Of 50 images the baseline has 10 wrong, the arm 4 of these and one of its own."""
    run = made_up(tmp_path, {"base": [20.0], "arm": [10.0]})
    label, cells = np.zeros(50, int), []
    for cell, wrong in zip(run.cells, (range(10), [0, 1, 2, 3, 49]), strict=True):
        directory = tmp_path / cell.arm
        directory.mkdir()
        predicted = np.isin(np.arange(50), list(wrong)).astype(int)
        np.savez(directory / "predictions.npz", label=label, predicted=predicted)
        cells.append(dataclasses.replace(cell, directory=directory))
    found = compared(dataclasses.replace(run, cells=cells)).images["arm"]
    assert found.difference == pytest.approx(-10.0)  # points: the arm has fewer wrong
    assert found.p == pytest.approx(stats.binomtest(1, 7).pvalue)


def test_one_seed_compares_images(tmp_path: Path) -> None:
    comparison = compared(made_up(tmp_path, {k: v[:1] for k, v in ERRORS.items()}))
    assert set(comparison.images) == {"worse", "near", "noise"}
    # The made-up cells share one file of predictions: nothing is discordant.
    assert comparison.images["worse"].p == 1.0
    assert "One seed" in " ".join(comparison.statistics)


def test_only_factors_that_vary_are_columns(tmp_path: Path) -> None:
    factors = {arm: {"depth": 20, "shortcut": arm} for arm in ERRORS}
    comparison = compared(made_up(tmp_path, ERRORS, factors=factors))
    assert comparison.factors == ["shortcut"]
    assert "depth" not in table.markdown(comparison).split("\n\n")[1]


def test_two_factors_give_effects(tmp_path: Path) -> None:
    factors = {
        arm: {"a": i // 2, "b": i % 2} for i, arm in enumerate(("base", "worse", "near", "noise"))
    }
    run = made_up(tmp_path, ERRORS, factors=factors)
    effects = compared(run).effects
    assert effects is not None and effects.contrast is not None
    base, worse, near, noise = (np.array(ERRORS[arm]) for arm in ERRORS)
    assert effects.contrast.mean == pytest.approx(float((noise - near - worse + base).mean()))
    assert any("a x b" in line for line in table.effect_lines(compared(run)))


def test_effects_are_not_taken_without_failed_seeds(tmp_path: Path) -> None:
    factors = {arm: {"a": i // 2, "b": i % 2} for i, arm in enumerate(ERRORS)}
    errors: dict[str, list[float | None]] = {k: list(v) for k, v in ERRORS.items()}
    errors["noise"][4] = None
    for problem, tested in (("", True), ("out of memory", False)):
        effects = compared(made_up(tmp_path, errors, factors=factors, problem=problem)).effects
        assert effects is not None
        assert (effects.a.p is not None) == (effects.contrast is not None) == tested


@pytest.mark.parametrize("lost", ["base", "arm"])
def test_a_failed_seed_without_a_partner_counts(lost: str, tmp_path: Path) -> None:
    errors = {"base": [10.0, 10.4, 9.8, None], "arm": [7.1, 7.2, 7.0, None]}
    run = made_up(tmp_path, errors)
    cells = [
        dataclasses.replace(cell, state="failed", problem="hung")
        if (cell.arm, cell.seed) == (lost, 3)
        else cell
        for cell in run.cells
    ]
    assert compared(run).rows[1].word == "better"  # both merely planned
    row = compared(dataclasses.replace(run, cells=cells)).rows[1]
    assert row.word == "" and "seed 3 has no finite error" in row.reason


def test_the_number_of_pairs_is_shown_where_it_is_not_n(tmp_path: Path) -> None:
    errors = {"base": [10.0, 10.4, 9.8, None, None], "arm": [7.1, 7.2, 7.0, 13.0, 11.6]}
    comparison = compared(made_up(tmp_path, errors))
    html_page = html.page(made_up(tmp_path, errors), comparison)
    for text in (table.markdown(comparison), terminal(comparison, 160), html_page,
                 latex.table(comparison)):  # fmt: skip
        assert "(3 pairs)" in text
    rows = list(csv.DictReader(io.StringIO(table.table_csv(comparison))))
    assert (rows[1]["n"], rows[1]["test_error_pairs"]) == ("5", "3")
    assert "pairs)" not in table.markdown(compared(made_up(tmp_path, ERRORS)))


def test_another_baseline_is_said_to_be_chosen_afterwards(tmp_path: Path) -> None:
    first = plan("shortcuts", out=tmp_path)
    assert "planned_baseline" not in first.grid_json()
    files.write_signed(tmp_path / "grid.json", first.grid_json())
    before = plan("shortcuts", out=tmp_path, baseline="B").grid_json()
    assert "planned_baseline" not in before  # nothing is finished that could have been looked at
    (tmp_path / "cells" / "A" / "seed0").mkdir(parents=True)
    (tmp_path / "cells" / "A" / "seed0" / "manifest.json").touch()
    later = plan("shortcuts", out=tmp_path, baseline="B").grid_json()
    assert (later["baseline"], later["planned_baseline"]) == ("B", "plain")
    files.write_signed(tmp_path / "grid.json", later)
    assert "planned_baseline" not in plan("shortcuts", out=tmp_path, baseline="plain").grid_json()
    run = made_up(tmp_path, ERRORS)
    assert "CHOSEN AFTERWARDS" not in " ".join(compared(run).caption)
    run.grid.update(baseline="near", planned_baseline="base")
    assert "CHOSEN AFTERWARDS: the grid's is base" in " ".join(compared(run).caption)


def _begun(directory: Path, **options: Any) -> dict[str, Any]:
    """Return a plan's grid.json, written into a directory with one finished cell."""
    content = plan("shortcuts", out=directory, **options).grid_json()
    (directory / "cells" / "A" / "seed0").mkdir(parents=True, exist_ok=True)
    (directory / "cells" / "A" / "seed0" / "manifest.json").touch()
    files.write_signed(directory / "grid.json", content)
    return content


def test_a_margin_and_seeds_are_said_to_be_chosen_afterwards(tmp_path: Path) -> None:
    first = _begun(tmp_path)
    assert not [key for key in first if key.startswith("planned")]
    later = _begun(tmp_path, margin=0.5, seeds=5)
    assert (later["planned_margin"], later["planned_seeds"]) == (None, [0, 1, 2])
    again = _begun(tmp_path, seed_list=[9])
    assert (again["planned_margin"], again["planned_seeds"]) == (None, [0, 1, 2])
    run = made_up(tmp_path, ERRORS)
    assert "AFTERWARDS" not in " ".join(compared(run).caption)
    text = " ".join(compared(run, margin=0.5).caption)
    assert "THE MARGIN WAS CHOSEN AFTERWARDS: none was planned" in text
    run.grid.update(analysis={"margin": 0.5}, planned_seeds=[0, 1, 2])
    assert "MARGIN WAS" not in " ".join(compared(run, margin=0.5).caption)
    text = " ".join(compared(run, margin=1.0).caption)
    assert "AFTERWARDS: 0.5 points were planned" in text
    assert "SEEDS WERE ADDED AFTERWARDS (3, 4)" in text


def test_seeds_of_stein_s_rule_are_planned(tmp_path: Path) -> None:
    stage = {"target": 0.5, "first_stage": [0, 1, 2, 3, 4]}
    decided = {**stage, "decision": "seven"}
    _begun(tmp_path, seeds=5, analysis=stage)
    assert "planned_seeds" not in _begun(tmp_path, seeds=7, analysis=decided)
    assert "planned_seeds" not in _begun(tmp_path, seeds=5, analysis=stage)  # the same command
    assert _begun(tmp_path, seeds=8)["planned_seeds"] == [*range(7)]
    # Three seeds that were looked at are no first stage.
    (tmp_path / "b").mkdir()
    _begun(tmp_path / "b")
    _begun(tmp_path / "b", seeds=5, analysis=stage)
    assert _begun(tmp_path / "b", seeds=7, analysis=decided)["planned_seeds"] == [0, 1, 2]


def test_arms_that_left_the_grid_are_not_lost_silently(tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    text = (
        "factors: {{shortcut: [{}]}}\n"
        "presets: {{quick: {{network: resnet20, recipe: quick, dataset: fashion}}}}\n"
    )
    grid.write_text(text.format("A, B, C"))
    first = plan(str(grid), out=tmp_path / "run")
    (tmp_path / "run").mkdir()
    files.write_signed(tmp_path / "run" / "grid.json", first.grid_json())
    grid.write_text(text.format("A, B"))
    with pytest.raises(UserError, match="holds arms that the grid no longer has: C"):
        plan(str(grid), out=tmp_path / "run")
    grid.write_text(text.format("A, B, C, none"))
    assert len(plan(str(grid), out=tmp_path / "run").arms) == 4


# Several runs


def _moved(run: Run, directory: str, **grid: object) -> Run:
    return dataclasses.replace(run, directory=Path(directory), grid={**run.grid, **grid})


def test_runs_with_other_seeds_become_one_arm(tmp_path: Path) -> None:
    whole = made_up(tmp_path, ERRORS)
    parts = [
        dataclasses.replace(whole, cells=[c for c in whole.cells if c.seed in seeds])
        for seeds in ((0, 1), (2, 3, 4))
    ]
    merged = merge([_moved(parts[0], "x/a"), _moved(parts[1], "x/b")])
    assert [arm.name for arm in merged.arms] == list(ERRORS)
    assert len(merged.cells) == len(whole.cells)
    assert [row.word for row in compared(merged).rows] == [row.word for row in compared(whole).rows]


def test_arms_of_one_name_and_seeds_get_their_runs_names(tmp_path: Path) -> None:
    whole = made_up(tmp_path, ERRORS)
    merged = merge([_moved(whole, "x/a"), _moved(whole, "x/b")])
    assert len(merged.arms) == 2 * len(ERRORS)
    assert {arm.name for arm in merged.arms} == {f"{r}:{arm}" for r in "ab" for arm in ERRORS}
    assert merged.grid["baseline"] == "a:base"
    assert compared(merged).test is not None


def test_runs_on_other_data_are_refused(tmp_path: Path) -> None:
    whole = made_up(tmp_path, ERRORS)
    other = _moved(whole, "x/b", data={**whole.grid["data"], "digest": "00" * 32})
    with pytest.raises(UserError, match="other data"):
        merge([_moved(whole, "x/a"), other])


def test_a_run_is_not_merged_with_itself(tmp_path: Path) -> None:
    whole = made_up(tmp_path, ERRORS)
    same = _moved(whole, f"{tmp_path}/../{tmp_path.name}/")
    with pytest.raises(UserError, match="named twice"):
        merge([whole, same])


# Seeds


def test_stein_asks_for_what_the_spread_needs(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    decision = sequential.decide(run, target=0.5, most=1000)
    widest = max(
        np.std(np.subtract(ERRORS[arm], ERRORS["base"]), ddof=1) for arm in list(ERRORS)[1:]
    )
    expected = math.ceil((stats.t.ppf(0.975, 4) * widest / 0.5) ** 2)
    assert decision.total == decision.seeds == expected > 5
    capped = sequential.decide(run, target=0.5, most=6)
    assert capped.seeds == 6 and "--max_seeds 6" in capped.text


@pytest.mark.parametrize(
    ("target", "most", "text"),
    [
        (None, 30, "--target"),
        (-1.0, 30, "--target"),
        (math.inf, 30, "finite"),
        (math.nan, 30, "finite"),
        (1.0, 4, "at least 5"),
    ],
)
def test_stein_refuses(target: float | None, most: int, text: str) -> None:
    with pytest.raises(UserError, match=text):
        sequential.first_stage(target, most)


def test_stein_keeps_its_first_stage_in_the_interval(tmp_path: Path) -> None:
    more = {arm: [*values, values[0] + 5] for arm, values in ERRORS.items()}
    run = made_up(tmp_path, more)
    run = dataclasses.replace(run, grid={**run.grid, "analysis": {"first_stage": [0, 1, 2, 3, 4]}})
    row = next(row for row in compared(run).rows if row.arm.name == "noise")
    spread = np.std(np.subtract(ERRORS["noise"], ERRORS["base"]), ddof=1)
    half = stats.t.ppf(0.975, 4) * spread / math.sqrt(6)
    assert row.test_difference is not None and row.test_difference.high is not None
    assert row.test_difference.high - row.test_difference.mean == pytest.approx(half, rel=1e-6)
    assert inference.FIRST_STAGE == 5


def test_stein_refuses_before_training() -> None:
    def planned(arms: int) -> Any:
        return types.SimpleNamespace(arms=["arm"] * arms)

    with pytest.raises(UserError, match="two arms"):
        sequential.check(planned(1), None)
    with pytest.raises(UserError, match="--only"):
        sequential.check(planned(2), ["arm"])
    sequential.check(planned(2), None)


def test_a_failed_first_stage_loses_no_table(tmp_path: Path) -> None:
    errors: dict[str, list[float | None]] = {
        "base": [*ERRORS["base"]],
        "arm": [*ERRORS["near"][:4], None],
    }
    partial = made_up(tmp_path, errors, problem="out of memory")
    trained: list[Any] = []
    said: list[str] = []

    def make(seeds: int, analysis: dict[str, Any]) -> Any:
        return types.SimpleNamespace(seeds=seeds)

    def execute(planned: Any) -> Run:
        trained.append(planned)
        return partial

    found = sequential.run_stages(
        make(sequential.first_stage(0.5, 30), sequential.settings(0.5)),
        make,
        execute,
        0.5,
        30,
        said.append,
    )
    assert found is partial and [p.seeds for p in trained] == [5]
    assert len(said) == 1 and said[0].endswith("lacks arm/seed4")


def test_seeds_chosen_from_the_data_are_never_forgotten(tmp_path: Path) -> None:
    """Ordinary intervals over a number of seeds that the data chose cover less than 95 %."""
    stage = {"target": 0.5, "first_stage": [0, 1, 2, 3, 4]}
    decided = {**stage, "decision": "seven"}
    first = plan("shortcuts", out=tmp_path, seeds=5, margin=0.4, analysis=decided)
    files.write_signed(tmp_path / "grid.json", first.grid_json())
    assert plan("shortcuts", out=tmp_path).analysis == {"margin": 0.4, **decided}
    for given in ({"seeds": 2}, {"seed_list": [7]}):
        assert plan("shortcuts", out=tmp_path, **given).analysis == {"margin": 0.4, **decided}
    undecided = plan("shortcuts", out=tmp_path / "b", seeds=5, margin=0.4, analysis=stage)
    (tmp_path / "b").mkdir()
    files.write_signed(tmp_path / "b" / "grid.json", undecided.grid_json())
    assert plan("shortcuts", out=tmp_path / "b", seeds=3).analysis == {"margin": 0.4}


def test_merged_runs_say_that_one_chose_its_seeds(tmp_path: Path) -> None:
    stage = {"target": 0.5, "first_stage": [0, 1, 2, 3, 4], "decision": "seven"}
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    chosen, other = (made_up(tmp_path / str(n), ERRORS) for n in (1, 2))
    chosen.grid["analysis"] = stage
    merged = merge([chosen, other])
    assert "first_stage" not in merged.grid["analysis"]
    assert "number of seeds of 1 was chosen from its own" in " ".join(compared(merged).caption)
    chosen.grid["planned_baseline"] = "near"
    merged = merge([chosen, other])
    assert merged.grid["planned_baseline"] in [arm.name for arm in merged.arms]
    chosen.grid["planned_seeds"] = [0, 1, 2]
    assert merge([chosen, other]).grid["planned_seeds"] == [0, 1, 2]
    assert merge([other, chosen]).grid["planned_seeds"] == [0, 1, 2]
    again = dataclasses.replace(other, directory=tmp_path / "3")
    assert "chosen from its own" not in " ".join(compared(merge([other, again])).caption)


def test_each_cell_has_its_own_machine(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    cells = [
        dataclasses.replace(
            cell, config={**cell.config, "platform": {**cell.config["platform"], "device": "H1"}}
        )
        if cell.seed == 4
        else cell
        for cell in run.cells
    ]
    run = dataclasses.replace(run, cells=cells)
    for cell in run.cells:
        assert cell.record is not None
        cell.record["matched"] = {}
    rows = csv.DictReader(io.StringIO(table.cells_csv(run)))
    assert {(row["seed"], row["device"]) for row in rows} == {
        ("4", "H1"), *((str(seed), "some CPU") for seed in range(4)),
    }  # fmt: skip
    text = " ".join(compared(run).caption)
    assert "Machine: some CPU, 1 thread" in text and "or H1, 1 thread" in text


# Status and reproduction


def test_an_ended_attempt_is_not_running(tmp_path: Path) -> None:
    run = made_up(tmp_path, {"base": [10.0]})
    (cell,) = run.cells
    running = dataclasses.replace(cell, state="running", directory=tmp_path / "cell")
    running.directory.mkdir()
    files.write_json(running.directory / "progress.json", {"epoch": 1.0, "step": 80})
    launch = {"argv": ["run.py"], "code": {"sources_sha256": "00"}}
    cell_files.start_attempt(running.directory, launch)
    run = dataclasses.replace(run, cells=[running])
    assert "1 running" in status(run)
    cell_files.end_attempt(running.directory, "interrupted: stopped")
    assert "1 interrupted" in status(run) and "step 80; interrupted: stopped" in status(run)


def test_status_counts_states(tmp_path: Path) -> None:
    errors = {"base": [10.0, None], "arm": [11.0, None]}
    text = status(made_up(tmp_path, errors, problem="out of memory"))
    assert "2 of 4 cells done" in text and "2 failed" in text
    assert text.count("out of memory") == 2


def _reproducible(cell: Cell, wrong: int = 7, weights: str = "aa") -> Cell:
    assert cell.record is not None
    record = {
        **cell.record,
        "results": {**cell.record["results"], "train_wrong": 3, "test_wrong": wrong},
        "matched": {"initial_sha256": "1", "fed_sha256": "2"},
        "final_sha256": weights,
    }
    return dataclasses.replace(cell, record=record)


def test_reproduction_names_what_differs(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    old = dataclasses.replace(run, cells=[_reproducible(c) for c in run.cells])
    equal, lines = reproduction.compare(old, old)
    assert equal and lines[0].startswith("20 of 20 cells reproduced bit for bit")
    changed = [_reproducible(run.cells[0], wrong=8, weights="bb"), *old.cells[1:]]
    equal, lines = reproduction.compare(old, dataclasses.replace(run, cells=changed))
    assert not equal
    assert lines[0].startswith("19 of 20")
    assert "base/seed0: test_wrong 7 -> 8; final weights differ" in lines[1]


def test_reproduction_names_the_variable_that_differs_in_any_cell(tmp_path: Path) -> None:
    run = made_up(tmp_path, ERRORS)
    old = dataclasses.replace(run, cells=[_reproducible(c) for c in run.cells])
    last = old.cells[-1]
    assert last.record is not None
    surrounding = {**last.record["environment"], "os": "BSD", "variables": {"B": "0"}}
    other = dataclasses.replace(last, record={**last.record, "environment": surrounding})
    equal, lines = reproduction.compare(
        old, dataclasses.replace(run, cells=[*old.cells[:-1], other])
    )
    assert equal and lines[1].startswith("what differs between")
    assert sorted(lines[2:]) == [
        f"  {line} (in 1 of 20 cells)"
        for line in ("A: 1 -> none", "B: none -> 0", "operating system: Linux -> BSD")
    ]


def test_reproduction_refuses_its_own_directory(tiny_run: Path) -> None:
    with pytest.raises(UserError, match="name another directory"):
        reproduction.plan_again(records.load(tiny_run), out=tiny_run)


def _on_disk(directory: Path) -> Run:
    directory.mkdir()
    made = made_up(directory, ERRORS)
    files.write_signed(directory / "grid.json", made.grid)
    return made


def test_reproduction_overwrites_nothing_foreign(tmp_path: Path) -> None:
    old = _on_disk(tmp_path / "old")
    origin = {
        "path": str((tmp_path / "old").resolve()),
        "sha256": files.sha256_file(tmp_path / "old" / "grid.json"),
    }
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for name, known in (
        ("foreign", None),
        ("elsewhere", {**origin, "path": "/elsewhere"}),
        ("earlier", {**origin, "sha256": "00"}),
    ):
        (tmp_path / name).mkdir()
        content = {**old.grid, **({"reproduces_run": known} if known else {})}
        files.write_signed(tmp_path / name / "grid.json", content)
    for name, words in (
        ("file", "is a file"),
        ("file/below", "is a file"),
        ("full", "other files .notes.txt."),
        ("foreign", "holds another run"),
        ("elsewhere", "a reproduction of /elsewhere;"),
        ("earlier", "before its grid.json changed"),
    ):
        with pytest.raises(UserError, match=words):
            reproduction.plan_again(old, out=tmp_path / name)


def test_a_reproduction_keeps_what_its_statistics_need(tiny_run: Path, images: Path) -> None:
    run = records.load(tiny_run)
    stage = {"target": 0.5, "first_stage": [0, 1, 2, 3, 4], "decision": "seven", "margin": 1.0}
    run.grid.update(analysis=stage, planned_baseline="A", planned_margin=None)
    again = reproduction.plan_again(run, data_dir=images).grid_json()
    assert (again["analysis"], again["planned_baseline"]) == (stage, "A")
    assert again["planned_margin"] is None


def test_a_copy_is_not_a_reproduction(tmp_path: Path) -> None:
    old = made_up(tmp_path, ERRORS)
    with pytest.raises(UserError, match="is a copy"):
        reproduction.refuse_copies(old, old)
    reproduction.refuse_copies(old, made_up(tmp_path, ERRORS, argv=["run.py", "--reproduce"]))


def test_a_reproduction_says_what_it_reproduces(copy: Path, images: Path) -> None:
    again = reproduction.plan_again(records.load(copy), data_dir=images, only=["A"], seeds=[1])
    assert [(cell.arm, cell.seed) for cell in again.cells] == [("A", 1)]
    again = reproduction.plan_again(records.load(copy), data_dir=images)
    assert reproduction.finished(again) == 0
    again.directory.mkdir()
    files.write_signed(again.directory / "grid.json", again.grid_json())
    # The same command continues it.
    assert reproduction.plan_again(records.load(copy), data_dir=images).reproduces_run == {
        "path": str(copy.resolve()),
        "sha256": files.sha256_file(copy / "grid.json"),
    }


# The command line


def _error(command: Any, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.run(
            command.main, doc="", version=str, command="command", argv=["command", *arguments],
            flag_values=command.FLAGS, positionals=command is report_command,
        )  # fmt: skip
    shown = capsys.readouterr()
    assert end.value.code == cli.EXIT_USAGE and shown.out == "", shown
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--status afile", "afile is a file"),
        ("--status odd", "grid.json cannot be read"),
        ("--status odd --reproduce odd", "--reproduce does nothing with --status"),
        ("--reproduce odd --seeds 3", "--seeds does nothing with --reproduce"),
        ("--reproduce odd --threads 1", "--threads does nothing with --reproduce"),
        ("--grid shortcuts --dry_run --max_seeds 40", "--max_seeds is for --seeds auto"),
        ("--grid shortcuts --dry_run --hung_minutes 0", "--hung_minutes takes a positive"),
        ("--grid shortcuts --dry_run --margin inf", "--margin takes a positive, finite"),
        ("--grid shortcuts --dry_run --out afile/x", "afile is a file"),
        ("--net resnet20 --dry_run --seeds auto --target 1", "at least two arms"),
    ],
)
def test_run_refuses_in_one_line(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    Path("odd/grid.json").mkdir(parents=True)
    assert words in _error(run, *arguments.split(), capsys=capsys)


@pytest.mark.parametrize("last", [10.0, None])
def test_run_names_what_it_wrote(
    last: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Figures are drawn when all cells are done."""
    made = made_up(tmp_path, {"base": [10.0, 10.4], "arm": [9.0, last]}, problem="hung")
    monkeypatch.setattr("ablations.plan.plan", lambda **options: types.SimpleNamespace(cells=[]))
    monkeypatch.setattr("ablations.runner.execute", lambda *arguments: made)
    monkeypatch.setattr(records.Run, "audit", Audit((), ()))
    with pytest.raises(SystemExit) as end:
        cli.run(
            run.main, doc="", version=str, command="command",
            argv=["command", "--grid", "shortcuts"], flag_values=run.FLAGS,
        )  # fmt: skip
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("written to")]
    assert end.value.code == 0 and "table.csv" in line
    assert ("figures" in line) == (last is not None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("afile", "afile is a file"),
        ("old --out afile", "afile is a file"),
        ("old --out afile/below", "afile is a file"),
        ("old --format csv --out new", "--format csv prints only"),
        ("old --detect inf", "--detect takes a positive, finite"),
        ("old ./old/", "named twice"),
        ("old --out new --tensorboard", "--tensorboard is for one run, in its own directory"),
    ],
)
def test_report_refuses_in_one_line(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    _on_disk(tmp_path / "old")
    assert words in _error(report_command, *arguments.split(), capsys=capsys)
