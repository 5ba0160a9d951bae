"""The audit names planted differences: cell and step, cell and tensor, field."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ablations
from ablations import cell_files, data, environment, files, records
from ablations.audit import audit
from ablations.recipes import Recipe
from ablations.stream import Stream, make_source, pixel_mean


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


def rewrite(run: Path, arm: str, seed: int, change) -> None:
    """Change one cell's record and files as if it had been trained so."""
    cell = records.load_cell(run, arm, seed)
    record = json.loads((cell.directory / "record.json").read_text())
    change(record, cell.directory)
    (cell.directory / "record.json").write_text(json.dumps(record))
    names = json.loads((cell.directory / "manifest.json").read_text())["files"]
    cell_files.write_manifest(cell.directory, list(names))


def feed_again(images: Path, seed: int, plant) -> list[str]:
    """Return the digests that a cell would have recorded from changed training data."""
    train = data.load("folder", images).train
    pixels, labels = train.images.copy(), train.labels.copy()
    mean = pixel_mean(pixels)
    plant(pixels, labels)
    recipe = Recipe.from_dict({**ablations.recipe("quick").to_dict(), "epochs": 8})
    stream = Stream(make_source(data.Images(pixels, labels), recipe, seed, mean), recipe, seed)
    return [stream.batch(step).digest.hex() for step in range(recipe.steps(len(labels)))]


def plant_feed(digests: list[str]):
    def change(record: dict, directory: Path) -> None:
        (directory / "fed.sha256").write_text("".join(f"{line}\n" for line in digests))
        joined = b"".join(bytes.fromhex(line) for line in digests)
        record["matched"]["fed_sha256"] = hashlib.sha256(joined).hexdigest()

    return change


def test_the_run_as_trained_is_matched(tiny_run: Path) -> None:
    found = audit(ablations.load(tiny_run))
    assert found.matched and len(found.facts) == 3


def test_replayed_feed_equals_the_recorded_one(tiny_run: Path, images: Path) -> None:
    """What the cells recorded is what the stream gives for their seed, in another process."""
    for seed in (0, 1):
        replayed = feed_again(images, seed, lambda pixels, labels: None)
        for arm in ("plain", "A", "B"):
            assert records.load_cell(tiny_run, arm, seed).fed() == replayed


def test_one_flipped_pixel(copy: Path, images: Path) -> None:
    def flip(pixels: np.ndarray, labels: np.ndarray) -> None:
        pixels[17, 3, 4, 1] ^= 1

    digests = feed_again(images, 1, flip)
    first = next(
        step
        for step, (a, b) in enumerate(
            zip(digests, records.load_cell(copy, "A", 1).fed(), strict=True), start=1
        )
        if a != b
    )
    rewrite(copy, "A", 1, plant_feed(digests))
    problems = audit(ablations.load(copy)).problems
    assert len(problems) == 1
    assert "A/seed1" in problems[0] and f"from step {first} of 3" in problems[0]


def test_two_swapped_samples(copy: Path, images: Path) -> None:
    """The same images with the same labels in another order, from the second step on."""
    digests = feed_again(images, 0, lambda pixels, labels: None)
    train = data.load("folder", images).train
    recipe = ablations.recipe("quick", epochs=8)
    stream = Stream(make_source(train, recipe, 0, pixel_mean(train.images)), recipe, 0)
    batch = stream.batch(1)
    order = np.arange(len(batch.labels))
    one, two = 0, int(np.flatnonzero(batch.labels != batch.labels[0])[0])
    order[[one, two]] = order[[two, one]]
    swapped = hashlib.sha256(batch.images[order].tobytes() + batch.labels[order].tobytes())
    digests[1] = swapped.hexdigest()
    rewrite(copy, "B", 0, plant_feed(digests))
    problems = audit(ablations.load(copy)).problems
    assert len(problems) == 1
    assert "B/seed0" in problems[0] and "from step 2 of 3" in problems[0]


def test_one_differing_initial_tensor(copy: Path) -> None:
    def change(record: dict, directory: Path) -> None:
        tensor = record["matched"]["initial_tensors"]["stage2_block1_conv1/kernel"]
        tensor["sha256"] = hashlib.sha256(b"another value").hexdigest()
        tensors = record["matched"]["initial_tensors"]
        record["matched"]["initial_sha256"] = files.sha256(files.canonical(tensors))

    rewrite(copy, "A", 0, change)
    problems = audit(ablations.load(copy)).problems
    assert problems
    for line in problems:
        assert "stage2_block1_conv1/kernel" in line and "A/seed0" in line


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("environment", "versions", "tensorflow"), "2.20.0", "tensorflow: 2.2"),
        (("matched", "images"), 4, "images: 384 in plain/seed0"),
        (("environment", "variables", "TF_ENABLE_ONEDNN_OPTS"), "0", "TF_ENABLE_ONEDNN_OPTS: 1 in"),
    ],
)
def test_other_recorded_facts(copy: Path, path, value, words) -> None:
    def change(record: dict, directory: Path) -> None:
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    rewrite(copy, "B", 1, change)
    problems = audit(ablations.load(copy)).problems
    assert problems and words in problems[0] and "B/seed1" in problems[0]
    run = ablations.load(copy)
    from ablations import report

    report.write(run)
    table = (copy / "table.md").read_text()
    assert "NOT MATCHED" in table and problems[0] in table


@pytest.mark.parametrize(
    ("factor", "levels", "words"),
    [
        ("recipe.batch", "[8, 16]", "batch"),
        ("recipe.flip", "[yes, no]", "flip"),
        ("initializer", "[he_normal, glorot_uniform]", "initializer"),
    ],
)
def test_what_differs_on_purpose_is_no_mismatch(factor, levels, words, images, tmp_path) -> None:
    """A factor may change what is fed or the initial values: said, and not called unmatched."""
    grid = tmp_path / "g.yaml"
    grid.write_text(
        f"factors: {{{factor}: {levels}}}\n"
        "presets: {quick: {network: resnet20, depth: 8, width: 4, recipe: quick, "
        "dataset: folder}}\n"
    )
    run = ablations.run_grid(
        str(grid), data_dir=images, seeds=1, epochs=1, out=tmp_path / "run", threads=1
    )
    found = audit(run)
    assert found.matched, found.problems
    assert any("on purpose" in fact and words in fact for fact in found.facts)


def test_other_code_is_a_mismatch(copy: Path) -> None:
    def change(record: dict, directory: Path) -> None:
        record["attempts"][0]["code"]["sources_sha256"] = "0" * 64

    rewrite(copy, "B", 1, change)
    assert any("code of reszoo or ablations: " in p for p in audit(ablations.load(copy)).problems)


def test_variables_that_change_results_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONEDNN_MAX_CPU_ISA changes a convolution's last bits; Terraform's TF_VAR_* hold secrets."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("TF_VAR_password", "secret")
    monkeypatch.setenv("TF_TOKEN_app", "secret")
    monkeypatch.setenv("CUDNN_PATH", "/one/of/two/environments")
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")
    variables = environment.describe()["variables"]
    assert variables["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "secret" not in variables.values()
    assert not {"CUDNN_PATH", "ONEDNN_VERBOSE"} & variables.keys()
