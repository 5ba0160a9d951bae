"""Weights that read blue first, adapted to another number of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import reszoo


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small network whose preprocessing is Caffe's."""
    model = reszoo.build("resnet20", depth=8, width=4, input_shape=(16, 16, 3))
    model.preprocessing = reszoo.Preprocessing(
        mean=(103.939, 116.779, 123.68), std=(1, 1, 1), scale=1.0, channel_order="bgr",
        input_size=16,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("bgr") / "model.keras"
    model.save(path)
    return path


@pytest.mark.parametrize("preprocessing", ["none", "in_graph"])
def test_a_doubled_picture_gives_the_same_logits(file: Path, preprocessing: str) -> None:
    """n channels get the kernel in turn, times 3 / n: R, G, B twice is the picture itself."""
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)

    def logits(channels: int, pixels: np.ndarray) -> np.ndarray:
        model = reszoo.build(
            "resnet20", weights=file, depth=8, width=4, input_shape=(16, 16, channels),
            classifier_activation=None, preprocessing=preprocessing,
        )  # fmt: skip
        return np.asarray(model(model.preprocess_input(pixels)))

    plain = logits(3, images)
    doubled = logits(6, np.concatenate([images, images], axis=-1))
    assert np.abs(plain - doubled).max() < 1e-5 * np.abs(plain).max()


def test_a_plain_name_does_not_take_a_residual_file(file: Path) -> None:
    with pytest.raises(reszoo.SpecError, match="plain and residual"):
        reszoo.build("plain20", weights=file, depth=8, width=4, input_shape=(16, 16, 3))
