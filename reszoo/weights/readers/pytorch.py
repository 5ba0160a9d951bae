"""Readers of both file formats of torch.save, without torch; see `_unpickler`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from reszoo.weights.readers._base import (
    ITEM_SIZES,
    MAX_ELEMENTS,
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
from reszoo.weights.readers._unpickler import MAX_BYTES, Storage, Tensor, Unpickler
from reszoo.weights.readers._zip import Archive

# PROTO 2 and the first of the format's own pickles: a 10-byte number, alone.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PROTOCOL = 1001

# Where training scripts put the network's tensors, the first of these that is there is shown:
# averaged weights before those of the last step, as timm's load_state_dict has it.
STATE_KEYS = (
    "state_dict_ema",
    "model_ema",
    "model_state_dict_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "ema",
)
_MAX_LEVELS = 4

# (storage, first byte, byte behind the last) -> these bytes.
_Fetch = Callable[[Storage, int, int], Array]


def read_zip(source: Source, archive: Archive) -> Contents:
    """Read the format of torch >= 1.6: a zip with NAME/data.pkl and NAME/data/KEY.

    Raises Refused, struct.error or ValueError for anything but plain tensors that lie wholly in
    storages whose declared sizes are those of their members.
    """
    members = archive.members
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Refused(f"{len(pickles)} members */data.pkl where torch writes one")
    top = pickles[0].removesuffix("data.pkl")
    for name, member in members.items():
        if not name.startswith(top):
            raise Refused(f"member {shown(name)} is not in {shown(top)} as torch writes it")
        if member.deflated:
            raise Refused(f"member {shown(name)} is compressed, which torch never does")
    if any(name.startswith((f"{top}constants.pkl", f"{top}code/")) for name in members):
        raise Refused("a TorchScript program, not weights; save model.state_dict() instead")
    order = members.get(f"{top}byteorder")
    if order is not None and archive.head(order, 8) != b"little":
        raise Refused("written on a big-endian machine; only little-endian files are read")
    if members[pickles[0]].size > MAX_BYTES:
        raise Refused(f"its pickle is larger than {MAX_BYTES:,} bytes")
    payload = archive.read(members[pickles[0]]).tobytes()
    unpickler = Unpickler(payload)
    root = unpickler.load()
    if unpickler.position != len(payload):
        raise Refused("bytes behind its pickle")
    for storage in unpickler.storages.values():
        stored = members.get(f"{top}data/{storage.key}")
        if stored is None:
            raise Refused(f"storage {shown(storage.key)} is not in the file")
        _check_size(storage, stored.size)

    def fetch(storage: Storage, start: int, stop: int) -> Array:
        return archive.part(members[f"{top}data/{storage.key}"], start, stop)

    return _contents(root, fetch, source.size)


def read_legacy(source: Source) -> Contents:
    """Read the older format: five pickles, then each storage as int64 count and raw bytes.

    Raises Refused, struct.error or ValueError for anything but plain tensors that lie wholly in
    storages whose declared sizes are those in the file, which ends with the last of them.
    """
    unpickler = Unpickler(source.read(0, min(source.size, MAX_BYTES)))
    unpickler.load()
    protocol = unpickler.load()
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise Refused(f"a torch file of a protocol other than {_LEGACY_PROTOCOL}")
    system = unpickler.load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("written on a big-endian machine; only little-endian files are read")
    root = unpickler.load()
    declared = dict(unpickler.storages)
    keys = unpickler.load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Refused("damaged: its list of storages is none")
    if len(set(keys)) != len(keys) or set(keys) != set(declared):
        raise Refused("the storages that it lists are not those that its tensors use")
    places: dict[str, int] = {}
    position = unpickler.position
    for key in keys:
        (count,) = struct.unpack("<q", source.read(position, 8))
        storage = declared[key]
        if count != storage.elements:
            raise Refused(
                f"storage {shown(key)} has two sizes: {storage.elements} and {count} elements"
            )
        size = count * ITEM_SIZES[storage.dtype]
        if count < 0 or size > source.size - position - 8:
            raise Refused(f"storage {shown(key)} is cut off: truncated or damaged")
        places[key] = position + 8
        position += 8 + size
    if position != source.size:
        raise Refused(f"{source.size - position:,} bytes behind its last storage")

    def fetch(storage: Storage, start: int, stop: int) -> Array:
        return source.array(places[storage.key] + start, stop - start)

    return _contents(root, fetch, source.size)


def _check_size(storage: Storage, size: int) -> None:
    if storage.elements < 0 or storage.elements * ITEM_SIZES[storage.dtype] != size:
        raise Refused(
            f"storage {shown(storage.key)} claims {storage.elements} elements of {storage.dtype}, "
            f"its {size} bytes hold another number"
        )


def _contents(root: Any, fetch: _Fetch, file_size: int) -> Contents:
    """Find the state dict in `root` and check each of its tensors."""
    state, note, passed_over = _state_dict(root)
    entries: dict[str, Entry] = {}
    others = []
    claimed = 0
    for name, value in state.items():
        if type(value) is not Tensor:
            others.append(name)
            continue
        check_name(name)
        entries[name] = _entry(name, value, fetch)
        claimed += _bytes_of(entries[name])
        if len(entries) > MAX_TENSORS:
            raise Refused(f"more than {MAX_TENSORS:,} tensors")
    # Tensors may share a storage (tied weights), but not so that a small file asks for much.
    if claimed > 2 * file_size:
        raise Refused(f"its tensors claim {claimed:,} bytes, the file has {file_size:,}")
    if others:
        note += ("; " if note else "") + f"no tensors: {_listed(others)}"
    return Contents(entries, note=note, passed_over=passed_over)


def _entry(name: str, tensor: Tensor, fetch: _Fetch) -> Entry:
    storage, offset, shape, strides = tensor
    what = f"tensor {shown(name)}"
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise Refused(f"{what} has an impossible shape")
    count = count_elements(shape, what)
    if not all(type(step) is int and 0 <= step <= MAX_ELEMENTS for step in strides):
        raise Refused(f"{what} has impossible strides")
    if type(offset) is not int or offset < 0:
        raise Refused(f"{what} begins outside its storage")
    span = 0
    if count:
        span = 1 + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    # A stride of 0 could make any shape out of one element.
    if count > storage.elements or offset > storage.elements - span:
        raise Refused(f"{what} reaches outside its storage of {storage.elements} elements")
    size = ITEM_SIZES[storage.dtype]

    def load() -> Array:
        raw = fetch(storage, offset * size, (offset + span) * size)
        return decode(raw, storage.dtype, shape, strides=strides if count else None)

    return Entry(storage.dtype, shape, load)


def _bytes_of(entry: Entry) -> int:
    size = ITEM_SIZES[entry.dtype]
    for side in entry.shape:
        size *= side
    return size


def _state_dict(root: Any) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """Return the dict whose values are the network's tensors, a note about it, and its rivals."""
    path = _path_to_tensors(root, (), set())
    if path is None:
        kind = f"a dict with {_listed(list(root))}" if isinstance(root, dict) else "no dict"
        raise Refused(
            f"no state dict in it: {kind}; read are a dict of tensors, or one under a key "
            f"such as {', '.join(STATE_KEYS[4:7])}"
        )
    node, others = root, []
    rivals: list[str] = []
    for key in path:
        others += [other for other in node if other != key]
        rivals += [k for k in STATE_KEYS if k != key and _path_to_tensors(node.get(k), (), set())
                   is not None]  # fmt: skip
        node = node[key]
    note = f"shown: {'.'.join(path)}" if path else ""
    return node, note + (f"; also there: {_listed(others)}" if others else ""), tuple(rivals)


def _path_to_tensors(node: Any, path: tuple[str, ...], seen: set[int]) -> tuple[str, ...] | None:
    """Return the STATE_KEYS that lead to a dict with tensors; each dict is looked at once."""
    if not isinstance(node, dict) or id(node) in seen or len(path) > _MAX_LEVELS:
        return None
    seen.add(id(node))
    for key in STATE_KEYS:
        found = _path_to_tensors(node.get(key), (*path, key), seen)
        if found is not None:
            return found
    return path if any(type(value) is Tensor for value in node.values()) else None


def _listed(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(shown(name) for name in names[:limit]) or "nothing") + more
