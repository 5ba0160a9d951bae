"""Splits and selection: which images are held out, and that test data choose nothing.

Cells run in this process, on made-up images of 8x8 pixels; the kill test runs the real command.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import write_binary, write_folders, write_python
from test_imagenet import folders, read_all, shards  # noqa: F401 - fixtures
from test_survival import arguments, finish, kill_when
from test_tensorboard import curves as event_curves

import ablations
import reszoo
from ablations import cell_files, checkpoints, data, files, matrix, records, shapes
from ablations.audit import audit
from ablations.cell import CellRun
from ablations.data import DataError, Dataset, Images, splits
from ablations.data.base import make_dataset
from ablations.errors import UserError
from ablations.matrix import Platform
from ablations.plan import plan
from ablations.recipes import Recipe, recipe, weights_sentence
from ablations.records import Arm
from ablations.stream import training_mean
from ablations.trainer import Trainer, tensor_digests

# --- which images are held out


@settings(max_examples=200)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=300), st.integers(1, 50))
def test_every_class_gives_its_share(listed: list[int], percent: int) -> None:
    labels = np.array(listed, np.int32)
    rows = splits.held_out(labels, percent)
    assert rows.tolist() == sorted(set(rows.tolist()))
    sizes, taken = np.bincount(labels), np.bincount(labels[rows], minlength=labels.max() + 1)
    for size, count in zip(sizes, taken, strict=True):
        assert abs(count - size * percent / 100) < 1
        assert count < size or not size  # something is left to train on
    if sizes[sizes > 0].min() >= 2:
        assert abs(len(rows) - len(labels) * percent / 100) <= 0.5


def test_the_images_are_mixed_and_random_state_does_not_matter() -> None:
    labels = np.zeros(10_000, np.int32)
    np.random.seed(1)
    rows = splits.held_out(labels, 10)
    np.random.seed(2)
    np.testing.assert_array_equal(rows, splits.held_out(labels, 10))
    # A tenth of each tenth, within five standard deviations (9.5) of the hypergeometric law.
    counts = np.histogram(rows, bins=10, range=(0, 10_000))[0]
    assert counts.sum() == 1000 and np.abs(counts - 100).max() < 5 * 9.5


@pytest.mark.parametrize("dataset", data.SOURCES)
def test_names_are_listed_and_the_nearest_named(dataset: str, tmp_path: Path) -> None:
    """Before anything is read: tmp_path is empty."""
    own = {"fashion": ["9k/1k"], "cifar10": ["45k/5k"], "cifar100": ["45k/5k"]}.get(dataset, [])
    assert splits.names(dataset) == ("full", *own, "holdout")
    where = None if dataset == "fashion" else tmp_path
    for wrong, near in (("holdot", "holdout"), *((name[:-1], name) for name in own)):
        with pytest.raises(DataError, match=f'unknown split of {dataset} "{wrong}"') as caught:
            data.load(dataset, where, split=wrong)
        assert f'did you mean "{near}"' in str(caught.value)
    for wrong in ("holdout:0", "holdout:51", "holdout:ten", "holdout:"):
        with pytest.raises(DataError, match="from 1 to 50"):
            data.load(dataset, where, split=wrong)
    assert splits.find(dataset, "holdout:10") == splits.find(dataset, "holdout")


def rejoined(whole: Dataset, split: Dataset) -> None:
    """Training and validation part together are the training images, each once."""
    assert split.validation is not None
    rows = splits.held_out(whole.train.labels, splits.find(whole.name, split.split).percent)
    kept = np.setdiff1d(np.arange(len(whole.train.labels)), rows)
    for part, chosen in ((split.train, kept), (split.validation, rows)):
        np.testing.assert_array_equal(part.labels, whole.train.labels[chosen])
        if isinstance(part, Images):
            np.testing.assert_array_equal(part.images, whole.train.images[chosen])
            assert not part.images.flags.writeable
        else:
            wanted = [whole.train.read(int(row)) for row in chosen]
            assert read_all(part) == wanted
    assert split.test is whole.test or len(split.test.labels) == len(whole.test.labels)
    assert split.digest != whole.digest and split.class_names == whole.class_names
    facts = {"split", "held_out", "held_out_sha256"}
    assert set(split.split_facts) == facts and whole.split_facts == {}


def saved_again(split: Dataset, directory: Path) -> None:
    """The cells see what was split, and a damaged validation part is named."""
    path = data.save(split, directory)
    there = data.open_saved(path)
    assert (there.digest, there.title, there.split_facts) == (
        split.digest, split.title, split.split_facts,
    )  # fmt: skip
    np.testing.assert_array_equal(there.validation.labels, split.validation.labels)
    assert type(there.validation) is type(split.validation)
    file = path / "validation_labels.npy"
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="validation_labels"):
        data.open_saved(path)


def test_cifar10_45k_5k(tmp_path: Path) -> None:
    """He et al., sec. 4.2, from binary files of the real size; 500 of each class here."""
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 3072), np.uint8)
    parts = [(np.roll(pixels, n), np.arange(10_000) % 10) for n in range(6)]
    write_binary(tmp_path, False, parts)
    whole = data.load("cifar10", tmp_path)
    split = data.load("cifar10", tmp_path, split="45k/5k")
    assert len(split.train.labels) == 45_000 and len(split.test.labels) == 10_000
    assert np.bincount(split.validation.labels).tolist() == [500] * 10
    assert split.split_facts["held_out"] == 5000
    rejoined(whole, split)
    assert "split 45k/5k: 45,000 to train on, 5,000 held out for validation" in split.title
    holdout = splits.find("cifar10", "holdout")
    assert splits.apply(whole, holdout).held_out_sha256 == split.held_out_sha256


@pytest.mark.parametrize("fine", [False, True])
def test_small_cifar_files(fine: bool, tmp_path: Path) -> None:
    """Both versions of the archive hold out the same images; 45k/5k is refused by number."""
    count = 200 if fine else 60
    parts = write_python(tmp_path / "python", fine, count)
    write_binary(tmp_path / "binary", fine, parts)
    name, count = ("cifar100", count) if fine else ("cifar10", 5 * count)
    found = [data.load(name, tmp_path / x, split="holdout:25") for x in ("python", "binary")]
    assert found[0].digest == found[1].digest
    assert found[0].held_out_sha256 == found[1].held_out_sha256
    rejoined(data.load(name, tmp_path / "python"), found[0])
    with pytest.raises(DataError, match=rf"45k/5k is for 50,000 .* has {count}; holdout fits any"):
        data.load(name, tmp_path / "python", split="45k/5k")


def test_fashion_9k_1k(tmp_path: Path) -> None:
    split = data.load("fashion", split="9k/1k")
    assert np.bincount(split.train.labels).tolist() == [900] * 10
    assert np.bincount(split.validation.labels).tolist() == [100] * 10
    rejoined(data.load("fashion"), split)
    saved_again(split, tmp_path / "saved")


def test_class_folders(tmp_path: Path) -> None:
    write_folders(tmp_path)
    whole = data.load("folder", tmp_path)
    split = data.load("folder", tmp_path, split="holdout:34")
    rejoined(whole, split)
    assert np.bincount(split.validation.labels).tolist() == [1, 1]
    for percent, count in ((10, 1), (8, 0)):  # of 6 images
        if count:
            assert data.load("folder", tmp_path, split="holdout").split_facts["held_out"] == count
        else:
            with pytest.raises(DataError, match="holds no image out of the 6"):
                data.load("folder", tmp_path, split=f"holdout:{percent}")


def test_imagenet_folders(folders: Path, tmp_path: Path) -> None:  # noqa: F811
    whole = data.load("imagenet", folders)
    split = data.load("imagenet", folders, split="holdout:25")
    rejoined(whole, split)
    assert np.bincount(split.validation.labels).tolist() == [1, 1, 1]
    saved_again(split, tmp_path / "saved")


def test_imagenet_shards(shards: Path, tmp_path: Path) -> None:  # noqa: F811
    split = data.load("imagenet", shards, split="holdout:25")
    rejoined(data.load("imagenet", shards), split)
    saved_again(split, tmp_path / "saved")


def test_what_is_held_out_follows_from_labels_alone(shards: Path) -> None:  # noqa: F811
    """Not from the test part: its labels may say anything."""
    whole = data.load("imagenet", shards)
    other = dataclasses.replace(whole, test=whole.test.take(np.array([3, 2, 1, 0])))
    protocol = splits.find("imagenet", "holdout:25")
    one, two = splits.apply(whole, protocol), splits.apply(other, protocol)
    assert one.held_out_sha256 == two.held_out_sha256 and one.digest != two.digest


# --- cells in this process

QUICK = Recipe(
    name="test", batch=16, epochs=5, learning_rate=0.1, schedule="constant", crop_padding=1
)
SPEC = {"depth": 8, "width": 4, "classes": 3, "input_shape": (8, 8, 2)}


def made_up(split: str = "full") -> Dataset:
    """96 training and 60 test images of three classes that a network can half tell apart."""
    draw = np.random.default_rng(7)

    def part(count: int) -> Images:
        labels = np.arange(count, dtype=np.int32) % 3
        pixels = draw.normal(100, 50, (count, 8, 8, 2)) + 25 * labels[:, None, None, None]
        return Images(pixels.clip(0, 255).astype(np.uint8), labels)

    whole = make_dataset("folder", "made up", part(96), part(60), ("a", "b", "c"))
    return splits.apply(whole, splits.find("folder", split))


def permuted(dataset: Dataset) -> Dataset:
    """The same data with the labels of the test part permuted."""
    labels = np.random.default_rng(1).permutation(dataset.test.labels)
    test = Images(dataset.test.images, labels)
    return make_dataset(
        dataset.name, dataset.title, dataset.train, test, dataset.class_names,
        validation=dataset.validation, split=dataset.split,
        held_out_sha256=dataset.held_out_sha256,
    )  # fmt: skip


def train(root: Path, dataset: Dataset, protocol: Recipe, seed: int = 0, **spec: Any) -> Any:
    """Train one cell here and return it as read from its files."""
    network = reszoo.spec("resnet20", **SPEC, **spec)
    fields = {k: v for k, v in network.to_dict().items() if k != "name"}
    arm = Arm("A", {}, "resnet20", fields, protocol.to_dict(), 1, 1, 8)
    (planned,) = matrix.cells([arm], [seed], dataset, Platform("cpu", "here", 1))
    data.save(dataset, root / "data")
    directory = records.cell_directory(root, "A", seed)
    directory.mkdir(parents=True)
    content = {
        "schema": shapes.SCHEMA, "arm": "A", "seed": seed,
        "identity": planned.identity, "config": planned.config,
    }  # fmt: skip
    files.write_json(directory / "cell.json", content)
    CellRun(directory, root / "data").run()
    cell = records.load_cell(root, "A", seed)
    assert cell.state == "done", cell.problem
    return cell


def weights(cell: Any) -> dict[str, Any]:
    """Shape and digest of every tensor of model.keras."""
    return tensor_digests(reszoo.load(cell.directory / "model.keras"))


TRAINING = ("step", "learning_rate", "train_loss_running", "train_error_running")


def rows(cell: Any, *more: str) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in (*TRAINING, *more)) for row in cell.history]


BEST = QUICK.replace(selection="best_validation")


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cell with weights selected on a quarter of the training images."""
    return train(tmp_path_factory.mktemp("best"), made_up("holdout:25"), BEST)


@pytest.mark.parametrize(
    ("split", "selection"), [("full", "last"), ("holdout:25", "last"), ("holdout:25", BEST)]
)
def test_permuted_test_labels_change_nothing_but_the_test_error(
    split: str, selection: Any, best: Any, tmp_path: Path
) -> None:
    protocol = QUICK.replace(epochs=2) if selection == "last" else BEST
    dataset = made_up(split)
    one = best if protocol is BEST else train(tmp_path / "one", dataset, protocol)
    two = train(tmp_path / "two", permuted(dataset), protocol)
    assert one.config["data"]["digest"] != two.config["data"]["digest"]
    assert weights(one) == weights(two)
    assert one.record["final_sha256"] == two.record["final_sha256"]
    assert one.fed() == two.fed()
    watched = () if split == "full" else ("validation_loss", "validation_error")
    assert rows(one, *watched) == rows(two, *watched)
    ones, twos = one.predictions(), two.predictions()
    np.testing.assert_array_equal(ones["probabilities"], twos["probabilities"])
    assert (ones["label"] != twos["label"]).any()
    equal = {"train_error", "train_loss", "selection", "selected_epoch", "selected_step",
             "validation_error", "validation_loss"}  # fmt: skip
    for name in equal & set(one.results):
        assert one.results[name] == two.results[name], name
    assert one.results["test_error"] != two.results["test_error"]


def test_the_selected_epoch_is_the_argmin_and_its_weights_are_kept(
    best: Any, tmp_path: Path
) -> None:
    """At a constant rate, training that ends there gives the same weights bit for bit."""
    errors = [row["validation_error"] for row in best.history]
    selected = int(np.argmin(errors)) + 1  # NumPy takes the first of equal ones
    assert selected < len(errors), f"a poor example: {errors}"
    results = best.results
    assert (results["selection"], results["selected_epoch"]) == ("best_validation", selected)
    assert results["selected_step"] == best.history[selected - 1]["step"]
    assert results["validation_error"] == min(errors)
    assert results["validation_images"] == 24 and results["train_images"] == 72
    short = QUICK.replace(iterations=results["selected_step"])
    last = train(tmp_path, made_up("holdout:25"), short)
    assert weights(best) == weights(last)
    for name in ("train_error", "test_error", "test_loss", "validation_error"):
        assert results[name] == last.results[name]
    assert last.results["selected_epoch"] == len(last.history)


def test_the_test_images_are_evaluated_once_at_the_end(monkeypatch, tmp_path: Path) -> None:
    from ablations import cell as module

    looked: list[int] = []
    original = module.predict

    def spy(trainer: Any, source: Any, *more: Any, **options: Any) -> Any:
        looked.append(len(source.labels))
        return original(trainer, source, *more, **options)

    monkeypatch.setattr(module, "predict", spy)
    cell = train(tmp_path, made_up("holdout:25"), BEST.replace(epochs=2))
    assert looked == [24, 24, 72, 24, 60]  # two epochs; then training, validation, test images
    with open(cell.directory / "history.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert row["test_error"] == row["test_loss"] == ""
            assert 0 <= float(row["validation_error"]) <= 100
    assert "test_error" not in cell.history[0]


def test_mean_population_and_training_error_are_of_the_training_part(tmp_path: Path) -> None:
    """Held-out pixels may be anything: the weights, mean and population statistics stay."""
    split = made_up("holdout:25")
    black = Images(np.zeros_like(split.validation.images), split.validation.labels)
    other = make_dataset(
        split.name, split.title, split.train, split.test, split.class_names, validation=black,
        split=split.split, held_out_sha256=split.held_out_sha256,
    )  # fmt: skip
    protocol = QUICK.replace(epochs=1, statistics="population")
    one, two = (train(tmp_path / n, d, protocol) for n, d in (("1", split), ("2", other)))
    assert weights(one) == weights(two)
    assert one.results["train_error"] == two.results["train_error"]
    assert one.results["batch_moments"] == 72 // 16
    assert one.results["validation_loss"] != two.results["validation_loss"]
    mean = one.predictions()["pixel_mean"]
    exact = split.train.images.astype(np.float64).mean(axis=0) / 255
    np.testing.assert_allclose(mean, exact, atol=1e-6)
    np.testing.assert_array_equal(mean, two.predictions()["pixel_mean"])
    whole = made_up().train.images.astype(np.float64).mean(axis=0) / 255
    assert np.abs(mean - whole).max() > 1e-3
    assert training_mean(made_up().train, protocol).shape == mean.shape


def test_a_cell_without_a_split_is_what_it_was(tmp_path: Path) -> None:
    """Its identity has no new fields, so that existing runs go on; the curves show test error."""
    cell = train(tmp_path, made_up(), QUICK.replace(epochs=1))
    assert set(cell.config["data"]) == {"name", "digest"}
    assert cell.config["recipe"]["selection"] == "last"
    results = cell.results
    assert results["validation_error"] is None and results["selected_epoch"] == 1
    assert cell.history[-1]["test_error"] == results["test_error"]
    assert "validation_error" not in cell.history[-1]
    # A history that was written before there were splits has no such columns.
    path = cell.directory / "history.csv"
    lines = [line.removesuffix(",,") for line in path.read_text().splitlines()]
    lines[0] = lines[0].removesuffix(",validation_loss,validation_error")
    assert {line.count(",") for line in lines} == {9}
    path.write_text("\n".join(lines) + "\n")
    assert cell_files.read_history(path) == cell.history


# --- networks with dropout, and without batch normalisation

DROPOUT = {"stochastic_depth": 0.5, "block_dropout": 0.2, "dropout": 0.3}
FIXED = QUICK.replace(epochs=0, iterations=6)


def trainer(protocol: Recipe = FIXED, seed: int = 0, **spec: Any) -> Trainer:
    return Trainer(reszoo.spec("resnet20", **SPEC, **spec), protocol, seed)


def steps(made: Trainer, first: int = 0, count: int = 3) -> list[float]:
    draw = np.random.default_rng(5)
    feed = [
        (draw.normal(size=(16, 8, 8, 2)).astype(np.float32), draw.integers(0, 3, 16, np.int32))
        for _ in range(first + count)
    ]
    return [float(made.step(x, y, 0.05)[0]) for x, y in feed[first:]]


def test_random_layers_are_reproducible_and_resume_bit_equal() -> None:
    """Keras numbers the states of its generators; a second network in a process shows it."""
    one, two = (trainer(shortcut="dropout", **DROPOUT) for _ in range(2))
    start = one.tensors()
    states = [name for name in start if name.endswith("/seed_generator_state")]
    layers = [x.name for x in one.model.layers if isinstance(x, keras.layers.Dropout)]
    assert sorted(states) == sorted(f"{name}/seed_generator_state" for name in layers)
    assert steps(one) == steps(two)
    kept = one.tensors()
    losses = steps(one, 3)
    wanted = one.tensors()
    steps(two)  # elsewhere
    two.restore(kept)
    assert steps(two, 3) == losses
    for name, value in two.tensors().items():
        np.testing.assert_array_equal(value, wanted[name], name)
    # The control: without the generators' states it goes on with other masks.
    two.restore({**kept, **{name: start[name] for name in states}})
    assert steps(two, 3) != losses


def test_other_seeds_draw_other_masks() -> None:
    """And two layers of one network draw their own."""
    names = [name for name in trainer(**DROPOUT).tensors() if "seed_generator" in name]
    states = [trainer(seed=seed, **DROPOUT).tensors() for seed in (0, 1)]
    keys = [int(state[name][0]) for state in states for name in names]
    assert len(set(keys)) == len(keys) == 2 * 7


def test_evaluation_is_deterministic_and_drops_nothing() -> None:
    """Equal to the same weights in a network without random layers, twice."""
    random, plain = trainer(**DROPOUT), trainer()
    steps(random)
    found = {k: v for k, v in random.weights().items() if "seed_generator" not in k}
    plain.restore_weights(found)
    images = np.random.default_rng(1).normal(size=(20, 8, 8, 2)).astype(np.float32)
    before = random.tensors()
    first, second = random.evaluate(images), random.evaluate(images)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, plain.evaluate(images), rtol=1e-5, atol=1e-6)
    for name, value in random.tensors().items():
        np.testing.assert_array_equal(value, before[name], name)


def test_sub_batches_of_networks_with_random_layers() -> None:
    """A group's outputs do not depend on the images of another; without groups they do."""
    draw = np.random.default_rng(2)
    images = draw.normal(size=(16, 8, 8, 2)).astype(np.float32)
    other = images.copy()
    other[8:] = draw.normal(3, 2, size=(8, 8, 8, 2))
    outputs = {}
    for groups in (0, 8):
        made = trainer(FIXED.replace(bn_batch=groups), **DROPOUT)
        start = made.tensors()
        found = []
        for batch in (images, other):
            made.restore(start)
            found.append(np.asarray(made._logits(batch, training=True)))
        outputs[groups] = found
    np.testing.assert_array_equal(outputs[8][0][:8], outputs[8][1][:8])
    assert np.abs(outputs[0][0][:8] - outputs[0][1][:8]).max() > 1e-3
    assert np.abs(outputs[8][0][8:] - outputs[8][1][8:]).max() > 1e-3


def test_population_statistics_skip_networks_that_keep_none() -> None:
    made = trainer(FIXED.replace(bn_batch=4), norm="group", norm_groups=2)
    before = made.tensors()
    assert not [name for name in before if "moving" in name]
    images = np.zeros((4, 8, 8, 2), np.float32)
    assert made.population_statistics([images]) == 0
    for name, value in made.tensors().items():
        np.testing.assert_array_equal(value, before[name], name)
    assert np.isfinite(steps(made)).all()


def test_of_equal_epochs_the_earliest_is_selected(tmp_path: Path) -> None:
    """At rate 0, and without statistics that move, every epoch is the same."""
    protocol = BEST.replace(epochs=3, learning_rate=0.0, statistics="population", l2=0.0)
    cell = train(tmp_path, made_up("holdout:25"), protocol, norm="group", norm_groups=2)
    assert len({row["validation_error"] for row in cell.history}) == 1
    results = cell.results
    assert (results["selected_epoch"], results["epoch"], results["batch_moments"]) == (1, 3, 0)


# --- the command

GRID = """
title: Selection
factors: {recipe.l2: [1e-4]}
baseline: "0.0001"
presets:
  quick:
    network: resnet20
    depth: 8
    width: 4
    stochastic_depth: 0.3
    block_dropout: 0.2
    dropout: 0.2
    recipe: paper-cifar
    dataset: folder
    recipe.batch: 8
    recipe.epochs: 20
    recipe.iterations: 0
    recipe.bn_batch: 4
    recipe.drops: [200]
    recipe.crop_padding: 1
"""


@pytest.fixture(scope="module")
def command(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return run directory -> the command: 36 images to train on, 12 held out."""
    grid = tmp_path_factory.mktemp("selection") / "selection.yaml"
    grid.write_text(GRID)
    options = ["--split", "holdout:25", "--selection", "best_validation"]
    return lambda out: [*arguments(grid, images, out), *options]


@pytest.fixture(scope="module")
def whole(command: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    outcome = finish(command(out))
    assert outcome.returncode == 0, outcome.stderr
    return out


def test_a_kill_after_the_best_epoch_changes_nothing(command, whole, tmp_path: Path) -> None:
    """SIGKILL when only checkpoints know the selected weights; dropout's states are in them too."""
    (one,) = ablations.load(whole).done()
    selected = one.results["selected_step"]
    assert selected < one.results["step"], "a poor example: the last epoch was the best"
    out = tmp_path / "run"

    def later(_: float) -> bool:
        found = [step for cell in out.glob("cells/*/*") for step in checkpoints.steps(cell)]
        return max(found, default=0) > selected

    kill_when(command(out), later)
    (cut,) = ablations.load(out).cells
    assert cut.state != "done"
    assert finish(command(out)).returncode == 0
    (cut,) = ablations.load(out).done()
    assert len(cut.record["attempts"]) == 2
    assert weights(one) == weights(cut)
    assert one.record["final_sha256"] == cut.record["final_sha256"]
    assert rows(one, "validation_error", "validation_loss") == rows(
        cut, "validation_error", "validation_loss"
    )
    timed = (
        "train_seconds", "wall_seconds", "images_per_second", "cpu_seconds", "work_cpu_seconds",
    )  # fmt: skip
    for name, value in one.results.items():
        assert name in timed or value == cut.results[name], name
    assert one.results["batch_moments"] == 36 // 4
    assert checkpoints.steps(cut.directory) == []


def test_the_records_say_what_was_held_out(whole: Path, images: Path) -> None:
    run = ablations.load(whole)
    (cell,) = run.done()
    facts = data.load("folder", images, split="holdout:25").split_facts
    assert facts["held_out"] == 12
    for recorded in (run.grid["data"], cell.config["data"]):
        assert {name: recorded[name] for name in facts} == facts
    assert "36 to train on, 12 held out for validation" in run.grid["data"]["title"]
    assert (cell.results["train_images"], cell.results["test_images"]) == (36, 20)
    (curve,) = run.curves("validation_error").values()
    assert curve.shape == (1, 20)
    with pytest.raises(records.RecordError, match=r"has no test_error; it has .*validation_error"):
        run.curves("test_error")


def test_another_held_out_part_is_a_mismatch(whole: Path) -> None:
    run = ablations.load(whole)
    (cell,) = run.done()
    other = {**cell.config["data"], "held_out_sha256": "0" * 64}
    twin = dataclasses.replace(cell, seed=1, config={**cell.config, "data": other})
    problems = audit(dataclasses.replace(run, cells=[cell, twin])).problems
    assert any(line.startswith("data.held_out_sha256") for line in problems), problems


def test_evaluate_a_selected_model(whole: Path, images: Path) -> None:
    """With the cell's split, on every part; dropout is out of the way."""
    from ablations.evaluate import evaluate

    (cell,) = ablations.load(whole).done()
    model = cell.directory / "model.keras"
    for part in ("train", "validation", "test"):
        found = evaluate(model, data_dir=images, part=part)
        assert found["mean_from"] == "the cell"
        assert (found["error"], found["images"]) == (
            cell.results[f"{part}_error"], cell.results[f"{part}_images"],
        )  # fmt: skip
    assert evaluate(model, data_dir=images, split="full")["images"] == 20
    with pytest.raises(UserError, match=r"no validation part: give --split \(holdout\)"):
        evaluate(model, data_dir=images, split="full", part="validation")


def test_tensorboard_and_figure_show_the_validation_error(whole: Path) -> None:
    from ablations.report import compare, figures
    from ablations.report.tensorboard import backfill

    run = ablations.load(whole)
    (cell,) = run.done()
    for _ in range(2):
        shown = event_curves(cell.directory)
        steps = [row["step"] for row in cell.history]
        assert [step for step, _ in shown["error/validation"]] == steps
        ((step, value),) = shown["error/test"]
        assert step == cell.results["step"]
        assert value == pytest.approx(cell.results["test_error"])
        for path in cell.directory.glob("*tfevents*"):
            path.unlink()
        backfill(run, compare(run))  # the same from the records
    axis = figures.curves(run).axes[0]
    assert "validation error" in axis.get_legend().get_title().get_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "holdot"}, 'unknown split of folder "holdot"; did you mean "holdout"'),
        ({"selection": "best_valid"}, 'unknown recipe.selection "best_valid"; did you mean'),
        ({"selection": "best_validation"}, r"give --split \(holdout\)"),
        ({"split": "holdout"}, "holds cells of another configuration.*data.split: 'holdout:25'"),
    ],
)
def test_bad_input(options: dict, words: str, command: Any, whole: Path, images: Path) -> None:
    grid = command(whole)[command(whole).index("--grid") + 1]
    out = {"out": whole} if options == {"split": "holdout"} else {}
    with pytest.raises(UserError, match=words) as caught:
        plan(grid, data_dir=images, seeds=1, threads=1, jobs=2, **options, **out)
    assert "\n" not in str(caught.value)


# --- sentences


def test_the_caption_says_which_weights_were_tested() -> None:
    last = weights_sentence(["last", "last"], 0)
    assert last == "Weights: those of the last step; nothing was chosen on test data."
    assert weights_sentence(["best_validation"], 5000) == (
        "Weights: those of the epoch with the lowest validation error (5,000 images held out of "
        "the training set, the same for all cells); the test set was evaluated once."
    )
    held_out = weights_sentence(["last"], 1000)
    assert held_out.startswith("Weights: those of the last step; nothing was chosen on test data.")
    assert "1,000 images held out" in held_out and "evaluated once" in held_out
    both = weights_sentence(["last", "best_validation"], 10)
    assert "last: those of the last step; best_validation: those of the epoch" in both


def test_a_split_is_a_difference_from_the_paper() -> None:
    from ablations.recipes import differences

    paper = recipe("paper-cifar")
    mine = paper.replace(selection="best_validation")
    lines = differences(mine, paper, "cifar10", 2, 45_000, held_out=5000)
    assert lines == [
        "5,000 of 50,000 training images held out for validation; the paper's networks train on "
        "all",
        "selection of the weights best_validation instead of last",
    ]
