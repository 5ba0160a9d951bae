"""A reader of NumPy's .npz: a zip of .npy arrays, without numpy.load and without pickle."""

from __future__ import annotations

import re
import struct

from reszoo.weights.readers._base import (
    DTYPES,
    ITEM_SIZES,
    Array,
    Contents,
    Entry,
    Refused,
    check_name,
    count_elements,
    decode,
    shown,
)
from reszoo.weights.readers._zip import Archive, Member

MAX_HEADER = 64 * 1024
_MAGIC = b"\x93NUMPY"
# The three items of an array's header. Three fixed forms need no parser of Python literals, which
# deep nesting could break.
_ITEM = re.compile(
    r"\s*'(?:(?P<descr>descr)'\s*:\s*(?P<type>'[^'\\]{1,32}')"
    r"|(?P<fortran>fortran_order)'\s*:\s*(?P<flag>True|False)"
    r"|(?P<shape>shape)'\s*:\s*\((?P<sides>[0-9L, ]*)\))\s*(?:,|(?=\}))"
)
# As Python 2 wrote long numbers: with an L.
_SIDE = re.compile(r"([0-9]{1,19})L?")
_TYPES = {code: name for name, code in DTYPES.items() if name not in ("bfloat16", "bool")}
_TYPES["b1"] = "bool"


def read(archive: Archive) -> Contents:
    """Check the header of every member; Refused unless all are plain arrays of the right size."""
    entries: dict[str, Entry] = {}
    for member in archive.members.values():
        name = member.name.removesuffix(".npy")
        if name == member.name:
            raise Refused(f"member {shown(member.name)} is no .npy array")
        entries[check_name(name)] = _entry(archive, member, name)
    return Contents(entries)


def _entry(archive: Archive, member: Member, name: str) -> Entry:
    what = f"array {shown(name)}"
    start = archive.head(member, 12)
    if len(start) < 12 or start[:6] != _MAGIC:
        raise Refused(f"{what} does not begin like a .npy file")
    version = tuple(start[6:8])
    if version == (1, 0):
        data_at = 10 + struct.unpack("<H", start[8:10])[0]
        text_at = 10
    elif version in ((2, 0), (3, 0)):
        data_at = 12 + struct.unpack("<I", start[8:12])[0]
        text_at = 12
    else:
        raise Refused(f"{what} is of .npy version {version[0]}.{version[1]}; read: 1, 2, 3")
    if data_at > min(MAX_HEADER, member.size):
        raise Refused(f"{what} has a header of {data_at:,} bytes")
    descr, fortran, shape = _parse(archive.head(member, data_at)[text_at:], what)
    dtype, byte_order = _dtype(descr, what)
    if count_elements(shape, what) * ITEM_SIZES[dtype] != member.size - data_at:
        raise Refused(f"{what} has {member.size - data_at:,} bytes, its shape needs others")

    def load() -> Array:
        raw = archive.read(member)[data_at:]
        order = "F" if fortran else "C"
        return decode(raw, dtype, shape, order=order, byte_order=byte_order)

    return Entry(dtype, shape, load)


def _parse(raw: bytes, what: str) -> tuple[str, bool, tuple[int, ...]]:
    """Return (descr, fortran_order, shape) of a header such as numpy.save writes."""
    text = raw.decode("latin-1").strip()
    if not text.startswith("{") or not text.endswith("}"):
        raise Refused(f"{what} has a damaged header")
    position = 1
    found: dict[str, str] = {}
    while item := _ITEM.match(text, position):
        key = item["descr"] or item["fortran"] or item["shape"]
        if key in found:
            raise Refused(f"{what} has a header with {key} twice")
        found[key] = item["type"] or item["flag"] or item["sides"] or ""
        position = item.end()
    if "descr" not in found and "'descr': [" in text:
        raise Refused(f"{what} is a structured array; only plain numbers are read")
    if len(found) != 3 or text[position:].strip() != "}":
        raise Refused(f"{what} has a damaged header")
    sides = [side.strip() for side in found["shape"].split(",")]
    if sides[-1] == "":
        sides.pop()
    elif len(sides) == 1:
        raise Refused(f"{what} has a shape that is no tuple")
    matches = [_SIDE.fullmatch(side) for side in sides]
    shape = tuple(int(match[1]) for match in matches if match)
    if len(shape) != len(sides):
        raise Refused(f"{what} has an impossible shape")
    return found["descr"].strip("'"), found["fortran_order"] == "True", shape


def _dtype(descr: str, what: str) -> tuple[str, str]:
    """Return (key of DTYPES, byte order) of a NumPy type string such as "<f4"."""
    if descr in ("|O", "O"):
        raise Refused(f"{what} holds pickled objects, which are never loaded")
    order, code = descr[:1], descr[1:]
    name = _TYPES.get(code)
    wide = name is not None and ITEM_SIZES[name] > 1
    # "=" and "|" say nothing about the order of several bytes.
    if name is None or order not in ("<", ">", "|") or (order == "|" and wide):
        raise Refused(f"{what} is of type {shown(descr)}; only plain numbers are read")
    return name, ">" if order == ">" else "<"
