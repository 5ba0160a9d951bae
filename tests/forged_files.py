"""Weight files made by hand, byte by byte, so that every part of them can be made wrong."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reszoo.weights.readers import WeightFileError, open_weights

Parts = Sequence[tuple[str, bytes]]


def refused(path: Path, content: bytes, match: str = "") -> str:
    """Write `content` to `path`; opening and reading all of it must end in a WeightFileError."""
    # Some file systems flush a file that is rewritten, but not a new one: 100 times slower.
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=match or None) as error:
        read_all(path)
    text = str(error.value)
    assert "\n" not in text and text.startswith(str(path)) and len(text) < 600
    return text


def accepted(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Write `content` to `path` and return all tensors in it."""
    path.write_bytes(content)
    return read_all(path)


def read_all(path: Path) -> dict[str, np.ndarray]:
    with open_weights(path) as weights:
        return {label: weights.read(label) for label in weights.names()}


# Pickles. Every function returns the opcodes that leave one value on the stack.


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def value(content: Any) -> bytes:
    """None, bool, int, float, str, bytes (taken as ready opcodes), tuple, list, dict."""
    if isinstance(content, bytes):
        return content
    if content is None:
        return b"N"
    if isinstance(content, bool):
        return b"\x88" if content else b"\x89"
    if isinstance(content, int):
        if 0 <= content < 256:
            return b"K" + bytes([content])
        raw = content.to_bytes(content.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(content, float):
        return b"G" + struct.pack(">d", content)
    if isinstance(content, str):
        raw = content.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(content, tuple):
        return b"(" + b"".join(map(value, content)) + b"t"
    if isinstance(content, list):
        return b"](" + b"".join(map(value, content)) + b"e"
    if isinstance(content, dict):
        return b"}" + fill(content)
    raise TypeError(type(content))


def fill(content: dict[Any, Any]) -> bytes:
    return b"(" + b"".join(value(key) + value(item) for key, item in content.items()) + b"u"


def call(function: bytes, *arguments: Any) -> bytes:
    return function + value(arguments) + b"R"


def ordered(content: dict[Any, Any]) -> bytes:
    return call(name("collections", "OrderedDict")) + fill(content)


def storage(
    key: Any = "0", count: Any = 6, kind: str = "FloatStorage", legacy: bool = False
) -> bytes:
    claim = ("storage", name("torch", kind), key, "cpu", count)
    return value((*claim, None) if legacy else claim) + b"Q"


def tensor(held: bytes, offset: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1)) -> bytes:
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, held, offset, shape, strides, False, ordered({}))


def pickled(content: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + content + b"."


# Containers

SIX = np.arange(6, dtype="<f4").tobytes()


def zipped(parts: Parts, compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for part, content in parts:
            archive.writestr(zipfile.ZipInfo(part), content, compression)
    return target.getvalue()


def torch_parts(
    content: bytes, storages: dict[str, bytes] | None = None
) -> list[tuple[str, bytes]]:
    """The members of torch's zip; `content` is a whole pickle."""
    held = {"0": SIX} if storages is None else storages
    return [
        ("n/data.pkl", content),
        ("n/byteorder", b"little"),
        *((f"n/data/{key}", raw) for key, raw in held.items()),
        ("n/version", b"3\n"),
    ]


def torch_zip(content: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    return zipped(torch_parts(content, storages))


LEGACY_HEAD = (
    pickled(value(0x1950A86A20F9469CFC6C))
    + pickled(value(1001))
    + pickled(value({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}))
)


def torch_legacy(content: bytes, storages: Sequence[tuple[str, int, bytes]] | None = None) -> bytes:
    """Torch's older format; storages as (key, count, bytes)."""
    held = [("0", 6, SIX)] if storages is None else storages
    keys = pickled(value([key for key, _, _ in held]))
    return LEGACY_HEAD + content + keys + b"".join(struct.pack("<q", n) + raw for _, n, raw in held)


def safetensors(header: dict[str, Any] | bytes, buffer: bytes = SIX) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + buffer


def described(
    begin: int, end: int, shape: Sequence[Any] | None = None, dtype: str = "F32"
) -> dict[str, Any]:
    side = [(end - begin) // 4] if shape is None else list(shape)
    return {"dtype": dtype, "shape": side, "data_offsets": [begin, end]}


def npy(header: str, data: bytes = SIX, version: tuple[int, int] = (1, 0)) -> bytes:
    raw = header.encode("latin-1") + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + size + raw + data


def npy_header(descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def seed_arrays() -> dict[str, np.ndarray]:
    """A few small tensors of several types and ranks."""
    rng = np.random.default_rng(0)
    return {
        "conv1/kernel:0": rng.normal(size=(3, 2, 4)).astype("<f4"),
        "fc/half": rng.normal(size=(5, 3)).astype("<f2"),
        "bn/steps": np.arange(7, dtype="<i8"),
        "scalar": np.array(2.5, dtype="<f8"),
    }


KINDS = {"f4": ("FloatStorage", "F32"), "f2": ("HalfStorage", "F16"),
         "i8": ("LongStorage", "I64"), "f8": ("DoubleStorage", "F64")}  # fmt: skip


def torch_seed(arrays: dict[str, np.ndarray], legacy: bool) -> bytes:
    """A checkpoint as a training script saves it, with `arrays` as its state dict."""
    tensors = {}
    for key, (label, array) in enumerate(arrays.items()):
        held = storage(str(key), array.size, KINDS[array.dtype.str[1:]][0], legacy)
        strides = tuple(step // array.itemsize for step in array.strides)
        tensors[label] = tensor(held, 0, array.shape, strides)
    content = pickled(value({"epoch": 3, "best": 0.5, "state_dict": ordered(tensors)}))
    if legacy:
        held_bytes = [(str(k), a.size, a.tobytes()) for k, a in enumerate(arrays.values())]
        return torch_legacy(content, held_bytes)
    return torch_zip(content, {str(k): a.tobytes() for k, a in enumerate(arrays.values())})


def safetensors_seed(arrays: dict[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    position = 0
    for label, array in arrays.items():
        end = position + array.itemsize * math.prod(array.shape)
        kind = KINDS[array.dtype.str[1:]][1]
        header[label] = described(position, end, array.shape, kind)
        position = end
    return safetensors(header, b"".join(array.tobytes() for array in arrays.values()))
