"""Reading weight files: equal, bit for bit, to what the formats' own libraries wrote or read."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import forged_files as forged
import h5py
import numpy as np
import pytest
from conftest import SHARED

from reszoo.weights.readers import WeightFile, WeightFileError, open_weights

REAL = sorted((SHARED / "weights").glob("*.th")) if SHARED.is_dir() else []


def widened(array: np.ndarray) -> np.ndarray:
    """What `read` promises for a stored array: float16 as float32, native byte order."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="))


def same(weights: WeightFile, expected: dict[str, np.ndarray]) -> None:
    assert set(weights.names()) == set(weights) == set(expected)
    for name, array in expected.items():
        found = weights.read(name, shape=array.shape)
        assert found.dtype == widened(array).dtype and found.shape == array.shape, name
        assert found.tobytes() == widened(array).tobytes(), name
        assert found.flags.c_contiguous and found.flags.writeable and found.flags.aligned
        assert weights.shapes[name] == array.shape


def many_kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {
        code: rng.integers(0, 2 if code == "?" else 100, size=(3, 5)).astype(code)
        for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    }
    arrays |= {
        "special": np.array([np.nan, -np.inf, -0.0, 1e-45, 3.4e38], dtype="f4"),
        "half special": np.array([np.nan, np.inf, -0.0, 6e-8, 65504], dtype="f2"),
        "scalar": np.array(7, dtype="i8"),
        "empty": np.zeros((0, 4), dtype="f4"),
        "fortran": np.asfortranarray(rng.normal(size=(4, 3, 2))),
    }
    return arrays


# torch


def torch_checkpoint() -> dict[str, object]:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    torch.manual_seed(0)
    kernel = torch.randn(4, 3, 2, 2)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    sgd.step()
    state = dict(model.state_dict())
    state |= {
        "tied": state["0.weight"],
        "transposed": kernel.permute(3, 0, 2, 1),
        "channels_last": kernel.to(memory_format=torch.channels_last),
        "sliced": torch.randn(10, 10)[2:7:2, 1::3],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "bfloat16": torch.tensor([1.5, -0.0, float("inf"), 3.3e38, 1e-40]).bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
    }
    for kind in ("half", "double", "short", "int", "long", "char", "byte", "bool"):
        state[kind] = getattr(torch.arange(-3, 4), kind)()
    return {"epoch": 3, "arch": "net", "state_dict": state, "optimizer": sgd.state_dict()}


def as_numpy(tensor: object) -> np.ndarray:
    plain = tensor.detach()  # type: ignore[attr-defined]
    wide = str(plain.dtype) in ("torch.bfloat16", "torch.float16")
    return (plain.float() if wide else plain).contiguous().numpy()


@pytest.mark.parametrize("zipped", [True, False], ids=["torch-zip", "torch-legacy"])
def test_torch_save(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    checkpoint = torch_checkpoint()
    path = tmp_path / "any.suffix"
    for content, shown in ((checkpoint, "shown: state_dict"), (checkpoint["state_dict"], "")):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with open_weights(path) as weights:
            assert weights.format == ("torch-zip" if zipped else "torch-legacy")
            state = checkpoint["state_dict"]
            assert isinstance(state, dict) and list(weights.names()) == list(state)
            same(weights, {name: as_numpy(tensor) for name, tensor in state.items()})
            assert weights.dtypes["bfloat16"] == "bfloat16" and weights.dtypes["half"] == "float16"
            assert weights.note.startswith(shown) and ("optimizer" in weights.note) == bool(shown)


@pytest.mark.skipif(not REAL, reason="the two published CIFAR files are not beside the repository")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_published_files_equal_torch(path: Path) -> None:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    with open_weights(path) as weights:
        assert weights.format == "torch-legacy"
        same(weights, {name: as_numpy(tensor) for name, tensor in state.items()})


def test_python_2_checkpoint(tmp_path: Path) -> None:
    """Python 2 wrote byte strings, and an OrderedDict as one list of pairs."""

    def text(raw: bytes) -> bytes:
        return b"U" + bytes([len(raw)]) + raw

    claim = (text(b"storage"), forged.name("torch", "FloatStorage"), text(b"0"), text(b"cpu"), 6)
    held = forged.value((*claim, None)) + b"Q"
    rebuild = forged.name("torch._utils", "_rebuild_tensor")
    w = forged.call(rebuild, held, 1, (2, 2), (3, 1))
    pairs = [[text(b"w"), w]]
    content = forged.call(forged.name("collections", "OrderedDict"), pairs)
    arrays = forged.accepted(tmp_path / "f", forged.torch_legacy(forged.pickled(content)))
    assert arrays["w"].tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    ("keys", "chosen", "named"),
    [
        (["model"], "model", ""),
        (["state_dict", "state_dict_ema"], "state_dict_ema", "state_dict"),
        (["model", "model_ema", "opt"], "model_ema", "model"),
        (["model_state_dict", "opt"], "model_state_dict", "opt"),
        (["ema"], "ema", ""),
    ],
)
def test_of_several_state_dicts_one_is_chosen(
    tmp_path: Path, keys: list[str], chosen: str, named: str
) -> None:
    root = {key: {key: forged.tensor(forged.storage())} for key in keys}
    (tmp_path / "f").write_bytes(forged.torch_zip(forged.pickled(forged.value(root))))
    with open_weights(tmp_path / "f") as weights:
        assert weights.names() == [chosen]
        assert chosen in weights.note and named in weights.note
        assert weights.passed_over == tuple({*keys} - {chosen, "opt"})


def test_no_state_dict(tmp_path: Path) -> None:
    content = forged.pickled(forged.value({"epoch": 3, "opt": {"state": {0: 1.0}}}))
    said = forged.refused(tmp_path / "f", forged.torch_zip(content, {}), "no state dict")
    assert '"epoch", "opt"' in said


# The others


def test_safetensors(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.ascontiguousarray(array) for name, array in many_kinds().items()}
    library.save_file(arrays, tmp_path / "f", metadata={"format": "np", "ü": "é"})
    with open_weights(tmp_path / "f") as weights:
        assert weights.format == "safetensors"
        assert dict(weights.metadata) == {"format": "np", "ü": "é"}
        same(weights, arrays)


def test_bfloat16_is_float32_without_its_lower_half(tmp_path: Path) -> None:
    halves = np.arange(2**16, dtype="<u2")
    header = {"w": forged.described(0, 2**17, [2**16], "BF16")}
    found = forged.accepted(tmp_path / "f", forged.safetensors(header, halves.tobytes()))["w"]
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), halves.astype(np.uint32) << 16)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    arrays = many_kinds() | {
        "layer/big endian": np.arange(5, dtype=">f4").reshape(5, 1),
        "more than a piece": np.random.default_rng(0).normal(size=(400, 700)),
        "all zero": np.zeros((1500, 2000), dtype="f4"),
    }
    save(tmp_path / "f.npz", **arrays)  # type: ignore[operator]
    with open_weights(tmp_path / "f.npz") as weights:
        assert weights.format == "npz"
        same(weights, arrays)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npz_of_every_version(tmp_path: Path, version: tuple[int, int]) -> None:
    part = ("w.npy", forged.npy(forged.npy_header(), version=version))
    assert forged.accepted(tmp_path / "f", forged.zipped([part]))["w"].tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]


HDF5_VERSIONS = [None, ("earliest", "v108"), ("v108", "v108"), "latest"]


@pytest.mark.parametrize("version", HDF5_VERSIONS, ids=["earliest", "e-v108", "v108", "latest"])
@pytest.mark.parametrize("layers", [3, 40, 500])
def test_hdf5(tmp_path: Path, version: object, layers: int) -> None:
    """Groups are links in a header, a tree of symbols or a heap, by version and size."""
    arrays = {name: array for name, array in many_kinds().items() if name != "?"}
    arrays |= {"big/endian": np.arange(6, dtype=">f4"), "big/int": np.arange(6, dtype=">i4")}
    for i in range(layers):
        arrays[f"conv{i}_block/conv{i}/kernel:0"] = np.full((2, i % 3, 2), i, dtype="f4")
    with h5py.File(tmp_path / "f", "w", libver=version) as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs["layer_names"] = [b"conv1", b"conv2"] * 200
        file.create_group("activation")
    with open_weights(tmp_path / "f") as weights:
        assert weights.format == "hdf5"
        same(weights, arrays)


@pytest.mark.parametrize("version", HDF5_VERSIONS[:3], ids=["earliest", "e-v108", "v108"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"shuffle": True}],
    ids=["plain", "gzip", "gzip-shuffle", "shuffle"],
)
def test_hdf5_chunks(tmp_path: Path, version: object, options: dict[str, object]) -> None:
    rng = np.random.default_rng(2)
    arrays = {
        "few values": rng.integers(0, 3, size=(37, 11, 2)).astype("f4"),
        "incompressible": rng.integers(0, 2**63, size=(100, 9)),
        "many chunks": np.arange(1500, dtype="f8").reshape(750, 2),
    }
    chunks = {"few values": (8, 3, 2), "incompressible": (17, 9), "many chunks": (2, 2)}
    with h5py.File(tmp_path / "f", "w", libver=version) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=chunks[name], **options)
    with open_weights(tmp_path / "f") as weights:
        same(weights, arrays)


def test_hdf5_tracked_order_and_compact(tmp_path: Path) -> None:
    arrays = {f"w{i}": np.full(3, i, dtype="f4") for i in range(20)}
    with h5py.File(tmp_path / "f", "w", track_order=True) as file:
        for name, array in arrays.items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple(array.shape)
            made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, plist)
            h5py.Dataset(made)[...] = array
    with open_weights(tmp_path / "f") as weights:
        same(weights, arrays)


@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_keras_weights(tmp_path: Path, policy: str) -> None:
    import keras

    layers = [keras.layers.Conv2D(3, 3), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    for layer in layers:
        layer.dtype_policy = keras.dtype_policies.DTypePolicy(policy)
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model.save_weights(tmp_path / "m.weights.h5")
    with open_weights(tmp_path / "m.weights.h5") as weights:
        found = {name: weights.read(name) for name in weights}
        assert set(weights.dtypes.values()) == {policy}
    expected = [np.asarray(w).astype(np.float32).tobytes() for w in model.weights]
    assert sorted(array.tobytes() for array in found.values()) == sorted(expected)
    first = np.asarray(model.layers[0].kernel).astype(np.float32)
    assert found["layers/conv2d/vars/0"].tobytes() == first.tobytes()


# The interface


def test_a_mapping_that_reads_when_asked(tmp_path: Path) -> None:
    content = forged.safetensors({"conv.weight": forged.described(0, 24, [2, 3])})
    (tmp_path / "f").write_bytes(content)
    with open_weights(tmp_path / "f") as weights:
        assert len(weights) == 1 and "conv.weight" in weights and "x" not in weights
        assert weights["conv.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
        weights["conv.weight"][0] = 9
        assert weights["conv.weight"][0, 0] == 0
        with pytest.raises(WeightFileError, match=r"has shape \(2, 3\), expected \(3, 2\)"):
            weights.read("conv.weight", shape=(3, 2))
        with pytest.raises(WeightFileError, match=r'did you mean "conv\.weight"'):
            weights.read("conv.wieght")
        with pytest.raises(KeyError):
            weights["x"]
    with pytest.raises(WeightFileError, match="closed"):
        weights.read("conv.weight")


def test_expected_shape_is_compared_before_anything_is_read(tmp_path: Path) -> None:
    """The file is cut short after opening: reading would fail, comparing does not get that far."""
    path = tmp_path / "f"
    path.write_bytes(forged.safetensors({"w": forged.described(0, 24)}))
    with open_weights(path) as weights:
        path.write_bytes(b"")
        with pytest.raises(WeightFileError, match="expected"):
            weights.read("w", shape=(2**30,))
        with pytest.raises(WeightFileError, match="became shorter"):
            weights.read("w", shape=(6,))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello world", "68 65 6c 6c 6f"),
        (b"<!DOCTYPE html><html>", "failed download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"\x93NUMPY\x01\0", "numpy.savez"),
        (forged.zipped([("config.json", b"{}"), ("model.weights.h5", b"")]), "keras archive"),
        (forged.zipped([("a.txt", b"")]), "neither torch's"),
        (forged.zipped([]), "no known weight file"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with warnings.catch_warnings(action="error"):
        forged.refused(tmp_path / "f.pth", content, says)


def test_missing_and_special_files(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match=r"no\.pth: cannot be read \(No such file"):
        open_weights(tmp_path / "no.pth")
    with pytest.raises(WeightFileError, match=r"not a regular file|Is a directory"):
        open_weights(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightFileError, match="not a regular file"):
        open_weights(tmp_path / "pipe")


def test_no_foreign_library_takes_part() -> None:
    code = (
        "import sys; from reszoo.weights.readers import open_weights;"
        "print(sorted({'torch', 'tensorflow', 'keras', 'h5py', 'safetensors', 'pickle'}"
        " & {m for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    # NumPy itself imports pickle.
    assert done.stdout.strip() == "['pickle']"


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    # Its length, little-endian: 0x0280 is b"\x80\x02", as protocol 2 begins.
    body = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x280)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(body).to_bytes(8, "little") + body + np.float32(7).tobytes())
    with open_weights(path) as file:
        assert file.format == "safetensors"
        assert file.read("a", (1,)).tolist() == [7.0]
