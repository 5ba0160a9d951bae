"""The on-disk structures of HDF5 that files of weights use, read in pure Python.

After the HDF5 File Format Specification, version 3.0. The C library is not used: it has had memory
errors on crafted files, and nothing in Python can contain those. Each structure is read at most
once, and all of them together may not be longer than twice the file: neither cycles nor structures
that share bytes can make reading long.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from reszoo.weights.readers._base import MAX_NAME, Refused, Source, shown

UNDEFINED = 2**64 - 1

# Messages of object headers.
LINK_INFO, LINK, CONTINUATION, SYMBOL_TABLE = 0x02, 0x06, 0x10, 0x11
_SHARED = 0x02
_HARD, _SOFT, _EXTERNAL = 0, 1, 64
_MAX_TREE_LEVELS = 8


@dataclass(frozen=True)
class Message:
    """A message of an object header."""

    kind: int
    shared: bool
    body: bytes


class Blocks:
    """The structures of one HDF5 file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        # Twice: a header's first bytes are read once more with the rest of it.
        self._budget = 2 * source.size
        self._visited: set[int] = set()
        self._heaps: dict[int, dict[int, bytes]] = {}
        self.end = source.size

    def read(self, at: int, size: int) -> bytes:
        """Return bytes of a structure; Refused once structures claim more than the file has."""
        if at < 0 or size < 0 or at + size > self.end:
            raise Refused("truncated or damaged: a structure of HDF5 lies outside the file")
        self._budget -= size
        if self._budget < 0:
            raise Refused("structures of HDF5 that overlap or repeat")
        return self._source.read(at, size)

    def visit(self, at: int, what: str) -> None:
        """Refused if a structure that begins at `at` was visited before."""
        if at in self._visited:
            raise Refused(f"{what} that is reached twice (a hard link or a cycle)")
        self._visited.add(at)

    def root(self) -> int:
        """Return the address of the root group's object header."""
        head = self.read(0, 12)
        version = head[8]
        if version in (0, 1):
            base_at = 24 if version == 0 else 28
            base, _, end, driver, _, root = struct.unpack("<6Q", self.read(base_at, 48))
            widths = self.read(13, 2)
        elif version in (2, 3):
            base, driver, end, root = struct.unpack("<4Q", self.read(12, 32))
            # The superblock's extension holds nothing that is needed for reading.
            driver, widths = UNDEFINED, head[9:11]
        else:
            raise Refused(f"a superblock of version {version}; read: 0 to 3")
        if widths != b"\x08\x08" or base != 0 or driver != UNDEFINED:
            raise Refused("an HDF5 file of a form that h5py does not write")
        if end > self._source.size:
            raise Refused(f"truncated: {end:,} bytes were written, {self._source.size:,} are there")
        self.end = end
        return root

    # Object headers

    def messages(self, at: int, what: str) -> list[Message]:
        """Return the messages of the object header at `at`, an object called `what`."""
        self.visit(at, what)
        prefix = self.read(at, 16)
        result: list[Message] = []
        if prefix[:4] == b"OHDR":
            flags = prefix[5]
            start = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self.read(start, width), "little")
            chunks = [self.read(start + width, size)]
            if prefix[4] != 2:
                raise Refused(f"{what} has an object header of version {prefix[4]}")
            head = 6 if flags & 0x04 else 4
        elif prefix[0] == 1:
            (size,) = struct.unpack_from("<I", prefix, 8)
            chunks = [self.read(at + 16, size)]
            head = 8
        else:
            raise Refused(f"{what} has no object header: damaged")
        for chunk in chunks:
            position = 0
            while position + head <= len(chunk):
                if head == 8:
                    kind, size, flags = struct.unpack_from("<HHB", chunk, position)
                else:
                    kind, size, flags = struct.unpack_from("<BHB", chunk, position)
                body = chunk[position + head : position + head + size]
                if len(body) != size:
                    raise Refused(f"{what} has a damaged object header")
                position += head + size
                if kind == CONTINUATION:
                    chunks.append(self._continuation(body, versioned=head != 8))
                elif kind:
                    result.append(Message(kind, bool(flags & _SHARED), body))
        return result

    def _continuation(self, body: bytes, versioned: bool) -> bytes:
        at, size = struct.unpack_from("<2Q", body)
        self.visit(at, "a continuation")
        block = self.read(at, size)
        if not versioned:
            return block
        if block[:4] != b"OCHK" or size < 8:
            raise Refused("a damaged continuation of an object header")
        return block[4:-4]

    def heap_object(self, at: int, index: int) -> bytes:
        """Return an object of the global heap at `at`, where texts of variable length lie."""
        if at not in self._heaps:
            self.visit(at, "a global heap")
            mark, size = struct.unpack("<8sQ", self.read(at, 16))
            if mark[:5] != b"GCOL\1":
                raise Refused("a damaged global heap")
            body = self.read(at + 16, size - 16)
            objects: dict[int, bytes] = {}
            position = 0
            while position + 16 <= len(body):
                number, length = struct.unpack_from("<H6xQ", body, position)
                if number == 0:  # the rest is free
                    break
                position += 16
                objects[number] = body[position : position + length]
                position += -(-length // 8) * 8
            self._heaps[at] = objects
        if index not in self._heaps[at]:
            raise Refused("a text that is not in its global heap")
        return self._heaps[at][index]

    # Groups

    def links(self, messages: list[Message], what: str) -> Iterator[tuple[str, int]]:
        """Yield (name, address of the object header) of a group's members; only hard links."""
        for message in messages:
            if message.kind in (SYMBOL_TABLE, LINK, LINK_INFO) and message.shared:
                raise Refused(f"{what} has shared messages")
            if message.kind == SYMBOL_TABLE:
                tree, heap = struct.unpack_from("<2Q", message.body)
                names = self._local_heap(heap)
                for node in self.tree(tree, 0, 8, what):
                    yield from self._symbols(node[1], names, what)
            elif message.kind == LINK:
                yield _link(message.body, what)
            elif message.kind == LINK_INFO:
                at = 10 if message.body[1] & 1 else 2
                heap, index = struct.unpack_from("<2Q", message.body, at)
                if heap != UNDEFINED:
                    for body in self._heap_objects(heap, index, what):
                        yield _link(body, what)

    def tree(self, at: int, kind: int, key_size: int, what: str) -> Iterator[tuple[bytes, int]]:
        """Yield (key, address) of each entry in the leaves of a version-1 B-tree."""
        level: int | None = None
        waiting = [(at, level)]
        while waiting:
            at, level = waiting.pop()
            self.visit(at, f"a tree node of {what}")
            mark, found_kind, found, used = struct.unpack("<4sBBH", self.read(at, 8))
            expected = found if level is None else level
            if mark != b"TREE" or found_kind != kind or found != expected:
                raise Refused(f"{what} has a damaged tree")
            if found > _MAX_TREE_LEVELS:
                raise Refused(f"{what} has a tree of {found} levels")
            body = self.read(at + 24, used * (key_size + 8))
            children = []
            for position in range(0, len(body), key_size + 8):
                key = body[position : position + key_size]
                (child,) = struct.unpack_from("<Q", body, position + key_size)
                if found == 0:
                    yield key, child
                else:
                    children.append((child, found - 1))
            waiting += reversed(children)

    def _local_heap(self, at: int) -> bytes:
        mark, size, _, data = struct.unpack("<8s3Q", self.read(at, 32))
        if mark[:5] != b"HEAP\0":
            raise Refused("a damaged heap of names")
        return self.read(data, size)

    def _symbols(self, at: int, names: bytes, what: str) -> Iterator[tuple[str, int]]:
        self.visit(at, f"a symbol node of {what}")
        mark, count = struct.unpack("<6sH", self.read(at, 8))
        if mark[:5] != b"SNOD\1":
            raise Refused(f"{what} has a damaged symbol node")
        body = self.read(at + 8, count * 40)
        for position in range(0, len(body), 40):
            name_at, header, cache = struct.unpack_from("<QQI", body, position)
            end = names.find(b"\0", name_at, name_at + MAX_NAME + 1)
            if name_at >= len(names) or end < 0:
                raise Refused(f"{what} has a name outside its heap, or a very long one")
            name = names[name_at:end].decode()
            if cache not in (0, 1) or header == UNDEFINED:
                raise Refused(f"{what} has a soft link, {shown(name)}, which is not followed")
            yield name, header

    # Groups with more than eight members, as HDF5 1.8 and later may write them

    def _heap_objects(self, at: int, index: int, what: str) -> Iterator[bytes]:
        """Yield the links in a fractal heap, which a version-2 B-tree lists by name."""
        head = self.read(at, 142)
        mark, _, filters, flags = struct.unpack_from("<4sxHHB", head)
        (width, start, largest, bits, _, block, rows) = struct.unpack_from("<HQQHHQH", head, 110)
        if mark != b"FRHP" or filters or not 1 <= width <= 16 or not 8 <= bits <= 64:
            raise Refused(f"{what} has a heap of links of an unknown form")
        powers = (
            start > 0 and largest >= start and not (start & (start - 1) or largest & (largest - 1))
        )
        if not powers or largest > 2**24 or rows > largest.bit_length() - start.bit_length() + 2:
            raise Refused(f"{what} has a heap of links of an unknown form")
        offset_size = (bits + 7) // 8
        overhead = 5 + 8 + offset_size + (4 if flags & 2 else 0)
        # Blocks of a row are equally large: start, start, 2 start, 4 start, … (width of each).
        if rows:
            table = self.read(block + 5 + 8 + offset_size, rows * width * 8)
            addresses = struct.unpack(f"<{rows * width}Q", table)
        else:
            addresses = (block,)
        blocks: list[tuple[int, int, bytes]] = []
        begin = 0
        for number, address in enumerate(addresses):
            size = start << max(0, number // width - 1)
            if address != UNDEFINED:
                self.visit(address, f"a heap block of {what}")
                blocks.append((begin, begin + size, self.read(address, size)))
            begin += size
        for record in self._tree2(index, what):
            kind, offset, length = record[0], 0, 0
            offset = int.from_bytes(record[1 : 1 + offset_size], "little")
            length = int.from_bytes(record[1 + offset_size :], "little")
            for first, behind, data in blocks:
                if first + overhead <= offset and offset + length <= behind and not kind & 0xF0:
                    yield data[offset - first : offset - first + length]
                    break
            else:
                raise Refused(f"{what} has a link outside its heap")

    def _tree2(self, at: int, what: str) -> Iterator[bytes]:
        """Yield the heap ids (7 bytes) in a version-2 B-tree of links by name."""
        head = self.read(at, 38)
        mark, kind, node_size, record_size, depth = struct.unpack_from("<5sBIHH", head)
        root, count = struct.unpack_from("<QH", head, 16)
        if mark != b"BTHD\0" or kind != 5 or record_size != 11 or not 64 <= node_size <= 2**20:
            raise Refused(f"{what} has an index of an unknown form")
        if depth > _MAX_TREE_LEVELS:
            raise Refused(f"{what} has an index of {depth} levels")
        most = (node_size - 10) // record_size
        count_size = _width(most)
        # For each level: most records in the nodes below it, and bytes that such a total takes.
        below, total_sizes = most, [0]
        for _ in range(depth):
            pointer = 8 + count_size + total_sizes[-1]
            inner = (node_size - 10 - pointer) // (record_size + pointer)
            below = (inner + 1) * below + inner
            total_sizes.append(_width(below))
        waiting = [(root, count, depth)] if root != UNDEFINED else []
        while waiting:
            at, count, level = waiting.pop()
            self.visit(at, f"an index node of {what}")
            node = self.read(at, node_size)
            pointer = 8 + count_size + (total_sizes[level - 1] if level else 0)
            used = 6 + count * record_size + ((count + 1) * pointer if level else 0)
            if node[:6] != (b"BTIN" if level else b"BTLF") + b"\0\5" or used > node_size:
                raise Refused(f"{what} has a damaged index")
            for position in range(6, 6 + count * record_size, record_size):
                yield node[position + 4 : position + record_size]
            for position in range(6 + count * record_size, used if level else 0, pointer):
                (child,) = struct.unpack_from("<Q", node, position)
                number = int.from_bytes(node[position + 8 : position + 8 + count_size], "little")
                waiting.append((child, number, level - 1))


def _width(limit: int) -> int:
    """Bytes that HDF5 takes for a number of at most `limit`."""
    return (max(limit, 1).bit_length() - 1) // 8 + 1


def _link(body: bytes, what: str) -> tuple[str, int]:
    """Return (name, address) of a link message; Refused unless it is a hard link."""
    version, flags = body[0], body[1]
    if version != 1:
        raise Refused(f"{what} has a link of version {version}")
    position = 2
    kind = _HARD
    if flags & 0x08:
        kind = body[position]
        position += 1
    position += (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(body[position : position + width], "little")
    position += width
    name = body[position : position + size].decode()
    if kind != _HARD:
        word = {_SOFT: "a soft", _EXTERNAL: "an external"}.get(kind, "an unknown")
        raise Refused(f"{what} has {word} link, {shown(name)}, which is not followed")
    (address,) = struct.unpack_from("<Q", body, position + size)
    return name, address
