"""The laboratory end to end: a real grid on real files, its records, table and command line."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_GRID, write_images
from watching import processes, wait_for_checkpoint, wait_until

import ablations
import reszoo
from ablations import records

ENV = dict(os.environ)


def command(*arguments, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ablations.run", *map(str, arguments)],
        cwd=cwd, env=ENV, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


# --- what a finished grid leaves


def test_cells_leave_their_files_and_nothing_else(tiny_run: Path) -> None:
    cell = tiny_run / "cells" / "A" / "seed1"
    assert {p.name for p in cell.iterdir() if "tfevents" not in p.name} == {
        "cell.json", "record.json", "history.csv", "model.keras", "predictions.npz", "fed.sha256",
        "log.txt", "manifest.json", ".lock", "attempts.json",
    }  # fmt: skip
    assert {p.name for p in tiny_run.iterdir()} == {
        "grid.json", "grid.copy.json", "table.md", "table.csv", "table.tex", "cells.csv",
        "report.html", "figures", "statistics.csv", "cells", "_summary", ".lock",
    }  # fmt: skip


def test_results_follow_from_what_is_stored(tiny_run: Path, images: Path) -> None:
    """The stored model, run on the test images again, gives the stored predictions and error."""
    from ablations import data
    from ablations.stream import normalise

    run = ablations.load(tiny_run)
    test = data.load("folder", images).test
    for cell in run.done():
        stored = cell.predictions()
        model = reszoo.load(cell.directory / "model.keras")
        outputs = model.predict(normalise(test.images, stored["pixel_mean"]), verbose=0)
        np.testing.assert_allclose(outputs, stored["probabilities"], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(stored["predicted"], outputs.argmax(1))
        np.testing.assert_array_equal(stored["label"], test.labels)
        wrong = int(np.count_nonzero(stored["predicted"] != test.labels))
        assert cell.results["test_wrong"] == wrong
        assert cell.results["test_error"] == pytest.approx(100 * wrong / len(test.labels))
        assert model.spec.shortcut == cell.config["spec"]["shortcut"]


def test_run_in_python(tiny_run: Path) -> None:
    run = ablations.load(tiny_run)
    assert [arm.name for arm in run.arms] == ["plain", "A", "B"]
    assert [arm.factors["shortcut"] for arm in run.arms] == ["none", "A", "B"]
    assert [(c.seed, c.arm) for c in run.cells] == [
        (s, a) for s in (0, 1) for a in ("plain", "A", "B")
    ]
    # 48 images, batch 128, 8 epochs: 384 images in 3 steps.
    curves = run.curves("test_error")
    assert curves["A"].shape == (2, len(run.cells[0].history))
    assert run.cells[0].history[-1]["step"] == 3
    with pytest.raises(ablations.UserError, match='did you mean "test_error"'):
        run.curves("tst_error")


def test_learning_rate_and_images_of_the_history(tiny_run: Path) -> None:
    for cell in ablations.load(tiny_run).done():
        last = cell.history[-1]
        assert last["images"] == 384 == cell.record["matched"]["images"]
        assert len(cell.fed()) == 3


def test_table_holds_what_was_measured(tiny_run: Path) -> None:
    run = ablations.load(tiny_run)
    with open(tiny_run / "cells.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 6 and {row["schema"] for row in cells} == {"1"}
    for row, cell in zip(cells, run.cells, strict=True):
        assert (row["arm"], int(row["seed"])) == (cell.arm, cell.seed)
        assert float(row["test_error"]) == cell.results["test_error"]
    with open(tiny_run / "table.csv", newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    errors = {arm.name: [c.results["test_error"] for c in run.done(arm.name)] for arm in run.arms}
    for name, row in rows.items():
        assert float(row["test_error_mean"]) == pytest.approx(np.mean(errors[name]))
        assert float(row["test_error_std"]) == pytest.approx(np.std(errors[name], ddof=1), rel=1e-5)
        assert (row["n"], row["planned"], row["baseline"]) == ("2", "2", "plain")
        if name != "plain":
            paired = np.mean(np.subtract(errors[name], errors["plain"]))
            assert float(row["test_error_difference"]) == pytest.approx(paired)
            assert row["test_error_low"] == ""  # n = 2: no interval
    text = (tiny_run / "table.md").read_text()
    assert "Matched (checked on the records)" in text and "NOT MATCHED" not in text
    assert "sample standard deviation" in text and "last step" in text


def test_paper_numbers_are_the_paper_s(tmp_path: Path) -> None:
    """Tables 3 and 6, typed in from the paper."""
    from ablations import grids

    assert grids.load("shortcuts").paper["values"] == {
        "plain": 28.54, "A": 25.03, "B": 24.52, "C": 24.19,
    }  # fmt: skip
    table_6 = {"residual-20": 8.75, "residual-32": 7.51, "residual-44": 7.17, "residual-56": 6.97}
    # "6.61 ± 0.16", the mean of five runs; the table's own 6.43 is the best of them.
    assert grids.load("depth", "paper").paper["values"] == table_6 | {"residual-110": 6.61}
    assert grids.load("degradation", "paper-imagenet").paper["values"] == {  # Table 2
        "plain-18": 27.94, "plain-34": 28.54, "residual-18": 27.88, "residual-34": 25.03,
    }  # fmt: skip
    degradation = grids.load("degradation")
    assert degradation.paper["values"] == {k: table_6[k] for k in ("residual-20", "residual-56")}
    assert [arm.spec for arm in degradation.arms] == [
        {"shortcut": "none", "depth": 20}, {"shortcut": "none", "depth": 56},
        {"shortcut": "A", "depth": 20}, {"shortcut": "A", "depth": 56},
    ]  # fmt: skip


# --- the record


def test_the_record_says_what_the_result_depends_on(images: Path, tiny_grid, tmp_path) -> None:
    environment = {**ENV, "MY_API_TOKEN": "a-secret-value"}
    out = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-m", "ablations.run", "--grid", tiny_grid, "--data_dir", images,
         "--seeds", "1", "--only", "B", "--epochs", "1", "--out", out],
        env=environment, check=True, timeout=240, capture_output=True,
    )  # fmt: skip
    (cell,) = ablations.load(out).done()
    record, platform = cell.record, cell.config["platform"]
    assert {"python", "tensorflow", "keras", "numpy", "h5py", "hdf5", "reszoo"} <= set(
        record["environment"]["versions"]
    )
    assert record["environment"]["variables"]["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert platform["threads"] >= 1 and platform["strategy"] == "none" and platform["device"]
    (attempt,) = record["attempts"]
    assert "--only" in attempt["argv"] and record["exit"] == "done"
    assert len(cell.config["data"]["digest"]) == 64 and cell.config["seed"] == 0
    assert len(attempt["code"]["sources_sha256"]) == 64
    for path in out.rglob("*"):
        assert path.is_dir() or b"a-secret-value" not in path.read_bytes()


def test_evaluate_a_saved_model(copy: Path, images: Path) -> None:
    """The command gives the error that the cell recorded, on both parts."""
    run = ablations.load(copy)
    for cell in run.done("A"):
        for part in ("test", "train"):
            outcome = subprocess.run(
                [sys.executable, "-m", "ablations.evaluate", cell.directory / "model.keras",
                 "--data_dir", images, "--part", part],
                env=ENV, capture_output=True, text=True, timeout=600,
            )  # fmt: skip
            assert outcome.returncode == 0, outcome.stderr
            wrong, count = cell.results[f"{part}_wrong"], cell.results[f"{part}_images"]
            assert f"({wrong} of {count} wrong)" in outcome.stdout
            assert "mean image from the cell" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the path of one .keras file"),
        (["nothing.keras"], "no model file at nothing.keras"),
        (["{model}", "--dataset", "fashion"], "takes images of (10, 10, 3)"),
        (["{model}", "--dataset", "folder"], "--data_dir"),
        (["{bad}", "--dataset", "fashion"], "cannot be loaded"),
    ],
)
def test_evaluate_says_what_does_not_fit(arguments, words, copy: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.keras"
    bad.write_bytes(b"not a model")
    paths = {"model": copy / "cells" / "A" / "seed0" / "model.keras", "bad": bad}
    outcome = subprocess.run(
        [sys.executable, "-m", "ablations.evaluate", *(a.format(**paths) for a in arguments)],
        env=ENV, capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert outcome.returncode == 2 and words in outcome.stderr, outcome.stderr
    assert outcome.stdout == "" and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", ["cell.json", "predictions.npz"])
def test_evaluate_names_damaged_files_beside_the_model(name, copy: Path, images: Path) -> None:
    path = copy / "cells" / "A" / "seed0" / name
    path.write_bytes(path.read_bytes()[:100])
    outcome = subprocess.run(
        [sys.executable, "-m", "ablations.evaluate", path.parent / "model.keras",
         "--data_dir", images], env=ENV, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert outcome.returncode == 2 and f"{path} is damaged" in outcome.stderr
    assert "Traceback" not in outcome.stderr


# --- the process model


def test_the_parent_never_imports_tensorflow(tiny_grid: Path, images: Path, tmp_path: Path) -> None:
    code = (
        "import sys, ablations\n"
        f"run = ablations.run_grid({str(tiny_grid)!r}, data_dir={str(images)!r}, seeds=1, "
        f"epochs=1, only=['A'], out={str(tmp_path / 'run')!r}, show_progress=True)\n"
        "assert len(run.done()) == 1\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENV, timeout=240)


def test_more_seeds_and_other_arms_continue_a_directory(copy: Path, tiny_grid, images) -> None:
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("model.keras")}
    run = ablations.run_grid(
        str(tiny_grid), data_dir=images, seeds=3, epochs=8, only=["B"], out=copy
    )
    assert [(c.arm, c.seed) for c in run.done()] == [
        ("plain", 0), ("A", 0), ("B", 0), ("plain", 1), ("A", 1), ("B", 1), ("B", 2),
    ]  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in before} == before
    table = (copy / "table.md").read_text()
    assert "UNFINISHED: 7 of 9 cells are done." in table and "2 of 3" in table


def test_another_configuration_is_refused_field_by_field(copy: Path, tiny_grid, images) -> None:
    outcome = command(
        "--grid", tiny_grid, "--data_dir", images, "--seeds", 2, "--epochs", 9, "--threads", 1,
        "--out", copy, cwd=copy,
    )  # fmt: skip
    assert outcome.returncode == 2
    assert "recipe.epochs: 8 -> 9" in outcome.stderr and outcome.stderr.count("\n") == 1


def test_cells_are_reproduced_bit_by_bit(copy: Path, tiny_grid, images) -> None:
    before = records.load_cell(copy, "B", 1)
    shutil.rmtree(before.directory)
    ablations.run_grid(str(tiny_grid), data_dir=images, seeds=2, epochs=8, out=copy)
    after = records.load_cell(copy, "B", 1)
    assert after.record["final_sha256"] == before.record["final_sha256"]
    assert after.fed() == before.fed()


def test_a_damaged_result_is_named_and_not_counted(copy: Path, tiny_grid, images) -> None:
    path = copy / "cells" / "A" / "seed0" / "predictions.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    cell = records.load_cell(copy, "A", 0)
    assert cell.state == "failed" and str(path) in cell.problem
    outcome = command(
        "--grid", tiny_grid, "--data_dir", images, "--seeds", 2, "--epochs", 8, "--out", copy,
        cwd=copy,
    )  # fmt: skip
    assert outcome.returncode == 3 and "predictions.npz has changed" in outcome.stderr


def start(grid: Path, images: Path, out: Path, *more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "ablations.run", "--grid", str(grid), "--data_dir", str(images),
         "--seeds", "1", "--out", str(out), *map(str, more)],
        env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_starts_and_an_interrupt(tiny_grid: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start(tiny_grid, images, out, "--epochs", 30_000)
    wait_for_checkpoint(out, first)
    second = start(tiny_grid, images, out, "--epochs", 30_000)
    _, message = second.communicate(timeout=240)
    assert second.returncode == 2
    assert f"pid {first.pid} on {os.uname().nodename}" in message and message.count("\n") == 1
    children = processes(out)
    first.send_signal(signal.SIGINT)
    _, message = first.communicate(timeout=240)
    assert first.returncode == 130 and "the same command continues" in message
    wait_until(lambda: not [pid for pid in children if alive(pid)])
    states = {cell.state for cell in ablations.load(out).cells}
    assert "interrupted" in states and "done" not in states


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_failed_cell_is_named_and_the_others_go_on(images: Path, tmp_path: Path) -> None:
    grid = tmp_path / "broken.yaml"
    text = TINY_GRID.replace("factors: {shortcut: [none, A, B]}",
                             "factors: {recipe.learning_rate: [1e-2, 1e30]}")  # fmt: skip
    text = text.replace("labels: {shortcut: {none: plain}}", "labels: {}")
    grid.write_text(text.replace("baseline: plain", 'baseline: "0.01"'))
    outcome = command(
        "--grid", grid, "--data_dir", images, "--seeds", 1, "--epochs", 30, "--out",
        tmp_path / "run", cwd=tmp_path,
    )  # fmt: skip
    assert outcome.returncode == 3, outcome.stderr
    assert "1e+30/seed0 FAILED at step" in outcome.stderr and "the loss is" in outcome.stderr
    assert "log.txt" in outcome.stderr
    assert "0.01/seed0 done" in outcome.stderr
    assert "Failed cells" in outcome.stdout and "1 of 2 cells are done" in outcome.stdout
    again = command(
        "--grid", grid, "--data_dir", images, "--seeds", 1, "--epochs", 30, "--out",
        tmp_path / "run", cwd=tmp_path,
    )  # fmt: skip
    assert again.returncode == 3 and "--retry_failed" in again.stderr


def test_one_network_is_a_grid_of_one_arm(images: Path, tmp_path: Path) -> None:
    outcome = command(
        "--net", "resnet20", "--dataset", "folder", "--data_dir", images, "--seeds", 1,
        "--epochs", 1, cwd=tmp_path,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    run = ablations.load(tmp_path / "runs" / "resnet20")
    assert [arm.name for arm in run.arms] == ["resnet20"]
    assert reszoo.load(run.cells[0].directory / "model.keras").spec.widths == (16, 32, 64)


@pytest.mark.slow
def test_deep_cells_do_not_hit_the_recursion_limit(tmp_path: Path) -> None:
    grid = tmp_path / "deep.yaml"
    grid.write_text(
        "factors: {shortcut: [none]}\n"
        "presets: {quick: {network: resnet20, depth: 542, width: 2, recipe: quick, "
        "dataset: folder}}\n"
    )
    images = write_images(tmp_path / "images", 8, 4, 8)
    run = ablations.run_grid(str(grid), data_dir=images, seeds=1, epochs=1, out=tmp_path / "run")
    assert [cell.problem for cell in run.cells] == [""] and len(run.done()) == 1
    assert run.arms[0].weighted_layers == 542


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "shortcut"], 'unknown grid "shortcut"; did you mean "shortcuts"'),
        (["--grid", "missing.yaml"], "no grid file at missing.yaml"),
        (["--net", "resnet21"], 'did you mean "resnet20"'),
        (["--gird", "shortcuts"], "did you mean --grid"),
        (["shortcut"], 'unexpected argument "shortcut"; did you mean --grid shortcuts?'),
        (["resnet21"], "did you mean --net resnet20?"),
        (["--grid", "shortcuts", "--dry_run", "false"], "--nodry_run"),
        (["--grid", "shortcuts", "--net", "resnet20"], "one of the three"),
        ([], "one of the three"),
        (["--grid", "shortcuts", "--preset", "papr"], 'unknown preset "papr"'),
        (["--grid", "shortcuts", "--only", "D"], 'unknown arm "D"'),
        (["--grid", "shortcuts", "--baseline", "plan"], 'did you mean "plain"'),
        (["--grid", "shortcuts", "--seeds", "0"], "--seeds takes a positive"),
        (["--grid", "shortcuts", "--seeds", "2", "--seed_list", "4"], "not both"),
        (["--grid", "shortcuts", "--seed_list", "4,x"], "--seed_list takes numbers"),
        (["--grid", "shortcuts", "--seed_list", "4,4"], "distinct"),
        (["--grid", "shortcuts", "--epochs", "-1"], "--epochs takes a positive"),
        (["--grid", "shortcuts", "--dataset", "fashon"], 'did you mean "fashion"'),
        (["--grid", "shortcuts", "--dataset", "folder"], "--data_dir"),
        (["--grid", "shortcuts", "--dataset", "cifar10", "--data_dir", "nowhere"], "nowhere"),
        (["--grid", "shortcuts", "--out", "/proc/nowhere/run"], "cannot write to"),
        (["--grid", "shortcuts", "--only", ""], "--only names no arm"),
        (["--grid", "shortcuts", "--skip_corrupt"], "--skip_corrupt is for folder and imagenet"),
        (["--grid", "shortcuts", "--threads", "999999"], "too many"),
        (["--grid", "shortcuts", "--hung_minutes", "0"], "--hung_minutes takes a positive"),
        (["--grid", "shortcuts", "--preset", "paper", "--dataset", "fashion"], "--preset quick"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, words, tmp_path) -> None:
    outcome = command(*arguments, cwd=tmp_path)
    assert outcome.returncode == 2, outcome.stderr
    assert words in outcome.stderr and outcome.stderr.count("\n") == 1
    assert outcome.stdout == "" and list(tmp_path.iterdir()) == []


PAPER = "paper: {metric: m, protocol: p, n: 1, source: s, values: "
BAD_GRIDS = {
    "factors: {shortcut: [none, D]}": 'unknown shortcut "D"',
    "factors: {shortct: [none, A]}": 'did you mean "shortcut"',
    "factors: {depth: [20, x]}": "depth takes a whole number, not 'x'",
    "factors: {depth: [21]}": "6n+2, not 21",
    "factor: {depth: [20]}": 'did you mean "factors"',
    "factors: {depth: [20]}\nbaseline: none": 'unknown arm "none"',
    "factors: {depth: [20": "is not YAML",
    "[1, 2]": "a grid is a mapping",
    "factors: {recipe.l2: [1e-4, much]}": "recipe.l2 takes a number, not 'much'",
    "factors: {depth: [20]}\nlabels: {depth: {20: ../up}}": 'arm "../up" names a directory',
    "factors: [a, b]": "factors is a mapping",
    "factors: {depth: 20}": "depth takes a list of levels, not '20'",
    "factors: {depth: []}": "depth takes a list of levels",
    "factors: {depth: {20: 1}}": "depth takes a list of levels",
    "factors: {input_shape: [[10, 10, 3]]}": "input_shape follows from the data set",
    "factors: {shortcut: ['', A]}": 'unknown shortcut ""',
    "factors: {shortcut: [None, A]}": 'unknown shortcut "None"; did you mean "none"',
    "factors: {depth: [20]}\nlabels: x": "labels is a mapping",
    "factors: {depth: [20]}\nlabels: {depht: {20: a}}": 'labels: unknown factor "depht"',
    "factors: {depth: [20]}\nlabels: {depth: {21: a}}": 'unknown level "21"',
    "factors: {depth: [20]}\npaper: {values: {20: 1}}": "paper: metric, protocol, n, source m",
    "factors: {depth: [20]}\n" + PAPER + "{20: x}}": "'x' is not a number",
    "factors: {depth: [20]}\n" + PAPER + "{x: 1}}": 'paper: values: unknown arm "x"',
    "factors: {recipe.batch: [0]}": "recipe.batch takes a positive",
    "factors: {depth: [20]}\nlabels: {depth: {20: a}}\nbaseline: '20'": 'unknown arm "20"',
}


@pytest.mark.parametrize(("text", "words"), BAD_GRIDS.items())
def test_bad_grid_files(text: str, words: str, tmp_path: Path) -> None:
    presets = "\npresets: {quick: {network: resnet20, recipe: quick, dataset: fashion}}\n"
    (tmp_path / "g.yaml").write_text(text + ("" if text[0] == "[" else presets))
    outcome = command("--grid", "g.yaml", cwd=tmp_path)
    assert outcome.returncode == 2 and words in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("presets", "words"),
    [
        ("quick", "presets is a mapping"),
        ("{quick: [1]}", "presets: quick is a mapping"),
        ("{quick: {network: [resnet20], recipe: quick, dataset: fashion}}", "network is text"),
        ("{quick: {network: resnet20, recipe: quik, dataset: fashion}}", 'did you mean "quick"'),
        ("{quick: {network: resnet20, recipe: quick}}", "dataset missing"),
        ("{quick: {network: resnet20, recipe: quick, dataset: fashion, widht: 8}}",
         'did you mean "width"'),
        ("{quick: {network: resnet20, recipe: quick, dataset: fashion, exceptions: {20: "
         "{recipe.l2: 1}}}}", "say why it differs"),
        ("{quick: {network: resnet20, recipe: quick, dataset: fashion, exceptions: {21: {}}}}",
         'unknown arm "21"'),
    ],
)  # fmt: skip
def test_bad_presets(presets: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(f"factors: {{depth: [20]}}\npresets: {presets}\n")
    outcome = command("--grid", "g.yaml", cwd=tmp_path)
    assert outcome.returncode == 2 and words in outcome.stderr, outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_yaml_numbers_are_read_by_the_field_s_type(tmp_path: Path) -> None:
    """YAML itself reads 1e-4 as a string."""
    from ablations import grids

    (tmp_path / "g.yaml").write_text(
        "factors: {recipe.l2: [1e-4, 0], widths: [[4, 8, 16]], recipe.flip: [no]}\n"
        "presets: {quick: {network: resnet20, recipe: quick, dataset: fashion}}\n"
    )
    arm = grids.load(str(tmp_path / "g.yaml")).arms[0]
    assert arm.factors == {"recipe.l2": 1e-4, "widths": (4, 8, 16), "recipe.flip": False}
    assert arm.name == "0.0001-4x8x16-False"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--list"], ["shortcuts", "degradation", "depth"]),
        (["--grid", "shortcuts", "--dry_run"], ["12 cells", "67,906", "7,733,696", "235", "MB in"]),
        (["--help"], ["--grid", "Exit status"]),
        (["--version"], ["reszoo", "tensorflow 2.21"]),
    ],
)
def test_answers_without_tensorflow(arguments, words, tmp_path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run', *{arguments!r}]\n"
        "try:\n    runpy.run_module('ablations.run', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'tensorflow', 'keras', 'scipy.stats'} & set(sys.modules)\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    assert all(word in outcome.stdout for word in words)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_and_foreign_directories(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    outcome = command("--grid", "shortcuts", "--out", tmp_path, cwd=tmp_path)
    assert outcome.returncode == 2 and "holds other files (notes.txt)" in outcome.stderr
    outcome = command("--grid", "shortcuts", "--out", tmp_path / "notes.txt", cwd=tmp_path)
    assert outcome.returncode == 2 and "is a file" in outcome.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_unknown_record_version_is_refused(copy: Path) -> None:
    from ablations import files

    grid = files.read_signed(copy / "grid.json")
    files.write_signed(copy / "grid.json", {**grid, "schema": 99})
    with pytest.raises(ablations.UserError, match="schema 99; this version reads schema 1"):
        ablations.load(copy)


@pytest.mark.slow
def test_the_readme_s_first_command(tmp_path: Path) -> None:
    """Twelve cells on the shipped images, without any option; every cell three passes or more."""
    outcome = command("--grid", "shortcuts", cwd=tmp_path, timeout=3000)
    assert outcome.returncode == 0, outcome.stderr
    run = ablations.load(tmp_path / "runs" / "shortcuts")
    assert [arm.name for arm in run.arms] == ["plain", "A", "B", "C"] and len(run.done()) == 12
    for cell in run.done():
        assert cell.record["matched"]["images"] >= 30_000
        # Ten balanced classes: chance is 90 % error. What is asserted is that it learns.
        assert cell.results["test_error"] < 45
    assert "Matched (checked on the records)" in outcome.stdout
    assert "12/12" in outcome.stderr or "12 of 12" in outcome.stderr
