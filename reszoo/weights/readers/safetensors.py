"""A reader of safetensors files: 8 bytes of length, a JSON header, raw little-endian tensors."""

from __future__ import annotations

import json
import struct
from typing import Any, NoReturn

from reszoo.weights.readers._base import (
    ITEM_SIZES,
    MAX_TENSORS,
    Contents,
    Entry,
    Refused,
    Source,
    check_name,
    count_elements,
    decode,
    shown,
)

# The format allows 100 MB; parsed JSON can take twenty times its text, and a network of 1,000
# layers needs a tenth of a megabyte.
MAX_HEADER = 16 * 2**20

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_FIELDS = {"dtype", "shape", "data_offsets"}


def is_safetensors(source: Source) -> bool:
    """Whether the file begins like one: a length, then a "{"."""
    return source.size > 8 and source.read(8, 1) == b"{"


def read(source: Source) -> Contents:
    """Check the whole header; Refused unless the tensors fill the rest of the file exactly."""
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > source.size - 8:
        raise Refused(f"its header claims {length:,} bytes, the file has {source.size:,}")
    if length > MAX_HEADER:
        raise Refused(f"a header of {length:,} bytes, at most {MAX_HEADER:,} are read")
    header = _parse(source.read(8, length))
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise Refused("its __metadata__ is not a dict of strings")
    if len(header) > MAX_TENSORS:
        raise Refused(f"more than {MAX_TENSORS:,} tensors")
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, info in header.items():
        what = f"tensor {shown(check_name(name))}"
        if type(info) is not dict or set(info) != _FIELDS:
            raise Refused(f"{what} is not described by dtype, shape and data_offsets")
        dtype = _DTYPES.get(info["dtype"]) if type(info["dtype"]) is str else None
        if dtype is None:
            raise Refused(f"{what} is of type {shown(info['dtype'])}; read: {', '.join(_DTYPES)}")
        shape, offsets = info["shape"], info["data_offsets"]
        if type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
            raise Refused(f"{what} has a shape or offsets that are no lists")
        begin, end = offsets
        if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
            raise Refused(f"{what} has impossible offsets")
        if count_elements(shape, what) * ITEM_SIZES[dtype] != end - begin:
            raise Refused(f"{what} does not fill the bytes that it claims")
        spans.append((begin, end, name))
        entries[name] = _entry(source, 8 + length + begin, end - begin, dtype, tuple(shape))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            problem = "overlaps another one" if begin < position else "leaves a hole before it"
            raise Refused(f"tensor {shown(name)} {problem}")
        position = end
    if position != source.size - 8 - length:
        raise Refused(
            f"its tensors take {position:,} bytes, {source.size - 8 - length:,} are there"
        )
    return Contents(entries, metadata=metadata)


def _entry(source: Source, at: int, size: int, dtype: str, shape: tuple[int, ...]) -> Entry:
    return Entry(dtype, shape, lambda: decode(source.array(at, size), dtype, shape))


def _parse(raw: bytes) -> dict[str, Any]:
    """Return the header; Refused where two keys are equal or it is no JSON object."""
    if raw[:1] != b"{":
        raise Refused("its header does not begin with a brace")
    try:
        text = raw.decode()
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(f"its header is no JSON ({type(error).__name__})") from error
    if type(header) is not dict:
        raise Refused("its header is no JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Refused("its header has one key twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise Refused(f"its header holds {text}, which is no JSON")
