"""Attacks on readers of pickles and zips: nothing runs, nothing leaks, one WeightFileError comes.

Each payload that runs code is first shown to do so in pickle.loads: the tests would notice if the
attack itself were broken.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import forged_files as forged
import numpy as np
import pytest
from forged_files import call, name, pickled, refused, value

GETATTR, IMPORT = name("builtins", "getattr"), name("builtins", "__import__")
SYSTEM = name("os", "system")
EXTENSION = 0xF1


def short(text: str) -> bytes:
    """SHORT_BINUNICODE, of protocol 4."""
    return b"\x8c" + bytes([len(text)]) + text.encode()


def dotted(module: str, path: str) -> bytes:
    """A name that protocol 4 follows through attributes."""
    return short(module) + short(path) + b"\x93"


# Payloads: (command, Python expression) -> a pickle that runs one of them.
PAYLOADS: dict[str, Callable[[str, str], bytes]] = {
    "os_system": lambda command, _: pickled(call(SYSTEM, command)),
    "posix_system": lambda command, _: pickled(call(name("posix", "system"), command)),
    "builtins_eval": lambda _, code: pickled(call(name("builtins", "eval"), code)),
    "builtins_exec": lambda _, code: pickled(call(name("builtins", "exec"), code)),
    "python_2_builtins": lambda _, code: pickled(call(name("__builtin__", "eval"), code)),
    "nested_reduce": lambda command, _: pickled(
        value({"state_dict": forged.ordered({"w": (1, [call(SYSTEM, command)])})})
    ),
    "stack_global": lambda command, _: pickled(
        short("os") + short("system") + b"\x93" + value((command,)) + b"R", 4
    ),
    "stack_global_dotted_name": lambda command, _: pickled(
        short("shutil") + short("os.system") + b"\x93" + value((command,)) + b"R", 4
    ),
    "inst": lambda command, _: pickled(b"(" + value(command) + b"ios\nsystem\n"),
    "obj": lambda command, _: pickled(b"(" + SYSTEM + value(command) + b"o"),
    "ext1": lambda command, _: pickled(
        b"\x82" + bytes([EXTENSION]) + value((command,)) + b"R"
    ),
    "ext4": lambda command, _: pickled(
        b"\x84" + struct.pack("<I", EXTENSION) + value((command,)) + b"R"
    ),
    "getattr_chain": lambda command, _: pickled(
        call(call(GETATTR, call(IMPORT, "os"), "system"), command)
    ),
    "build_with_setstate": lambda command, _: pickled(
        name("argparse", "Namespace") + b")\x81" + value({"__setstate__": SYSTEM}) + b"b"
        + value(command) + b"b"
    ),
    "only_names_of_an_allowed_module": lambda command, _: pickled(
        dotted("collections", "_eq.__self__.methodcaller") + value(("system", command)) + b"R"
        + value((dotted("collections", "_sys.modules.get") + value(("os",)) + b"R",)) + b"R", 4
    ),
}  # fmt: skip


@pytest.fixture
def extension() -> object:
    """EXT opcodes look a number up in copyreg, past any find_class (nltk#3757)."""
    copyreg.add_extension("os", "system", EXTENSION)
    yield
    copyreg.remove_extension("os", "system", EXTENSION)
    copyreg.clear_extension_cache()


CARRIERS = {
    "torch-zip": forged.torch_zip,
    "torch-legacy": forged.torch_legacy,
    "torch-legacy first pickle": lambda payload: payload + forged.LEGACY_HEAD,
    "torch-legacy system info": lambda payload: forged.LEGACY_HEAD[:40] + payload,
    "plain pickle": lambda payload: payload,
    "npz": lambda payload: forged.zipped(
        [("w.npy", forged.npy(forged.npy_header("'|O'", shape="()"), payload))]
    ),
}


@pytest.mark.parametrize("attack", PAYLOADS)
def test_pickle_code_execution(tmp_path: Path, extension: object, attack: str) -> None:
    """CVE-2025-1550, CVE-2024-3660 and kin: no pickle runs, whatever carries it."""
    marker = tmp_path / "marker"
    payload = PAYLOADS[attack](f"touch {marker}", f"open({str(marker)!r}, 'w').close()")
    for carrier, wrap in CARRIERS.items():
        refused(tmp_path / carrier, wrap(payload))
        assert not marker.exists(), carrier
    pickle.loads(payload)
    assert marker.exists(), "the attack itself does not work"


def test_tar_format_is_refused(tmp_path: Path) -> None:
    """CVE-2025-32434: torch's oldest format ran code even with weights_only=True."""
    marker = tmp_path / "marker"
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for part in ("sys_info", "pickle", "storages", "tensors"):
            content = pickled(call(SYSTEM, f"touch {marker}"))
            info = tarfile.TarInfo(part)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    refused(tmp_path / "f.pth", target.getvalue(), "tar archive")
    assert not marker.exists()


def test_pickle_in_npz_is_never_loaded(tmp_path: Path) -> None:
    """keras#23016 and kin. numpy.load with allow_pickle runs the same file."""
    marker = tmp_path / "marker"
    payload = pickled(call(SYSTEM, f"touch {marker}"))
    part = ("w.npy", forged.npy(forged.npy_header("'|O'", shape="()"), payload))
    refused(tmp_path / "f.npz", forged.zipped([part]), "pickled objects")
    assert not marker.exists()
    with np.load(tmp_path / "f.npz", allow_pickle=True) as file:
        file["w"]
    assert marker.exists()


W = forged.tensor(forged.storage())
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
ORDERED = name("collections", "OrderedDict")


@pytest.mark.parametrize(
    "attack",
    [
        call(ORDERED, "abc"),
        call(ORDERED, [["w", W, 1]]),
        call(ORDERED, {"w": W}),
        call(name("torch._utils", "_rebuild_parameter"), "text", True, forged.ordered({})),
        call(REBUILD, value(("storage",)), 0, (2, 3), (3, 1), False, forged.ordered({})),
        call(name("torch", "FloatStorage"), 2**40),
        call(W, 1),
        ORDERED + b")\x81" + forged.fill({"w": W}),
        forged.ordered({"w": W}) + value(("__class__", SYSTEM)) + b"b",
        value({"w": W}) + value({"__setstate__": 1}) + b"b",
        W + value({"requires_grad": True}) + b"b",
        forged.ordered({"w": ORDERED}),
        REBUILD,
    ],
)
def test_allowed_function_reuse(tmp_path: Path, attack: bytes) -> None:
    """CVE-2025-8747: what is allowed must not be callable with what nobody writes."""
    refused(tmp_path / "f", forged.torch_zip(pickled(attack)))


@pytest.mark.parametrize(
    "attack",
    [
        W + value("key") + value("item") + b"s",
        W + b"(" + value("key") + value("item") + b"u",
        forged.storage() + value(0) + value(1) + b"s",
        value((1, 2)) + value(3) + b"a",
        W + b"(" + value(3) + b"e",
    ],
)
def test_filling_what_is_no_container(tmp_path: Path, attack: bytes) -> None:
    """CVE-2026-24747: SETITEM on a tensor corrupted memory in torch <= 2.9.1."""
    refused(tmp_path / "f", forged.torch_zip(pickled(value({"w": attack}))), "no container")


@pytest.mark.parametrize("count", [7, 5, 0, -6, 2**61, 2**62 + 6, 2**80, "6", 6.0, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_storage_size_lies(tmp_path: Path, count: object, legacy: bool) -> None:
    """CVE-2026-24747: a storage that claims another size than its bytes have."""
    lie = pickled(value({"w": forged.tensor(forged.storage("0", count, legacy=legacy), 0, (), ())}))
    refused(tmp_path / "f", forged.torch_legacy(lie) if legacy else forged.torch_zip(lie))


@pytest.mark.parametrize("count", [5, 7, -1, 2**61, -(2**61)])
def test_second_storage_size_lies(tmp_path: Path, count: int) -> None:
    honest = pickled(value({"w": forged.tensor(forged.storage(legacy=True))}))
    refused(tmp_path / "f", forged.torch_legacy(honest, [("0", count, forged.SIX)]), "two sizes")


def test_one_name_twice(tmp_path: Path) -> None:
    twice = b"}(" + (value("w") + W) * 2 + b"u"
    refused(tmp_path / "f", forged.torch_zip(pickled(twice)), "comes twice")


def test_storage_declared_twice_with_two_types(tmp_path: Path) -> None:
    both = {"a": W, "b": forged.tensor(forged.storage("0", 3, "DoubleStorage"), 0, (3,), (1,))}
    refused(tmp_path / "f", forged.torch_zip(pickled(value(both))), "declared twice")


@pytest.mark.parametrize("keys", [[], ["0", "0"], ["1"], [0], "0"])
def test_legacy_storage_list_lies(tmp_path: Path, keys: object) -> None:
    content = pickled(value({"w": forged.tensor(forged.storage(legacy=True))}))
    tail = pickled(value(keys)) + struct.pack("<q", 6) + forged.SIX
    refused(tmp_path / "f", forged.LEGACY_HEAD + content + tail, "stor")


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (2, 3), (3, 1)),
        (-1, (2, 3), (3, 1)),
        (2**62, (2, 3), (3, 1)),
        (0, (2, 3), (4, 1)),
        (0, (2, 3), (-3, 1)),
        (0, (2, 3), (2**62, 1)),
        (0, (7,), (1,)),
        (0, (2, 3), (3,)),
        (0, (2, -3), (3, 1)),
        (0, (2**32, 2**32), (0, 0)),
        (0, (2**62, 4), (1, 1)),
        (0, (1000,), (0,)),
        (7, (0,), (1,)),
        (0, (True, 3), (3, 1)),
        (0, (2.0, 3), (3, 1)),
        (0, [2, 3], (3, 1)),
        (0, (1,) * 40, (1,) * 40),
        (None, (2, 3), (3, 1)),
    ],
)
def test_stride_and_offset_escapes(
    tmp_path: Path, offset: object, shape: object, strides: object
) -> None:
    """A tensor that reaches outside its storage would show memory, or ask for it without end."""
    lie = value({"w": forged.tensor(forged.storage(), offset, shape, strides)})
    refused(tmp_path / "zip", forged.torch_zip(pickled(lie)), '"w"')
    held = forged.storage(legacy=True)
    lie = value({"w": forged.tensor(held, offset, shape, strides)})
    refused(tmp_path / "legacy", forged.torch_legacy(pickled(lie)), '"w"')


def test_many_tensors_of_one_storage_bomb(tmp_path: Path) -> None:
    names = {f"w{i}": b"h\x01" for i in range(5000)}
    shared = value({"w": forged.tensor(forged.storage("0", 2**16), 0, (2**16,), (1,)) + b"q\x01"})
    lie = pickled(shared + forged.fill(names))
    refused(tmp_path / "f", forged.torch_zip(lie, {"0": bytes(2**18)}), "tensors claim")


DEEP = 200_000


@pytest.mark.parametrize(
    "attack",
    [
        b")" + b"\x85" * DEEP,
        b"]" * DEEP + b"a" * (DEEP - 1),
        b"(" * DEEP + b"t" * DEEP,
        value({"w": W, "x": b")" + b"\x85" * DEEP}) + b"0",
        b"}" + (value("a") + b"}") * 60_000 + b"s" * 60_000,
        b"]" * 70_000,
        b"N" * 3_000_000,
        b"]q\x00h\x00a" * 3 + b"\x87",
    ],
    ids=["tuples", "lists", "marks", "beside weights", "dicts", "stack", "opcodes", "cycle"],
)
def test_recursion_and_size_bombs(tmp_path: Path, attack: bytes) -> None:
    start = time.process_time()
    refused(tmp_path / "f", forged.torch_zip(pickled(attack)))
    refused(tmp_path / "g", forged.torch_legacy(pickled(attack)))
    assert time.process_time() - start < 20


@pytest.mark.parametrize("put", [b"r" + struct.pack("<I", 2**32 - 1), b"p4294967295\n"])
def test_memo_bomb(tmp_path: Path, put: bytes) -> None:
    """The C unpickler allocates a memo as large as the largest index."""
    refused(tmp_path / "f", forged.torch_zip(pickled(b"}" + put)))


def test_hash_collisions(tmp_path: Path) -> None:
    """Numbers that are equal modulo 2^61 - 1 share a hash: 50,000 of them take minutes in a dict.

    A tuple of one tuple twice, 60 times over, takes for ever to hash.
    """
    start = time.process_time()
    collide = {i * (2**61 - 1): 0 for i in range(1, 50)}
    lie = b"}" + forged.fill(collide)
    refused(tmp_path / "f", forged.torch_zip(pickled(lie)), "a key that is neither")
    nested = b")" + b"q\x00h\x00\x86" * 60
    lie = b"}" + nested + b"Ns"
    refused(tmp_path / "f", forged.torch_zip(pickled(lie)), "a key that is neither")
    pairs = value([[str(i), 0] for i in range(20_000)]) + b"q\x00"
    lie = pairs + (ORDERED + b"h\x00\x85R") * 2000
    refused(tmp_path / "f", forged.torch_zip(pickled(lie)), "opcodes")
    assert time.process_time() - start < 20


GOOD = forged.torch_parts(pickled(value({"w": W})))


def test_the_parts_that_the_attacks_spoil_are_good(tmp_path: Path) -> None:
    assert forged.accepted(tmp_path / "f", forged.zipped(GOOD))["w"].tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]


@pytest.mark.parametrize(
    "part", ["../x", "n/../../x", "/etc/passwd", "n\\..\\x", "C:x", "n//x", "n/./x", "other/data"]
)
def test_zip_path_traversal(tmp_path: Path, part: str) -> None:
    """CVE-2025-12060, CVE-2026-12479: names that leave a directory."""
    refused(tmp_path / "f", forged.zipped([*GOOD, (part, b"x")]), "member")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_duplicate_members(tmp_path: Path) -> None:
    """Two readers could see two different files."""
    for part in ("n/data/0", "n/data.pkl"):
        with pytest.warns(UserWarning, match="Duplicate"):
            content = forged.zipped([*GOOD, (part, forged.SIX)])
        refused(tmp_path / "f", content, "two members")
    refused(tmp_path / "f", forged.zipped([*GOOD, ("m/data.pkl", b"")]), r"2 members \*/data\.pkl")


def test_encrypted_members(tmp_path: Path) -> None:
    content = bytearray(forged.zipped(GOOD))
    content[content.index(b"PK\1\2") + 8] |= 1
    refused(tmp_path / "f", bytes(content), "encrypted")


def test_zip_headers_that_contradict_each_other(tmp_path: Path) -> None:
    good = forged.zipped(GOOD)
    for at, what in ((26, "name"), (30, "name"), (8, "header"), (14, "size"), (18, "size")):
        content = bytearray(good)
        content[content.index(b"PK\3\4", 10) + at] ^= 2
        refused(tmp_path / "f", bytes(content), f"two {what}")
    for changed in (b"PK" + good, good + b"x", good[:-22] + b"x" + good[-22:]):
        refused(tmp_path / "f", changed)
    refused(tmp_path / "f", good.replace(b"little", b"bottle"), "checksum|big-endian")


def test_overlapping_members(tmp_path: Path) -> None:
    """Members that share their bytes: the way to a bomb without compression."""
    target = io.BytesIO()
    inner = forged.zipped([("n/data/1", b"")])
    inner = inner[: inner.index(b"PK\1\2")]
    with zipfile.ZipFile(target, "w") as archive:
        for part, raw in [*GOOD, ("n/data/2", inner)]:
            archive.writestr(part, raw)
        # One more entry, whose local header lies in the data of the last one.
        info = zipfile.ZipInfo("n/data/1")
        info.header_offset = archive.getinfo("n/data/2").header_offset + 30 + len("n/data/2")
        info.CRC = info.file_size = info.compress_size = 0
        archive.filelist.append(info)
    refused(tmp_path / "f", target.getvalue(), "overlaps")


def test_zip_bombs(tmp_path: Path) -> None:
    """keras#23010: a few kilobytes that become gigabytes; compression has no place in torch's."""
    compressed = forged.zipped(GOOD, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "f", compressed, "compressed")
    content = bytearray(forged.zipped([("w.npy", bytes(2**16))], zipfile.ZIP_DEFLATED))
    for header, at in ((content.index(b"PK\1\2"), 24), (0, 22)):
        content[header + at : header + at + 4] = struct.pack("<I", 2**31)
    refused(tmp_path / "f", bytes(content), "zip bomb")


def test_truncated_files(tmp_path: Path) -> None:
    """Every second length short of the whole, of both formats."""
    legacy = forged.torch_legacy(pickled(value({"w": forged.tensor(forged.storage(legacy=True))})))
    for content in (forged.zipped(GOOD), legacy):
        for size in range(0, len(content), 2):
            refused(tmp_path / "f", content[:size])
        refused(tmp_path / "f", content + b"\0")


def test_damaged_data_is_noticed(tmp_path: Path) -> None:
    content = bytearray(forged.zipped(GOOD))
    content[content.index(forged.SIX) + 5] ^= 1
    refused(tmp_path / "f", bytes(content), "checksum")
    part = forged.tensor(forged.storage(), 2, (2,), (2,))
    content = bytearray(forged.torch_zip(pickled(value({"w": part}))))
    content[content.index(forged.SIX) + 1] ^= 1
    refused(tmp_path / "f", bytes(content), "checksum")


def test_other_byte_order_and_programs(tmp_path: Path) -> None:
    parts = [(part, b"big" if part == "n/byteorder" else raw) for part, raw in GOOD]
    refused(tmp_path / "f", forged.zipped(parts), "big-endian")
    refused(tmp_path / "f", forged.zipped([*GOOD, ("n/constants.pkl", b"")]), "TorchScript")
    refused(tmp_path / "f", forged.torch_zip(pickled(value({"w": W}), protocol=4)), "protocol 4")


def test_names_in_messages_are_harmless(tmp_path: Path) -> None:
    """A foreign name cannot break the line or steer a terminal."""
    lie = pickled(value({"a\nb\x1b[31m" + "x" * 500: forged.tensor(forged.storage(), 9)}))
    said = refused(tmp_path / "f", forged.torch_zip(lie), "reaches outside")
    assert said.isprintable() and os.linesep not in said
