"""The audit over several runs, and arms with failed seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from made_up_run import compared, made_up

from ablations import files, records
from ablations.audit import audit
from ablations.records import Cell
from ablations.report.merging import merge


def test_merged_copies_of_a_matched_run_are_matched(tiny_run: Path) -> None:
    run = records.load(tiny_run)
    other = dataclasses.replace(run, directory=Path("elsewhere/tiny2"))
    merged = merge([run, other])
    assert {arm.name.split(":")[0] for arm in merged.arms} == {"tiny", "tiny2"}
    assert audit(merged).problems == ()


def test_a_renumbered_copy_adds_no_seeds(tiny_run: Path, tmp_path: Path) -> None:
    """The same training under other seeds' numbers: n would be twice what it is."""
    run = records.load(tiny_run)

    def renumber(cell: Cell) -> Cell:
        config = {**cell.config, "seed": cell.seed + 2}
        identity = files.sha256(files.canonical(config))
        record = {**(cell.record or {}), "seed": cell.seed + 2, "identity": identity}
        return dataclasses.replace(cell, seed=cell.seed + 2, config=config, record=record)

    other = dataclasses.replace(
        run, directory=tmp_path / "other", cells=[renumber(cell) for cell in run.cells],
        grid={**run.grid, "seeds": [2, 3]},
    )  # fmt: skip
    merged = merge([run, other])
    assert len(merged.arms) == 3 and merged.grid["seeds"] == [0, 1, 2, 3]
    problems = audit(merged).problems
    assert len(problems) == 3
    for arm, line in zip(("plain", "A", "B"), problems, strict=True):
        assert line.startswith(f"no replicate: {arm}/seed2 of {arm}/seed0, {arm}/seed3 of")


def test_merged_runs_of_other_networks_are_not_matched(tiny_run: Path) -> None:
    run = records.load(tiny_run)
    arms = [dataclasses.replace(arm, spec={**(arm.spec or {}), "dropout": 0.5}) for arm in run.arms]
    cells = [
        dataclasses.replace(
            cell, config={**cell.config, "spec": {**cell.config["spec"], "dropout": 0.5}}
        )
        for cell in run.cells
    ]
    other = dataclasses.replace(run, directory=Path("elsewhere/other"), arms=arms, cells=cells)
    found = audit(merge([run, other]))
    assert not found.matched
    assert any("dropout" in line for line in found.problems)


def test_an_arm_is_not_judged_without_its_failed_seeds(tmp_path: Path) -> None:
    errors = {"base": [10.0, 10.4, 9.8, 10.1, 10.2], "arm": [7.1, 7.2, 7.0, None, None]}
    whole = compared(made_up(tmp_path, errors))
    assert whole.rows[1].word == "better"  # two seeds are merely not trained yet
    comparison = compared(made_up(tmp_path, errors, problem="the loss is nan after step 7 of 10"))
    row = comparison.rows[1]
    assert (row.word, row.test_error.n, row.planned) == ("", 3, 5)
    assert row.test_difference is not None and row.test_difference.low is None
    assert any("failed" in line for line in comparison.statistics)
