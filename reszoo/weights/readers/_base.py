"""What all readers share: the error, the file, the element types, and the object they return."""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import numpy as np

from reszoo.errors import unknown

Array = np.ndarray[Any, np.dtype[Any]]
Result = TypeVar("Result")

# Stored type -> how its bytes are viewed. bfloat16 has no NumPy type: see `decode`.
DTYPES: dict[str, str] = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
}
ITEM_SIZES = {name: int(code[1:]) for name, code in DTYPES.items()}

MAX_DIMENSIONS = 16
MAX_TENSORS = 100_000
MAX_NAME = 1024
# No file of this world holds more; keeps products of sides far from any integer limit.
MAX_ELEMENTS = 2**40
# What is inflated may exceed its compressed form by FLOOR bytes, or RATIO times: an all-zero
# tensor (a fresh head, say) honestly shrinks a thousandfold, a large one does not matter to us.
INFLATE_FLOOR = 16 * 2**20
INFLATE_RATIO = 100


class WeightFileError(ValueError):
    """A weight file that is damaged, hostile or of no supported kind. One line, names the file."""


class Refused(Exception):
    """Why a file is refused; becomes a WeightFileError that names the file."""


def shown(name: object) -> str:
    """Return `name` from a foreign file in quotes, printable ASCII and not long, for a message."""
    text = name if isinstance(name, str) else type(name).__name__
    return json.dumps(text[:100] + ("…" if len(text) > 100 else "")).replace("\x7f", "?")


def plural(count: int, what: str) -> str:
    """Return "1 byte", "2 bytes", "3,000 bytes"."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


class Source:
    """The bytes of one regular file. Nothing outside it can be read; reads may come from threads.

    Raises OSError if it cannot be opened and Refused if it is no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Not blocking: open() of a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._lock = threading.Lock()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            self._file.close()
            raise Refused("not a regular file")
        self.size = status.st_size

    def close(self) -> None:
        """Close the file; `read` then raises Refused."""
        self._file.close()

    def array(self, offset: int, size: int) -> Array:
        """Return bytes [offset, offset + size) as uint8 array (size,); Refused if not all there."""
        self._check(offset, size)
        result = np.empty(size, dtype=np.uint8)
        self._fill(offset, result.data)
        return result

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size); Refused if not all there."""
        self._check(offset, size)
        result = bytearray(size)
        self._fill(offset, memoryview(result))
        return bytes(result)

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset > self.size - size:
            raise Refused(
                f"truncated or damaged: bytes {offset:,} to {offset + size:,} are needed, "
                f"it has {self.size:,}"
            )

    def _fill(self, offset: int, view: memoryview) -> None:
        with self._lock:
            if self._file.closed:
                raise Refused("already closed")
            self._file.seek(offset)
            done = 0
            while done < len(view):
                count = self._file.readinto(view[done:])
                if not count:
                    raise Refused("became shorter while it was read")
                done += count


def count_elements(shape: Sequence[Any], what: str) -> int:
    """Return the number of elements of `shape`, a foreign value; Refused unless it is sane.

    A side of 0 does not hide the others: their product is bounded too.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise Refused(f"{what} has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are read")
    if not all(type(side) is int and 0 <= side <= MAX_ELEMENTS for side in shape):
        raise Refused(f"{what} has an impossible shape")
    if math.prod(max(side, 1) for side in shape) > MAX_ELEMENTS:
        raise Refused(f"{what} has an impossible shape")
    return math.prod(shape)


def check_name(name: str) -> str:
    """Return `name`, the name of a tensor; Refused if it is empty, too long or not encodable."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Refused("a name that is no Unicode") from error
    if not name or len(name) > MAX_NAME or "\0" in name:
        raise Refused(f"a name that is empty, very long or has a NUL ({shown(name)})")
    return name


def decode(
    raw: Array,
    dtype: str,
    shape: tuple[int, ...],
    *,
    strides: tuple[int, ...] | None = None,
    order: str = "C",
    byte_order: str = "<",
) -> Array:
    """Turn bytes into a new array that is C-contiguous, writable and in the machine's byte order.

    Args:
        raw: uint8 (bytes,), exactly the bytes that the elements span.
        dtype: a key of DTYPES. float16 and bfloat16 come out as float32, exactly.
        shape: of the result; checked by `count_elements` before.
        strides: in elements, where they are not those of `order`.
        order: "C" or "F".
        byte_order: "<" or ">".

    Raises:
        ValueError: from NumPy, should the elements not lie within `raw`.
    """
    stored = np.dtype(byte_order + DTYPES[dtype])
    steps = None if strides is None else tuple(step * stored.itemsize for step in strides)
    # With a buffer NumPy itself checks that shape and strides stay inside it.
    items: Array = np.ndarray(shape, stored, raw, strides=steps, order="F" if order == "F" else "C")
    if dtype == "bfloat16":
        wide = items.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "bool":
        return np.ascontiguousarray(items != 0).reshape(shape)
    wanted = np.dtype(np.float32) if dtype == "float16" else stored.newbyteorder("=")
    if items.flags.c_contiguous and items.flags.aligned and wanted == stored:
        return items
    return items.astype(wanted, order="C")


@dataclass(frozen=True)
class Entry:
    """A tensor that is in a file: stored type (a key of DTYPES), shape, and how to get it."""

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], Array]


@dataclass
class Contents:
    """What a reader found: its tensors, and words about them."""

    entries: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    note: str = ""
    passed_over: tuple[str, ...] = ()
    group_names: dict[str, str] = field(default_factory=dict)


class WeightFile(Mapping[str, Array]):
    """An open weight file: a read-only mapping from names to arrays, which are read when asked for.

    Every structure of the file was checked when it was opened; no array was read yet. Use it as a
    context manager, or call `close`.

    Attributes:
        path: the file, as given.
        format: "torch-zip", "torch-legacy", "safetensors", "hdf5" or "npz".
        shapes: declared shape of each tensor, in the file's order.
        dtypes: stored element type of each: "float32", "bfloat16", "int64", …
        metadata: safetensors' ``__metadata__``; empty for other formats.
        note: what of the file is not shown (of several state dicts one is), or "".
        passed_over: where the other state dicts are.
        group_names: of HDF5, path of a group -> its attribute "name" (so Keras notes a layer's
            name at `layers/*/vars`); groups without such a text are left out.
    """

    def __init__(self, path: str, kind: str, source: Source, contents: Contents) -> None:
        self._source = source
        self._entries = contents.entries
        self.path = path
        self.format = kind
        self.shapes: Mapping[str, tuple[int, ...]] = MappingProxyType(
            {name: entry.shape for name, entry in contents.entries.items()}
        )
        self.dtypes: Mapping[str, str] = MappingProxyType(
            {name: entry.dtype for name, entry in contents.entries.items()}
        )
        self.metadata: Mapping[str, str] = MappingProxyType(contents.metadata)
        self.note = contents.note
        self.passed_over = contents.passed_over
        self.group_names: Mapping[str, str] = MappingProxyType(contents.group_names)

    def names(self) -> list[str]:
        """Return the names of the tensors, in the file's order."""
        return list(self._entries)

    def read(self, name: str, shape: Sequence[int] | None = None) -> Array:
        """Return the tensor `name` as a new C-contiguous, writable array of the declared shape.

        float16 and bfloat16 are widened to float32; all other types stay as stored.

        Args:
            name: one of `names()`.
            shape: what it must be; compared with the declared shape before anything is read.

        Raises:
            WeightFileError: unknown name, another shape, damaged data, or the file is closed.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise WeightFileError(f"{self.path}: {unknown('tensor', name, self._entries)}")
        if shape is not None and tuple(shape) != entry.shape:
            raise WeightFileError(
                f"{self.path}: {shown(name)} has shape {entry.shape}, expected {tuple(shape)}"
            )
        return refusing(self.path, entry.load)

    def close(self) -> None:
        """Close the file; `read` then raises WeightFileError."""
        self._source.close()

    def __getitem__(self, name: str) -> Array:
        if name not in self._entries:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"WeightFile({self.path!r}, {self.format}, {plural(len(self), 'tensor')})"


def refusing(path: str, action: Callable[[], Result]) -> Result:
    """Return `action()`; Refused, OSError and a failed conversion become WeightFileError."""
    try:
        return action()
    except Refused as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or type(error).__name__})"
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        reason = f"damaged ({type(error).__name__}: {error})"
    raise WeightFileError(f"{path}: " + " ".join(reason.split())[:400])
