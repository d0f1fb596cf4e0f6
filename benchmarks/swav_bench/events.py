"""TensorBoard's event files, written without TensorFlow: records of little protocol buffers with checksums.

A file is a row of records, each: length (uint64), masked CRC-32C of that, the bytes of an Event, masked CRC-32C of
those; all little-endian. An Event has wall_time (1, double), step (2, varint) and either file_version (3, string) or
summary (5), of values (1) with tag (1, string) and simple_value (2, float).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from swav_bench.records import write_atomically

VERSION = "brain.Event:2"
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


def _crc_table() -> tuple[int, ...]:
    polynomial = 0x82F63B78  # Castagnoli's, reflected
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (polynomial if byte & 1 else 0)  # noqa: PLW2901 - shifted bit by bit
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C of the bytes (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def record(event: bytes) -> bytes:
    """An event as it stands in a file."""
    length = struct.pack("<Q", len(event))
    return length + _masked(length) + event + _masked(event)


def scalars(step: int, wall_time: float, values: Mapping[str, float]) -> bytes:
    """The event of some numbers at a step.

    Args:
        step: at least 0.
        wall_time: seconds since 1970.
        values: tag -> number.
    """
    summary = b"".join(
        _field(1, _BYTES, _field(1, _BYTES, tag.encode()) + _field(2, _FLOAT, struct.pack("<f", value)))
        for tag, value in values.items()
    )
    return _timed(wall_time) + _field(2, _VARINT, _varint(step)) + _field(5, _BYTES, summary)


class EventFile:
    """One file for a whole run: written anew from the log when the run goes on, so that no step stands in it twice."""

    def __init__(self, folder: Path, before: Iterable[tuple[int, float, Mapping[str, float]]]) -> None:
        """Writes what has been so far: (step, wall time, values) for each line of the log."""
        old = sorted(folder.glob("events.out.tfevents.*"))
        self.path = old[0] if old else folder / f"events.out.tfevents.{int(time.time()):010d}.swav-bench"
        started = _timed(time.time()) + _field(3, _BYTES, VERSION.encode())
        write_atomically(self.path, b"".join([record(started), *(record(scalars(*line)) for line in before)]))

    def add(self, step: int, wall_time: float, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step."""
        with self.path.open("ab", buffering=0) as file:
            file.write(record(scalars(step, wall_time, values)))


def _timed(wall_time: float) -> bytes:
    return _field(1, _DOUBLE, struct.pack("<d", wall_time))


def _field(number: int, kind: int, content: bytes) -> bytes:
    length = _varint(len(content)) if kind == _BYTES else b""
    return _varint(number << 3 | kind) + length + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
