"""Data sources: against files in their real formats, and facts that come from outside."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.data import (
    SOURCES,
    DataError,
    Dataset,
    Images,
    base,
    content_digest,
    load,
    open_saved,
    safe_pickle,
    save,
)
from ablations.data.fashion import make_slice

SHARED = Path(__file__).resolve().parents[2] / "shared"
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CIFAR10_CLASSES += ["dog", "frog", "horse", "ship", "truck"]


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert message.isprintable() and 0 < len(message) < 700, message
    return message


# --- Python-2 pickles, byte by byte as cPickle wrote the CIFAR archives ---


class Py2Pickle:
    """Protocol 2 as Python 2's cPickle wrote it: 8-bit strings, memo from 1."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def dump(self, value: Any) -> bytes:
        self._save(value)
        return bytes(self.out + b".")

    def _put(self) -> None:
        self.memo += 1
        small = self.memo < 256
        self.out += b"q" + bytes([self.memo]) if small else b"r" + struct.pack("<I", self.memo)

    def _save(self, value: Any) -> None:
        if isinstance(value, int):
            if 0 <= value < 256:
                self.out += b"K" + bytes([value])
            elif 0 <= value < 65536:
                self.out += b"M" + struct.pack("<H", value)
            else:
                self.out += b"J" + struct.pack("<i", value)
        elif isinstance(value, bytes):
            short = len(value) < 256
            self.out += (
                b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))
            )
            self.out += value
            self._put()
        elif isinstance(value, list):
            self.out += b"]"
            self._put()
            self.out += b"("
            for item in value:
                self._save(item)
            self.out += b"e"
        elif isinstance(value, dict):
            self.out += b"}"
            self._put()
            self.out += b"("
            for key, item in value.items():
                self._save(key)
                self._save(item)
            self.out += b"u"
        else:
            self._array(value)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        assert array.dtype == np.uint8 and array.ndim == 2
        self.out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        self._put()
        self.out += b"(K\x01"
        for side in array.shape:
            self._save(int(side))
        self.out += b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        self._put()
        self.out += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self._save(array.tobytes())
        self.out += b"tb"


def py2_pickle(value: Any) -> bytes:
    return Py2Pickle().dump(value)


def planes(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_python(directory: Path, fine: bool, count: int = 20) -> list[tuple[Any, list[int]]]:
    """The Python version with `count` images a file; returns (planes, labels) of each file."""
    directory.mkdir(parents=True, exist_ok=True)
    files = ["train", "test"] if fine else [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    classes = 100 if fine else 10
    written = []
    for seed, file in enumerate(files):
        data, labels = planes(count, seed), [(7 * i + seed) % classes for i in range(count)]
        content: dict[bytes, Any] = {b"batch_label": b"batch", b"data": data}
        if fine:
            content |= {b"coarse_labels": [0] * count, b"fine_labels": labels}
        else:
            content[b"labels"] = labels
        content[b"filenames"] = [b"leptodactylus_s_%06d.png" % i for i in range(count)]
        (directory / file).write_bytes(py2_pickle(content))
        written.append((data, labels))
    if fine:
        meta: dict[bytes, Any] = {b"fine_label_names": [b"fine%02d" % i for i in range(100)]}
        meta[b"coarse_label_names"] = [b"coarse%02d" % i for i in range(20)]
    else:
        names = [name.encode() for name in CIFAR10_CLASSES]
        meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
    (directory / ("meta" if fine else "batches.meta")).write_bytes(py2_pickle(meta))
    return written


def write_binary(directory: Path, fine: bool, parts: list[tuple[Any, list[int]]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    stems = ["train", "test"] if fine else [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for stem, (data, labels) in zip(stems, parts, strict=True):
        columns = [np.array(labels, dtype=np.uint8)[:, None], data]
        if fine:
            columns.insert(0, np.zeros((len(labels), 1), dtype=np.uint8))  # coarse label
        (directory / f"{stem}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
    names = [f"fine{i:02d}" for i in range(100)] if fine else CIFAR10_CLASSES
    file = "fine_label_names.txt" if fine else "batches.meta.txt"
    (directory / file).write_text("\n".join(names) + "\n\n")


# --- Fashion-MNIST slice ---


def test_fashion_slice_counts() -> None:
    data = load("fashion")
    assert data.train.images.shape == (10_000, 28, 28, 1) and data.train.images.dtype == np.uint8
    assert data.test.images.shape == (2_000, 28, 28, 1) and data.test.labels.dtype == np.int32
    assert np.bincount(data.train.labels).tolist() == [1000] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    assert data.class_names[0] == "T-shirt/top" and data.class_names[9] == "Ankle boot"
    assert data.title == "Fashion-MNIST slice, 10,000 training and 2,000 test images"
    # The official training split begins with these labels (as seen in every tutorial).
    assert data.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert data.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_fashion_slice_equals_official_files() -> None:
    if not make_slice.DEBIAN.is_dir():
        pytest.skip(
            f"the Debian package dataset-fashion-mnist is not installed ({make_slice.DEBIAN})"
        )
    data = load("fashion")
    for part, prefix, per_class in ((data.train, "train", 1000), (data.test, "t10k", 200)):
        raw = gzip.decompress((make_slice.DEBIAN / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress(
            (make_slice.DEBIAN / f"{prefix}-labels-idx1-ubyte.gz").read_bytes()
        )
        taken, counts = 0, [0] * 10
        for index, label in enumerate(labels[8:]):
            if counts[label] < per_class:
                pixels = raw[16 + 784 * index : 16 + 784 * (index + 1)]
                assert part.images[taken].tobytes() == pixels and part.labels[taken] == label
                counts[label] += 1
                taken += 1
        assert taken == len(part.labels)


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_make_slice_takes_the_first_of_each_class_and_repeats_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for prefix, each in (("train", 1001), ("t10k", 203)):
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
    arrays = make_slice.cut(tmp_path)
    order = arrays["train_images"].reshape(-1, 4).copy().view(np.uint32).ravel()
    assert len(order) == 10_000 and (np.diff(order.astype(int)) > 0).all()
    assert make_slice.pack(arrays) == make_slice.pack(make_slice.cut(tmp_path))
    with np.load(io.BytesIO(make_slice.pack(arrays)), allow_pickle=False) as back:
        assert all((back[name] == array).all() for name, array in arrays.items())
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="t10k-labels") as error:
        make_slice.cut(tmp_path)
    one_line(error)


def test_fashion_damage_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "slice.npz"
    monkeypatch.setattr("ablations.data.fashion.SLICE", damaged)
    with pytest.raises(DataError, match=r"slice\.npz.*install the package again") as error:
        load("fashion")
    one_line(error)
    damaged.write_bytes(b"PK")
    with pytest.raises(DataError, match="not the file that was shipped") as error:
        load("fashion")
    one_line(error)


# --- load ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cifar-10",), 'did you mean "cifar10"'),
        (("mnist",), "fashion, cifar10, cifar100, folder"),
        (("fashion", "somewhere"), "takes no --data_dir"),
        (("folder",), "give --data_dir DIR"),
    ],
)
def test_load_refuses(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        load(*arguments)
    one_line(error)


def test_image_size_is_for_folders() -> None:
    with pytest.raises(DataError, match="only the folder source"):
        load("fashion", image_size=32)
    assert SOURCES == ("fashion", "cifar10", "cifar100", "folder", "imagenet")


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, ablations.data as d; d.load('fashion'); "
        "print([m for m in ('tensorflow', 'keras', 'PIL') if m in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_data_error_stays_one_line() -> None:
    assert str(DataError("a\nb\x1b[31m\udcff é")) == "a\\nb\\x1b[31m\\udcff é"


# --- CIFAR ---


def test_py2_writer_is_python_2() -> None:
    """The writer above makes what the archive holds: batches.meta of CIFAR-10 has 158 bytes."""
    names = [name.encode() for name in CIFAR10_CLASSES]
    meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
    assert len(py2_pickle(meta)) == 158
    content = {b"data": planes(2), b"labels": [3, 9], b"filenames": [b"\xff.png", b"b.png"]}
    stock = pickle.loads(py2_pickle(content), encoding="bytes")
    assert (stock[b"data"] == content[b"data"]).all() and stock[b"labels"] == [3, 9]


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar_pixels_and_labels(tmp_path: Path, fine: bool, inside: bool, version: str) -> None:
    folder = {
        ("python", False): "cifar-10-batches-py",
        ("python", True): "cifar-100-python",
        ("binary", False): "cifar-10-batches-bin",
        ("binary", True): "cifar-100-binary",
    }[version, fine]
    target = tmp_path / "data" / folder if inside else tmp_path / "data"
    source = target if version == "python" else tmp_path / "source"
    parts = write_python(source, fine)
    if version == "binary":
        write_binary(target, fine, parts)
    data = load("cifar100" if fine else "cifar10", tmp_path / "data")
    assert data.name == ("cifar100" if fine else "cifar10")
    assert data.train.images.shape == (20 if fine else 100, 32, 32, 3)
    assert data.test.images.shape == (20, 32, 32, 3)
    assert data.train.labels.tolist() == [label for _, labels in parts[:-1] for label in labels]
    assert data.test.labels.tolist() == parts[-1][1]
    flat = np.concatenate([data for data, _ in parts[:-1]])
    for image, row, column, channel in ((0, 0, 0, 0), (3, 5, 17, 1), (19, 31, 30, 2)):
        expected = flat[image][channel * 1024 + row * 32 + column]
        assert data.train.images[image, row, column, channel] == expected
    assert len(data.class_names) == (100 if fine else 10)
    assert data.class_names[3] == ("fine03" if fine else "cat")


def test_cifar_versions_have_one_digest(tmp_path: Path) -> None:
    parts = write_python(tmp_path / "py", fine=False)
    write_binary(tmp_path / "bin", False, parts)
    first, second = load("cifar10", tmp_path / "py"), load("cifar10", tmp_path / "bin")
    assert first.digest == second.digest


def test_cifar_rewritten_by_python_3(tmp_path: Path) -> None:
    """Files that someone loaded and dumped again with Python 3, protocol 2, read the same."""
    parts = write_python(tmp_path, fine=False)
    digest = load("cifar10", tmp_path).digest
    for file in tmp_path.iterdir():
        content = pickle.loads(file.read_bytes(), encoding="bytes")
        file.write_bytes(pickle.dumps(content, protocol=2))
    assert load("cifar10", tmp_path).digest == digest
    fortran = {b"data": np.asfortranarray(parts[0][0]), b"labels": parts[0][1]}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(fortran, protocol=2))
    assert load("cifar10", tmp_path).digest == digest


@pytest.mark.parametrize("layout", ["{0}-target/{0}", "{0}"])
def test_cifar_from_keras_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz") as error:
        load("cifar10")
    assert str(tmp_path) in one_line(error)
    write_python(tmp_path / "datasets" / layout.format("cifar-10-batches-py"), fine=False)
    write_python(tmp_path / "datasets" / layout.format("cifar-100-python"), fine=True)
    assert len(load("cifar10").train.labels) == 100
    assert len(load("cifar100").train.labels) == 20
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="keras"):
        load("cifar100")


def _binary(tmp_path: Path) -> Path:
    write_binary(tmp_path, False, write_python(tmp_path / "source", fine=False))
    return tmp_path


def _truncate(directory: Path) -> None:
    path = directory / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])


def _empty(directory: Path) -> None:
    (directory / "test_batch.bin").write_bytes(b"")


def _label_out_of_range(directory: Path) -> None:
    path = directory / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)


def _missing(directory: Path) -> None:
    (directory / "data_batch_4.bin").unlink()


def _few_names(directory: Path) -> None:
    (directory / "batches.meta.txt").write_text("airplane\ncar\n")


def _same_names(directory: Path) -> None:
    (directory / "batches.meta.txt").write_text("airplane\n" * 10)


def _binary_names(directory: Path) -> None:
    (directory / "batches.meta.txt").write_bytes(b"\xff\xfe\xff")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, r"data_batch_3\.bin.*whole records of 3073 bytes"),
        (_empty, r"test_batch\.bin"),
        (_label_out_of_range, r"data_batch_2\.bin: label 10 of image 1 is not in 0 to 9"),
        (_missing, r"lacks data_batch_4\.bin.*cifar-10-binary\.tar\.gz"),
        (_few_names, r"batches\.meta\.txt: 2 class names"),
        (_same_names, r'"airplane" appears twice'),
        (_binary_names, r"batches\.meta\.txt: not a text file"),
    ],
)
def test_cifar_binary_damage(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(_binary(tmp_path))
    with pytest.raises(DataError, match=says) as error:
        load("cifar10", tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({b"data": planes(2), b"labels": [1]}, "2 images but 1"),
        ({b"data": planes(2), b"labels": [1, 10]}, "label 10 of image 1 is not in 0 to 9"),
        ({b"data": planes(2), b"labels": [1, -(2**31)]}, "label -2147483648"),
        ({b"data": planes(2), b"labels": [1, b"2"]}, "not a list of integers"),
        ({b"data": planes(2), b"fine_labels": [1, 2]}, '"labels" is not a list'),
        ({b"data": planes(2)[:, :3071].copy(), b"labels": [1, 2]}, r"shape \(n, 3072\)"),
        ({b"labels": [1, 2]}, r"shape \(n, 3072\)"),
    ],
)
def test_cifar_python_damage(tmp_path: Path, content: dict[bytes, Any], says: str) -> None:
    write_python(tmp_path, fine=False)
    (tmp_path / "data_batch_2").write_bytes(py2_pickle(content))
    with pytest.raises(DataError, match=says) as error:
        load("cifar10", tmp_path)
    assert "data_batch_2" in one_line(error)


def test_cifar_missing_or_packed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of the original files.*cifar-100-binary\.tar\.gz"
    ) as error:
        load("cifar100", tmp_path)
    assert "train.bin" in one_line(error)
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="tar xzf cifar-100-python") as error:
        load("cifar100", tmp_path)
    one_line(error)
    with pytest.raises(DataError, match="is not a directory") as error:
        load("cifar10", tmp_path / "nowhere")
    one_line(error)


# --- safe_pickle ---


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _array_pickle(state: bytes, dtype: bytes = b"U\x02u1") -> bytes:
    """{"data": array} with `state` for shape .. bytes."""
    return (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01"
        + state.replace(b"DTYPE", b"cnumpy\ndtype\n" + dtype + b"K\x00K\x01\x87R")
        + b"tbs."
    )


MARKER = "safe_pickle_was_not_safe"
ATTACKS = {
    "os.system by reduce": pickle.dumps({b"data": _Call(os.system, f"touch {MARKER}")}, 2),
    "eval of builtins": pickle.dumps({b"data": _Call(eval, f"open('{MARKER}', 'w')")}, 2),
    "__builtin__ of Python 2": b"c__builtin__\neval\n(S'1'\ntR.",
    "dotted name": b"\x80\x02}U\x04datacnumpy\ndtype.__class__\n)Rs.",
    "name behind an allowed module": b"\x80\x02}U\x04datacnumpy\nload\nU\x01x\x85Rs.",
    "a module with a space": b"\x80\x02}U\x04datacnumpy dtype\n\n)Rs.",
    "stack global": b"\x80\x04}\x8c\x04data\x8c\x02os\x8c\x06system\x93s.",
    "extension code": b"\x80\x02}U\x04data\x82\x01s.",
    "long extension code": b"\x80\x02}U\x04data\x84\x01\x00\x00\x00s.",
    "copyreg": pickle.dumps({b"data": random.Random(1)}, 2),
    "copyreg protocol 0": pickle.dumps({b"data": Path("x")}, 0),
    "INST": b"(ios\nsystem\nV1\n.",
    "OBJ": b"(cos\nsystem\nV1\no.",
    "NEWOBJ": b"\x80\x02}U\x04datacnumpy\nndarray\nK\x00\x85\x81s.",
    "persistent id": b"\x80\x02}U\x04dataP1\ns.",
    "binary persistent id": b"\x80\x02}U\x04dataK\x01Qs.",
    "BUILD of a dict": b"\x80\x02}}U\x01aK\x01sb.",
    "BUILD of a marker": b"\x80\x02}U\x04datacnumpy\nndarray\n}bs.",
    "a marker as value": b"\x80\x02}U\x04datacnumpy\nndarray\ns.",
    "an array that is never filled": (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rs."
    ),
    "reconstruct of another class": (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87Rs."
    ),
    "another codec": (
        b"\x80\x02}U\x04datac_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86Rs."
    ),
    "numpy object array": pickle.dumps({b"data": np.array([{}], dtype=object)}, 2),
    "object dtype over bytes": _array_pickle(b"K\x01\x85DTYPE\x89U\x08" + b"A" * 8, b"U\x02O8"),
    "float dtype": pickle.dumps({b"data": np.zeros(2)}, 2),
    "structured dtype": _array_pickle(b"K\x01\x85DTYPE(K\x03U\x01|U\x01aU\x01atb\x89U\x01A"),
    "declared shape too large": _array_pickle(b"J\xff\xff\xff\x7f\x85DTYPE\x89U\x01A"),
    "declared shape overflows": _array_pickle(
        b"(" + b"J\x00\x00\x00\x40" * 4 + b"tDTYPE\x89U\x01A"
    ),
    "negative shape": _array_pickle(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86DTYPE\x89U\x01A"),
    "zero times huge": _array_pickle(b"K\x00J\xff\xff\xff\x7f\x86DTYPE\x89U\x00"),
    "shape too small": _array_pickle(b"K\x01\x85DTYPE\x89U\x02AB"),
    "memo index bomb": b"\x80\x02}r\xff\xff\xff\x7f" + b"j\xfe\xff\xff\x7f.",
    "nested tuples as a key": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",
    "nested tuples by memo as a key": (
        b"\x80\x02})q\x00" + b"0h\x00h\x00\x86q\x00" * 60 + b"K\x01s."
    ),
    "nested tuples without POP": b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s.",
    "nested lists by memo": (b"\x80\x02}U\x01a]q\x00" + b"]q\x01(h\x00h\x00eq\x00" * 60 + b"s."),
    "a list that holds itself": b"\x80\x02}U\x01a]q\x00h\x00as.",
    "encode again and again": (
        b"\x80\x02}X\x20\x00\x00\x00"
        + b"a" * 32
        + b"q\x00X\x06\x00\x00\x00latin1q\x01"
        + b"c_codecs\nencode\nq\x02"
        + b"h\x02h\x00h\x01\x86R" * 300
        + b"s."
    ),
    "BUILD twice": _array_pickle(b"K\x01\x85DTYPE\x89U\x01A")[:-2] + b"(K\x01tbs.",
    "not a dict": b"\x80\x02]K\x01a.",
    "a dict in a dict": b"\x80\x02}U\x01a}s.",
    "a float": b"\x80\x02}U\x01aG?\xf0\x00\x00\x00\x00\x00\x00s.",
    "None": b"\x80\x02}U\x01aNs.",
    "key that is a number": b"\x80\x02}K\x01K\x01s.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "protocol 4": pickle.dumps({b"data": 1}, 4),
    "huge integer text": b"}U\x01aI" + b"9" * 100_000 + b"\ns.",
    "string longer than the file": b"\x80\x02}U\x01aT\xff\xff\xff\x7fabcs.",
    "no STOP": b"\x80\x02}",
    "something after STOP": b"\x80\x02}.}",
    "underflow": b"\x80\x02s.",
    "items from under the mark": b"\x80\x02}U\x01a(K\x01s.",
    "empty file": b"",
    "gzip": gzip.compress(b"x"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^FILE: ") as error:
        safe_pickle.loads(ATTACKS[attack], "FILE")
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_attack_through_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path / "data", fine=False)
    (tmp_path / "data" / "test_batch").write_bytes(ATTACKS["os.system by reduce"])
    with pytest.raises(DataError, match=r'test_batch.*names "posix system"'):
        load("cifar10", tmp_path / "data")
    assert not (tmp_path / MARKER).exists()


def test_oversize_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data_batch_1"
    with path.open("wb") as stream:
        stream.truncate(safe_pickle.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(DataError, match="data_batch_1"):
        safe_pickle.load(path)
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 1000)
    with pytest.raises(DataError, match="more than 1,000 opcodes"):
        safe_pickle.loads(b"\x80\x02" + b"]" * 2000 + b".", "FILE")


def test_array_comes_out_without_a_copy_of_its_order() -> None:
    data = planes(3)
    for order in ("C", "F"):
        content = {b"data": np.array(data, order=order), b"labels": [1, 2, 3], b"n": 70_000}
        result = safe_pickle.loads(pickle.dumps(content, 2), "FILE")
        assert (result["data"] == data).all() and result["data"].dtype == np.uint8
        assert result["labels"] == [1, 2, 3] and result["n"] == 70_000
        assert not result["data"].flags.writeable


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_mutations_end_in_the_error_or_plain_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(20151210)
    small = np.arange(24, dtype=np.uint8).reshape(2, 12)
    content = {b"data": small, b"labels": [3, 9], b"filenames": [b"a.png", b"b.png"]}
    seeds = [py2_pickle(content), pickle.dumps(content, 2), *ATTACKS.values()]
    refused = 0
    for number in range(3000):
        mutated = bytearray(seeds[number % 2] if number % 3 else rng.choice(seeds[2:]))
        for _ in range(rng.randint(1, 3)):
            if mutated:
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        try:
            result = safe_pickle.loads(bytes(mutated), "FILE")
        except DataError as error:
            refused += 1
            assert str(error).startswith("FILE: ") and str(error).isprintable()
            continue
        for key, value in result.items():
            assert type(key) is str
            if isinstance(value, np.ndarray):
                assert value.dtype == np.uint8 and value.base is not None
                assert value.size <= len(mutated)
            elif isinstance(value, list):
                assert all(type(item) in (int, bytes, str) for item in value)
            else:
                assert type(value) in (int, bytes, str)
    assert 1000 < refused < 3000
    assert not list(tmp_path.iterdir())


# --- folders ---


def pillow() -> Any:
    from PIL import Image

    return Image


def write_image(path: Path, array: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow().fromarray(np.asarray(array, dtype=np.uint8)).save(path, **options)


def write_folders(
    root: Path, size: tuple[int, int] = (6, 5), gray: bool = False, test: str = "test"
) -> None:
    """Two classes, "a b" and "ü"; 3 training and 2 test images each; pixels tell which is which."""
    shape = size if gray else (*size, 3)
    for part, count in (("train", 3), (test, 2)):
        for label, name in enumerate(("a b", "ü")):
            for index in range(count):
                array = np.full(shape, 100 * label + 10 * index + (part != "train"))
                write_image(root / part / name / f"{index}.png", array)


def test_folder_order_and_labels(tmp_path: Path) -> None:
    write_folders(tmp_path)
    data = load("folder", tmp_path)
    assert data.class_names == ("a b", "ü") and data.name == "folder"
    assert data.train.images.shape == (6, 6, 5, 3) and data.test.images.shape == (4, 6, 5, 3)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]
    assert data.test.images[:, 0, 0, 0].tolist() == [1, 11, 101, 111]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.notes == ()
    assert data.title.endswith("2 classes, 5x6x3, 6 training and 4 test images")
    assert not data.train.images.flags.writeable


def test_folder_pixel_positions(tmp_path: Path) -> None:
    write_folders(tmp_path)
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    for extension in ("PNG", "bmp", "webp"):
        path = tmp_path / "train" / "a b" / f"0.{extension}"
        write_image(path, array, **({"lossless": True} if extension == "webp" else {}))
    (tmp_path / "train" / "a b" / "0.png").unlink()
    write_image(tmp_path / "train" / "a b" / "9.JpEg", np.full((6, 5, 3), 200))
    data = load("folder", str(tmp_path))
    assert (data.train.images[:3] == array).all()
    assert (data.train.images[5] == 200).all()


def test_folder_modes(tmp_path: Path) -> None:
    image = pillow()
    write_folders(tmp_path, gray=True, test="val")
    image.new("1", (5, 6), 1).save(tmp_path / "train" / "a b" / "one_bit.png")
    data = load("folder", tmp_path)
    assert data.train.images.shape == (7, 6, 5, 1) and data.train.images[3].min() == 255
    folder = tmp_path / "train" / "a b"
    image.new("RGBA", (5, 6), (1, 2, 3, 0)).save(folder / "alpha.png")
    image.new("CMYK", (5, 6), (0, 255, 255, 0)).save(folder / "cmyk.jpg")
    image.new("LA", (5, 6), (9, 0)).save(folder / "la.png")
    frames = [image.new("RGB", (5, 6), color) for color in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    palette = image.new("P", (5, 6), 1)
    palette.putpalette([0, 0, 0, 7, 8, 9])
    palette.save(folder / "palette.png", transparency=b"\x00\x80")
    data = load("folder", tmp_path)
    pixels = {i: data.train.images[i, 3, 3].tolist() for i in range(9)}
    assert pixels[1] == [10, 10, 10]  # grayscale as R = G = B
    assert pixels[3] == [1, 2, 3] and pixels[5] == [9, 9, 9]
    assert pixels[4][0] > 200 and max(pixels[4][1:]) < 60  # red
    assert pixels[6] == [255, 0, 0] and pixels[8] == [7, 8, 9]
    assert data.notes == (
        "transparency of 3 images dropped",
        "only the first frame of 1 animated image",
    )


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_folder_exif_orientation(tmp_path: Path, extension: str) -> None:
    write_folders(tmp_path, size=(16, 32))
    exif = pillow().Exif()
    exif[0x0112] = 6  # the first row is the visual right side
    array = np.zeros((32, 16, 3), dtype=np.uint8)
    array[:16] = 255
    path = tmp_path / "train" / "a b" / f"z.{extension}"
    write_image(path, array, exif=exif, **({} if extension == "png" else {"quality": 95}))
    image = load("folder", tmp_path).train.images[3]
    assert image.shape == (16, 32, 3)
    assert image[:, 20:].min() > 200 and image[:, :12].max() < 60


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_folder_damaged_exif_keeps_the_image(tmp_path: Path) -> None:
    write_folders(tmp_path)
    path = tmp_path / "train" / "a b" / "0.jpg"
    write_image(path, np.full((6, 5, 3), 50), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\x01")
    assert len(load("folder", tmp_path).train.labels) == 7


def test_folder_sizes(tmp_path: Path) -> None:
    write_folders(tmp_path)
    odd = tmp_path / "test" / "ü" / "odd.png"
    gradient = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 60, axis=0)
    write_image(odd, np.repeat(gradient, 3, axis=2))  # 120 wide, 60 high
    with pytest.raises(DataError, match=r"5x6 and .*odd\.png is 120x60.*--image_size N") as error:
        load("folder", tmp_path)
    assert "0.png" in one_line(error)
    data = load("folder", tmp_path, image_size=10)
    assert data.test.images.shape == (5, 10, 10, 3) and data.test.images[2, 0, 0, 0] == 101
    row = data.test.images[4, 5, :, 0].astype(int)
    # 120x60 -> 20x10, columns 5 to 14: a new pixel covers 6 old ones, mean 12 * column + 5
    assert np.abs(row - (12 * np.arange(5, 15) + 5)).max() <= 1
    for bad in (0, -3, 2.5):
        with pytest.raises(DataError, match="--image_size"):
            load("folder", tmp_path, image_size=bad)  # type: ignore[arg-type]


def test_resize_is_antialiased(tmp_path: Path) -> None:
    write_folders(tmp_path, size=(64, 64))
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    write_image(tmp_path / "train" / "a b" / "0.png", stripes)
    inner = load("folder", tmp_path, image_size=8).train.images[0][2:6, 2:6].astype(int)
    assert np.abs(inner - 127).max() < 10


def test_folder_corrupt_images(tmp_path: Path) -> None:
    write_folders(tmp_path)
    whole = (tmp_path / "train" / "a b" / "1.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3))
    write_image(tmp_path / "train" / "a b" / "noise.jpg", noise)
    jpeg = (tmp_path / "train" / "a b" / "noise.jpg").read_bytes()
    (tmp_path / "train" / "a b" / "noise.jpg").write_bytes(jpeg[: len(jpeg) - 30])
    (tmp_path / "train" / "a b" / "1.png").write_bytes(whole[:-30])  # header good
    (tmp_path / "train" / "ü" / "text.jpg").write_text("not an image")
    (tmp_path / "test" / "a b" / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 corrupt images, the first: .*1\.png") as error:
        load("folder", tmp_path)
    assert "--skip_corrupt" in one_line(error)
    data = load("folder", tmp_path, skip_corrupt=True)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 20, 100, 110, 120]
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.test.images[:, 0, 0, 0].tolist() == [1, 11, 101, 111]
    assert data.notes == ("4 corrupt images skipped",)
    for path in (tmp_path / "train" / "ü").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="ü: every image") as error:
        load("folder", tmp_path, skip_corrupt=True)
    one_line(error)
    for path in tmp_path.rglob("*.*g"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="every image"):
        load("folder", tmp_path, skip_corrupt=True)


def test_folder_notes(tmp_path: Path) -> None:
    write_folders(tmp_path)
    for name in ("train/a b/notes.txt", "train/a b/.hidden.png", "train/ü/Thumbs.db", ".x", "y"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("val/a b", "train/ü/nested", "train/.ipynb_checkpoints", "test/__MACOSX"):
        (tmp_path / name).mkdir(parents=True)
    write_image(tmp_path / "test" / "a b" / "copy.png", np.full((6, 5, 3), 110))
    assert load("folder", tmp_path).notes == (
        "val/ left out, test/ used",
        "3 non-image items left out",
        "1 test image identical to a training image",
    )


def _remove(path: Path) -> None:
    for child in path.iterdir():
        child.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: root.rename(root.parent / "gone"), "cannot be found"),
        (lambda root: (root / "train").rename(root / "Training"), 'rename "Training"'),
        (lambda root: (root / "test").rename(root / "validation"), 'rename "validation"'),
        (lambda root: (root / "test").rename(root / "other"), 'neither a folder "test" nor "val"'),
        (lambda root: _remove(root / "test" / "ü"), 'class "ü" of train/ has no folder here'),
        (lambda root: _remove(root / "train" / "ü"), "1 class folder, at least 2"),
        (lambda root: (root / "test" / "ü").rename(root / "test" / "A b"), 'no class "A b"'),
        (lambda root: (root / "test" / "a b").rename(root / "test" / "ab"), 'mean "a b"'),
        (lambda root: (root / "train" / "new").mkdir(), "new: no image in this class folder"),
        (lambda root: (root / "test" / "c\nd").mkdir(), "no class"),
    ],
)
def test_folder_layout_errors(tmp_path: Path, change: Callable[[Path], Any], says: str) -> None:
    root = tmp_path / "data"
    write_folders(root)
    change(root)
    if "new" in says:
        (root / "test" / "new").mkdir()
    with pytest.raises(DataError, match=says) as error:
        load("folder", root)
    assert str(root) in one_line(error)


def test_folder_given_one_level_too_deep(tmp_path: Path) -> None:
    write_folders(tmp_path)
    with pytest.raises(DataError, match=f"give {tmp_path} instead"):
        load("folder", tmp_path / "train")
    with pytest.raises(DataError, match="is not a directory"):
        load("folder", tmp_path / "train" / "a b" / "0.png")


def test_folder_unreadable(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    write_folders(tmp_path)
    (tmp_path / "train" / "ü").chmod(0)
    try:
        with pytest.raises(DataError, match="ü: cannot be read") as error:
            load("folder", tmp_path)
        one_line(error)
    finally:
        (tmp_path / "train" / "ü").chmod(0o755)
    (tmp_path / "test" / "ü" / "1.png").chmod(0)
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        load("folder", tmp_path, skip_corrupt=True)


def test_folder_bombs_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
        with pytest.raises(DataError, match=r"0\.png: .*decompression bomb") as error:
            load("folder", tmp_path, skip_corrupt=True)
        one_line(error)
    with monkeypatch.context() as patch:
        patch.setattr(base, "MAX_BYTES", 899)
        with pytest.raises(DataError, match="10 images of 5x6x3 decode to") as error:
            load("folder", tmp_path)
        one_line(error)
        patch.setattr(base, "MAX_BYTES", 900)
        assert len(load("folder", tmp_path).train.labels) == 6
    with pytest.raises(DataError, match=r"decode to .* GiB, above the limit of 8 GiB"):
        load("folder", tmp_path, image_size=20_000)
    long = tmp_path / "train" / "ü" / "long.png"
    write_image(long, np.zeros((1, 5000, 3)))
    with pytest.raises(DataError, match=r"long\.png.*too much to resize"):
        load("folder", tmp_path, image_size=300)
    long.unlink()
    deep = pillow().fromarray(np.zeros((6, 5), dtype=np.uint16))
    deep.save(tmp_path / "train" / "ü" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits"):
        load("folder", tmp_path)


def test_folder_decodes_only_image_formats(tmp_path: Path) -> None:
    """Pillow would hand PostScript to another program; not here, whatever the file's name."""
    write_folders(tmp_path)
    pillow().new("RGB", (5, 6)).save(tmp_path / "train" / "ü" / "x.png", format="EPS")
    with pytest.raises(DataError, match=r"x\.png \(no image in a known format"):
        load("folder", tmp_path)


def test_cifar10_as_jpeg_folders(tmp_path: Path) -> None:
    archive = SHARED / "data" / "cifar10-jpeg-test.tar.gz"
    if not archive.is_file():
        pytest.skip("CIFAR-10 re-encoded as JPEG is not on this machine")
    with tarfile.open(archive) as stream:
        stream.extractall(tmp_path, filter="data")
    (tmp_path / "train").mkdir()
    for directory in sorted((tmp_path / "test").iterdir()):
        target = tmp_path / "train" / directory.name
        target.mkdir()
        first = min(directory.iterdir())
        (target / first.name).write_bytes(first.read_bytes())
    data = load("folder", tmp_path)
    shutil.rmtree(tmp_path / "test")  # pytest would keep the 10,000 files of three runs
    assert list(data.class_names) == CIFAR10_CLASSES
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.test.images.shape == (10_000, 32, 32, 3)
    assert "10 test images identical to a training image" in data.notes
    # Means of CIFAR-10's test images are near 0.494, 0.485, 0.450; JPEG moves them by less.
    assert np.abs(data.test.images.mean((0, 1, 2)) / 255 - [0.494, 0.485, 0.450]).max() < 0.004


# --- saved data sets ---


def small(seed: int = 0, **changes: Any) -> Dataset:
    rng = np.random.default_rng(seed)

    def part(count: int) -> Images:
        images = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
        return Images(images, np.arange(count, dtype=np.int32) % 2)

    values = {"name": "folder", "title": "Small", "class_names": ("a", "ü\udcff"), **changes}
    return base.make_dataset(train=part(6), test=part(4), **values)


def test_save_and_open(tmp_path: Path) -> None:
    data = small(notes=["3 corrupt images skipped"])
    path = save(data, tmp_path / "deep" / "prepared")
    for verify in (True, False):
        back = open_saved(path, verify=verify)
        assert isinstance(back.train.images, np.memmap) and isinstance(back.test.labels, np.memmap)
        assert (back.train.images == data.train.images).all()
        assert (back.test.labels == data.test.labels).all()
        assert not back.train.images.flags.writeable
        for field in ("name", "title", "class_names", "notes", "digest"):
            assert getattr(back, field) == getattr(data, field)
    assert [child.name for child in path.parent.iterdir()] == ["prepared"]
    assert np.load(path / "train_labels.npy", allow_pickle=False).dtype == np.int32


def test_digest_is_of_content(tmp_path: Path) -> None:
    data = small()
    assert small(name="fashion", title="Other", notes=["x"]).digest == data.digest
    assert small(class_names=("a", "b")).digest != data.digest
    assert content_digest(data.test, data.train, data.class_names) != data.digest
    images = data.train.images.copy()
    images[5, 3, 4, 2] ^= 1
    changed = Images(images, data.train.labels)
    assert content_digest(changed, data.test, data.class_names) != data.digest
    folded = Images(data.train.images.reshape(6, 5, 4, 3), data.train.labels)
    assert content_digest(folded, data.test, data.class_names) != data.digest


def test_save_again(tmp_path: Path) -> None:
    target = tmp_path / "prepared"
    target.mkdir()  # empty: may be replaced
    save(small(), target)
    before = (target / "train_images.npy").stat().st_ino
    save(small(), target)
    assert (target / "train_images.npy").stat().st_ino == before  # kept
    mapped = open_saved(target)
    save(small(1), target)
    assert open_saved(target).digest == small(1).digest
    assert (mapped.train.images == small().train.images).all()  # the old map stays whole
    (target / "test_images.npy").write_bytes(b"damage")
    save(small(1), target)
    assert open_saved(target).digest == small(1).digest
    assert [child.name for child in tmp_path.iterdir()] == ["prepared"]


def test_save_spares_what_is_not_its_own(tmp_path: Path) -> None:
    target = tmp_path / "holiday"
    target.mkdir()
    (target / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"meta\.json") as error:
        save(small(), target)
    one_line(error)
    assert (target / "photo.jpg").read_bytes() == b"x"
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for place in (file, file / "below"):
        with pytest.raises(DataError) as error:
            save(small(), place)
        assert str(place) in one_line(error)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["file", "holiday"]


@pytest.mark.parametrize(
    ("errno", "words", "kind"),
    [(28, "No space left on device", OSError), (5, "cannot be written", DataError)],
)
def test_save_failing_midway_leaves_nothing(
    errno: int, words: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stays an OSError, for the runner to say so; anything else names the place."""
    left = 0
    real = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            raise OSError(errno, os.strerror(errno))
        left -= 1
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for successes in range(6):
        left = successes
        with pytest.raises(kind, match=words):
            save(small(), tmp_path / "prepared")
        assert list(tmp_path.iterdir()) == []


def test_two_processes_save_at_once(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from ablations.data import Images, base, open_saved, save
def part(n):
    return Images(np.zeros((n, 4, 4, 1), np.uint8), np.arange(n, dtype=np.int32) % 2)
data = base.make_dataset("folder", "t", part(4), part(2), ("a", "b"))
for _ in range(20):
    save(data, sys.argv[1])
    assert open_saved(sys.argv[1]).digest == data.digest
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "prepared")]
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0]
    assert [child.name for child in tmp_path.iterdir()] == ["prepared"]


ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


@pytest.mark.parametrize("file", ARRAYS)
def test_damage_names_the_file(tmp_path: Path, file: str) -> None:
    path = save(small(), tmp_path / "prepared")
    target = path / file
    whole = target.read_bytes()
    target.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # last byte of the data
    if "images" in file:
        open_saved(path, verify=False)
    with pytest.raises(DataError, match=file) as error:
        open_saved(path)
    one_line(error)
    target.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=file):
        open_saved(path, verify=False)
    target.write_bytes(whole.replace(b"'shape': (", b"'shape': (1, "))
    with pytest.raises(DataError, match=file):
        open_saved(path, verify=False)
    target.unlink()
    with pytest.raises(DataError, match=file) as error:
        open_saved(path)
    one_line(error)


def test_damaged_headers_and_meta_end_in_the_error(tmp_path: Path) -> None:
    path = save(small(), tmp_path / "prepared")
    rng = random.Random(3)
    for file in ("train_images.npy", "meta.json"):
        whole = (path / file).read_bytes()
        for _ in range(150):
            mutated = bytearray(whole)
            mutated[rng.randrange(min(len(whole), 128 if file.endswith("npy") else 10**6))] = (
                rng.randrange(256)
            )
            (path / file).write_bytes(mutated)
            try:
                back = open_saved(path)
            except DataError as error:
                assert str(error).isprintable()
            else:
                assert (back.train.images == small().train.images).all()
        (path / file).write_bytes(whole)
    meta = json.loads((path / "meta.json").read_text())
    for key in meta:
        (path / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if k != key}))
        with pytest.raises(DataError, match=r"meta\.json"):
            open_saved(path)
    with pytest.raises(DataError, match=r"nowhere/meta\.json: cannot be read"):
        open_saved(tmp_path / "nowhere")


def test_parts_must_fit() -> None:
    images = np.zeros((2, 4, 4, 1), dtype=np.uint8)
    good = Images(images, np.zeros(2, dtype=np.int32))
    for bad, says in (
        (Images(images, np.array([0, 2], dtype=np.int32)), "label 2 of image 1"),
        (Images(images, np.zeros(2, dtype=np.int64)), "labels must be int32"),
        (Images(images[:1], np.zeros(2, dtype=np.int32)), "labels must be"),
        (Images(images[:0], np.zeros(0, dtype=np.int32)), "n > 0"),
        (Images(images[:, :3], np.zeros(2, dtype=np.int32)), "must be equal"),
    ):
        with pytest.raises(DataError, match=says) as error:
            base.make_dataset("folder", "t", good, bad, ("a", "b"))
        one_line(error)
