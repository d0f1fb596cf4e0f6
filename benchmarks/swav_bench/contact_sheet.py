"""The contact sheet of show_crops.py: a block for each image, a column for each view, a row for each framework."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from swav_bench.views_child import Case
from swav_spec.multicrop import GroupPlan

#: Inches: side of a view; of an original at least; between rows; above a block for its captions; for title and legend.
VIEW, ORIGINAL, GAP, CAPTION, HEADER, FOOTER = 0.92, 3.3, 0.05, 0.3, 0.45, 0.62
LEFT, NAMES, RIGHT = 0.12, 0.36, 0.12
DPI = 110
COLOURS = "tab10"
LEGEND = (
    "Frames: where in the original each view was cut from, in its colour. Letters: F flipped, J colour jitter, "
    "G gray, B blurred."
)


def draw(case: Case, views: Mapping[str, list[np.ndarray]], *, title: str) -> bytes:
    """A PNG of the images, their views by each implementation, and the difference of these.

    Args:
        case: the images, and the config that they were cropped with.
        views: implementation -> one [C*B, size, size, 3] array per run of equal resolution, normalised.
        title: of the sheet.
    """
    pixels = {name: _by_view(found, case) for name, found in views.items()}
    gaps = [np.ptp(np.stack(arrays), axis=0).max(axis=-1) for arrays in zip(*pixels.values(), strict=True)]
    largest = max(float(gap.max()) for gap in gaps)
    factor = _magnification(largest)
    plans = _plan_of_views(case)

    rows, columns, images = len(views) + 1, len(plans), len(case.images)
    block = CAPTION + rows * (VIEW + GAP)
    width = LEFT + ORIGINAL + NAMES + columns * (VIEW + GAP) + RIGHT
    height = HEADER + images * block + FOOTER
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    colours = mpl.colormaps[COLOURS].colors  # type: ignore[attr-defined]

    def axes(left: float, top: float, across: float, down: float) -> Any:
        """Axes at a place in inches from the top left corner."""
        found = figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))
        found.set(xticks=[], yticks=[])
        for spine in found.spines.values():
            spine.set_visible(False)
        return found

    figure.text(LEFT / width, 1 - 0.27 / height, title, size=11, weight="bold", parse_math=False)
    for image in range(images):
        top = HEADER + image * block + CAPTION
        _draw_original(axes(LEFT, top, ORIGINAL, rows * (VIEW + GAP) - GAP), case, image, plans, colours)
        for row, name in enumerate([*views, f"difference\nx {factor:,}"]):
            below = top + row * (VIEW + GAP)
            figure.text(
                (LEFT + ORIGINAL + NAMES - 0.06) / width,
                1 - (below + VIEW / 2) / height,
                name.rpartition(":")[2],
                size=7.5,
                rotation=90,
                ha="right",
                va="center",
                linespacing=1.1,
            )
            for view, (group, crop) in enumerate(plans):
                panel = axes(LEFT + ORIGINAL + NAMES + view * (VIEW + GAP), below, VIEW, VIEW)
                if row < len(views):
                    panel.imshow(np.clip(pixels[name][view][image], 0, 1))
                else:
                    panel.imshow(gaps[view][image] * factor, cmap="gray", vmin=0, vmax=1)
                if row == 0:
                    panel.set_title(_caption(view, group, crop, image), size=7, pad=3, color=colours[view % 10])
    said = f"Bottom rows: largest less smallest of the frameworks, x {factor:,}; the largest is {largest:.1e} of white."
    figure.text(LEFT / width, 0.32 / height, LEGEND, size=7.5)
    figure.text(LEFT / width, 0.14 / height, said, size=7.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_original(axes: Any, case: Case, image: int, plans: list[tuple[GroupPlan, int]], colours: Any) -> None:
    height, width = int(case.heights[image]), int(case.widths[image])
    axes.imshow(case.images[image, :height, :width])
    axes.set_anchor("N")
    axes.set_title(f"image {case.samples[image]}, {width} x {height}", size=7, pad=3, loc="left")
    for view, (group, crop) in enumerate(plans):
        top, left, tall, wide = (int(number) for number in group.box[crop, image])
        for colour, line in (("white", 2.2), (colours[view % 10], 1.3)):  # seen on dark and light ground alike
            axes.add_patch(
                Rectangle(
                    (left - 0.5, top - 0.5), wide, tall, fill=False, edgecolor=colour, linewidth=line, clip_on=False
                )
            )


def _magnification(largest: float) -> int:
    """One digit and zeros: the most that leaves the largest difference at white or below; 1 for no difference."""
    if not 0 < largest < 1:
        return 1
    tens = 10 ** math.floor(-math.log10(largest))
    return math.floor(1 / largest / tens) * tens


def _caption(view: int, group: GroupPlan, crop: int, image: int) -> str:
    neutral = np.array([1, 1, 1, 0], dtype=np.float32)
    letters = {
        "F": group.flip[crop, image],
        "J": (group.jitter_factor[crop, image] != neutral).any(),
        "G": group.grayscale[crop, image],
        "B": group.blur[crop, image, 0] < 1,
    }
    return f"{view + 1}: {group.size} px  " + "".join(letter for letter, chosen in letters.items() if chosen)


def _plan_of_views(case: Case) -> list[tuple[GroupPlan, int]]:
    """The group of each view, and which of its crops it is."""
    return [(group, crop) for group in case.plan().groups for crop in range(len(group.box))]


def _by_view(views: list[np.ndarray], case: Case) -> list[np.ndarray]:
    """[B, size, size, 3] for each view, in [0, 1] again."""
    mean, std = np.array(case.config.augmentation.mean), np.array(case.config.augmentation.std)
    return [
        crop * std + mean
        for array in views
        for crop in np.split(array.astype(np.float64), len(array) // len(case.images))
    ]
