"""Every arm of every paper preset, started for real on generated files in the original formats.

Global batch 8 over two logical replicas, 4 steps, the recipe's warm-up and drop triggers set inside
them, population statistics at the end, and a kill and a resume in between.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from watching import wait_for_checkpoint

import ablations
from ablations import grids
from ablations.plan import plan

TRAIN, TEST = 16, 8  # images: an epoch is two steps of 8


def write_cifar10(root: Path, sizes: list[int]) -> Path:
    """Write CIFAR-10's binary version: 3,073-byte records, label first."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    draw = np.random.default_rng(0)

    def records(count: int, first: int) -> bytes:
        rows = draw.integers(0, 256, (count, 3073), np.uint8)
        rows[:, 0] = (first + np.arange(count)) % 10
        return rows.tobytes()

    for number, size in enumerate(sizes, start=1):
        (folder / f"data_batch_{number}.bin").write_bytes(records(size, sum(sizes[: number - 1])))
    (folder / "test_batch.bin").write_bytes(records(TEST, 0))
    names = [f"class{number}" for number in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n")
    return root


def write_imagenet(folder: Path, train: int) -> Path:
    """Write class folders of JPEG photographs of different sizes, as ILSVRC2012 unpacks to."""
    from PIL import Image

    draw = np.random.default_rng(1)
    for part, count in (("train", train // 2), ("val", TEST // 2)):
        for synset in ("n01440764", "n01443537"):
            directory = folder / part / synset
            directory.mkdir(parents=True)
            for index in range(count):
                shape = (260 + 7 * index, 300 - 5 * index, 3)
                image = Image.fromarray(draw.integers(0, 256, shape, np.uint8))
                image.save(directory / f"{synset}_{index}.JPEG")
    return folder


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory) -> Path:
    return write_cifar10(tmp_path_factory.mktemp("cifar"), [4, 3, 3, 3, 3])


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory) -> Path:
    return write_imagenet(tmp_path_factory.mktemp("imagenet"), TRAIN)


@pytest.fixture(scope="session")
def more(tmp_path_factory) -> Path:
    """Return a folder with enough images of both for the recipes as they stand."""
    root = write_cifar10(tmp_path_factory.mktemp("more"), [16] * 5)
    write_imagenet(root, 36)
    return root


#: The fields of a recipe that make 4 steps on 16 images exercise all of it. Where there is a
#: warm-up it ends after the second step; the drop follows at the fourth.
SETTINGS = {
    "batch": 8, "iterations": 4, "replicas": 2, "bn_batch": 4, "drops": [3],
    "warmup_window": 2, "warmup_error": 101.0,
}  # fmt: skip


def train(grid: str, preset: str, data_dir: Path, out: Path, only: list[str]) -> None:
    """Start the preset, kill it at the first checkpoint, and let it finish."""
    options = {
        "preset": preset, "data_dir": str(data_dir), "out": str(out), "seeds": 1,
        "cpu_replicas": 2, "only": only, "jobs": 2, "threads": 1,
        "recipe": SETTINGS,
    }  # fmt: skip
    code = (
        "import json, sys, ablations\n"
        "grid, options = json.loads(sys.argv[1])\n"
        "run = ablations.run_grid(grid, **options)\n"
        "print([c.problem for c in run.cells if c.state == 'failed'])\n"
    )
    arguments = [sys.executable, "-c", code, json.dumps([grid, options])]
    log = (out.parent / "log.txt").open("w")
    process = subprocess.Popen(arguments, start_new_session=True, stdout=log, stderr=log)
    wait_for_checkpoint(out, process, seconds=400)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(arguments, check=True, timeout=1200, stdout=log, stderr=log)


def check(run: ablations.records.Run, only: list[str], data_name: str) -> None:
    done = run.done()
    assert {cell.arm for cell in done} == set(only), [c.problem for c in run.cells]
    assert max(len(cell.record["attempts"]) for cell in done) >= 2  # one was resumed
    for cell in done:
        recipe, record = cell.config["recipe"], cell.record
        assert cell.config["data"]["name"] == data_name
        assert (
            cell.config["platform"] | {"strategy": "mirrored", "replicas": 2}
            == (cell.config["platform"])
        )
        rates = [row["learning_rate"] for row in cell.history]
        assert [row["step"] for row in cell.history] == [2, 4]
        assert rates[-1] == pytest.approx(0.01)  # the drop at step 3 happened
        assert rates[0] == pytest.approx(recipe["warmup_rate"] or 0.1)
        assert record["results"]["warmup_steps"] == (2 if recipe["warmup_rate"] else 0)
        assert recipe["statistics"] == "population"
        # 16 training images in batches of 4 a replica.
        assert record["results"]["batch_moments"] == 4
        assert len(set(cell.fed())) == 4
        if recipe["augmentation"] == "scale":
            assert record["results"]["test_views"] == 10
        model = ablations.records.Path(cell.directory / "model.keras")
        assert model.stat().st_size > 4 * run.arms[0].parameters


def names(grid: str, preset: str) -> list[str]:
    return [arm.name for arm in grids.load(grid, preset).arms]


def test_one_arm_of_the_paper_s_cifar_protocol(cifar10: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train("degradation", "paper", cifar10, out, ["residual-20"])
    check(ablations.load(out), ["residual-20"], "cifar10")


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "preset"), [("degradation", "paper"), ("depth", "paper")])
def test_every_cifar_arm(grid: str, preset: str, cifar10: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(grid, preset, cifar10, out, names(grid, preset))
    check(ablations.load(out), names(grid, preset), "cifar10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "preset"), [("shortcuts", "paper"), ("degradation", "paper-imagenet")]
)
def test_every_imagenet_arm(grid: str, preset: str, imagenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(grid, preset, imagenet, out, names(grid, preset))
    check(ablations.load(out), names(grid, preset), "imagenet")


def test_presets_as_the_paper_has_them(more: Path, tmp_path: Path) -> None:
    """The resolved configurations, without any override."""
    planned = plan("depth", preset="paper", data_dir=more, out=tmp_path / "a", seeds=5)
    assert [arm.weighted_layers for arm in planned.arms] == [20, 32, 44, 56, 110]
    for arm in planned.arms:
        recipe = arm.recipe
        assert (recipe["batch"], recipe["replicas"], recipe["bn_batch"]) == (128, 2, 64)
        assert (recipe["iterations"], recipe["drops"]) == (64_000, [32_000, 48_000])
        assert (recipe["l2"], recipe["momentum"], recipe["crop_padding"]) == (1e-4, 0.9, 4)
        assert recipe["warmup_rate"] == (0.01 if arm.name == "residual-110" else 0.0)
        assert arm.spec["shortcut"] == "A" and arm.spec["initializer"] == "he_normal"
    # Table 6: parameters in millions as printed.
    millions = [round(arm.parameters / 1e6, 2) for arm in planned.arms]
    assert millions == [0.27, 0.46, 0.66, 0.85, 1.73]

    planned = plan("shortcuts", preset="paper", data_dir=more, out=tmp_path / "b")
    assert [arm.network for arm in planned.arms] == ["resnet34"] * 4
    assert [arm.spec["shortcut"] for arm in planned.arms] == ["none", "A", "B", "C"]
    for arm in planned.arms:
        recipe = arm.recipe
        assert (recipe["batch"], recipe["replicas"], recipe["bn_batch"]) == (256, 8, 32)
        assert (recipe["iterations"], recipe["l2"], recipe["test_views"]) == (600_000, 1e-4, 10)
        assert (recipe["augmentation"], recipe["learning_rate"]) == ("scale", 0.1)

    planned = plan("degradation", preset="paper-imagenet", data_dir=more, out=tmp_path / "c")
    assert [(a.name, a.weighted_layers) for a in planned.arms] == [
        ("plain-18", 18), ("plain-34", 34), ("residual-18", 18), ("residual-34", 34),
    ]  # fmt: skip


def test_one_network_under_the_paper_s_protocol(more: Path, tmp_path: Path) -> None:
    options = {"preset": "paper", "data_dir": more, "out": tmp_path / "run"}
    planned = plan(net="resnet56", dataset="cifar10", **options)
    assert planned.grid.recipe == "paper-cifar" and planned.arms[0].weighted_layers == 56
    assert plan(net="resnet110", **options).grid.recipe == "paper-cifar-warmup"
    # Without two GPUs, BN still sees 64 images.
    assert planned.platform.replicas == 1 and planned.arms[0].recipe["bn_batch"] == 64


def test_too_few_images_for_population_statistics(cifar10: Path, tmp_path: Path) -> None:
    """Said before training, not after it."""
    with pytest.raises(ablations.UserError, match="need 64 training images"):
        plan("depth", preset="paper", data_dir=cifar10, out=tmp_path / "run")


def test_without_data_one_line_says_what_to_put_where(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for grid, words in (("depth", "cifar-10-binary.tar.gz"), ("shortcuts", "ILSVRC2012")):
        with pytest.raises(ablations.UserError) as caught:
            plan(grid, preset="paper", out=tmp_path / "run")
        assert words in str(caught.value) and "\n" not in str(caught.value)
