"""What weights bring to a network: fields, preprocessing, labels; and what contradicts them."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import SHARED
from small_networks import (
    SMALL_IMAGES,
    TINY,
    damaged,
    outputs,
    randomized,
    refusal,
    tiny,
    unreachable,
    values,
    write,
)

import reszoo
from reszoo.errors import SpecError
from reszoo.labels import labels
from reszoo.preprocessing import Preprocessing
from reszoo.weights import index, loading
from reszoo.weights.index import Entry, WeightsError
from reszoo.weights.loading import WeightsNotice

pytestmark = pytest.mark.usefixtures("fresh_notices")


# Arguments that contradict the weights, and those that may differ


@pytest.fixture
def published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Entry]:
    """Put the tiny network into an index of its own, its file into the cache."""
    common: dict[str, Any] = {
        "network": "resnet20",
        "grammar": "timm_v1",
        "licence": "MIT",
        "preprocessing": Preprocessing(input_size=32, crop_fraction=1.0),
        "classes": 10,
        "url": "https://example.invalid/tiny-1234.safetensors",
        "hash_kind": "sha256",
        "hash": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "overrides": {**TINY, "norm_epsilon": 2e-5, "shortcut": "A"},
    }
    entries = {
        "good": Entry(tag="good", aliases=("GOOD_V1",), default=True, **common),
        "other": Entry(tag="other", **{**common, "url": "https://example.invalid/other.pth"}),
        "closed": Entry(tag="closed", **{**common, "licence": "CC-BY-NC-4.0"}),
        "bgr": Entry(
            tag="bgr",
            **{
                **common,
                "preprocessing": Preprocessing(
                    scale=1.0,
                    mean=(103.939, 116.779, 123.68),
                    std=(1.0, 1.0, 1.0),
                    channel_order="bgr",
                    input_size=32,
                ),
            },
        ),
    }
    monkeypatch.setattr(index, "_read_index", lambda: tuple(entries.values()))
    monkeypatch.setenv("RESZOO_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    shutil.copy(checkpoint, tmp_path / "cache" / entries["good"].filename)
    return entries


@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_tags(
    published: dict[str, Entry], trained: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.utils, "get_file", unreachable)
    build = reszoo.build
    with pytest.warns(WeightsNotice, match="resnet20.good: built with .*norm_epsilon=2e-05"):
        model = build("resnet20.good", classifier_activation=None)
    assert model.spec.norm_epsilon == 2e-5 and model.spec.depths == (1, 1, 1)
    assert reszoo.spec("resnet20.good") == model.spec
    assert reszoo.spec("resnet20.good").name == model.spec.name
    assert model.meta["weights"]["name"] == "resnet20.good"
    expected = values(trained)
    for arguments in (
        {"network": "resnet20", "weights": "good"},
        {"network": "resnet20", "weights": "GOOD_V1"},
        {"network": "resnet20", "weights": "cifar10"},
        {"network": "resnet20.good", "weights": "good"},
        {"network": dataclasses.replace(model.spec, name="resnet20"), "weights": "good"},
    ):
        found = values(build(**arguments))
        assert all(np.array_equal(value, expected[key]) for key, value in found.items())
    assert "give one of them" in refusal(SpecError, "resnet20.good", weights="cifar10")
    assert 'did you mean "good"' in refusal(SpecError, "resnet20.god")
    assert "imagenet" in refusal(SpecError, weights="imagenet")
    assert "CC-BY-NC-4.0" in refusal(WeightsError, "resnet20.closed")
    assert build("resnet20.closed", allow_noncommercial=True).meta["weights"]["licence"] == (
        "CC-BY-NC-4.0"
    )


def test_without_a_network_it_says_what_to_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESZOO_HOME", str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", unreachable)
    text = refusal(WeightsError, "resnet18", weights="imagenet")
    entry = index.find("resnet18")
    assert entry.address in text and str(tmp_path / entry.filename) in text
    assert entry.address.startswith("https://")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_contradictions(published: dict[str, Entry], checkpoint: Path) -> None:
    spec = reszoo.spec("resnet20")
    for network, arguments, field in (
        ("resnet20.good", {"shortcut": "C"}, "shortcut"),
        ("resnet20.good", {"depths": (2, 1, 1)}, "depths"),
        ("resnet20.good", {"attention": "se"}, "attention"),
        ("resnet20.good", {"norm_epsilon": 1e-3}, "norm_epsilon"),
        (spec, {"weights": "good"}, "depths"),
        (spec.replace(antialias="blur"), {"weights": "good", **TINY}, "antialias"),
    ):
        text = refusal(SpecError, network, **arguments)
        assert "contradicts the weights resnet20.good" in text and f"{field}=" in text
    loading._said.clear()
    model = reszoo.build(
        "resnet20.good", dropout=0.5, stochastic_depth=0.1, initializer="glorot_uniform"
    )
    assert model.spec.dropout == 0.5  # what changes no trained output is free


def test_contradictions_are_found_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.utils, "get_file", unreachable)
    for network, arguments, field in (
        ("resnet50.a1_in1k", {"depth": 101}, "depths=(3, 4, 23, 3)"),
        ("resnet18", {"weights": "imagenet", "width": 32}, "widths=(32"),
        ("resnet50.keras_in1k", {"norm_epsilon": 1e-5}, "norm_epsilon=1e-05"),
        ("resnet20", {"weights": "akamaster_cifar10", "shortcut_pad": "end"}, "shortcut_pad='end'"),
        ("resnet20", {"weights": "chenyaofo_cifar10", "shortcut": "A"}, "shortcut='A'"),
        ("resnet18", {"weights": "imagenet", "colour": 1}, '"colour"'),
    ):
        assert field in refusal(SpecError, network, **arguments)


@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_a_published_file_is_recognised(
    published: dict[str, Entry], checkpoint: Path, tmp_path: Path
) -> None:
    """By name and hash; a file of another network with equal shapes is refused."""
    path = tmp_path / "cache" / published["good"].filename
    model = reszoo.build("resnet20", weights=path)
    assert model.meta["weights"]["name"] == "resnet20.good"
    assert model.preprocessing == published["good"].preprocessing
    assert model.spec.norm_epsilon == 2e-5
    text = refusal(SpecError, "plain20", weights=path)
    assert "shortcut='none' contradicts the weights resnet20.good" in text
    assert "holds resnet20.good, not vgg11" in refusal(SpecError, "vgg11", weights=path)
    other = shutil.copy(checkpoint, tmp_path / "renamed.safetensors")
    assert tiny(weights=other).preprocessing is None
    changed = damaged(checkpoint, tmp_path, fc__bias=np.ones(10, np.float32))
    assert tiny(weights=changed.rename(tmp_path / path.name)).preprocessing is None


def test_stride_placement_comes_with_the_file(tmp_path: Path) -> None:
    fields = {**SMALL_IMAGES, "classifier_activation": None, "seed": 0}
    model = randomized(reszoo.build("resnet50", stride_placement="3x3", classes=5, **fields))
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsNotice)  # torch's network is the same
        path = damaged(write(model, "safetensors", tmp_path), tmp_path)
    with pytest.warns(WeightsNotice, match="stride_placement='3x3'.*model.spec shows it") as seen:
        found = reszoo.build("resnet50", weights=path, **fields)
        reszoo.build("resnet50", weights=path, **fields)
    assert len(seen) == 1 and "trained" not in str(seen[0].message)  # it cannot know
    assert found.spec.stride_placement == "3x3"
    np.testing.assert_array_equal(outputs(found), outputs(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = reszoo.build("resnet50", weights=path, stride_placement="1x1", **fields)
        reszoo.build("resnet50b", weights=path, **fields)
    assert kept.spec.stride_placement == "1x1"
    assert not np.allclose(outputs(kept), outputs(model))
    assert reszoo.spec("resnet50").stride_placement == "1x1"


@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_files_of_ours_bring_their_spec(tmp_path: Path) -> None:
    model = randomized(tiny(shortcut="B", norm_epsilon=1e-3, dropout=0.2))
    path = write(model, "keras", tmp_path)
    with pytest.warns(WeightsNotice, match="shortcut='B'"):
        found = tiny(weights=path)
    assert found.spec == model.spec
    np.testing.assert_array_equal(outputs(found), outputs(model))
    assert tiny(weights=path, dropout=0.0).spec.dropout == 0
    assert "shortcut='A' contradicts" in refusal(SpecError, weights=path, shortcut="A", **TINY)
    spec = reszoo.spec("resnet20", **TINY)
    assert "change the spec" in refusal(SpecError, spec, weights=path)  # type: ignore[arg-type]
    free = spec.replace(shortcut="B", norm_epsilon=1e-3, dropout=0.7, classes=4)
    with pytest.warns(WeightsNotice, match="new classifier of 4 classes"):
        assert reszoo.build(free, weights=path).spec == free  # a spec leaves nothing open


# Preprocessing and labels


@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_metadata_travels_with_the_model(published: dict[str, Entry], tmp_path: Path) -> None:
    model = reszoo.build("resnet20.good")
    model.save(tmp_path / "model.keras")
    entry = published["good"]
    for found in (
        reszoo.load(tmp_path / "model.keras"),
        tiny(weights=tmp_path / "model.keras"),
    ):
        assert found.preprocessing == entry.preprocessing
        assert found.labels == labels("cifar10")
        assert found.meta["weights"] == {
            "name": "resnet20.good",
            "file": "tiny-1234.safetensors",
            "address": entry.url,
            "licence": "MIT",
        }
        assert found.spec == model.spec
        np.testing.assert_array_equal(outputs(found), outputs(model))
    other = tiny(weights=tmp_path / "model.keras", classes=3)
    assert other.labels is None and other.preprocessing == entry.preprocessing
    with pytest.raises(SpecError, match="labels"):
        other.decode_predictions(np.zeros((1, 3)))
    other.labels = ["cat", "dog", "hen"]
    other.save(tmp_path / "other.keras")
    assert tiny(weights=tmp_path / "other.keras").labels == [(x, x) for x in ("cat", "dog", "hen")]


@pytest.mark.parametrize("tag", ["good", "bgr"])
@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_preprocessing_inside_and_outside(
    tag: str, published: dict[str, Entry], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    outside = reszoo.build(f"resnet20.{tag}", classifier_activation=None)
    inside = reszoo.build(f"resnet20.{tag}", classifier_activation=None, preprocessing="in_graph")
    known = published[tag].preprocessing
    ordered = pixels[..., ::-1] if tag == "bgr" else pixels
    normalised = (ordered * known.scale - np.array(known.mean)) / np.array(known.std)
    np.testing.assert_allclose(
        outside.preprocess_input(pixels), normalised.astype(np.float32), rtol=1e-4, atol=1e-4
    )
    expected = outputs(outside, outside.preprocess_input(pixels))
    inside.save(tmp_path / "inside.keras")
    inside.save_weights(tmp_path / "inside.weights.h5")
    loaded = reszoo.load(tmp_path / "inside.keras")
    again = tiny(weights=tmp_path / "inside.weights.h5", norm_epsilon=2e-5)
    for model in (inside, loaded):
        found = outputs(model, model.preprocess_input(pixels).astype(np.float32))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    kernel = again.get_layer("stage3_block1_conv2").kernel
    np.testing.assert_array_equal(kernel, inside.get_layer("stage3_block1_conv2").kernel)


@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
def test_pictures_in_words_out(published: dict[str, Entry]) -> None:
    image = pytest.importorskip("PIL.Image")
    model = reszoo.build("resnet20.good")
    draw = np.random.default_rng(0)
    shapes = ((50, 40, 3), (32, 90, 3))
    pictures = [image.fromarray(draw.integers(0, 256, s).astype(np.uint8)) for s in shapes]
    batch = model.preprocess_input(pictures)
    assert batch.shape == (2, 32, 32, 3) and batch.dtype == np.float32
    predictions = model.predict(batch, verbose=0)
    words = model.decode_predictions(predictions, top=3)
    names = [name for _, name in labels("cifar10")]
    for row, found in zip(predictions, words, strict=True):
        best = np.argsort(row)[::-1][:3]
        assert [name for _, name, _ in found] == [names[i] for i in best]
        assert [score for *_, score in found] == pytest.approx(row[best].tolist())
    with pytest.raises(SpecError, match="preprocessing is known"):
        tiny(preprocessing="in_graph")


# Real weights


def cifar_test_images(every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every nth test image (re-encoded as JPEG), by class folder then file name."""
    import io
    import tarfile

    image = pytest.importorskip("PIL.Image")
    with tarfile.open(SHARED / "data" / "cifar10-jpeg-test.tar.gz") as archive:
        members = [m for m in archive.getmembers() if m.name.endswith(".jpg")]
        members.sort(key=lambda m: m.name.split("/")[-2:])
        order = sorted({m.name.split("/")[-2] for m in members})
        members = members[::every]
        pixels = [
            np.asarray(image.open(io.BytesIO(archive.extractfile(m).read())))  # type: ignore[union-attr]
            for m in members
        ]
    return np.stack(pixels), np.array([order.index(m.name.split("/")[-2]) for m in members])


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no ../shared/weights here")
@pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_trained_cifar_networks(every: int) -> None:
    """Logits and wrong answers are those of the code that trained them (../shared/data/README)."""
    pixels, truth = cifar_test_images(every)
    for network, file, wrong in (
        ("resnet20", "resnet20-12fca82f.th", 1897),
        ("resnet32", "resnet32-d509ac18.th", 1744),
    ):
        model = reszoo.build(network, weights=SHARED / "weights" / file, classifier_activation=None)
        assert (model.spec.shortcut, model.spec.shortcut_pad) == ("A", "both")
        assert model.labels[truth[0]] == ("airplane", "airplane")
        found = model.predict(model.preprocess_input(pixels), 500, verbose=0)
        expected = np.load(SHARED / "weights" / f"{network}-logits-every50th.npy")
        kept = found[:: 50 // every]
        assert np.abs(kept - expected).max() < 1e-5 * np.abs(expected).max()
        if every == 1:
            assert abs(int((found.argmax(axis=1) != truth).sum()) - wrong) <= 2
