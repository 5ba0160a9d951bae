"""An interpreter of the pickle opcodes that torch.save writes (protocol 2). Nothing can run.

It is not built on pickle.Unpickler: no name is ever imported or looked up. A GLOBAL must be one of
a few exact (module, name) pairs and becomes an inert marker; REDUCE knows the handful of calls
that make a tensor, and answers with a description of it; any other opcode is refused. Keys become
str, whose hashes an attacker cannot foresee, and no foreign value is hashed, compared or printed
recursively.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from reszoo.weights.readers._base import Refused, shown

MAX_BYTES = 16 * 2**20
# 1,202 layers with an optimizer's state take 430,000.
MAX_OPCODES = 1_000_000
MAX_STACK = 65_536
MAX_MARKS = 256
MAX_MEMO = 1_000_000
_MAX_LINE = 128


class Storage(NamedTuple):
    """A typed run of bytes that tensors lie in; with its length as the pickle claims it."""

    dtype: str
    key: str
    elements: int


class Tensor(NamedTuple):
    """A tensor as the pickle claims it; offset and strides in elements. Nothing is checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


class StorageType(NamedTuple):
    """Stands for torch.FloatStorage and its kin."""

    dtype: str


class Ordered(dict[str, Any]):
    """Stands for collections.OrderedDict."""


class Call(enum.Enum):
    """Stands for what REDUCE may be applied to."""

    ORDERED_DICT = "OrderedDict"
    TENSOR = "_rebuild_tensor"
    TENSOR_V2 = "_rebuild_tensor_v2"
    REBUILD_PARAMETER = "_rebuild_parameter"


GLOBALS: dict[tuple[str, str], Call | StorageType] = {
    ("collections", "OrderedDict"): Call.ORDERED_DICT,
    ("torch._utils", "_rebuild_tensor"): Call.TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): Call.TENSOR_V2,
    ("torch._utils", "_rebuild_parameter"): Call.REBUILD_PARAMETER,
    ("torch", "DoubleStorage"): StorageType("float64"),
    ("torch", "FloatStorage"): StorageType("float32"),
    ("torch", "HalfStorage"): StorageType("float16"),
    ("torch", "BFloat16Storage"): StorageType("bfloat16"),
    ("torch", "LongStorage"): StorageType("int64"),
    ("torch", "IntStorage"): StorageType("int32"),
    ("torch", "ShortStorage"): StorageType("int16"),
    ("torch", "CharStorage"): StorageType("int8"),
    ("torch", "ByteStorage"): StorageType("uint8"),
    ("torch", "BoolStorage"): StorageType("bool"),
}


class Unpickler:
    """Interprets consecutive pickles in one piece of bytes.

    Attributes:
        position: where the next pickle begins.
        storages: every storage that was named so far, by key.
    """

    def __init__(self, payload: bytes) -> None:
        self._data = payload
        self.position = 0
        self.storages: dict[str, Storage] = {}
        self._opcodes = 0

    def load(self) -> Any:
        """Return the value of the next pickle.

        It consists of None, bool, int, float, str, tuple, list, dict (keys str) and the classes of
        this module. Raises Refused for everything else, struct.error or ValueError where damaged.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        while True:
            self._opcodes += 1
            if self._opcodes > MAX_OPCODES:
                raise Refused(f"a pickle of more than {MAX_OPCODES:,} opcodes")
            code = self._take(1)
            if code == b".":
                if len(self._stack) != 1 or self._marks:
                    raise Refused("damaged: a pickle with surplus values")
                return self._stack.pop()
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(f"pickle opcode 0x{code.hex()}, which no weights need")
            action(self)
            if len(self._stack) > MAX_STACK:
                raise Refused("a pickle that piles up values")

    # Reading arguments

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise Refused("truncated: its pickle has no end")
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + _MAX_LINE)
        if end < 0:
            raise Refused("a pickle that names something very long")
        line = self._data[self.position : end]
        self.position = end + 1
        return line.decode()

    # The stack

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Refused("damaged: a pickle that takes more than it has")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise Refused("damaged: a pickle without a mark")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _top(self, *kinds: type) -> Any:
        value = self._pop()
        self._stack.append(value)
        if kinds and not isinstance(value, kinds):
            raise Refused("damaged: a pickle that fills what is no container")
        return value

    # Opcodes

    def _proto(self) -> None:
        version = self._number("B")
        if version != 2:
            raise Refused(f"pickle protocol {version}; torch.save writes 2 unless told otherwise")

    def _global(self) -> None:
        module, name = self._line(), self._line()
        value = GLOBALS.get((module, name))
        if value is None:
            raise Refused(
                f"it names {shown(f'{module}.{name}')}, which is no part of plain weights; save "
                "only tensors (model.state_dict()) or use safetensors"
            )
        self._stack.append(value)

    def _mark(self) -> None:
        if len(self._marks) >= MAX_MARKS:
            raise Refused(f"a pickle nested deeper than {MAX_MARKS}")
        self._marks.append(len(self._stack))

    def _put(self, index: int) -> None:
        if index >= MAX_MEMO:
            raise Refused(f"a pickle that remembers more than {MAX_MEMO:,} values")
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise Refused("damaged: a pickle that recalls what it never stored")
        self._stack.append(self._memo[index])

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _set_items(self, items: list[Any]) -> None:
        _fill(self._top(dict), items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _append_all(self) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Call) or type(arguments) is not tuple:
            raise Refused("a call of something that is no function")
        if arguments and type(arguments[0]) is list:
            # One list may be handed to many calls: their work counts, not only their number.
            self._opcodes += len(arguments[0])
        self._stack.append(_call(function, arguments))

    def _build(self) -> None:
        """The attributes of an OrderedDict (torch notes versions there) are dropped."""
        state = self._pop()
        if not isinstance(self._top(), Ordered) or not isinstance(state, dict):
            raise Refused("a pickle that sets the state of an object")

    def _persistent(self) -> None:
        claim = self._pop()
        # Five entries in the zip format, six in the older one: the last is a view of a storage.
        whole = type(claim) is tuple and (len(claim) == 5 or (len(claim) == 6 and claim[5] is None))
        if not whole:
            raise Refused("a persistent id that is not a whole storage's")
        word, kind, key, place, count = claim[:5]
        right = isinstance(kind, StorageType) and type(key) is str and type(place) is str
        if type(word) is not str or word != "storage" or not right or type(count) is not int:
            raise Refused("a persistent id that is not a whole storage's")
        storage = Storage(kind.dtype, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {shown(key)} is declared twice, differently")
        self._stack.append(storage)


def _fill(target: dict[str, Any], items: list[Any]) -> None:
    """Put [key, value, key, value, ...] into `target`. Keys: str, or int (optimizers' states)."""
    if len(items) % 2:
        raise Refused("damaged: a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < 2**63):
            raise Refused("a key that is neither a string nor a number")
        # As text: numbers that share a hash would make a dict as slow as a list.
        text = key if isinstance(key, str) else str(key)
        if text in target:
            raise Refused(f"the key {shown(text)} comes twice")
        target[text] = value


def _call(function: Call, arguments: tuple[Any, ...]) -> Any:
    """Return what stands for the result of `function(*arguments)`."""
    if function is Call.ORDERED_DICT and not arguments:
        return Ordered()
    if function is Call.ORDERED_DICT and len(arguments) == 1 and type(arguments[0]) is list:
        # As Python 2 wrote it: one list of [key, value].
        result = Ordered()
        for pair in arguments[0]:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise Refused("damaged: an OrderedDict of no pairs")
            _fill(result, list(pair))
        return result
    right = (function is Call.TENSOR and len(arguments) == 4) or (
        function is Call.TENSOR_V2 and len(arguments) in (6, 7)
    )
    if right and type(arguments[0]) is Storage:
        return Tensor(*arguments[:4])
    if function is Call.REBUILD_PARAMETER and len(arguments) == 3:
        if type(arguments[0]) is not Tensor:
            raise Refused("a parameter that is no tensor")
        return arguments[0]
    raise Refused(f"a call of {function.value} as torch never writes it")


def _push(value: Any) -> Callable[[Unpickler], None]:
    return lambda self: self._stack.append(value)


def _push_number(code: str) -> Callable[[Unpickler], None]:
    return lambda self: self._stack.append(self._number(code))


def _push_text(code: str) -> Callable[[Unpickler], None]:
    return lambda self: self._stack.append(self._take(self._number(code)).decode())


def _push_long(self: Unpickler) -> None:
    self._stack.append(int.from_bytes(self._take(self._number("B")), "little", signed=True))


_ACTIONS: dict[bytes, Callable[[Unpickler], None]] = {
    b"\x80": Unpickler._proto,
    b"c": Unpickler._global,
    b"(": Unpickler._mark,
    b"q": lambda self: self._put(self._number("B")),
    b"r": lambda self: self._put(self._number("<I")),
    b"h": lambda self: self._get(self._number("B")),
    b"j": lambda self: self._get(self._number("<I")),
    b")": lambda self: self._tuple(0),
    b"\x85": lambda self: self._tuple(1),
    b"\x86": lambda self: self._tuple(2),
    b"\x87": lambda self: self._tuple(3),
    b"t": lambda self: self._stack.append(tuple(self._pop_mark())),
    b"]": lambda self: self._stack.append([]),
    b"a": Unpickler._append,
    b"e": Unpickler._append_all,
    b"}": lambda self: self._stack.append({}),
    b"s": Unpickler._set_item,
    b"u": lambda self: self._set_items(self._pop_mark()),
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"J": _push_number("<i"),
    b"K": _push_number("B"),
    b"M": _push_number("<H"),
    b"G": _push_number(">d"),
    b"\x8a": _push_long,
    b"X": _push_text("<I"),
    # What Python 2 wrote for its str.
    b"U": _push_text("B"),
    b"T": _push_text("<I"),
    b"R": Unpickler._reduce,
    b"b": Unpickler._build,
    b"Q": Unpickler._persistent,
}
