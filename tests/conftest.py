"""Fixtures shared by the tests. Keras is imported only where a test needs it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# As the laboratory sets it for its cells; must stand before TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# What the user has set or downloaded does not count.
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-home-")
atexit.register(shutil.rmtree, os.environ["KERAS_HOME"], ignore_errors=True)

# The same examples in every run, however slow the machine; to look for others:
# pytest --hypothesis-profile default
settings.register_profile(
    "reszoo",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("reszoo")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

TINY_GRID = """
title: Tiny
reproduces: nothing
expect: nothing
factors: {shortcut: [none, A, B]}
labels: {shortcut: {none: plain}}
baseline: plain
presets:
  quick: {network: resnet20, depth: 8, width: 4, recipe: quick, dataset: folder}
"""


def write_images(directory: Path, train: int = 24, test: int = 10, size: int = 10) -> Path:
    """Write class folders of PNG files: two classes that a network can tell apart."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(5)
    for part, count in (("train", train), ("test", test)):
        for number, name in enumerate(("dark", "light")):
            folder = directory / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 160, (size, size, 3)) + 90 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
    return directory


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 48 training and 20 test images, 10x10x3, two classes."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def tiny_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a grid of three arms, plain, A and B, of an 8-layer net."""
    path = tmp_path_factory.mktemp("grid") / "tiny.yaml"
    path.write_text(TINY_GRID)
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_grid: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a finished run: three arms, two seeds. Copy it before changing it."""
    from ablations import run_grid

    out = tmp_path_factory.mktemp("runs") / "tiny"
    run = run_grid(str(tiny_grid), data_dir=images, seeds=2, epochs=8, threads=1, out=out)
    assert [cell.problem for cell in run.cells if cell.state != "done"] == []
    return out


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished tiny run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "tiny"))


@pytest.fixture
def fresh_notices() -> None:
    """Let every notice about weights be shown again: each is shown once a process."""
    from reszoo.weights import loading

    loading._said.clear()


@pytest.fixture(scope="module")
def trained():
    """Return a small network that no initial value is left of, with logits."""
    from small_networks import randomized, tiny

    return randomized(tiny(seed=1, classifier_activation=None))


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of its weights under torch's names."""
    import reszoo

    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    reszoo.export_torch(trained, path)
    return path
