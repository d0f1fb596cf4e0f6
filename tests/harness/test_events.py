"""TensorBoard's files, read by another reader than the one that wrote them."""

from __future__ import annotations

import struct

import pytest

from swav_bench.events import VERSION, EventFile, crc32c


def fields(data):
    """(field number, value) of a protocol buffer, by the wire format's definition."""
    found, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value = data[at : at + size]
            at += size
        found.append((key >> 3, value))
    return found


def events(path):
    """Every event of a file; checksums are checked."""
    data, at, found = path.read_bytes(), 0, []

    def unmasked(masked):
        rotated = masked - 0xA282EAD8 & 0xFFFFFFFF
        return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF

    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        assert unmasked(check) == crc32c(data[at : at + 8])
        event = data[at + 12 : at + 12 + length]
        assert unmasked(struct.unpack_from("<I", data, at + 12 + length)[0]) == crc32c(event)
        found.append(dict(fields(event)))
        at += 16 + length
    return found


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (bytes([0xFF] * 32), 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_by_its_published_examples(data, wanted):
    assert crc32c(data) == wanted


def test_what_is_written_is_what_is_read(tmp_path):
    file = EventFile(tmp_path, [(1, 1000.5, {"train/loss": 3.25}), (300, 1001.5, {"train/loss": 2.5, "train/lr": 0.5})])
    file.add(70_000, 1002.5, {"train/loss": 1.75})
    first, *others = events(file.path)
    assert first[3] == VERSION.encode()
    assert [event[2] for event in others] == [1, 300, 70_000]
    assert [struct.unpack("<d", event[1])[0] for event in others] == [1000.5, 1001.5, 1002.5]
    values = [dict(fields(value)) for _, value in fields(others[1][5])]
    assert [(value[1], struct.unpack("<f", value[2])[0]) for value in values] == [
        (b"train/loss", 2.5),
        (b"train/lr", 0.5),
    ]


def test_a_run_that_goes_on_has_one_file_with_every_step_once(tmp_path):
    EventFile(tmp_path, []).add(5, 1000.0, {"train/loss": 3.0})
    again = EventFile(tmp_path, [(3, 999.0, {"train/loss": 3.5})])
    again.add(5, 1001.0, {"train/loss": 3.25})
    assert list(tmp_path.iterdir()) == [again.path]
    assert [event[2] for event in events(again.path)[1:]] == [3, 5]
