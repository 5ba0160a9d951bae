"""Where the images lie in TFRecord shards of tf.train.Example, without TensorFlow.

A shard is a sequence of records; every number is little-endian:

    uint64 length | uint32 masked CRC-32C of these 8 bytes | data | uint32 masked CRC-32C of data

The data is a protobuf tf.train.Example. The features read are "image", one bytes value, and
"label", one int64 value. The CRC of the data is not checked: that would read every byte.

Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/{example,feature}.proto,
protobuf.dev/programming-guides/encoding, RFC 3720 appendix B.4 (CRC-32C).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ablations.data.base import DataError

_BLOCK = 16 * 1024
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _INT64_LIST = 1, 3
_FEATURES = (b"image", b"label")
_T = TypeVar("_T")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, rotated and offset as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Example:
    """One record: where its encoded image lies in the shard, in bytes, and its label."""

    start: int
    size: int
    label: int


class Malformed(ValueError):
    """Bytes that are not what they should be, and what is wrong with them."""


class Source:
    """Random access to a file in blocks. Errors of the file system are raised as OSError."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._at, self._block = 0, b""

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start to stop - 1; raises Malformed where the file has no such bytes."""
        if not 0 <= start <= stop <= self.size:
            raise Malformed("the file ends before")
        if start < self._at or stop > self._at + len(self._block):
            self._at, self._block = start, self._fetch(start, max(stop - start, _BLOCK))
        if stop > self._at + len(self._block):
            raise Malformed("the file has become shorter")
        return self._block[start - self._at : stop - self._at]

    def _fetch(self, start: int, count: int) -> bytes:
        block = os.pread(self._descriptor, count, start)
        while block and len(block) < min(count, self.size - start):
            more = os.pread(self._descriptor, count - len(block), start + len(block))
            if not more:
                break
            block += more
        return block


def examples(path: Path, source: Source) -> Iterator[Example]:
    """Yield the records of a shard in order.

    Raises DataError naming the shard for one that is truncated, damaged, or holds other records.
    """
    at, number = 0, 0
    while at < source.size:
        try:
            data, after = _record(source, at)
            example = _example(source, data, after)
        except Malformed as error:
            raise DataError(
                f"{path}: damaged or truncated at record {number}, byte {at:,} ({error}); "
                "copy or prepare this shard again"
            ) from error
        yield example
        at, number = after + 4, number + 1


def _record(source: Source, at: int) -> tuple[int, int]:
    """Return begin and end of the data of the record at `at`."""
    if at + 12 > source.size:
        raise Malformed("the file ends within a record's length")
    header = source.read(at, at + 12)
    length, crc = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != crc:
        raise Malformed("wrong CRC of a record's length")
    begin, end = at + 12, at + 12 + length
    if end + 4 > source.size:
        raise Malformed(f"a record of {length:,} bytes, but the file ends before")
    return begin, end


def _varint(source: Source, at: int, end: int) -> tuple[int, int]:
    """Return an unsigned number of up to 64 bits and where it ends."""
    value = 0
    for index, byte in enumerate(source.read(at, min(at + 10, end))):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at + index + 1
    raise Malformed("an endless number in a tf.train.Example")


def _fields(source: Source, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, begin, end) of the values of one message.

    begin and end enclose the value's bytes: for a varint the varint itself.
    """
    while at < end:
        key, begin = _varint(source, at, end)
        kind = key & 7
        if kind == _VARINT:
            at = _varint(source, begin, end)[1]
        elif kind == _BYTES:
            length, begin = _varint(source, begin, end)
            at = begin + length
        elif kind in (_FIXED64, _FIXED32):
            at = begin + (8 if kind == _FIXED64 else 4)
        else:
            raise Malformed(f"wire type {kind} in a tf.train.Example")
        if at > end:
            raise Malformed("a field that is longer than its tf.train.Example")
        yield key >> 3, kind, begin, at


def _messages(source: Source, at: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the length-delimited fields `number` of one message."""
    for field, kind, begin, stop in _fields(source, at, end):
        if field == number and kind == _BYTES:
            yield begin, stop


def _example(source: Source, at: int, end: int) -> Example:
    """Parse Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }."""
    found: dict[bytes, tuple[int, int]] = {}
    for features in _messages(source, at, end, 1):
        for entry in _messages(source, *features, 1):
            name, value = b"", None
            for field, kind, begin, stop in _fields(source, *entry):
                if kind == _BYTES and field == 1 and stop - begin <= 64:
                    name = source.read(begin, stop)
                elif kind == _BYTES and field == 2:
                    value = begin, stop
            if name in _FEATURES and value is not None:
                found[name] = value  # of a key given twice the last one counts, as in protobuf
    for feature in _FEATURES:
        if feature not in found:
            raise Malformed(f'an example without a feature "{feature.decode()}"')
    image = _single(_image_values(source, *found[b"image"]), '"image" is not one bytes value')
    label = _single(_label_values(source, *found[b"label"]), '"label" is not one int64 value')
    return Example(image[0], image[1] - image[0], label)


def _single(values: list[_T], problem: str) -> _T:
    if len(values) != 1:
        raise Malformed(problem)
    return values[0]


def _image_values(source: Source, at: int, end: int) -> list[tuple[int, int]]:
    """Feature { BytesList bytes_list = 1 { repeated bytes value = 1 } }: begins and ends."""
    lists = _messages(source, at, end, _BYTES_LIST)
    return [value for one in lists for value in _messages(source, *one, 1)]


def _label_values(source: Source, at: int, end: int) -> list[int]:
    """Feature { Int64List int64_list = 3 { repeated int64 value = 1 } }, packed or not."""
    values = []
    for one in _messages(source, at, end, _INT64_LIST):
        for field, kind, begin, stop in _fields(source, *one):
            while field == 1 and kind in (_VARINT, _BYTES) and begin < stop:
                value, begin = _varint(source, begin, stop)
                values.append(value - (1 << 64) if value >> 63 else value)
    return values
