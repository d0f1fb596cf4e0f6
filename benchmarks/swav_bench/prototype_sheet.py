"""The contact sheet of assign.py: a row for each prototype, with the images of its highest scores, best first."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

#: Inches: side of an image; between images; room for its score above; for names at the left; title; legend.
SIDE, GAP, SCORE, NAMES, HEADER, FOOTER, MARGIN = 0.92, 0.05, 0.17, 2.0, 0.5, 0.4, 0.12
DPI = 110
#: Rows and columns at most: a larger sheet would take gigabytes to draw, and nobody could look at it.
MOST = 200
_NAME = 24  # letters of a class's name


class Shown(NamedTuple):
    """What a sheet shows.

    Attributes:
        shown: [P] int64, prototypes, a row each.
        rows: [P, M] int64, the images of their highest scores; scores: [P, M].
        pictures: [P, M, side, side, 3] uint8, of these images.
        prototype: [N] int64, of every image.
        labels: [N] int64, of every image; positions in `classes`.
        classes: their names.
    """

    shown: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    pictures: np.ndarray
    prototype: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def draw(shown: Shown, *, title: str) -> bytes:
    """A PNG of the images. A frame is green where the image has the class that most of the prototype's images have."""
    rows, columns = shown.pictures.shape[:2]
    step = SCORE + SIDE + GAP
    width = MARGIN + NAMES + columns * (SIDE + GAP) + MARGIN
    height = HEADER + rows * step + FOOTER
    width = max(width, 6.5)  # of the title and the legend
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")

    def text(left: float, top: float, words: str, **looks: Any) -> None:
        """Words at a place in inches from the top left corner."""
        figure.text(left / width, 1 - top / height, words, parse_math=False, **looks)

    text(MARGIN, 0.28, title, size=11, weight="bold")
    for row, prototype in enumerate(shown.shown.tolist()):
        top = HEADER + row * step + SCORE
        labels = shown.labels[shown.prototype == prototype]
        counts = np.bincount(labels, minlength=len(shown.classes))
        main = int(counts.argmax()) if len(labels) else None
        for line, words in enumerate(_about(shown, prototype, counts)):
            text(MARGIN, top + 0.24 + 0.19 * line, words, size=8, weight="bold" if line == 0 else "normal")
        for column in range(columns):
            left = MARGIN + NAMES + column * (SIDE + GAP)
            panel = figure.add_axes((left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height))
            panel.imshow(shown.pictures[row, column])
            panel.set(xticks=[], yticks=[])
            same = main is not None and int(shown.labels[shown.rows[row, column]]) == main
            for spine in panel.spines.values():
                spine.set(edgecolor="#2ca02c" if same else "#999999", linewidth=1.6 if same else 0.8)
            text(left, top - 0.04, f"{shown.scores[row, column]:.2f}", size=7)
    text(
        MARGIN,
        height - 0.15,
        "Number: score (cosine). Green: of the class that most images of the prototype have.",
        size=7.5,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _about(shown: Shown, prototype: int, counts: np.ndarray) -> list[str]:
    """Lines on a prototype: its number, how many images it has, and which class most of them are of."""
    total = int(counts.sum())
    lines = [f"prototype {prototype}", f"{total:,} images, {100 * total / len(shown.labels):.1f} %"]
    if total:
        name = shown.classes[int(counts.argmax())]
        short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
        lines.append(f"{100 * counts.max() / total:.0f} % {short}")
    return lines
