"""Images only shrink, keep their shape, and lie in the corner of a clean canvas."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swav_data.canvas import Canvas, place
from swav_data.decode import shrink
from swav_spec.errors import InvalidInput

SIDES = st.integers(1, 3000)


@st.composite
def canvases(draw):
    short = draw(st.integers(1, 400))
    return Canvas(short, draw(st.integers(short, 800)))


@given(canvas=canvases(), height=SIDES, width=SIDES)
def test_size_keeps_the_bounds_and_the_aspect(canvas, height, width):
    new = canvas.size(height, width)
    assert min(new) <= canvas.resize_short
    assert max(new) <= canvas.max_side
    scale = min(
        Fraction(1), Fraction(canvas.resize_short, min(height, width)), Fraction(canvas.max_side, max(height, width))
    )
    for side, new_side in zip((height, width), new, strict=True):
        assert abs(new_side - max(Fraction(1), side * scale)) <= Fraction(1, 2)
        assert 1 <= new_side <= side


@given(canvas=canvases(), height=SIDES, width=SIDES)
def test_size_is_symmetric(canvas, height, width):
    assert canvas.size(width, height) == canvas.size(height, width)[::-1]


def test_an_image_that_fits_is_left_alone():
    image = Image.new("RGB", (30, 20), (1, 2, 3))
    assert shrink(image, Canvas(20, 30)) is image


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(shrink(Image.fromarray(stripes), Canvas(16, 16)))
    assert small.shape == (16, 16, 3)
    # Without a low-pass filter every output pixel would be black or white.
    assert abs(small[:, 2:-2].astype(int) - 128).max() < 16


@given(sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=4))
def test_place_puts_images_in_the_corner_and_clears_the_rest(sizes):
    random = np.random.default_rng(len(sizes))
    images = [random.integers(1, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    space = np.full((len(sizes), 6, 7, 3), 99, dtype=np.uint8)
    assert place(images, space).tolist() == [list(size) for size in sizes]
    for canvas, image, (height, width) in zip(space, images, sizes, strict=True):
        assert np.array_equal(canvas[:height, :width], image)
        assert canvas.astype(int).sum() == image.astype(int).sum()


@pytest.mark.parametrize(("short", "longest", "field"), [(0, 10, "resize_short"), (20, 19, "max_side")])
def test_bounds_that_contradict_are_refused(short, longest, field):
    with pytest.raises(InvalidInput, match=f"^{field} = "):
        Canvas(short, longest)
