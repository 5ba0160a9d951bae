"""The data stream: what it feeds is a function of (seed, epoch, sample) only."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ablations.data import Images
from ablations.recipes import Recipe
from ablations.stream import PixelSource, Stream, normalise, pixel_mean

COUNT, SIZE = 50, 6
RECIPE = Recipe(name="test", batch=8, epochs=3, flip=False)


def coded(count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Images whose red channel says which image, green which row, blue which column."""
    images = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None]
    images[..., 1] = 10 * np.arange(SIZE)[:, None]
    images[..., 2] = 10 * np.arange(SIZE)
    return images, np.arange(count, dtype=np.int32)


def stream(recipe: Recipe = RECIPE, seed: int = 0, mean: float = 0.0) -> Stream:
    images, labels = coded()
    source = PixelSource(
        Images(images, labels), recipe, seed, np.full((SIZE, SIZE, 3), mean, np.float32)
    )
    return Stream(source, recipe, seed)


def pixels(batch) -> np.ndarray:
    return np.rint(batch.images * 255).astype(int)


def test_every_image_once_an_epoch_in_a_new_order() -> None:
    seen = np.concatenate([b.labels for b in stream().batches(0, RECIPE.steps(COUNT))])
    epochs = [seen[i * COUNT : (i + 1) * COUNT] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert not np.array_equal(epochs[0], epochs[1])


def test_labels_stay_with_their_images() -> None:
    for batch in stream(RECIPE.replace(flip=True, crop_padding=1)).batches(0, 12):
        found = pixels(batch)[..., 0].max(axis=(1, 2))
        np.testing.assert_array_equal(found, batch.labels)


def test_resuming_anywhere_continues_the_same_stream() -> None:
    recipe = RECIPE.replace(flip=True, crop_padding=2)
    whole = [b.digest for b in stream(recipe).batches(0, 15)]
    assert [b.digest for b in stream(recipe).batches(9, 15)] == whole[9:]
    assert [stream(recipe).batch(step).digest for step in (14, 3, 7)] == [
        whole[14], whole[3], whole[7],
    ]  # fmt: skip


def test_digest_is_over_the_bytes_that_enter() -> None:
    batch = stream(RECIPE.replace(flip=True)).batch(4)
    expected = hashlib.sha256(batch.images.tobytes() + batch.labels.tobytes()).digest()
    assert batch.digest == expected
    assert batch.images.dtype == np.float32 and batch.labels.dtype == np.int32


def test_seeds_differ() -> None:
    assert stream(seed=0).batch(0).digest != stream(seed=1).batch(0).digest


def test_augmentation_belongs_to_the_sample_not_to_its_place() -> None:
    """Another batch size moves samples to other places; their crop and mirror stay."""
    draws = {}
    for size in (8, 25):
        recipe = RECIPE.replace(batch=size, flip=True, crop_padding=2)
        for batch in stream(recipe).batches(0, COUNT // size + 1):
            for label, image in zip(batch.labels, pixels(batch), strict=True):
                draws.setdefault((size, int(label)), image)
    for label in range(COUNT):
        np.testing.assert_array_equal(draws[8, label], draws[25, label])


def test_flip_mirrors_columns_of_about_half() -> None:
    flipped = 0
    for batch in stream(RECIPE.replace(flip=True)).batches(0, 50):
        columns = pixels(batch)[:, 0, :, 2]
        for row in columns:
            assert list(row) in (list(range(0, 60, 10)), list(range(50, -1, -10)))
            flipped += row[0] == 50
        np.testing.assert_array_equal(pixels(batch)[:, :, 0, 1], [range(0, 60, 10)] * 8)
    assert 0.4 < flipped / 400 < 0.6


def test_crop_shifts_inside_zero_padding() -> None:
    """4 pixels a side in the paper; here 2. All 25 shifts occur; outside stands 0, the mean."""
    shifts = set()
    recipe = RECIPE.replace(crop_padding=2)
    for batch in stream(recipe, mean=0.0).batches(0, 120):
        for image in pixels(batch):
            inside = image[..., 0] > 0
            if not inside.any():
                continue  # image number 0 is red 0
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            top = rows[0] - image[rows[0], columns[0], 1] // 10
            left = columns[0] - image[rows[0], columns[0], 2] // 10
            assert inside.sum() == (SIZE - abs(top)) * (SIZE - abs(left))
            assert np.all(image[~inside] == 0)
            shifts.add((int(top), int(left)))
    assert shifts == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}


def test_pixel_mean_and_normalise() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 2, 1), np.uint8)
    np.testing.assert_allclose(pixel_mean(images), images.mean(axis=0) / 255, rtol=1e-6)
    centred = normalise(images, pixel_mean(images))
    assert centred.dtype == np.float32 and np.abs(centred.mean(axis=0)).max() < 1e-5


def test_errors_of_the_reading_thread_reach_the_caller() -> None:
    broken = stream()
    broken._source.labels = broken._source.labels[:3]
    broken._source._images = broken._source._images[:2]
    with pytest.raises(IndexError):
        list(broken.batches(0, 5))
