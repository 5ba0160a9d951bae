"""A reader of the HDF5 files that Keras, keras.applications and h5py write; see `_hdf5_blocks`.

Read are groups (of every form), data sets of plain numbers that are compact, contiguous or chunked
(with gzip and shuffle), under hard links. Refused by name: external and soft links, external
storage, virtual data sets, other filters, text, compound and reference types, and data sets whose
stored bytes do not cover their declared shape. Of attributes only a group's "name" is read.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from reszoo.weights.readers._base import (
    DTYPES,
    INFLATE_FLOOR,
    INFLATE_RATIO,
    ITEM_SIZES,
    MAX_NAME,
    MAX_TENSORS,
    Array,
    Contents,
    Entry,
    Refused,
    Source,
    check_name,
    count_elements,
    decode,
    shown,
)
from reszoo.weights.readers._hdf5_blocks import UNDEFINED, Blocks, Message

SIGNATURE = b"\x89HDF\r\n\x1a\n"

MAX_DEPTH = 64
_SPACE, _TYPE, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE = 0x01, 0x03, 0x07, 0x08, 0x0B, 0x0C
_GROUP_KINDS = {0x02, 0x06, 0x0A, 0x11}
_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = 0, 1, 2, 3
_GZIP, _SHUFFLE = 1, 2
# (bit offset, bits, exponent at, exponent bits, mantissa at, mantissa bits, bias), sign bit.
_FLOATS = {
    (0, 16, 10, 5, 0, 10, 15, 15): "float16",
    (0, 16, 7, 8, 0, 7, 127, 15): "bfloat16",
    (0, 32, 23, 8, 0, 23, 127, 31): "float32",
    (0, 64, 52, 11, 0, 52, 1023, 63): "float64",
}
_CLASSES = {
    2: "time",
    3: "text",
    4: "bit field",
    5: "opaque",
    6: "compound",
    7: "reference",
    8: "enumeration",
    9: "variable-length",
    10: "array",
}


@dataclass(frozen=True)
class _Piece:
    """Stored bytes of (a chunk of) a data set; `at` is the chunk's first element."""

    offset: int
    size: int
    at: tuple[int, ...]
    filters: list[int]


def read(source: Source) -> Contents:
    """Walk the file and check every data set; names are paths such as "conv1/conv1/kernel:0".

    Raises Refused, struct.error or ValueError where the file is damaged or holds more than plain
    weights.
    """
    blocks = Blocks(source)
    entries: dict[str, Entry] = {}
    group_names: dict[str, str] = {}
    stored, claimed = 0, 0
    waiting = [("", blocks.root(), 0)]
    while waiting:
        path, at, depth = waiting.pop()
        what = f"object {shown(path or '/')}"
        if depth > MAX_DEPTH:
            raise Refused(f"groups nested deeper than {MAX_DEPTH}")
        messages = blocks.messages(at, what)
        kinds = {message.kind for message in messages}
        if _LAYOUT in kinds or _SPACE in kinds:
            if kinds & _GROUP_KINDS:
                raise Refused(f"{what} is both a group and a data set")
            dataset = _Dataset(source, blocks, messages, path)
            entries[check_name(path)], size = dataset.entry()
            stored += size
            claimed += dataset.size
            if stored > source.size:
                raise Refused("data sets that share their bytes")
            if claimed > INFLATE_FLOOR + INFLATE_RATIO * source.size:
                raise Refused(f"a bomb: its data sets claim {claimed:,} bytes")
        elif _TYPE in kinds:
            raise Refused(f"{what} is a named type, which weights do not need")
        else:
            for message in messages:
                text = _attribute_name(message, blocks)
                if text is not None:
                    group_names[path] = text
            prefix = f"{path}/" if path else ""
            children: dict[str, int] = {}
            for name, address in blocks.links(messages, what):
                if not name or "/" in name or name in (".", "..") or name in children:
                    raise Refused(f"{what} has a member called {shown(name)}")
                check_name(prefix + name)
                children[name] = address
                if len(entries) + len(waiting) + len(children) > MAX_TENSORS:
                    raise Refused(f"more than {MAX_TENSORS:,} objects")
            waiting += [(prefix + name, child, depth + 1) for name, child in children.items()][::-1]
    return Contents(entries, group_names=group_names)


class _Dataset:
    """One data set: what its object header says, checked."""

    def __init__(self, source: Source, blocks: Blocks, messages: list[Message], path: str) -> None:
        self._source, self._blocks = source, blocks
        self._what = f"data set {shown(path)}"
        found: dict[int, bytes] = {}
        attributes = []
        for message in messages:
            if message.kind == _EXTERNAL:
                raise Refused(f"{self._what} keeps its data in another file, which is not read")
            if message.kind == _ATTRIBUTE:
                attributes.append(message.body)
            elif message.kind in (_SPACE, _TYPE, _LAYOUT, _FILTERS):
                if message.shared or message.kind in found:
                    raise Refused(f"{self._what} has a shared or repeated description")
                found[message.kind] = message.body
        if not {_SPACE, _TYPE, _LAYOUT} <= set(found):
            raise Refused(f"{self._what} is not fully described: damaged")
        self._shape = self._read_space(found[_SPACE])
        self._dtype, self._byte_order = self._read_type(found[_TYPE], attributes)
        self._filters = self._read_filters(found.get(_FILTERS))
        self._layout = found[_LAYOUT]
        self._count = count_elements(self._shape, self._what)
        self.size = self._count * ITEM_SIZES[self._dtype]

    def entry(self) -> tuple[Entry, int]:
        """Return the data set as an entry, and how many bytes of the file it takes."""
        version, kind = self._layout[0], self._layout[1]
        if kind == _VIRTUAL or version not in (3, 4):
            word = "virtual" if kind == _VIRTUAL and version in (3, 4) else "of an unknown layout"
            raise Refused(f"{self._what} is {word}, which is not read")
        if kind == _CHUNKED:
            if version != 3:
                raise Refused(
                    f"{self._what} has chunks indexed as by libver='latest'; save it without"
                )
            return self._chunked()
        if self._filters:
            raise Refused(f"{self._what} is filtered without chunks: damaged")
        if kind == _COMPACT:
            (size,) = struct.unpack_from("<H", self._layout, 2)
            body = self._layout[4 : 4 + size]
            if len(body) != size or size != self.size:
                raise Refused(self._mismatch(size))
            loaded = np.frombuffer(bytearray(body), dtype=np.uint8)
            return self._entry(lambda: loaded.copy()), size
        if kind != _CONTIGUOUS:
            raise Refused(f"{self._what} is of an unknown layout")
        offset, size = struct.unpack_from("<2Q", self._layout, 2)
        if self.size == 0:
            return self._entry(lambda: np.empty(0, dtype=np.uint8)), 0
        if offset == UNDEFINED or size != self.size:
            raise Refused(self._mismatch(0 if offset == UNDEFINED else size))
        if offset > self._blocks.end - size:
            raise Refused(f"{self._what} lies outside the file: truncated or damaged")
        return self._entry(lambda: self._source.array(offset, size)), size

    def _entry(self, fetch: Callable[[], Array]) -> Entry:
        return Entry(
            self._dtype,
            self._shape,
            lambda: decode(fetch(), self._dtype, self._shape, byte_order=self._byte_order),
        )

    def _mismatch(self, size: int) -> str:
        return f"{self._what} stores {size:,} bytes, its shape {self._shape} needs {self.size:,}"

    def _chunked(self) -> tuple[Entry, int]:
        """Check that every chunk is there once; a missing one would be made of fill values."""
        rank, item = len(self._shape), ITEM_SIZES[self._dtype]
        (tree,) = struct.unpack_from("<Q", self._layout, 3)
        sides = struct.unpack_from(f"<{self._layout[2]}I", self._layout, 11)
        if len(sides) != rank + 1 or sides[-1] != item:
            raise Refused(f"{self._what} has chunks of another kind than its elements: damaged")
        if self.size == 0:
            return self._entry(lambda: np.empty(0, dtype=np.uint8)), 0
        chunk = sides[:-1]
        if not all(0 < side <= whole for side, whole in zip(chunk, self._shape, strict=True)):
            raise Refused(f"{self._what} has chunks that are larger than it: {chunk}")
        grid = [-(-whole // side) for whole, side in zip(self._shape, chunk, strict=True)]
        size = math.prod(chunk) * item
        pieces: dict[tuple[int, ...], _Piece] = {}
        stored = 0
        if tree != UNDEFINED:
            for key, offset in self._blocks.tree(tree, 1, 16 + 8 * rank, self._what):
                length, skipped = struct.unpack_from("<2I", key)
                *at, last = struct.unpack_from(f"<{rank + 1}Q", key, 8)
                place = tuple(start // side for start, side in zip(at, chunk, strict=True))
                fits = all(n < most for n, most in zip(place, grid, strict=True)) and last == 0
                exact = all(s == n * side for s, n, side in zip(at, place, chunk, strict=True))
                # HDF5 skips a filter that would make the chunk larger, and notes it in the mask.
                used = [f for n, f in enumerate(self._filters) if not skipped >> n & 1]
                if not fits or not exact or place in pieces:
                    raise Refused(f"{self._what} has chunks that do not tile it: damaged")
                if (_GZIP not in used and length != size) or offset > self._blocks.end - length:
                    raise Refused(f"{self._what} has chunks of a wrong size: damaged")
                pieces[place] = _Piece(offset, length, tuple(at), used)
                stored += length
        if len(pieces) != math.prod(grid):
            raise Refused(f"{self._what} stores {len(pieces)} of its {math.prod(grid)} chunks")
        if self.size > INFLATE_FLOOR and self.size > INFLATE_RATIO * stored:
            raise Refused(f"a bomb: {self._mismatch(stored)}")
        return self._entry(lambda: self._assemble(pieces.values(), chunk)), stored

    def _assemble(self, pieces: Iterable[_Piece], chunk: tuple[int, ...]) -> Array:
        """Return the data set's bytes, (bytes,)."""
        item = ITEM_SIZES[self._dtype]
        whole: Array = np.empty((*self._shape, item), dtype=np.uint8)
        for piece in pieces:
            data = self._unfilter(piece, math.prod(chunk))
            spans = zip(piece.at, chunk, strict=True)
            target = whole[tuple(slice(start, start + side) for start, side in spans)]
            # At the edges a chunk is stored whole.
            inside = tuple(slice(0, side) for side in target.shape)
            target[...] = data.reshape(*chunk, item)[inside]
        return whole.reshape(-1)

    def _unfilter(self, piece: _Piece, count: int) -> Array:
        """Return the bytes of one chunk of `count` elements with its filters undone."""
        item = ITEM_SIZES[self._dtype]
        data = self._source.array(piece.offset, piece.size)
        for kind in reversed(piece.filters):
            if kind == _GZIP:
                inflater = zlib.decompressobj()
                try:
                    plain = inflater.decompress(data.tobytes(), count * item + 1)
                except zlib.error as error:
                    raise Refused(f"{self._what} does not inflate: damaged") from error
                if len(plain) != count * item or not inflater.eof:
                    raise Refused(f"a chunk of {self._what} inflates to another size: damaged")
                data = np.frombuffer(plain, dtype=np.uint8)
            else:
                data = data.reshape(item, count).T.reshape(-1)
        return data

    def _read_space(self, body: bytes) -> tuple[int, ...]:
        version, rank = body[0], body[1]
        if version not in (1, 2) or (version == 2 and body[3] > 1):
            raise Refused(f"{self._what} has no shape (an empty data space)")
        return struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)

    def _read_type(self, body: bytes, attributes: list[bytes]) -> tuple[str, str]:
        """Return (key of DTYPES, byte order)."""
        kind, flags = body[0] & 15, int.from_bytes(body[1:4], "little")
        (size,) = struct.unpack_from("<I", body, 4)
        dtype: str | None = None
        if kind == 0 and size in (1, 2, 4, 8):
            if struct.unpack_from("<2H", body, 8) == (0, 8 * size):
                dtype = f"{'' if flags & 8 else 'u'}int{8 * size}"
        elif kind == 1 and flags & 0x70 == 0x20:
            dtype = _FLOATS.get((*struct.unpack_from("<2H4BI", body, 8), flags >> 8))
            if dtype and ITEM_SIZES[dtype] != size:
                dtype = None
        elif kind == 5 and size == 2 and any(map(_names_dtype, attributes)):
            # So Keras stores bfloat16, and only that: two opaque bytes, marked by an attribute.
            return "bfloat16", "<"
        if dtype is None or dtype not in DTYPES:
            word = _CLASSES.get(kind, "unusual number")
            raise Refused(f"{self._what} is of {word} type; only plain numbers are read")
        return dtype, ">" if flags & 1 else "<"

    def _read_filters(self, body: bytes | None) -> list[int]:
        """Return the filters in the order in which they were applied."""
        if body is None:
            return []
        version, count = body[0], body[1]
        position = 8 if version == 1 else 2
        filters: list[int] = []
        for _ in range(count):
            (kind,) = struct.unpack_from("<H", body, position)
            if version not in (1, 2) or kind not in (_GZIP, _SHUFFLE) or kind in filters:
                raise Refused(f"{self._what} is filtered by number {kind}; read: gzip, shuffle")
            if version == 1:
                name_size, _, values = struct.unpack_from("<3H", body, position + 2)
                position += 8 + -(-name_size // 8) * 8 + 4 * (values + values % 2)
            else:
                (values,) = struct.unpack_from("<H", body, position + 4)
                position += 6 + 4 * values
            filters.append(kind)
        return filters


def _names_dtype(attribute: bytes) -> bool:
    """Whether an attribute message is called "dtype"."""
    at = 9 if attribute[0] == 3 else 8
    return attribute[at : at + 6] == b"dtype\0"


def _attribute_name(message: Message, blocks: Blocks) -> str | None:
    """Return the text of an attribute "name"; None for any other message."""
    body = message.body
    if message.kind != _ATTRIBUTE or message.shared or len(body) < 8 or body[0] not in (1, 2, 3):
        return None
    version = body[0]
    at, parts = 9 if version == 3 else 8, []
    for size in struct.unpack_from("<3H", body, 2):
        parts.append(body[at : at + size])
        at += size if version > 1 else -(-size // 8) * 8
    name, kind, space = parts
    shared = version > 1 and body[1] & 3
    scalar = len(space) >= 4 and space[1] == 0 and (space[0] == 1 or space[3] == 0)
    if name != b"name\0" or shared or not scalar or len(kind) < 8:
        return None
    if kind[0] & 15 == 3:
        (length,) = struct.unpack_from("<I", kind, 4)
        text = body[at : at + length]
    elif kind[0] & 15 == 9 and kind[1] & 15 == 1:
        length, heap, index = struct.unpack_from("<IQI", body, at)
        text = blocks.heap_object(heap, index)[:length] if length else b""
    else:
        return None
    text = text.split(b"\0")[0]
    return text.decode() if len(text) <= MAX_NAME else None
