"""A strict reader of zip archives: what torch.save and numpy.savez write, and no more.

The standard library's zipfile accepts what an archive of weights never has and attacks do: two
members of one name, members that overlap, local headers that contradict the central directory,
data before the archive or between its members. Here members follow one another without a gap, but
for the sizes that may stand behind a member's data, or the archive is refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np

from reszoo.weights.readers._base import (
    INFLATE_FLOOR,
    INFLATE_RATIO,
    MAX_TENSORS,
    Array,
    Refused,
    Source,
    check_name,
    plural,
    shown,
)

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
# Compression level (bits 1, 2), sizes behind the data (bit 3), UTF-8 (bit 11). Bit 0 encrypts.
_FLAGS = 0x080E
_BEHIND = 0x0008
_STORED, _DEFLATED = 0, 8
_PIECE = 1 << 20


@dataclass(frozen=True)
class Member:
    """A member: where its stored bytes begin, how many they are, and how many they become.

    `behind`: whether its checksum and sizes may stand behind them once more.
    """

    name: str
    offset: int
    packed: int
    size: int
    deflated: bool
    crc: int
    behind: bool = False


class Archive:
    """The members of a zip file, by name. Everything is checked here except the data's CRC-32.

    Raises Refused unless it is a single-disk, unencrypted archive of stored or deflated members
    with distinct relative names that do not overlap and agree with the central directory, and
    unless no member claims more than its bytes can reasonably hold.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._intact: set[str] = set()
        count, start, size = self._find_directory()
        if count > MAX_TENSORS:
            raise Refused(f"a zip with {count:,} members")
        directory = source.read(start, size)
        headers: dict[str, tuple[int, Member]] = {}
        position = 0
        for _ in range(count):
            at, member, position = _central_entry(directory, position)
            if member.name in headers:
                raise Refused(f"two members of the zip are called {shown(member.name)}")
            headers[member.name] = (at, self._local(at, member))
        if position != len(directory):
            raise Refused("the zip's central directory has surplus bytes")
        ends: tuple[int, ...] = (0,)
        for at, member in sorted(headers.values(), key=lambda item: item[0]):
            if at < ends[0]:
                raise Refused(f"member {shown(member.name)} overlaps another one")
            if at not in ends:
                raise Refused(f"bytes that belong to nothing before {shown(member.name)}")
            ends = self._ends(member)
        if start < ends[0]:
            raise Refused("members overlap the zip's central directory")
        if start not in ends:
            raise Refused("bytes that belong to nothing before the zip's central directory")
        self.members = {name: member for name, (_, member) in headers.items()}
        claimed = sum(member.size for member in self.members.values())
        if claimed > INFLATE_FLOOR + INFLATE_RATIO * source.size:
            raise Refused(f"a zip bomb: its members claim {plural(claimed, 'byte')}")

    def _find_directory(self) -> tuple[int, int, int]:
        """Return number of entries, offset and size of the central directory."""
        source = self._source
        tail_at = max(0, source.size - _END.size - 0xFFFF)
        tail = source.read(tail_at, source.size - tail_at)
        found = tail.rfind(b"PK\5\6")
        if found < 0 or len(tail) - found < _END.size:
            raise Refused("a zip without an end: truncated or damaged")
        end_at = tail_at + found
        fields = _END.unpack_from(tail, found)
        _, disk, first_disk, here, count, size, start, comment = fields
        if end_at + _END.size + comment != source.size:
            raise Refused("bytes behind the end of the zip")
        if max(here, count) == 0xFFFF or max(size, start) == 0xFFFFFFFF:
            locator = source.read(end_at - _LOCATOR.size, _LOCATOR.size)
            mark, disk64, end64_at, disks = _LOCATOR.unpack(locator)
            if mark != b"PK\6\7" or disk64 or disks > 1:
                raise Refused("the zip's 64-bit locator is damaged")
            fields = _END64.unpack(source.read(end64_at, _END64.size))
            mark, length, _, _, disk, first_disk, here, count, size, start = fields
            if mark != b"PK\6\6" or length != _END64.size - 12:
                raise Refused("the zip's 64-bit end is damaged")
            if end64_at + _END64.size != end_at - _LOCATOR.size:
                raise Refused("the zip's two ends contradict each other")
            end_at = end64_at
        elif self._has_locator(end_at):
            # Written beside a 32-bit end that suffices; both must then say the same.
            end64_at = end_at - _LOCATOR.size - _END64.size
            fields = _END64.unpack(source.read(end64_at, _END64.size))
            if fields[0] != b"PK\6\6" or fields[6:] != (here, count, size, start):
                raise Refused("the zip's two ends contradict each other")
            end_at = end64_at
        if disk or first_disk or here != count:
            raise Refused("a zip in several parts")
        if start + size != end_at:
            raise Refused("the zip's central directory is not where its end says")
        return count, start, size

    def _has_locator(self, end_at: int) -> bool:
        at = end_at - _LOCATOR.size
        return at >= _END64.size and self._source.read(at, 4) == b"PK\6\7"

    def _local(self, at: int, member: Member) -> Member:
        """Return `member` with the offset of its data; its local header must agree with it."""
        fields = _LOCAL.unpack(self._source.read(at, _LOCAL.size))
        mark, _, flags, method, _, _, crc, packed, size, name_size, extra_size = fields
        rest = self._source.read(at + _LOCAL.size, name_size + extra_size)
        if mark != b"PK\3\4" or rest[:name_size] != member.name.encode():
            raise Refused(f"two names for the member {shown(member.name)} of the zip")
        if method != (_DEFLATED if member.deflated else _STORED) or flags & ~_FLAGS:
            raise Refused(f"two headers of {shown(member.name)} contradict each other")
        size, packed = _wide(rest[name_size:], [size, packed])
        behind = bool(flags & _BEHIND) and (crc, packed, size) == (0, 0, 0)
        if not behind and (crc, packed, size) != (member.crc, member.packed, member.size):
            raise Refused(f"two sizes of {shown(member.name)} contradict each other")
        offset = at + _LOCAL.size + len(rest)
        return replace(member, offset=offset, behind=bool(flags & _BEHIND))

    def _ends(self, member: Member) -> tuple[int, ...]:
        """Return where a member may end: behind its data, or behind its sizes that follow."""
        end = member.offset + member.packed
        ends = [end]
        small = max(member.packed, member.size) <= 0xFFFFFFFF
        for form in ("<L2L", "<L2Q") if small else ("<L2Q",):
            sizes = struct.pack(form, member.crc, member.packed, member.size)
            for record in (b"PK\7\x08" + sizes, sizes):
                room = member.behind and self._source.size - end >= len(record)
                if room and self._source.read(end, len(record)) == record:
                    ends.append(end + len(record))
        return tuple(ends)

    def read(self, member: Member) -> Array:
        """Return the member's data, uint8 (size,); Refused if its size or CRC-32 is another."""
        if not member.deflated:
            data = self._source.array(member.offset, member.size)
        else:
            data = np.empty(member.size, dtype=np.uint8)
            self._inflate(member, data.data, member.size + 1)
        if zlib.crc32(data.data) != member.crc:
            raise Refused(f"the checksum of {shown(member.name)} is wrong: damaged")
        self._intact.add(member.name)
        return data

    def head(self, member: Member, count: int) -> bytes:
        """Return the first `count` bytes of the member's data, or all if it has fewer."""
        count = min(count, member.size)
        if not member.deflated:
            return self._source.read(member.offset, count)
        data = bytearray(count)
        self._inflate(member, memoryview(data), count)
        return bytes(data)

    def part(self, member: Member, start: int, stop: int) -> Array:
        """Return bytes [start, stop) of a stored member; its CRC-32 is checked once, in pieces."""
        if (start, stop) == (0, member.size):
            return self.read(member)
        if member.name not in self._intact:
            crc = 0
            for at in range(0, member.size, _PIECE):
                size = min(_PIECE, member.size - at)
                crc = zlib.crc32(self._source.read(member.offset + at, size), crc)
            if crc != member.crc:
                raise Refused(f"the checksum of {shown(member.name)} is wrong: damaged")
            self._intact.add(member.name)
        return self._source.array(member.offset + start, stop - start)

    def _inflate(self, member: Member, target: memoryview, limit: int) -> None:
        """Fill `target`; at most `limit` bytes are inflated, and exactly len(target) must come."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        done, at = 0, 0
        waiting = b""
        while done < limit and not inflater.eof:
            if not waiting:
                size = min(_PIECE, member.packed - at)
                waiting = self._source.read(member.offset + at, size)
                at += size
            try:
                piece = inflater.decompress(waiting, min(_PIECE, limit - done))
            except zlib.error as error:
                raise Refused(f"{shown(member.name)} does not inflate: damaged") from error
            # Output may be pending after the last input, but not without any progress.
            if not piece and not waiting and not inflater.eof:
                break
            waiting = inflater.unconsumed_tail
            if done + len(piece) > len(target):
                break
            target[done : done + len(piece)] = piece
            done += len(piece)
        else:
            if done == len(target):
                return
        raise Refused(f"{shown(member.name)} inflates to another size than it claims")


def _central_entry(directory: bytes, position: int) -> tuple[int, Member, int]:
    """Return (offset of the local header, member without offset, position of the next entry)."""
    if len(directory) - position < _CENTRAL.size:
        raise Refused("the zip's central directory is cut off")
    fields = _CENTRAL.unpack_from(directory, position)
    mark, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_size, extra_size, comment_size, disk, _, _, at = fields[10:]
    name_at = position + _CENTRAL.size
    extra_at = name_at + name_size
    end = extra_at + extra_size + comment_size
    if mark != b"PK\1\2" or end > len(directory):
        raise Refused("the zip's central directory is damaged")
    name = _member_name(directory[name_at:extra_at])
    if flags & ~_FLAGS:
        raise Refused(f"member {shown(name)} is encrypted or of an unknown kind")
    if method not in (_STORED, _DEFLATED):
        raise Refused(f"member {shown(name)} has compression method {method}; read: 0 and 8")
    size, packed, at = _wide(directory[extra_at : extra_at + extra_size], [size, packed, at])
    if disk or (method == _STORED and packed != size):
        raise Refused(f"the sizes of {shown(name)} contradict each other")
    if size > INFLATE_FLOOR and size > INFLATE_RATIO * packed:
        raise Refused(
            f"a zip bomb: {shown(name)} claims that {plural(packed, 'byte')} become {size:,}"
        )
    return at, Member(name, 0, packed, size, method == _DEFLATED, crc), end


def _member_name(raw: bytes) -> str:
    try:
        name = check_name(raw.decode())
    except UnicodeDecodeError as error:
        raise Refused("a zip member whose name is not UTF-8") from error
    drive = name[1:2] == ":"
    if "\\" in name or drive or any(part in ("", ".", "..") for part in name.split("/")):
        raise Refused(f"a zip member that is called {shown(name)}: not a plain relative path")
    return name


def _wide(extra: bytes, fields: list[int]) -> list[int]:
    """Replace each field that is all ones by the next 64-bit number of the zip64 extra field."""
    numbers: list[int] | None = None
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if position + 4 + size > len(extra):
            break
        if kind == 1:
            if numbers is not None:
                raise Refused("two zip64 fields in one header")
            body = extra[position + 4 : position + 4 + size]
            numbers = list(struct.unpack(f"<{size // 8}Q", body[: size // 8 * 8]))
        position += 4 + size
    result = []
    for value in fields:
        if value == 0xFFFFFFFF:
            if not numbers:
                raise Refused("a zip header without the 64-bit size that it announces")
            value = numbers.pop(0)
        result.append(value)
    return result
