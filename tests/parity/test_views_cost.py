"""What views cost on a GPU beside a training step, predicted from counts where no GPU is at hand to measure it.

Counted are the passes of a jitted program over memory, and arithmetic on top as if nothing overlapped. The taps of an
output are mostly its neighbours' too, so a line of pixels comes from memory once and from the cache after that; its
arithmetic counts for every tap. benchmarks/micro/test_views.py measures the same on a GPU.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from swav_spec.config import CropGroup
from swav_spec.multicrop import blur_reach
from swav_spec.recipes import RECIPES

BYTES_PER_S, FLOP_PER_S = 4.3e12, 60e12  # one H200: memory as measured; float32 without tensor cores
#: Images per second of a ResNet-50 step in bfloat16 at 2x224+6x96 on one H200: a good program's, and the most that
#: seems possible. The faster the step, the larger the share of the views.
STEPS = {"good": 1600, "stretch": 1930}
#: Largest share of a good step that views may take.
SHARE = 0.03
SIDE = 256  # of the images, all of which a crop may need
FLOAT, CHANNELS = 4, 3
JITTER_POSITIONS, BOX_PASSES = 4, 6
#: Views read and written: in each position of the jitter (one read more for the mean luma), in a box pass, at the end.
PER_POSITION, PER_BOX_PASS, NORMALISE = 3, 2, 2
#: Operations for each value of a pixel: a blend with its luma, a hue shift, grayscale and normalisation.
BLEND, HUE, REST = 10, 30, 6


class Count(NamedTuple):
    """Of one image."""

    bytes: float
    flops: float

    @property
    def seconds(self):
        return self.bytes / BYTES_PER_S + self.flops / FLOP_PER_S


def count(recipe, *, side=SIDE, per_box_pass=PER_BOX_PASS):
    """Bytes and floating-point operations of all views of an image of side x side pixels."""
    moved = flops = 0.0
    reach = blur_reach(recipe.augmentation.blur_radius[1])
    for group in recipe.crops:
        values = CHANNELS * group.size**2
        lines = CHANNELS * group.size * side  # after the resize down, before the one across
        taps = math.ceil(2 * max(side, group.size) / group.size)
        passes = JITTER_POSITIONS * PER_POSITION + BOX_PASSES * per_box_pass + NORMALISE
        moved += group.count * (CHANNELS * side**2 + FLOAT * (2 * lines + values + passes * values))
        per_value = JITTER_POSITIONS * (BLEND + HUE) + BOX_PASSES * 3 * (reach + 1) + REST
        flops += group.count * (2 * taps * (lines + values) + per_value * values)
    return Count(moved, flops)


def test_predicted_share_of_a_step(request):
    recipe = RECIPES["imagenet-800ep"]
    lines, shares = [], {}
    programs = {"as fused as can be": PER_BOX_PASS, "with a padded copy before each box pass": PER_BOX_PASS + 2}
    for program, per_box_pass in programs.items():
        found = count(recipe, per_box_pass=per_box_pass)
        shares |= {(program, name): found.seconds * rate for name, rate in STEPS.items()}
        parts = [f"{100 * shares[program, name]:.2f} % at {rate:,} images/s ({name})" for name, rate in STEPS.items()]
        lines.append(
            f"predicted, {program}: {found.bytes / 1e6:.1f} MB and {found.flops / 1e6:.0f} MFLOP an image, "
            f"{1e6 * found.seconds:.1f} us: of a ResNet-50 step in bfloat16 at 2x224+6x96 {' and '.join(parts)}"
        )
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))
    assert shares["as fused as can be", "good"] < SHARE


def test_counts_of_one_small_crop():
    """By hand: crops of 8 pixels from images of 16."""
    recipe = RECIPES["textures"]
    found = count(dataclasses.replace(recipe, crops=(CropGroup(8, 2, (0.5, 1.0)),)), side=16)
    # The image 3 x 16 x 16; lines 3 x 8 x 16 of 4 bytes, twice; views 3 x 8 x 8 of 4 bytes, written once, then 12 for
    # the jitter, 12 for the blur, 2 at the end.
    assert found.bytes == 2 * (768 + 2 * 4 * 384 + (1 + 26) * 4 * 192)
    # 4 taps; the blur of radius 2 reaches 2 pixels.
    assert found.flops == 2 * (2 * 4 * (384 + 192) + (4 * 40 + 6 * 3 * 3 + 6) * 192)
