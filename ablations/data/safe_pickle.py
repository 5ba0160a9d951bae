"""Read the pickles of the original CIFAR archives as data. Nothing in a file can run.

This is a small interpreter of the opcodes that Python 2 wrote into those files (protocol 2). It
never imports or looks up a name and has no call: a GLOBAL must be one of a few exact names and
becomes an inert marker, REDUCE and BUILD know only the three shapes that make a uint8 array (and
the one in which Python 3 writes bytes). pickle.Unpickler is not used: even with find_class closed
it allocates a memo as large as a file asks for and hashes nested tuples, exponentially.
"""

from __future__ import annotations

import enum
import math
import os
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from ablations.data.base import DataError

MAX_FILE_BYTES = 256 * 2**20
MAX_OPCODES = 2_000_000
MAX_DIMENSIONS = 4
MAX_KEY = 64

_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE"}
    | {"NONE", "NEWTRUE", "NEWFALSE"}
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(Exception):
    """Why the payload was refused; becomes a DataError that names the file."""


class _Marker(enum.Enum):
    RECONSTRUCT = "_reconstruct"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"


_GLOBALS = {
    "numpy.core.multiarray _reconstruct": _Marker.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Marker.RECONSTRUCT,
    "numpy ndarray": _Marker.NDARRAY,
    "numpy dtype": _Marker.DTYPE,
    "_codecs encode": _Marker.ENCODE,
}


class _UInt8:
    """Stands for numpy.dtype("uint8")."""


class _Array:
    """Stands for an array: empty after REDUCE, filled once by BUILD."""

    value: np.ndarray[Any, np.dtype[np.uint8]] | None = None


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the file at `path`; see `loads`. Raises DataError naming the path."""
    try:
        size = os.stat(path).st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: {size:,} bytes, a CIFAR pickle has under {MAX_FILE_BYTES:,}")
        payload = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return loads(payload, str(path))


def loads(payload: bytes, where: str) -> dict[str, Any]:
    """Return the dict in `payload`, keys as str.

    Values are int, str, bytes, a list of these, or a read-only uint8 array of at most 4 dimensions.
    Raises DataError, one line that begins with `where`, for anything else.
    """
    try:
        return _result(_run(payload))
    except _Refused as refusal:
        reason = str(refusal)
    except (ValueError, IndexError, KeyError, OverflowError, Warning) as error:
        reason = f"damaged: {type(error).__name__} {error}"
    raise DataError(f"{where}: not a CIFAR pickle as the original archives hold ({reason[:200]})")


def _run(payload: bytes) -> Any:
    """Interpret the opcodes; return what is on the stack at STOP."""
    if len(payload) > MAX_FILE_BYTES:
        raise _Refused(f"{len(payload):,} bytes")
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    encodable = len(payload)

    def pop(count: int) -> list[Any]:
        start = len(stack) - count
        if start < (marks[-1] if marks else 0):
            raise _Refused("stack underflow")
        items = stack[start:]
        del stack[start:]
        return items

    def pop_mark() -> list[Any]:
        if not marks:
            raise _Refused("no mark")
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def top(kind: type) -> Any:
        if len(stack) <= (marks[-1] if marks else 0) or not isinstance(stack[-1], kind):
            raise _Refused(f"expected a {kind.__name__}")
        return stack[-1]

    arg: Any
    end = len(payload) - 1
    for number, (opcode, arg, position) in enumerate(pickletools.genops(payload)):
        name = opcode.name
        if number >= MAX_OPCODES:
            raise _Refused(f"more than {MAX_OPCODES:,} opcodes")
        if name in _STRINGS:
            stack.append(arg.encode("latin-1"))
        elif name in _VALUES:
            stack.append(_CONSTANTS.get(name, arg))
        elif name in _PUTS:
            memo[arg] = top(object)
        elif name in _GETS:
            stack.append(memo[arg])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack.append(tuple(pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(pop_mark()))
        elif name in ("EMPTY_LIST", "LIST"):
            stack.append([] if name == "EMPTY_LIST" else pop_mark())
        elif name in ("APPEND", "APPENDS"):
            items = pop(1) if name == "APPEND" else pop_mark()
            top(list).extend(items)
        elif name in ("EMPTY_DICT", "DICT"):
            stack.append(_pairs([] if name == "EMPTY_DICT" else pop_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            items = pop(2) if name == "SETITEM" else pop_mark()
            top(dict).update(_pairs(items))
        elif name == "GLOBAL":
            if arg not in _GLOBALS:
                raise _Refused(f'it names "{arg[:60]}"')
            stack.append(_GLOBALS[arg])
        elif name == "REDUCE":
            function, arguments = pop(2)
            stack.append(_reduce(function, arguments, encodable))
            encodable -= len(stack[-1]) if isinstance(stack[-1], bytes) else 0
        elif name == "BUILD":
            (state,) = pop(1)
            _build(top(object), state)
        elif name == "PROTO":
            if arg > 2:
                raise _Refused(f"pickle protocol {arg}, at most 2 is read")
        elif name == "STOP":
            if len(stack) != 1 or marks or position != end:
                raise _Refused("surplus data")
        else:
            raise _Refused(f"opcode {name}")
    return stack[0]


def _pairs(items: list[Any]) -> dict[str, Any]:
    """[key, value, key, value, ...] -> dict; keys bytes or str."""
    if len(items) % 2:
        raise _Refused("a key without a value")
    keys = [_text(key) for key in items[::2]]
    if not all(isinstance(key, str) and len(key) <= MAX_KEY for key in keys):
        raise _Refused(f"a key that is not a string of at most {MAX_KEY} characters")
    return dict(zip(keys, items[1::2], strict=True))


def _text(value: Any) -> Any:
    """A short byte string as str; anything else as it is."""
    return value.decode("latin-1") if isinstance(value, bytes) and len(value) <= MAX_KEY else value


def _reduce(function: Any, arguments: Any, encodable: int) -> Any:
    """The three constructions there are; `encodable`: bytes that may still be made from str."""
    if isinstance(arguments, tuple):
        if function is _Marker.RECONSTRUCT and len(arguments) == 3:
            kind, shape, code = arguments
            if kind is _Marker.NDARRAY and shape == (0,) and _text(code) == "b":
                return _Array()
        elif function is _Marker.DTYPE and len(arguments) == 3:
            if _text(arguments[0]) in ("u1", "|u1"):
                return _UInt8()
            raise _Refused("an array that is not uint8")
        elif function is _Marker.ENCODE and len(arguments) == 2:
            text, encoding = arguments
            if isinstance(text, str) and encoding == "latin1" and len(text) <= encodable:
                return text.encode("latin-1")
    raise _Refused("a call")


def _build(target: Any, state: Any) -> None:
    """Fill an array from (1, shape, dtype, fortran order, bytes); a dtype's own state is checked.

    The shape must account for exactly the bytes that are there, so it can ask for no memory.
    """
    if isinstance(target, _UInt8) and isinstance(state, tuple):
        if len(state) >= 5 and state[2:5] == (None, None, None):
            return
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        version, shape, dtype, fortran, data = state
        plain = version == 1 and isinstance(dtype, _UInt8) and isinstance(data, bytes)
        if not plain or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
            raise _Refused("an array that is not plain uint8")
        sides = all(type(side) is int and 0 < side <= len(data) for side in shape)
        if not sides or math.prod(shape) != len(data) or target.value is not None:
            raise _Refused("an array shape that its bytes do not fill")
        flat = np.frombuffer(data, dtype=np.uint8)
        target.value = flat.reshape(shape, order="F" if fortran else "C")
        return
    raise _Refused("a BUILD of something else than a uint8 array")


def _result(value: Any) -> dict[str, Any]:
    """Check that `value` is a flat dict of plain data, and take the arrays out of their stubs."""
    if type(value) is not dict:
        raise _Refused("it is not a dict")
    result: dict[str, Any] = {}
    checked: set[int] = set()
    for key, item in value.items():
        if isinstance(item, list) and id(item) not in checked:
            if not all(type(element) in (int, bytes, str) for element in item):
                raise _Refused(f'the list "{key[:40]}" holds more than numbers and strings')
            checked.add(id(item))
        elif type(item) not in (int, bytes, str, list):
            item = item.value if isinstance(item, _Array) else None
            if item is None:
                raise _Refused(f'"{key[:40]}" is not plain data')
        result[key] = item
    return result
