"""Philox against the vectors published with it, and the numbers made of its words."""

import numpy as np
import pytest

from swav_spec.philox import below, philox4x32, uniform

ONES = 0xFFFFFFFF
#: counter, key, result: known answers of the authors' Random123 library for philox4x32-10.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox4x32(counter, key)) == expected


def test_arrays_are_the_single_draws():
    words = philox4x32((np.arange(3)[:, None], 5, np.array([7, ONES]), 9), (11, 13))
    assert {word.shape for word in words} == {(3, 2)}
    for row, column in np.ndindex(3, 2):
        single = philox4x32((row, 5, (7, ONES)[column], 9), (11, 13))
        assert [int(word[row, column]) for word in words] == [int(word) for word in single]


def test_uniform_and_below_stay_inside():
    words = np.array([0, 1, 2**31, ONES], dtype=np.uint64)
    assert uniform(words).tolist() == [0.0, 2.0**-32, 0.5, 1 - 2.0**-32]
    assert below(words, 10).tolist() == [0, 0, 5, 9]
    assert below(words, 2**31 - 1).tolist() == [0, 0, 2**30 - 1, 2**31 - 2]
    assert below(words, np.array([1, 1, 1, 1])).tolist() == [0, 0, 0, 0]
