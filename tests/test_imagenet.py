"""ImageNet: views against their definition, sources against files in their real formats."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.data import (
    DataError,
    EncodedDataset,
    EncodedImages,
    load,
    open_saved,
    save,
    tfrecord,
    views,
)
from ablations.data.encoded import make_encoded, map_threads, mean_view

Image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).resolve().parents[1]
LAST = np.nextafter(1.0, 0.0)
WNIDS = ("n01440764", "n01443537", "n02105855")


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert message.isprintable() and 0 < len(message) < 700, message
    return message


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(width: int, height: int) -> np.ndarray:
    """Red rises from left to right, green from top to bottom, both from 0 to 255."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return np.round(pixels).astype(np.uint8)


def picture(pixels: np.ndarray) -> Any:
    return Image.fromarray(pixels)


def encode(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def draws(
    side: float = 0.0,
    left: float = 0.0,
    top: float = 0.0,
    flip: float = LAST,
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    return np.array([side, left, top, flip, *colour])


def triangle(old: int, new: int) -> np.ndarray:
    """Antialiased bilinear interpolation, from its definition: weights (new, old)."""
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / reach)
    return weights / weights.sum(1, keepdims=True)


def reference(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize the whole image to shorter side `side`: float64, 0 to 255."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    new = [side if edge == short else int(side * edge / short) for edge in (height, width)]
    rows, columns = triangle(height, new[0]), triangle(width, new[1])
    return np.einsum("ij,jkc,lk->ilc", rows, pixels.astype(float), columns, optimize=True)


# --- Training views (sec. 3.4) ---


def test_ends_of_the_scale_range_are_256_and_480_and_are_reached() -> None:
    """An image that already has the shorter side passes through pixel by pixel."""
    for side, uniform in ((256, 0.0), (480, LAST)):
        pixels = noise(side + 60, side)
        view = views.train_view(picture(pixels), draws(uniform))
        np.testing.assert_array_equal(view, pixels[:224, :224].astype(np.float32) / 255)
        view = views.train_view(picture(pixels), draws(uniform, LAST, LAST))
        np.testing.assert_array_equal(view, pixels[-224:, -224:].astype(np.float32) / 255)


def test_sides_and_places_are_uniform_integers() -> None:
    sides = [views.train_geometry((500, 375), draws((k + 0.5) / 225))[0] for k in range(225)]
    assert sides == list(range(256, 481))
    # 375 x 256: 152 places from left to right, 33 from top to bottom
    geometries = [
        views.train_geometry((375, 256), draws(0, (x + 0.5) / 152, (y + 0.5) / 33))
        for x in range(152)
        for y in range(33)
    ]
    assert [g[1:3] for g in geometries] == [(x, y) for x in range(152) for y in range(33)]
    flips = [views.train_geometry((9, 9), draws(flip=f))[3] for f in (0, 0.4999, 0.5, LAST)]
    assert flips == [True, True, False, False]


SIZES = ((500, 375), (375, 500), (240, 180), (90, 130), (224, 224), (700, 300), (1200, 900))


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_the_expected_region(size: tuple[int, int]) -> None:
    """Red and green of a ramp say where each pixel of the view came from."""
    width, height = size
    image = picture(ramp(width, height))
    random_draws = np.random.default_rng(width)
    for _ in range(4):
        u = random_draws.random(3)
        side = 256 + int(u[0] * 225)
        wide = side if width <= height else int(side * width / height)
        high = side if height <= width else int(side * height / width)
        left, top = int(u[1] * (wide - 223)), int(u[2] * (high - 223))
        view = views.train_view(image, draws(*u)) * 255
        x = (left + np.arange(224) + 0.5) * width / wide - 0.5
        y = (top + np.arange(224) + 0.5) * height / high - 0.5
        inside = slice(3, -3)  # at an image's edge the interpolation has only one side
        red, green = 255 * x / (width - 1), 255 * y / (height - 1)
        np.testing.assert_allclose(view[8, inside, 0], red[inside], atol=1.3)
        np.testing.assert_allclose(view[inside, 8, 1], green[inside], atol=1.3)
        np.testing.assert_array_equal(views.train_view(image, draws(*u, 0.1)) * 255, view[:, ::-1])


@pytest.mark.parametrize("size", [(500, 375), (180, 240), (900, 700)])
def test_interpolation_is_antialiased_bilinear(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    for uniform, side in ((0.0, 256), (0.5, 368), (LAST, 480)):
        whole = reference(pixels, side)
        left, top = whole.shape[1] - 224, (whole.shape[0] - 224) // 2
        view = views.train_view(
            picture(pixels), draws(uniform, LAST, (top + 0.5) / (whole.shape[0] - 223))
        )
        error = np.abs(view * 255 - whole[top : top + 224, left : left + 224])
        assert error.max() < 1.01 and error.mean() < 0.45  # two roundings


def test_view_equals_resizing_everything_and_cropping() -> None:
    pixels = noise(500, 375)
    bilinear = Image.Resampling.BILINEAR
    whole = np.asarray(picture(pixels).resize((490, 368), bilinear), dtype=int)
    view = np.round(views.train_view(picture(pixels), draws(0.5, 0.5, 0.5)) * 255)
    difference = np.abs(view - whole[72 : 72 + 224, 133 : 133 + 224])
    assert difference.mean() < 0.03 and (difference > 1).sum() < 5  # ties that round elsewhere


def test_colour_shift_is_the_published_formula() -> None:
    eigenvalues = (0.2175, 0.0188, 0.0045)  # fb.resnet.torch, datasets/imagenet.lua
    eigenvectors = (
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    )
    image = picture(noise(300, 260))
    plain = views.train_view(image, draws())
    normals = (1.7, -0.3, 2.2)
    shifted = views.train_view(image, draws(colour=normals))
    for channel in range(3):
        expected = sum(
            eigenvectors[channel][k] * 0.1 * normals[k] * eigenvalues[k] for k in range(3)
        )
        np.testing.assert_allclose(
            shifted[..., channel] - plain[..., channel], expected, rtol=0, atol=1e-6
        )
    gram = views.EIGENVECTORS.T @ views.EIGENVECTORS
    np.testing.assert_allclose(gram, np.eye(3), atol=5e-4)  # four printed digits
    assert shifted.min() < 0  # never clipped


def test_views_are_float32_of_one_shape_for_every_image() -> None:
    for size in ((1, 1), (1, 300), (2000, 7), (224, 224), (223, 500)):
        image = picture(noise(*size))
        for view in (
            views.train_view(image, draws(0.3, 0.9, 0.2, 0.2, (1, 1, 1))),
            *(views.test_view(image, number) for number in (0, 4, 9)),
        ):
            assert view.shape == (224, 224, 3) and view.dtype == np.float32
            assert np.isfinite(view).all()


def test_views_do_not_depend_on_earlier_calls() -> None:
    encoded = encode(picture(noise(300, 200)))
    first = views.train_view(views.decode(encoded), draws(0.3, 0.4, 0.5))
    image = views.decode(encoded)
    views.test_view(image, 3)
    views.train_view(image, draws(0.9))
    np.testing.assert_array_equal(views.train_view(image, draws(0.3, 0.4, 0.5)), first)


# --- Test views ---


def test_ten_crops_are_centre_corners_and_their_mirrors() -> None:
    pixels = noise(300, 256)  # not resized
    bottom, right = 256 - 224, 300 - 224
    places = ((bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right))
    scaled = pixels.astype(np.float32) / 255
    for number, (top, left) in enumerate(places):
        crop = scaled[top : top + 224, left : left + 224]
        np.testing.assert_array_equal(views.test_view(picture(pixels), number), crop)
        np.testing.assert_array_equal(views.test_view(picture(pixels), number + 5), crop[:, ::-1])
    assert views.CENTRE == 0 and views.VIEWS == 10


def test_test_view_resizes_to_256_in_both_orientations() -> None:
    pixels = noise(500, 375)
    for array in (pixels, pixels.transpose(1, 0, 2)):
        whole = reference(array, 256)
        top, left = round((whole.shape[0] - 224) / 2), round((whole.shape[1] - 224) / 2)
        error = np.abs(
            views.test_view(picture(np.ascontiguousarray(array)), 0) * 255
            - whole[top : top + 224, left : left + 224]
        )
        assert sorted(whole.shape[:2]) == [256, 341] and error.max() < 1.01


# --- Modes ---


def test_modes_become_rgb() -> None:
    pixels = noise(40, 30)
    gray = pixels[..., 0]
    replicated = np.repeat(gray[..., None], 3, 2)
    opaque = np.dstack([pixels, gray])
    palette = picture(pixels).quantize(16)
    wide = gray.astype(np.uint16) * 256 + 200
    cases = [
        (encode(picture(gray), "PNG"), replicated),
        (encode(picture(np.dstack([gray, gray])), "PNG"), replicated),
        (encode(picture(opaque), "PNG"), pixels),
        (encode(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        (encode(palette, "PNG", transparency=3), np.asarray(palette.convert("RGB"))),
        (encode(picture(wide), "PNG"), replicated),
        (encode(picture(gray > 99), "PNG"), np.where(replicated > 99, 255, 0)),
    ]
    for encoded, expected in cases:
        image = views.decode(encoded)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_cmyk_and_grayscale_jpeg() -> None:
    smooth = ramp(64, 48)
    cmyk = views.decode(encode(picture(smooth).convert("CMYK"), quality=95))
    assert cmyk.mode == "RGB" and np.abs(np.asarray(cmyk) - smooth.astype(int)).mean() < 3
    gray = np.asarray(views.decode(encode(picture(smooth[..., 0]), quality=95)))
    assert (gray[..., 0] == gray[..., 2]).all()
    assert np.abs(gray[..., 1] - smooth[..., 0].astype(int)).max() < 8


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = views.decode(encode(picture(noise(60, 40)), exif=exif))
    assert image.size == (60, 40)


# --- Class folders ---


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def photograph(seed: int) -> bytes:
    small = picture(noise(8, 6, seed))
    return encode(small.resize((64 + seed % 5, 48), Image.Resampling.BICUBIC), quality=90)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """DIR/train with 3, 4 and 5 images of three classes; DIR/val with 2 of each."""
    root = tmp_path / "ImageNet"
    for label, wnid in enumerate(WNIDS):
        for index in range(3 + label):
            write(root / "train" / wnid / f"{wnid}_{index}.JPEG", photograph(10 * label + index))
        for index in range(2):
            name = f"ILSVRC2012_val_{2 * label + index:08}.JPEG"
            write(root / "val" / wnid / name, photograph(100 + 10 * label + index))
    return root


def read_all(part: EncodedImages) -> list[bytes]:
    return [part.read(index) for index in range(len(part))]


def test_class_folders(folders: Path) -> None:
    dataset = load("imagenet", folders)
    assert isinstance(dataset, EncodedDataset)
    assert dataset.class_names == WNIDS
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(dataset.train) == 12 and dataset.train.image_shape == (224, 224, 3)
    assert dataset.image_shape == (224, 224, 3)
    path = folders / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    assert dataset.train.name(5) == str(path)
    assert dataset.train.read(5) == path.read_bytes()
    expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(np.asarray(dataset.train.open(5)), expected)
    assert dataset.title.startswith("ImageNet, not all of ILSVRC2012, 3 classes, 12 training")
    assert any("not their content" in note for note in dataset.notes)
    assert not dataset.train.labels.flags.writeable


def test_test_folder_may_be_called_test_and_other_files_are_left_out(folders: Path) -> None:
    before = load("imagenet", folders)
    test, train = read_all(before.test), read_all(before.train)
    (folders / "val").rename(folders / "test")
    write(folders / "train" / WNIDS[0] / "notes.txt", b"hello")
    write(folders / "train" / WNIDS[0] / ".hidden.JPEG", b"")
    after = load("imagenet", folders)
    assert read_all(after.test) == test and read_all(after.train) == train
    assert "1 non-image item left out" in after.notes


def test_kaggle_layout(folders: Path, tmp_path: Path) -> None:
    plain = load("imagenet", folders)
    kaggle = tmp_path / "kaggle"
    base = kaggle / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(folders, base)
    write(base / "test" / "ILSVRC2012_test_00000001.JPEG", photograph(1))
    sorted_folders = load("imagenet", kaggle)
    assert sorted_folders.digest == plain.digest
    rows = ["ImageId,PredictionString"]
    for path in sorted((base / "val").glob("*/*")):
        rows.append(f"{path.stem},{path.parent.name} 85 1 499 272 {path.parent.name} 1 2 3 4 ")
        path.rename(base / "val" / path.name)
    for wnid in WNIDS:
        (base / "val" / wnid).rmdir()
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv") as error:
        load("imagenet", kaggle)
    one_line(error)
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(rows))
    for directory in (kaggle, base, kaggle / "ILSVRC"):
        dataset = load("imagenet", directory)
        assert read_all(dataset.test) == read_all(plain.test)
        assert dataset.test.labels.tolist() == plain.test.labels.tolist()
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(DataError, match=r"val_00000005\.JPEG: .* does not list it"):
        load("imagenet", kaggle)


def test_missing_data_says_what_to_put_where(folders: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for directory in (None, tmp_path / "nowhere", empty):
        with pytest.raises(
            DataError, match=r"ILSVRC2012_img_train\.tar .*nothing is downl"
        ) as error:
            load("imagenet", directory)
        assert "--data_dir" in one_line(error) or str(directory) in one_line(error)
    write(empty / "ILSVRC2012_img_train.tar", b"x")
    with pytest.raises(DataError, match=r"unpack ILSVRC2012_img_train\.tar first"):
        load("imagenet", empty)
    write(empty / "train" / "n01440764.tar", b"x")
    with pytest.raises(DataError, match=r"unpack each <wnid>\.tar"):
        load("imagenet", empty)
    shutil.rmtree(folders / "val")
    with pytest.raises(DataError, match="neither val/ nor test/"):
        load("imagenet", folders)
    with pytest.raises(DataError, match="image_size"):
        load("imagenet", folders, image_size=32)


def test_classes_must_fit(folders: Path) -> None:
    write(folders / "val" / "n09999999" / "a.JPEG", photograph(1))
    with pytest.raises(DataError, match=r"n09999999.*no class"):
        load("imagenet", folders)
    shutil.rmtree(folders / "val" / "n09999999")
    (folders / "train" / "n09999999").mkdir()
    with pytest.raises(DataError, match='no folder for class "n09999999"'):
        load("imagenet", folders)
    (folders / "val" / "n09999999").mkdir()
    with pytest.raises(DataError, match="no training image of class"):
        load("imagenet", folders)
    for part in ("train", "val"):
        (folders / part / "n09999999").rmdir()
    for wnid in WNIDS[1:]:
        shutil.rmtree(folders / "train" / wnid)
        shutil.rmtree(folders / "val" / wnid)
    with pytest.raises(DataError, match="at least 2"):
        load("imagenet", folders)


# --- Damage ---

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[: len(content) // 2],
    "last byte lost": lambda content: content[:-1],
    "header lost": lambda content: content[100:],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a web page": lambda content: b"<html>Photo not available</html>",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_can_be_skipped(folders: Path, kind: str) -> None:
    bad = folders / "train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG"
    bad.write_bytes(DAMAGE[kind](bad.read_bytes()))
    with pytest.raises(DataError) as error:
        load("imagenet", folders)
    assert str(bad) in one_line(error) and "--skip_corrupt" in one_line(error)
    dataset = load("imagenet", folders, skip_corrupt=True)
    assert len(dataset.train) == 11 and "1 corrupt image skipped" in dataset.notes
    assert str(bad) not in [dataset.train.name(i) for i in range(11)]
    for index in range(11):
        dataset.train.open(index)


def test_unusual_but_whole_images_pass(folders: Path) -> None:
    base = folders / "train" / WNIDS[0]
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000  # pushes the size in pixels behind the first block
    write(base / "long_header.JPEG", encode(picture(noise(50, 40)), exif=exif))
    write(base / "trailing.JPEG", photograph(7) + bytes(5000))
    write(base / "png.JPEG", encode(picture(noise(50, 40)), "PNG"))  # n02105855_2933.JPEG is one
    write(base / "bitmap.bmp", encode(picture(noise(50, 40)), "BMP"))
    write(base / "tiny.JPEG", encode(picture(noise(1, 1))))
    dataset = load("imagenet", folders)
    assert len(dataset.train) == 17
    for index in range(17):
        assert dataset.train.open(index).mode == "RGB"


def test_damage_inside_shows_when_the_image_is_read(folders: Path) -> None:
    encoded = bytearray(encode(picture(noise(200, 200)), "PNG"))
    encoded[30_000:30_020] = bytes(20)
    path = folders / "train" / WNIDS[0] / "deep.png"
    write(path, bytes(encoded))
    dataset = load("imagenet", folders)
    index = [dataset.train.name(i) for i in range(len(dataset.train))].index(str(path))
    with pytest.raises(DataError, match=r"deep\.png: corrupt image") as error:
        dataset.train.open(index)
    one_line(error)
    with pytest.raises(DataError, match=r"deep\.png"):
        mean_view(dataset.train)


def test_file_that_changes_or_vanishes_later_is_named(folders: Path) -> None:
    dataset = load("imagenet", folders)
    path = Path(dataset.train.name(0))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="has changed") as error:
        dataset.train.read(0)
    assert str(path) in one_line(error)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read") as error:
        dataset.train.open(0)
    assert str(path) in one_line(error)


# --- Digest ---


def test_digest_follows_names_sizes_and_labels(folders: Path, tmp_path: Path) -> None:
    original = load("imagenet", folders).digest
    base = folders / "train" / WNIDS[0]
    first = base / f"{WNIDS[0]}_0.JPEG"
    content = first.read_bytes()

    first.rename(base / "renamed.JPEG")
    renamed = load("imagenet", folders).digest
    (base / "renamed.JPEG").rename(first)
    first.write_bytes(content + b"\0")
    resized = load("imagenet", folders).digest
    first.write_bytes(content)
    first.rename(folders / "train" / WNIDS[1] / first.name)
    moved = load("imagenet", folders).digest
    (folders / "train" / WNIDS[1] / first.name).rename(first)
    for part in ("train", "val"):
        (folders / part / WNIDS[2]).rename(folders / part / "n02105856")
    class_renamed = load("imagenet", folders).digest
    for part in ("train", "val"):
        (folders / part / "n02105856").rename(folders / part / WNIDS[2])
    first.unlink()
    removed = load("imagenet", folders).digest
    first.write_bytes(content)
    assert len({original, renamed, resized, moved, class_renamed, removed}) == 6
    folders.rename(tmp_path / "elsewhere")
    assert load("imagenet", tmp_path / "elsewhere").digest == original


# --- TFRecord shards, written from the format's description ---


def crc32c(data: bytes) -> int:
    """Bit by bit: reflected polynomial 0x1EDC6F41."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(name: str, feature: bytes) -> bytes:
    return delimited(1, delimited(1, name.encode()) + delimited(2, feature))


def bytes_feature(*values: bytes) -> bytes:
    return delimited(1, b"".join(delimited(1, value) for value in values))


def int64_feature(*values: int, packed: bool = True) -> bytes:
    if packed:
        return delimited(3, delimited(1, b"".join(map(varint, values))))
    return delimited(3, b"".join(varint(1 << 3) + varint(value) for value in values))


def example(image: bytes, label: int, order: int = 0) -> bytes:
    entries = [
        entry("image", bytes_feature(image)),
        entry("label", int64_feature(label, packed=order % 2 == 0)),
        entry("file_name", bytes_feature(b"n01440764_10026.JPEG")),
        entry("bbox", delimited(2, delimited(1, struct.pack("<4f", 0, 0, 1, 1)))),
    ]
    random.Random(order).shuffle(entries)
    return delimited(1, b"".join(entries))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """DIR/imagenet2012/5.1.0: 3 training shards of 4 images, 2 validation shards of 2."""
    root = tmp_path / "tfds" / "imagenet2012" / "5.1.0"
    info: dict[str, Any] = {"name": "imagenet2012", "fileFormat": "tfrecord", "splits": []}
    for split, count, each in (("train", 3, 4), ("validation", 2, 2)):
        for shard in range(count):
            numbers = [shard * each + index for index in range(each)]
            content = b"".join(
                record(example(photograph(n + (50 if split != "train" else 0)), n % 3, n))
                for n in numbers
            )
            write(root / f"imagenet2012-{split}.tfrecord-{shard:05}-of-{count:05}", content)
        info["splits"].append({"name": split, "shardLengths": [str(each)] * count})
    write(root / "dataset_info.json", json.dumps(info).encode())
    write(root / "features.json", b"{}")
    write(root / "label.labels.txt", "\n".join(WNIDS).encode() + b"\n")
    return root


def test_crc32c_has_the_published_values() -> None:
    known = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, b"123456789": 0xE3069283}
    for data, crc in known.items():  # RFC 3720, appendix B.4
        assert crc32c(data) == crc
        assert struct.pack("<I", tfrecord.masked_crc32c(data)) == masked(data)


def test_prepared_set(shards: Path) -> None:
    for directory in (shards, shards.parent, shards.parent.parent):
        dataset = load("imagenet", directory)
        assert dataset.class_names == WNIDS
        assert read_all(dataset.train) == [photograph(n) for n in range(12)]
        assert read_all(dataset.test) == [photograph(n + 50) for n in range(4)]
        assert dataset.train.labels.tolist() == [n % 3 for n in range(12)]
        assert dataset.test.labels.tolist() == [0, 1, 2, 0]
    shard = shards / "imagenet2012-train.tfrecord-00001-of-00003"
    assert dataset.train.name(5).startswith(f"{shard} (image at byte ")
    assert dataset.train.open(6).size == (65, 48)


def test_newest_version_and_class_names_without_a_file(shards: Path) -> None:
    shutil.copytree(shards, shards.parent / "5.0.0")
    shutil.copytree(shards, shards.parent / "10.0.0")
    (shards.parent / "10.0.0" / "label.labels.txt").unlink()
    dataset = load("imagenet", shards.parent.parent)
    assert dataset.class_names == ("0", "1", "2") and "10.0.0" in dataset.train.root
    shard = shards.parent / "10.0.0" / "imagenet2012-validation.tfrecord-00000-of-00002"
    shard.write_bytes(record(example(photograph(1), 10**18)) * 2)
    with pytest.raises(DataError, match="label 1000000000000000000"):
        load("imagenet", shards.parent.parent)


def test_prepared_set_that_is_incomplete(shards: Path) -> None:
    first, second = (shards / f"imagenet2012-train.tfrecord-0000{n}-of-00003" for n in (0, 1))
    content = second.read_bytes()

    def refused(pattern: str) -> None:
        with pytest.raises(DataError, match=pattern) as error:
            load("imagenet", shards)
        one_line(error)

    second.unlink()
    refused(f"{second}: missing, one of 3 shards")
    for cut in (1, 3, 4, 5, 500, len(content) - 3, len(content) - 11):
        second.write_bytes(content[:-cut])
        refused(f"{second}: damaged or truncated at record [03], byte")
    boundary = len(record(example(photograph(7), 1, 7)))
    second.write_bytes(content[:-boundary])  # whole records, but one too few
    refused(f"{second}: 3 records, but dataset_info.json declares 4")
    second.write_bytes(content[:4] + b"\x01" + content[5:])
    refused(f"{second}: .*wrong CRC")
    second.write_bytes(record(delimited(1, entry("label", int64_feature(1)))) * 4)
    refused(f'{second}: .*without a feature "image"')
    second.write_bytes(record(example(photograph(1), 77)) * 4)
    refused("label 77 of image 4 is not in 0 to 2")
    second.write_bytes(content)
    (shards / "dataset_info.json").write_text(
        '{"splits": [{"name": "train", "shardLengths": [1]}]}'
    )
    refused("declares 1")
    (shards / "dataset_info.json").write_text("[")
    refused("dataset_info.json: cannot be read")
    (shards / "dataset_info.json").write_text("{}")
    assert len(load("imagenet", shards).train) == 12
    for path in (first, second, shards / "imagenet2012-train.tfrecord-00002-of-00003"):
        path.unlink()
    refused("no shards .*-train")


def test_damaged_image_in_a_shard(shards: Path) -> None:
    path = shards / "imagenet2012-validation.tfrecord-00001-of-00002"
    images = [photograph(52)[:-40], photograph(53)]
    path.write_bytes(b"".join(record(example(image, 2)) for image in images))
    with pytest.raises(DataError) as error:
        load("imagenet", shards)
    assert f"{path}, record 0 (" in one_line(error)
    dataset = load("imagenet", shards, skip_corrupt=True)
    assert len(dataset.test) == 3 and "1 corrupt image skipped" in dataset.notes
    assert dataset.test.read(2) == photograph(53)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="has changed"):
        dataset.test.read(2)


def test_arbitrary_bytes_end_in_data_error(tmp_path: Path) -> None:
    draw = random.Random(1)
    path = tmp_path / "shard"
    good = example(b"image" * 5, 300, 1)
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        path.write_bytes(record(bytes(data)) * 2)
        with path.open("rb") as file:
            source = tfrecord.Source(file.fileno())
            try:
                found = list(tfrecord.examples(path, source))
            except DataError as error:
                assert str(path) in str(error)
            else:
                assert all(0 <= f.start <= f.start + f.size <= source.size for f in found)


def test_shards_that_tensorflow_wrote(shards: Path) -> None:
    pytest.importorskip("tensorflow")
    script = """
        import sys
        import tensorflow as tf
        source, target = sys.argv[1:]
        with tf.io.TFRecordWriter(target) as writer:
            for number, image in enumerate(open(source, "rb").read().split(b"SPLIT")):
                feature = {
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3])),
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                    "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
        for path in sys.argv[2:] + [target.replace("00001", "00000")]:  # ours: TF checks each CRC
            assert len(list(tf.data.TFRecordDataset(path))) == 4
    """
    images = [photograph(200 + n) for n in range(3)] + [encode(picture(noise(300, 200)))]
    plain = shards / "images"
    plain.write_bytes(b"SPLIT".join(images))
    target = shards / "imagenet2012-train.tfrecord-00001-of-00003"
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(plain), str(target)], check=True
    )
    dataset = load("imagenet", shards)
    assert read_all(dataset.train)[4:8] == images
    assert dataset.train.labels.tolist()[4:8] == [0, 1, 2, 0]


# --- Saved form ---


def test_saved_index(folders: Path, shards: Path, tmp_path: Path) -> None:
    for number, directory in enumerate((folders, shards)):
        dataset = load("imagenet", os.path.relpath(directory))
        saved = save(dataset, tmp_path / f"saved{number}")
        assert saved == save(dataset, saved)
        for verify in (True, False):
            back = open_saved(saved, verify=verify)
            assert isinstance(back, EncodedDataset)
            assert (back.name, back.title, back.digest) == (
                dataset.name,
                dataset.title,
                dataset.digest,
            )
            assert back.class_names == dataset.class_names and back.notes == dataset.notes
            assert isinstance(back.train.labels, np.memmap)
            assert os.path.isabs(back.train.root)
            assert read_all(back.test) == read_all(dataset.test)
            assert read_all(back.train) == read_all(dataset.train)
            assert back.train.name(7) == dataset.train.name(7)


def test_saved_index_follows_data_that_moved(folders: Path, tmp_path: Path) -> None:
    saved = save(load("imagenet", folders), tmp_path / "saved")
    (tmp_path / "new").mkdir()
    dataset = load("imagenet", folders.rename(tmp_path / "new" / "ImageNet"))
    assert dataset.digest == open_saved(saved).digest
    save(dataset, saved)
    assert read_all(open_saved(saved).train) == read_all(dataset.train)


def test_damaged_saved_index_is_named(folders: Path, tmp_path: Path) -> None:
    saved = save(load("imagenet", folders), tmp_path / "saved")
    sizes = saved / "train_sizes.npy"
    content = bytearray(sizes.read_bytes())
    content[-8] ^= 1
    sizes.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"train_sizes\.npy: content is not what was saved"):
        open_saved(saved)
    sizes.unlink()
    with pytest.raises(DataError, match=r"train_sizes\.npy: cannot be mapped"):
        open_saved(saved, verify=False)
    meta = json.loads((saved / "meta.json").read_text())
    meta["roots"] = []
    (saved / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError):
        open_saved(saved)


def synthetic(count: int) -> EncodedImages:
    names = [f"train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG".encode() for i in range(count)]
    return EncodedImages(
        root="/data",
        labels=(np.arange(count) % 1000).astype(np.int32),
        paths=np.frombuffer(b"".join(names), np.uint8),
        ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        files=np.arange(count, dtype=np.int32),
        starts=np.full(count, -1, np.int64),
        sizes=np.full(count, 110_000, np.int64),
    )


def test_a_million_images_open_in_less_than_a_cpu_second(tmp_path: Path) -> None:
    train, test = synthetic(1_000_000), synthetic(1_000)
    names = [f"n{i:08}" for i in range(1000)]
    saved = save(make_encoded("imagenet", "Million", train, test, names), tmp_path / "saved")
    begin = time.process_time()
    dataset = open_saved(saved, verify=False)
    seconds = time.process_time() - begin
    assert isinstance(dataset, EncodedDataset)
    assert dataset.train.name(999_999) == "/data/train/n00000999/n00000999_999999.JPEG"
    assert dataset.train.name(0) == "/data/train/n00000000/n00000000_0.JPEG"
    assert seconds < 1, seconds


def test_parts_that_do_not_fit_are_refused() -> None:
    good = synthetic(10)
    names = [str(i) for i in range(1000)]
    for change in (
        {"labels": good.labels + np.int32(995)},
        {"files": good.files + np.int32(1)},
        {"ends": good.ends - 1},
        {"sizes": good.sizes * 0},
        {"starts": good.starts - 1},
        {"sizes": good.sizes[1:]},
        {"labels": good.labels.astype(np.int64)},
    ):
        with pytest.raises(DataError) as error:
            make_encoded("imagenet", "t", good, replace(good, **change), names)
        one_line(error)


# --- Mean, threads, imports ---


def test_mean_is_the_mean_of_centre_views_of_an_even_sample(folders: Path) -> None:
    train = load("imagenet", folders).train
    centres = np.stack([views.test_view(train.open(i), 0) for i in range(12)]).astype(np.float64)
    everything = mean_view(train)
    assert everything.shape == (224, 224, 3) and everything.dtype == np.float32
    np.testing.assert_allclose(everything, centres.mean(0), atol=1e-6)
    np.testing.assert_array_equal(everything, mean_view(train, threads=3))
    sample = mean_view(train, at_most=4)
    np.testing.assert_allclose(sample, centres[[0, 3, 6, 9]].mean(0), atol=1e-6)


def test_threads_keep_order_and_raise() -> None:
    assert map_threads(lambda x: x * x, range(1000), 3) == [x * x for x in range(1000)]
    assert map_threads(str, []) == []

    def fail(number: int) -> None:
        if number == 500:
            raise DataError("here")

    with pytest.raises(DataError, match="here"):
        map_threads(fail, range(1000), 2)


def test_neither_tensorflow_nor_pillow_is_imported() -> None:
    code = "import sys, ablations.data; print({'tensorflow', 'keras', 'PIL'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "set()"
