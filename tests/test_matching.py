"""Budgets that are solved for, grids that their plan shows to be unmatched, and edited records."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ablations
import reszoo
from ablations import audit, cell_audit, cell_files, files, grids, matrix, records
from ablations.grids import matching
from ablations.grids.declared import declared
from ablations.plan import Plan, plan
from ablations.records import Run

TINY = "presets: {quick: {network: resnet20, depth: 8, width: 4, recipe: quick, dataset: folder}}\n"


def macs_of(n: int, widths: tuple[int, int, int], side: int, channels: int, classes: int) -> int:
    """Return the multiply-accumulates of a 6n+2 net with option A, in closed form (sec. 4.2)."""
    w1, w2, w3 = widths
    half, quarter = (side + 1) // 2, (side + 3) // 4
    return (
        9 * side**2 * (channels * w1 + 2 * n * w1**2)
        + 9 * half**2 * (w1 * w2 + (2 * n - 1) * w2**2)
        + 9 * quarter**2 * (w2 * w3 + (2 * n - 1) * w3**2)
        + w3 * classes
    )


# --- the solver


@settings(max_examples=25)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(4, 24), st.sampled_from([0.001, 0.02, 0.1])
)
def test_no_uniform_width_is_nearer(n: int, other: int, width: int, tolerance: float) -> None:
    """Against all widths, counted by the closed form."""
    target = macs_of(n, (width, 2 * width, 4 * width), 28, 1, 10)
    spec = reszoo.spec("resnet20", depth=6 * other + 2, input_shape=(28, 28, 1), classes=10)
    found = matching.solve(spec, "macs", target, tolerance)
    assert found.value == macs_of(other, found.spec.widths, 28, 1, 10)
    assert found.mismatch == pytest.approx(found.value / target - 1)
    every = [abs(macs_of(other, (w, 2 * w, 4 * w), 28, 1, 10) / target - 1) for w in range(1, 130)]
    assert abs(found.mismatch) <= min(every) + 1e-12
    if min(every) <= tolerance:  # then the proportions of the stages are kept
        assert found.uniform and found.spec.widths[2] == 4 * found.spec.widths[0]
    # Stages in proportion to within the rounding of each.
    w1, w2, w3 = found.spec.widths
    assert abs(w2 / 2 - w1) <= 0.75 and abs(w3 / 4 - w1) <= 0.625
    assert found.spec.stem_width == w1


@pytest.mark.parametrize("match", ["macs", "params"])
def test_the_same_network_needs_no_change(match: str) -> None:
    spec = reszoo.spec("resnet50")
    found = matching.solve(spec, match, matching.budget(spec, match), 0.0)
    assert found.spec == spec and found.mismatch == 0 and found.uniform


def test_parameters_are_matched_too() -> None:
    """A 32-layer net with the 0.27 M parameters of Table 6's 20-layer net; Keras counts them."""
    found = matching.solve(reszoo.spec("resnet32"), "params", 269_722)
    built = reszoo.build(found.spec)
    trainable = sum(int(v.numpy().size) for v in built.trainable_variables)
    assert trainable == found.value and abs(trainable / 269_722 - 1) <= 0.02 and found.within


@pytest.mark.parametrize(("groups", "per_group"), [(2, 40), (4, 24), (8, 14), (32, 4), (3, 20)])
def test_groups_keep_whole_channels(groups: int, per_group: int) -> None:
    spec = reszoo.spec("resnet50", groups=groups, width_per_group=per_group)
    for target in (2 * 10**9, 3_300_000_000, 7 * 10**9):
        found = matching.solve(spec, "macs", target, 0.01).spec
        for width, inner in zip(found.widths, found.inner_channels, strict=True):
            assert width * per_group % 64 == 0  # nothing was rounded away
            assert inner * 64 == width * per_group * groups


def test_group_normalisation_restricts_the_width() -> None:
    spec = reszoo.spec("resnet50", norm="group", norm_groups=32, stem_width=64)
    found = matching.solve(spec, "macs", 2 * 10**9).spec
    assert all(width % 32 == 0 for width in (*found.widths, found.stem_width))


def test_the_stem_scales_with_the_stages() -> None:
    spec = reszoo.spec("resnet50s")  # a deep stem of 128 channels before stages of 64
    found = matching.solve(spec, "macs", 2 * 10**9).spec
    assert found.stem_width == 2 * found.widths[0] and found.widths[0] < 64


def test_unknown_budget() -> None:
    with pytest.raises(grids.GridError, match='unknown match "flops"'):
        matching.budget(reszoo.spec("resnet20"), "flops")


# --- grids


def planned(text: str, folder: Path, **options: Any) -> Plan:
    (folder / "g.yaml").write_text(text)
    return plan(str(folder / "g.yaml"), out=folder / "run", **options)


def test_arms_are_solved_for_the_baseline(tmp_path: Path) -> None:
    text = (
        "factors: {depth: [8, 20, 32]}\nbaseline: '20'\nmatch: macs\n"
        "presets: {quick: {network: resnet20, width: 8, recipe: quick, dataset: fashion}}\n"
    )
    made = planned(text, tmp_path)
    target = macs_of(3, (8, 16, 32), 28, 1, 10)
    for arm, n in zip(made.arms, (1, 3, 5), strict=True):
        assert arm.macs == macs_of(n, tuple(arm.spec["widths"]), 28, 1, 10)
        assert abs(arm.macs / target - 1) <= 0.02
        if arm.name == "20":
            assert arm.match is None and arm.spec["widths"] == [8, 16, 32]
        else:
            assert arm.match["target"] == target and arm.match["budget"] == "MACs"
            assert arm.match["mismatch"] == pytest.approx(arm.macs / target - 1)
            assert arm.match["widths"] == arm.spec["widths"]
    kept = made.grid_json()["arms"][0]["match"]
    assert kept == made.arms[0].match and json.loads(json.dumps(kept)) == kept


def test_what_cannot_be_reached_is_refused_with_what_can(tmp_path: Path) -> None:
    text = (
        "factors: {depth: [8, 20]}\nbaseline: '20'\nmatch: macs\ntolerance: 0.0001\n"
        "presets: {quick: {network: resnet20, width: 4, recipe: quick, dataset: fashion}}\n"
    )
    with pytest.raises(ablations.UserError) as caught:
        planned(text, tmp_path)
    message = str(caught.value)
    assert "grid g is not matched: 8 has" in message and "--allow_unmatched" in message
    target = macs_of(3, (4, 8, 16), 28, 1, 10)
    assert f"nearest to {target:,} are" in message and "\n" not in message
    below, above = _reachable(message)
    assert below < target < above
    assert planned(text, tmp_path, allow_unmatched=True).unmatched[0] in message


def _reachable(message: str) -> list[int]:
    """Return the budgets that a message names, checked against their widths."""
    values = []
    for part in message.split(" are ")[1].split(". Make")[0].split(" or "):
        value, widths = part.split(" (width ")
        made = tuple(map(int, widths.rstrip(")").split("x")))
        assert int(value.replace(",", "")) == macs_of(1, made, 28, 1, 10)  # type: ignore[arg-type]
        values.append(int(value.replace(",", "")))
    return values


UNDECLARED = (
    "arms: {short: {shortcut: A}, long: {shortcut: A, recipe.epochs: 9, recipe.l2: 1e-3}}\n"
)


def test_an_undeclared_budget_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ablations.UserError) as caught:
        planned(UNDECLARED + TINY, tmp_path, data_dir=images)
    assert "recipe.epochs: 3 in short; 9 in long (between short and long)" in str(caught.value)
    assert "recipe.l2: 0.0 in short; 0.001 in long" in str(caught.value)
    assert "shortcut" not in str(caught.value)


def test_refused_on_the_command_line(images: Path, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(UNDECLARED + TINY)
    arguments = ["--grid", "g.yaml", "--data_dir", str(images), "--dry_run"]
    for extra, code in ([], 2), (["--allow_unmatched"], 0):
        outcome = subprocess.run(
            [sys.executable, "-m", "ablations.run", *arguments, *extra],
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        text = outcome.stdout if extra else outcome.stderr
        assert outcome.returncode == code, outcome.stderr
        assert "recipe.epochs: 3 in short; 9 in long" in text
        assert "NOT MATCHED (allowed)" in text if extra else text.count("\n") == 1


@pytest.mark.parametrize(
    "addition",
    [
        "varies: [shortcut, recipe.epochs, recipe.l2]\n",
        "arms: {short: {shortcut: A}, long: {shortcut: B}}\n"
        "exceptions: {long: {recipe.epochs: 9, recipe.l2: 1e-3, why: it needs them}}\n",
    ],
)
def test_declared_budgets_are_matched(addition: str, images: Path, tmp_path: Path) -> None:
    text = addition if "arms:" in addition else UNDECLARED + addition
    assert planned(text + TINY, tmp_path, data_dir=images).unmatched == ()


def test_fields_that_varies_does_not_list(images: Path, tmp_path: Path) -> None:
    text = "arms: {a: {shortcut: A}, b: {shortcut: B, zero_gamma: yes}}\n"
    assert planned(text + TINY, tmp_path, data_dir=images).unmatched == ()
    with pytest.raises(ablations.UserError, match="zero_gamma: False in a; True in b"):
        planned(text + "varies: [shortcut]\n" + TINY, tmp_path, data_dir=images)


def test_what_follows_from_a_factor_is_no_mismatch(tmp_path: Path) -> None:
    text = (
        "factors: {block: [basic, bottleneck]}\n"
        "presets: {quick: {network: resnet20, width: 4, recipe: quick, dataset: fashion}}\n"
    )
    made = planned(text, tmp_path)
    assert made.unmatched == ()
    one, other = made.arms
    assert (one.spec["shortcut"], other.spec["shortcut"]) == ("A", "B")  # the zoo's defaults
    assert {"shortcut", "expansion"} <= declared(one, other)
    from ablations.grids.declared import sentences

    assert "shortcut follows from block: A in basic, B in bottleneck" in sentences(made.arms)


@pytest.mark.parametrize("name", grids.names())
def test_built_in_grids_are_matched(name: str) -> None:
    shapes = {"fashion": (28, 28, 1), "cifar10": (32, 32, 3), "imagenet": (224, 224, 3)}
    for preset in grids.presets(name):
        grid = grids.load(name, preset)
        arms = matrix.arms(grid, shapes[grid.dataset], 10, {})
        assert audit.planned(arms) == ()
        assert all((arm.match is None) == (not grid.match or arm.name == grid.baseline)
                   for arm in arms)  # fmt: skip


def test_allowed_by_the_user(images: Path, tmp_path: Path) -> None:
    """Trained all the same; the table is written, with the list."""
    (tmp_path / "g.yaml").write_text(UNDECLARED.replace("9", "2") + TINY)
    options: dict[str, Any] = {"data_dir": images, "seeds": 1, "out": tmp_path / "run"}
    options |= {"threads": 1, "recipe": {"batch": 48}}
    with pytest.raises(ablations.UserError, match="not matched"):
        ablations.run_grid(str(tmp_path / "g.yaml"), **options)
    assert not (tmp_path / "run").exists()  # refused before anything was written
    run = ablations.run_grid(str(tmp_path / "g.yaml"), allow_unmatched=True, **options)
    assert [cell.problem for cell in run.cells if cell.state != "done"] == []
    found = audit.audit(run)
    assert not found.matched and len(found.allowed) == 2
    assert {"steps", "images", "data fed", "recipe.epochs"} <= set(found.between("short", "long"))
    assert sum("recipe.epochs: " in line for line in found.problems) == 1
    text = (tmp_path / "run" / "table.md").read_text()
    assert "NOT MATCHED" in text and all(line in text for line in found.problems)


@pytest.mark.parametrize(
    ("arms", "what"),
    [
        (
            "small: {block: basic, shortcut: A}, big: {block: bottleneck, shortcut: none}",
            "shortcut",
        ),
        ("small: {block: basic}, big: {block: bottleneck, depths: [1, 1, 1]}", "depths"),
        ("small: {block: basic, depth: 20}, big: {block: bottleneck, depth: 56}", "depth"),
    ],
)
def test_what_is_set_by_hand_does_not_follow(arms: str, what: str, tmp_path: Path) -> None:
    text = (
        f"varies: [block]\narms: {{{arms}}}\n"
        "presets: {quick: {network: resnet20, width: 4, recipe: quick, dataset: fashion}}\n"
    )
    with pytest.raises(ablations.UserError, match=f"is not matched: .*{what}s?: "):
        planned(text, tmp_path)
    declared = text.replace("varies: [block]", f"varies: [block, {what}]")
    assert planned(declared, tmp_path).unmatched == ()


def test_arms_whose_errors_ended_their_warm_ups_apart_are_not_matched(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = records.load(tiny_run)

    def warmed(ends: dict[str, int], error: float, slower: str = "") -> Run:
        protocol = {"warmup_rate": 0.01, "warmup_error": error}
        arms = [dataclasses.replace(a, recipe={**a.recipe, **protocol}) for a in run.arms]
        cells = []
        for cell in run.done():
            results = {**cell.results, "warmup_steps": ends[cell.arm] + cell.seed}
            config = {**cell.config, "recipe": {**cell.config["recipe"], **protocol}}
            record = {**(cell.record or {}), "results": results}
            record["identity"] = files.sha256(files.canonical(config))
            rate = {"learning_rate": 0.5} if cell.arm == slower else {}
            history = [{**row, **rate} for row in cell.history]
            cells.append(dataclasses.replace(cell, config=config, record=record, history=history))
        return dataclasses.replace(run, arms=arms, cells=cells)

    names = [arm.name for arm in run.arms]
    assert audit.audit(warmed(dict.fromkeys(names, 4), 80.0)).matched  # seeds may differ
    found = audit.audit(warmed(dict.fromkeys(names, 4) | {names[1]: 9}, 80.0))
    assert [line.split(":")[0] for line in found.problems] == [
        f"last step of the warm-up of seed {seed}" for seed in (0, 1)
    ]
    assert all(names[1] in str(difference.pairs) for difference in found.differences)
    # A warm-up of fixed length is compared like any schedule.
    assert audit.audit(warmed(dict.fromkeys(names, 4), 101.0)).matched
    slow = audit.audit(warmed(dict.fromkeys(names, 4), 101.0, slower=names[1]))
    assert [line.split(":")[0] for line in slow.problems] == ["learning rates"]


# --- finished records, edited


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


def edit(run: Path, cell: str, change: Callable[[dict[str, Any], Path], None]) -> None:
    """Change a finished cell's files, and vouch for them anew."""
    arm, seed = cell.split("/seed")
    directory = records.cell_directory(run, arm, int(seed))
    record = json.loads((directory / "record.json").read_text())
    change(record, directory)
    (directory / "record.json").write_text(json.dumps(record))
    names = json.loads((directory / "manifest.json").read_text())["files"]
    cell_files.write_manifest(directory, list(names))


def tensor(record: dict[str, Any], directory: Path) -> None:
    tensors = record["matched"]["initial_tensors"]
    tensors["stage2_block1_conv1/kernel"]["sha256"] = hashlib.sha256(b"other").hexdigest()
    record["matched"]["initial_sha256"] = files.sha256(files.canonical(tensors))


def every_tensor(record: dict[str, Any], directory: Path) -> None:
    tensors = record["matched"]["initial_tensors"]
    for name, entry in tensors.items():
        entry["sha256"] = hashlib.sha256(name.encode()).hexdigest()
    record["matched"]["initial_sha256"] = files.sha256(files.canonical(tensors))


def fed(record: dict[str, Any], directory: Path) -> None:
    lines = (directory / "fed.sha256").read_text().split()
    lines[1] = hashlib.sha256(b"other").hexdigest()
    (directory / "fed.sha256").write_text("".join(f"{line}\n" for line in lines))
    record["matched"]["fed_sha256"] = files.sha256(b"".join(map(bytes.fromhex, lines)))


def value(*path: str | int, to: Any) -> Callable[[dict[str, Any], Path], None]:
    def change(record: dict[str, Any], directory: Path) -> None:
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        assert inner[path[-1]] != to
        inner[path[-1]] = to

    return change


def config(part: str, key: str, to: Any) -> Callable[[dict[str, Any], Path], None]:
    """Train with another configuration than the grid's, and record that faithfully."""

    def change(record: dict[str, Any], directory: Path) -> None:
        cell = json.loads((directory / "cell.json").read_text())
        assert cell["config"][part][key] != to
        cell["config"][part][key] = to
        cell["identity"] = files.sha256(files.canonical(cell["config"]))
        (directory / "cell.json").write_text(json.dumps(cell))
        record["identity"] = cell["identity"]

    return change


def rates(record: dict[str, Any], directory: Path) -> None:
    lines = (directory / "history.csv").read_text().splitlines()
    column = lines[0].split(",").index("learning_rate")
    cells = lines[1].split(",")
    cells[column] = str(2 * float(cells[column]))
    (directory / "history.csv").write_text(
        "\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n"
    )


def threads(record: dict[str, Any], directory: Path) -> None:
    record["machine"]["threads"] += 1
    record["environment"]["variables"]["TF_NUM_INTRAOP_THREADS"] = str(record["machine"]["threads"])


#: what was edited -> (how, what the audit calls it, words of its line)
EDITS: dict[str, tuple[Callable[[dict[str, Any], Path], None], str, str]] = {
    "an initial tensor": (
        tensor, "initial tensor stage2_block1_conv1/kernel", "in A/seed1"),
    "all initial tensors": (
        every_tensor, "initial tensors", "initial tensors of seed 1 differ"),
    "the bytes of a step": (
        fed, "data fed", "A/seed1 saw other data than plain/seed1 from step 2 of"),
    "the steps": (
        value("matched", "steps", to=2), "steps", "2 in A/seed1"),
    "the images seen": (
        value("matched", "images", to=7), "images", "7 in A/seed1"),
    "a version": (
        value("environment", "versions", "keras", to="3.14.0"), "keras", "3.14.0 in A/seed1"),
    "the device model": (
        value("environment", "cpu", to="Another CPU"), "processor", "Another CPU in A/seed1"),
    "the threads": (
        threads, "machine.threads", "in A/seed1"),
    "the strategy": (
        value("machine", "strategy", to="mirrored"), "machine.strategy", "mirrored in A/seed1"),
    "oneDNN": (
        value("environment", "variables", "TF_ENABLE_ONEDNN_OPTS", to="0"),
        "TF_ENABLE_ONEDNN_OPTS", "0 in A/seed1"),
    "the code": (
        value("attempts", 0, "code", "sources_sha256", to="0" * 64),
        "code of reszoo or ablations", "in A/seed1"),
    "the learning rate": (
        rates, "learning rates", "in A/seed1"),
    "the weight decay": (
        config("recipe", "l2", 0.5), "recipe.l2", "0.5 in A/seed1"),
    "the data set": (
        config("data", "digest", "0" * 64), "data.digest", "in A/seed1"),
    "the number of test images": (
        value("results", "test_images", to=19), "test_images", "19 in A/seed1"),
}  # fmt: skip


@pytest.mark.parametrize("edited", EDITS)
def test_edited_records_are_named(edited: str, copy: Path) -> None:
    change, what, words = EDITS[edited]
    edit(copy, "A/seed1", change)
    found = audit.audit(ablations.load(copy))
    assert not found.matched
    line = next(x for x in found.differences if x.what == what and x.pairs)
    assert words in line.text and line.text in found.problems
    # Every pair of arms that it stands between, and no other.
    assert {frozenset(pair) for pair in line.pairs} == {
        frozenset(("plain", "A")), frozenset(("A", "B")),
    }  # fmt: skip
    assert what in found.between("A", "plain") and what in found.between("B", "A")
    assert what not in found.between("plain", "B")


def fewer_wrong(record: dict[str, Any], directory: Path) -> None:
    """The error and its count agree, as in a run that was better."""
    assert record["results"]["test_wrong"]
    record["results"].update(test_wrong=0, test_error=0.0)


def last_error(record: dict[str, Any], directory: Path) -> None:
    history = cell_files.read_history(directory / "history.csv")
    history[-1]["test_error"] += 5
    (directory / "history.csv").write_text(cell_files.history_csv(history))


def taken(name: str) -> Callable[[dict[str, Any], Path], None]:
    """Take a file of the same seed of another arm."""

    def change(record: dict[str, Any], directory: Path) -> None:
        shutil.copy(directory.parents[1] / "B" / directory.name / name, directory / name)

    return change


def labels(record: dict[str, Any], directory: Path) -> None:
    """Turn labels and predictions around: as many are wrong as before."""
    arrays = dict(np.load(directory / "predictions.npz"))
    arrays |= {name: 1 - arrays[name] for name in ("label", "predicted")}
    np.savez(directory / "predictions.npz", **arrays)


#: Records that contradict the cell's own files or plan, or hold files of another cell.
FORGED: dict[str, tuple[Callable[[dict[str, Any], Path], None], str]] = {
    "of another cell": (value("seed", to=0), "A/seed1 holds the record of A/seed0"),
    "of another configuration": (
        value("identity", to="0" * 64), "A/seed1: the record belongs to another configuration"),
    "with other threads than planned": (
        value("machine", "threads", to=77), "A/seed1 ran with threads 77, planned"),
    "with a digest of other data": (
        value("matched", "fed_sha256", to="0" * 64), "A/seed1: fed.sha256 is not what"),
    "with a sum of other tensors": (
        value("matched", "initial_sha256", to="0" * 64), "A/seed1: their digests are not"),
    "of another network": (
        config("spec", "zero_gamma", True),
        "A/seed1 was trained with zero_gamma True, the grid has False"),
    "with another error than its counts": (
        value("results", "test_error", to=1.25), "A/seed1 records test_error 1.25 % and"),
    "with another training error": (
        value("results", "train_error", to=1.25), "A/seed1 records train_error 1.25 % and"),
    "with other counts than its predictions": (
        fewer_wrong, "A/seed1 records test_wrong 0, its predictions.npz has"),
    "with another error than its curve": (fewer_wrong, "A/seed1 records test_error 0 %, its hist"),
    "with another curve": (last_error, "% in epoch"),
    "of weights selected otherwise": (
        value("results", "selection", to="best_test"),
        "A/seed1 selected weights by 'best_test', planned 'last'"),
    "with another arm's predictions": (
        taken("predictions.npz"), "A/seed1 have the same predictions.npz, but not the same"),
    "with another arm's model": (
        taken("model.keras"), "A/seed1 have the same model.keras, but not the same weights"),
    "with other labels": (labels, "test labels: "),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_forged_records_are_named(forged: str, copy: Path) -> None:
    change, words = FORGED[forged]
    edit(copy, "A/seed1", change)
    assert any(words in line for line in audit.audit(ablations.load(copy)).problems)


def test_sizes_that_the_grid_does_not_have_from_its_networks(copy: Path) -> None:
    grid = files.read_signed(copy / "grid.json")
    grid["arms"][1].update(parameters=1, macs=3)
    files.write_signed(copy / "grid.json", grid)
    one, other = audit.audit(ablations.load(copy)).problems
    assert one.startswith("the grid gives A 1 parameters, its network has ")
    # A 8-layer net of widths 4, 8, 16 on images of 10x10x3, in closed form.
    assert other == f"the grid gives A 3 macs, its network has {macs_of(1, (4, 8, 16), 10, 3, 2):,}"


def renumbered(run: Path, arm: str, seed: int, to: int) -> None:
    """Give out a cell's training for that of another seed, in all of its files."""
    source, target = (records.cell_directory(run, arm, n) for n in (seed, to))
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    cell = json.loads((target / "cell.json").read_text())
    cell["config"]["seed"] = cell["seed"] = to
    cell["identity"] = files.sha256(files.canonical(cell["config"]))
    (target / "cell.json").write_text(json.dumps(cell))
    edit(
        run, f"{arm}/seed{to}", lambda record, _: record.update(seed=to, identity=cell["identity"])
    )


@pytest.mark.parametrize(
    ("own", "shared"),
    [
        ((), "final weights, initial values, data fed, attempt"),
        (("final",), "initial values, data fed, attempt"),
        (("final", "initial", "fed"), "attempt"),
        (("final", "initial", "fed", "attempt"), ""),
    ],
)
def test_a_seed_that_is_a_copy_of_another(own, shared: str, copy: Path) -> None:
    """Whatever one of the two has of its own, the rest shows the copy."""
    renumbered(copy, "A", 0, 1)
    directory = records.cell_directory(copy, "A", 1)

    def change(record: dict[str, Any], _: Path) -> None:
        if "final" in own:
            record["final_sha256"] = "1" * 64
        if "initial" in own:
            every_tensor(record, directory)
        if "fed" in own:
            fed(record, directory)
        if "attempt" in own:
            record["attempts"][0]["started"] = "2020-01-01T00:00:00.000001+00:00"

    edit(copy, "A/seed1", change)
    found = [x for x in audit.audit(ablations.load(copy)).differences if x.what == "replicates"]
    lines = [f"no replicate: A/seed1 of A/seed0 (they have the same {shared})"] * bool(shared)
    assert [x.text for x in found] == lines


def test_a_difference_between_seeds_of_one_arm(copy: Path) -> None:
    """All cells of seed 1 were trained by another version: no pair of arms is free of it."""
    for arm in ("plain", "A", "B"):
        edit(copy, f"{arm}/seed1", value("environment", "versions", "numpy", to="1.0"))
    (line,) = audit.audit(ablations.load(copy)).differences
    assert line.what == "numpy" and "1.0 in plain/seed1, A/seed1, B/seed1" in line.text
    assert len(line.pairs) == 3


def test_runs_of_older_versions_are_read(copy: Path) -> None:
    """Without what this version adds to grid.json and record.json."""
    grid = files.read_signed(copy / "grid.json")
    grid.pop("unmatched", None)
    for arm in grid["arms"]:
        arm.pop("match")
    files.write_signed(copy / "grid.json", grid)
    for cell in ("plain/seed0", "A/seed0", "B/seed1"):
        edit(copy, cell, lambda record, directory: record.pop("machine"))
    assert audit.audit(ablations.load(copy)).problems == ()


def test_factors_excuse_only_what_they_change(tmp_path: Path) -> None:
    """A zero-gamma arm shares its kernels with one that names the default initialiser."""
    arms = {arm.name: arm for arm in plan("initialisation", out=tmp_path / "run").arms}
    assert declared(arms["he-fan-in"], arms["zero-gamma"]) == {"zero_gamma"}
    assert declared(arms["he-fan-in"], arms["glorot"]) == {"initializer"}
    assert declared(arms["glorot"], arms["zero-gamma"]) == {"initializer", "zero_gamma"}


@pytest.mark.parametrize(("wrong", "classes", "noticed"), [(5, 2, 1), (0, 2, 0), (5, 1, 0)])
def test_networks_that_are_sure_of_every_image_may_agree(
    wrong: int, classes: int, noticed: int, tiny_run: Path
) -> None:
    """Two collapsed or two perfect networks can predict the same, to the bit."""
    cells = [
        dataclasses.replace(
            cell,
            tested=dataclasses.replace(cell.tested, wrong=wrong, classes=classes),  # type: ignore[type-var]
            digests={**cell.digests, "predictions.npz": "equal"},
        )
        for cell in records.load(tiny_run).done()
        if cell.seed == 0 and cell.arm != "plain"
    ]
    assert len(list(cell_audit.copies(cells))) == noticed
