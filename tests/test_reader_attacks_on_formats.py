"""Attacks on the readers of HDF5, safetensors, npz and zips: one WeightFileError, nothing else."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import forged_files as forged
import h5py
import numpy as np
import pytest
from forged_files import described, npy, npy_header, refused, zipped

from reszoo.weights.readers import WeightFileError, open_weights


def label(argument: object) -> str:
    """Name a case after the refusal that it expects, not after its bytes."""
    return argument if isinstance(argument, str) else "-"


# HDF5


def spoiled(path: Path, make: Callable[[h5py.File], None], match: str, **options: object) -> str:
    """Write a good data set and what `make` adds; reading must be refused with `match`."""
    with h5py.File(path, "w", **options) as file:
        file["good"] = np.arange(6, dtype="f4")
    assert open_weights(path).read("good").tolist() == [0, 1, 2, 3, 4, 5]
    with h5py.File(path, "a", **options) as file:
        make(file)
    return refused(path, path.read_bytes(), match)


VERSIONS = pytest.mark.parametrize("options", [{}, {"libver": "latest"}], ids=["old", "new"])


@VERSIONS
@pytest.mark.parametrize("many", [0, 20], ids=["few", "many"])
def test_hdf5_external_link(tmp_path: Path, options: dict[str, object], many: int) -> None:
    """CVE-2026-1669: a link into another file discloses it."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["key"] = np.full(4, 42.0)

    def make(file: h5py.File) -> None:
        file["w"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/key")
        for i in range(many):
            file[f"w{i}"] = np.zeros(1)
        assert file["w"][0] == 42, "the attack itself does not work"

    said = spoiled(tmp_path / "f", make, '"w"', **options)
    assert ("external link" in said or "soft link" in said) and "secret" not in said


@VERSIONS
@pytest.mark.parametrize("target", ["/good", "/", "/w", "/nothing"])
def test_hdf5_soft_link(tmp_path: Path, options: dict[str, object], target: str) -> None:
    """keras#22900: links in the legacy loader; one of them leads to itself."""

    def make(file: h5py.File) -> None:
        file["group/w"] = h5py.SoftLink(target)

    spoiled(tmp_path / "f", make, "soft link", **options)


@VERSIONS
def test_hdf5_external_storage(tmp_path: Path, options: dict[str, object]) -> None:
    """CVE-2026-1669: a data set whose bytes are those of any local file."""
    (tmp_path / "secret").write_bytes(b"password")

    def make(file: h5py.File) -> None:
        external = [(str(tmp_path / "secret"), 0, 8)]
        made = file.create_dataset("w", (8,), "u1", external=external)
        assert made[:].tobytes() == b"password", "the attack itself does not work"

    assert "password" not in spoiled(tmp_path / "f", make, "in another file", **options)


def test_hdf5_virtual_data_set(tmp_path: Path) -> None:
    """keras#22899, #22976: a data set that is put together from other files."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["key"] = np.full(4, 42.0)

    def make(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "key", (4,))
        assert file.create_virtual_dataset("w", layout)[0] == 42

    spoiled(tmp_path / "f", make, "virtual")


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (2**31,), (10**6,)])
@pytest.mark.parametrize("chunks", [None, True], ids=["contiguous", "chunked"])
def test_hdf5_shape_bomb(tmp_path: Path, shape: tuple[int, ...], chunks: object) -> None:
    """CVE-2026-0897: a few bytes that declare terabytes of fill value."""
    spoiled(
        tmp_path / "f",
        lambda file: file.create_dataset("w", shape, "f4", chunks=chunks) and None,
        "stores 0",
    )


def test_hdf5_one_chunk_of_a_shape_bomb(tmp_path: Path) -> None:
    def make(file: h5py.File) -> None:
        file.create_dataset("w", (2**30,), "f4", chunks=(64,))[:64] = 1

    spoiled(tmp_path / "f", make, "stores 1 of its")


def test_hdf5_compression_bomb(tmp_path: Path) -> None:
    """CVE-2026-0897: 32 MB of zeros take 32 kB, as one data set or as two."""
    zeros = np.zeros(2**25, "u1")
    options = {"chunks": (2**22,), "compression": "gzip"}

    def one(file: h5py.File) -> None:
        file["other"] = np.zeros(2**20, "u1")
        file.create_dataset("w", data=zeros, **options)

    def two(file: h5py.File) -> None:
        for name in ("a", "b"):
            file.create_dataset(name, data=zeros[: 2**24], **options)

    spoiled(tmp_path / "one", one, 'a bomb: data set "w"')
    spoiled(tmp_path / "two", two, "a bomb: its data sets claim")


@pytest.mark.parametrize("size", [0, 31, 33, 2**24])
def test_hdf5_chunk_that_inflates_to_another_size(tmp_path: Path, size: int) -> None:
    def make(file: h5py.File) -> None:
        made = file.create_dataset("w", (8,), "f4", chunks=(8,), compression="gzip")
        made.id.write_direct_chunk((0,), zlib.compress(bytes(size)))

    spoiled(tmp_path / "f", make, "inflates to another size")


@VERSIONS
def test_hdf5_link_cycles(tmp_path: Path, options: dict[str, object]) -> None:
    """keras#23168: hard links can close a circle, in which a walk never ends."""

    def circle(file: h5py.File) -> None:
        file["a/b/c"] = file["/"]

    def alias(file: h5py.File) -> None:
        file["again"] = file["good"]

    for make in (circle, alias):
        spoiled(tmp_path / make.__name__, make, "reached twice", **options)


def test_hdf5_depth(tmp_path: Path) -> None:
    spoiled(tmp_path / "f", lambda file: file.create_group("g/" * 70) and None, "deeper")


def test_hdf5_of_other_types(tmp_path: Path) -> None:
    """References and text lead to other places of the file; only plain numbers are weights."""
    text = h5py.string_dtype()
    kinds: dict[str, Callable[[h5py.File], object]] = {
        "reference": lambda f: f.create_dataset("w", (2,), h5py.ref_dtype),
        "variable-length": lambda f: f.create_dataset("w", (2,), text),
        "text": lambda f: f.create_dataset("w", (2,), "S8"),
        "compound": lambda f: f.create_dataset("w", (2,), [("a", "f4"), ("b", "i4")]),
        "opaque": lambda f: f.create_dataset("w", (2,), "V2"),
        "array": lambda f: f.create_dataset("w", (2,), "(3,)f4"),
        "enumeration": lambda f: f.create_dataset("w", (2,), "?"),
        "unusual number": lambda f: f.create_dataset("w", (2,), np.longdouble),
        "named type": lambda f: f.__setitem__("w", np.dtype("f4")),
        "empty data space": lambda f: f.__setitem__("w", h5py.Empty("f4")),
    }
    for match, make in kinds.items():
        spoiled(tmp_path / "f", make, match)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"compression": "lzf"}, {"fletcher32": True}, {"scaleoffset": 3}]
)
def test_hdf5_other_filters(tmp_path: Path, options: dict[str, object]) -> None:
    """A filter is a plugin: native code that the library loads from a directory."""

    def make(file: h5py.File) -> None:
        file.create_dataset("w", data=np.arange(64, dtype="f4"), chunks=(8,), **options)

    spoiled(tmp_path / "f", make, "filtered by number")


def test_hdf5_chunks_of_the_newest_index(tmp_path: Path) -> None:
    def make(file: h5py.File) -> None:
        file.create_dataset("w", data=np.zeros(64), chunks=(8,))

    spoiled(tmp_path / "f", make, "libver='latest'", libver="latest")


@VERSIONS
def test_hdf5_truncated(tmp_path: Path, options: dict[str, object]) -> None:
    """CVE-2026-26200: damaged files overflowed the heap of the C library."""
    with h5py.File(tmp_path / "f", "w", **options) as file:
        file["a/b"] = np.arange(6, dtype="f4")
    content = (tmp_path / "f").read_bytes()
    for size in range(0, len(content), 5):
        refused(tmp_path / "g", content[:size])


# safetensors

SAFE = {"w": described(0, 24)}


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        ({"w": described(0, 20)}, "are there"),
        ({"w": described(0, 28)}, "are there"),
        ({"w": described(4, 24)}, "hole"),
        ({"a": described(0, 12), "b": described(16, 24)}, "hole"),
        ({"a": described(0, 16), "b": described(12, 24)}, "overlaps"),
        ({"a": described(0, 24), "b": described(0, 24)}, "overlaps"),
        ({"w": described(24, 0, [6])}, "impossible offsets"),
        ({"w": described(-24, 0, [6])}, "impossible offsets"),
        ({"w": described(0, 24, [5])}, "does not fill"),
        ({"w": described(0, 24, [2**64, 2**64])}, "impossible shape"),
        ({"w": described(0, 24, [2**62, 4, 0])}, "impossible shape"),
        ({"w": described(0, 24, [2**32, 2**30, 6])}, "impossible shape"),
        ({"w": described(0, 24, [-2, -3])}, "impossible shape"),
        ({"w": described(0, 24, [6.0])}, "impossible shape"),
        ({"w": described(0, 24, [True, 6])}, "impossible shape"),
        ({"w": described(0, 24, [1] * 40)}, "dimensions"),
        ({"w": described(0, 24, [6], "F8_E4M3")}, "of type"),
        ({"w": described(0, 24, [6]) | {"dtype": ["F32"]}}, "of type"),
        ({"w": described(0, 24) | {"more": 1}}, "not described"),
        ({"w": {"dtype": "F32", "shape": [6]}}, "not described"),
        ({"w": [0, 24]}, "not described"),
        (SAFE | {"": described(24, 24)}, "name"),
        (SAFE | {"\ud800": described(24, 24)}, "no Unicode"),
        (SAFE | {"__metadata__": {"a": 1}}, "__metadata__"),
        (SAFE | {"__metadata__": "a"}, "__metadata__"),
        (b'{"w": 1, "w": 1}', "twice"),
        (b'{"w": {"dtype": "F32", "dtype": "F32"}}', "twice"),
        (b'{"w": NaN}', "no JSON"),
        (b'{"w": ' + b"[" * 100_000 + b"}", "no JSON"),
        (b'{"w": ' + b'{"a":' * 100_000 + b"}", "no JSON"),
        (b'{"w": ' + b"9" * 10_000 + b"}", "no JSON"),
        (b'{"w": "\xff"}', "no JSON"),
        (b'{"w"', "no JSON"),
        (b'{"w": 1} {"v": 1}', "no JSON"),
    ],
    ids=label,
)
def test_safetensors_headers(tmp_path: Path, attack: dict[str, object] | bytes, match: str) -> None:
    """Overlaps, holes, duplicate keys, overflowing products, nesting: each refused by name."""
    refused(tmp_path / "f", forged.safetensors(attack), match)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**8 + 1, 10**6])
def test_safetensors_header_bomb(tmp_path: Path, length: int) -> None:
    refused(tmp_path / "f", struct.pack("<Q", length) + b"{}" + forged.SIX, "header claims")


def test_safetensors_large_header(tmp_path: Path) -> None:
    content = forged.safetensors(b"{" + b" " * (17 * 2**20) + b"}", b"")
    refused(tmp_path / "f", content, "a header of")


def test_safetensors_truncated(tmp_path: Path) -> None:
    content = forged.safetensors_seed(forged.seed_arrays())
    for size in range(len(content)):
        refused(tmp_path / "f", content[:size])


# npz

NPY = npy(npy_header())


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (npy(npy_header("'|O'")), "pickled objects"),
        (npy(npy_header("[('a', '<f4'), ('b', '<f4')]")), "structured"),
        (npy(npy_header("[('a', '|O')]")), "structured"),
        (npy(npy_header("'<f16'")), "of type"),
        (npy(npy_header("'|V4'")), "of type"),
        (npy(npy_header("'<U4'")), "of type"),
        (npy(npy_header("'<M8'")), "of type"),
        (npy(npy_header("'|f4'")), "of type"),
        (npy(npy_header("__import__('os').system('true')")), "damaged header"),
        (npy(npy_header(shape="(2**40, 3)")), "damaged header"),
        (npy(npy_header(shape="(-2, -3)")), "damaged header"),
        (npy(npy_header(shape="(6)")), "no tuple"),
        (npy(npy_header(shape="(2, 3, 1, ,)")), "impossible shape"),
        (npy(npy_header(shape="(2 3,)")), "impossible shape"),
        (npy(npy_header(shape="(2, 4)")), "its shape needs"),
        (npy(npy_header(shape=f"({2**62}, 4, 0)")), "impossible shape"),
        (npy(npy_header(shape=f"({2**64}, )")), "impossible shape"),
        (npy(npy_header(shape=f"({2**31}, {2**31})")), "impossible shape"),
        (npy(npy_header(shape="(" + "9" * 5000 + ",)")), "impossible shape"),
        (npy(npy_header(shape="(" * 30_000)), "damaged header"),
        (npy(npy_header(shape="(1" + " " * 60_000 + "1,)")), "impossible shape"),
        (npy("-" * 60_000), "damaged header"),
        (npy(npy_header()[:-1] + "'shape': (6,), }"), "twice"),
        (npy(npy_header()[:-1] + "'more': 1, }"), "damaged header"),
        (npy("{'descr': '<f4', 'shape': (2, 3), }"), "damaged header"),
        (npy(npy_header(), version=(4, 0)), "version"),
        (npy(npy_header() + " " * 2**16, version=(2, 0)), "a header of"),
        (NPY[:8] + b"\xff\xff" + NPY[10:], "a header of"),
        (NPY + b"x", "its shape needs"),
        (b"\x80\x04N.", "does not begin"),
        (b"", "does not begin"),
    ],
    ids=label,
)
def test_npz_members(tmp_path: Path, attack: bytes, match: str) -> None:
    """Objects, code in the header, shapes that the bytes do not fill, nesting."""
    start = time.process_time()
    refused(tmp_path / "f", zipped([("good.npy", NPY), ("w.npy", attack)]), match)
    assert time.process_time() - start < 2


def test_npz_bomb(tmp_path: Path) -> None:
    """keras#23016: 32 MB of zeros in 32 kB; and a size that the data do not have."""
    content = zipped([("w.npy", npy(npy_header(shape="(2, 2**22)"), bytes(2**25)))], 8)
    assert len(content) < 2**16
    refused(tmp_path / "f", content, 'zip bomb: "w.npy"')
    other = npy(npy_header(shape="(2**18,)"), np.random.default_rng(0).bytes(2**20))
    parts = [("w.npy", npy(npy_header(), bytes(2**25))), ("other.npy", other)]
    refused(tmp_path / "f", zipped(parts, 8), 'zip bomb: "w.npy"')
    honest = zipped([("w.npy", npy(npy_header(shape="(16384,)"), bytes(2**16)))], 8)
    assert forged.accepted(tmp_path / "f", honest)["w"].shape == (16384,)
    for size in (len(npy(npy_header(shape="(16384,)"))) - 24 + 2**16 + delta for delta in (-4, 4)):
        lie = bytearray(honest)
        for at in (22, lie.index(b"PK\1\2") + 24):
            lie[at : at + 4] = struct.pack("<I", size)
        refused(tmp_path / "f", bytes(lie))


def test_npz_many_small_bombs(tmp_path: Path) -> None:
    """Each stays under the limit of one member; together they do not."""
    parts = [(f"w{i}.npy", npy(npy_header(shape="(2**22,)"), bytes(2**24 - 200))) for i in range(2)]
    refused(tmp_path / "f", zipped(parts, 8), "zip bomb: its members")


@pytest.mark.parametrize("names", [["w.npy", "../w.npy"], ["/w.npy"], ["w.npy", "w.txt"]])
def test_npz_member_names(tmp_path: Path, names: list[str]) -> None:
    refused(tmp_path / "f", zipped([(part, NPY) for part in names]))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_npz_duplicate_members(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped([("w.npy", NPY), ("w.npy", NPY)])
    refused(tmp_path / "f", content, "two members")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_other_compression(tmp_path: Path, compression: int) -> None:
    refused(tmp_path / "f", zipped([("w.npy", NPY)], compression), "compression method")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz_truncated_and_damaged(tmp_path: Path, compression: int) -> None:
    content = zipped([("w.npy", NPY)], compression)
    for size in range(len(content)):
        refused(tmp_path / "f", content[:size])
    for at in range(30 + 5, 30 + 5 + 60):
        changed = bytearray(content)
        changed[at] ^= 0x10
        path = tmp_path / "f"
        path.write_bytes(changed)
        with pytest.raises(WeightFileError), open_weights(path) as weights:
            weights.read("w")


# Zips


TENSOR = forged.tensor(forged.storage())
GOOD = forged.torch_parts(forged.pickled(forged.value({"w": TENSOR})))


def test_bytes_between_members(tmp_path: Path) -> None:
    """A local member that no directory lists, before, between and behind those that one does."""
    hidden = forged.zipped([("n/data/9", b"hidden")])
    hidden = hidden[: hidden.index(b"PK\1\2")]
    for before in range(len(GOOD) + 1):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            for number, (part, raw) in enumerate([*GOOD, ("n/end", b"")]):
                if number == before:
                    target.write(hidden)
                    archive.start_dir = target.tell()
                archive.writestr(zipfile.ZipInfo(part), raw)
        refused(tmp_path / "f", target.getvalue(), "belong to nothing before")
    content = forged.zipped(GOOD)
    at = content.index(b"PK\1\2")
    end = content[:-22] + content[-22:-6] + struct.pack("<L", at + len(hidden)) + content[-2:]
    refused(tmp_path / "f", end[:at] + hidden + end[at:], "before the zip's central directory")


class Pipe(io.BytesIO):
    """What cannot be rewound: sizes then stand behind each member."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError


def test_sizes_behind_the_members(tmp_path: Path) -> None:
    target = Pipe()
    with zipfile.ZipFile(target, "w") as archive:
        for part, raw in GOOD:
            archive.writestr(zipfile.ZipInfo(part), raw)
    content = target.getvalue()
    assert content.count(b"PK\7\x08") == len(GOOD)
    assert forged.accepted(tmp_path / "f", content)["w"].shape == (2, 3)
    at = content.index(b"PK\7\x08")
    refused(tmp_path / "f", content[: at + 8] + b"\1" + content[at + 9 :], "belong to nothing")
