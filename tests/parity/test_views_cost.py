"""What views cost on a GPU beside a training step, predicted from counts where no GPU is at hand to measure it.

Counted is a fused program: every pass over the views reads them and writes them once, taps are read from the image once
each, and arithmetic comes on top, as if nothing overlapped. A measured figure is that of benchmarks/micro/test_views.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from swav_spec.multicrop import blur_reach
from swav_spec.recipes import RECIPES

BYTES_PER_S, FLOP_PER_S = 4.3e12, 60e12  # one H200: measured bandwidth; float32 without tensor cores
#: ResNet-50, bfloat16, 2x224+6x96, one H200, images per second: what is aimed at, and the most that seems possible. The
#: faster the step, the larger the share of the views.
STEPS = {"good": 1600, "stretch": 1930}
#: Largest share of the step that views may take.
SHARE = 0.03
SIDE = 256  # of the images
FLOAT, CHANNELS = 4, 3
#: Passes over the views, of which each reads and writes. A jitter position: the mean luma (read), the change.
RESIZE_ACROSS, JITTER_POSITIONS, BOX_PASSES, NORMALISE = 1, 4, 6, 1
#: Additions, multiplications, comparisons for each value of a pixel: a blend with its luma; a hue shift; gray and normalise.
BLEND, HUE, REST = 10, 30, 6


class Count(NamedTuple):
    """Of one image."""

    bytes: float
    flops: float

    @property
    def seconds(self):
        return self.bytes / BYTES_PER_S + self.flops / FLOP_PER_S


def count(recipe, *, side=SIDE, padded=False):
    """Bytes and floating-point operations of all views of an image of side x side pixels.

    Args:
        padded: each box pass of the blur also writes and reads a copy with replicated edges.
    """
    total_bytes = total_flops = 0.0
    reach = blur_reach(recipe.augmentation.blur_radius[1])
    for group in recipe.crops:
        values = CHANNELS * group.size**2
        taps = math.ceil(2 * max(side, group.size) / group.size)
        lines = CHANNELS * group.size * side  # after the resize down, before the one across
        view = FLOAT * values
        moved = taps * lines + FLOAT * lines  # bytes of the image, for each tap; lines written
        moved += taps * FLOAT * values + view  # taps of the lines; views written
        moved += JITTER_POSITIONS * 3 * view
        moved += BOX_PASSES * (4 if padded else 2) * view
        moved += NORMALISE * 2 * view
        flops = 2 * taps * (lines + values) + JITTER_POSITIONS * (BLEND + HUE) * values
        flops += BOX_PASSES * 3 * (reach + 1) * values + REST * values
        total_bytes += group.count * moved
        total_flops += group.count * flops
    return Count(total_bytes, total_flops)


def test_predicted_share_of_a_step(request):
    recipe = RECIPES["imagenet-800ep"]
    lines, shares = [], {}
    for how, padded in (("fused", False), ("with padded copies for the blur", True)):
        found = count(recipe, padded=padded)
        for name, rate in STEPS.items():
            shares[how, name] = found.seconds * rate
        parts = ", ".join(
            f"{100 * shares[how, name]:.2f} % at {rate:,} images/s ({name})" for name, rate in STEPS.items()
        )
        lines.append(
            f"predicted, {how}: {found.bytes / 1e6:.1f} MB and {found.flops / 1e6:.0f} MFLOP an image, "
            f"{1e6 * found.seconds:.1f} us; of a ResNet-50 bfloat16 step at 2x224+6x96 on one H200 {parts}"
        )
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))
    assert all(np.isfinite(list(shares.values())))
    assert shares["fused", "stretch"] < SHARE
