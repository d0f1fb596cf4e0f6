"""scikit-learn's digits: 1,797 handwritten digits of 8 x 8 pixels, which come with the package."""

from __future__ import annotations

import numpy as np

from swav_data.images import ImageSet, Splits

REPEAT = 4  # 8 x 8 pixels become 32 x 32, each one a 4 x 4 block
LEVELS = 16  # of the original pixels, 0 to 16
#: Shares of every class; the rest is for training.
VALIDATION, TEST = 0.15, 0.25


def digits(seed: int = 0) -> Splits[ImageSet]:
    """Training (60 %), validation (15 %) and test images (25 % of every class), 32 x 32 pixels, grey as RGB.

    Args:
        seed: of the split; at least 0.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    grey = np.rint(loaded.images * (255 / LEVELS)).astype(np.uint8)
    images = np.repeat(np.repeat(grey, REPEAT, axis=1), REPEAT, axis=2)[..., None].repeat(3, axis=-1)
    labels = loaded.target.astype(np.int64)
    sizes = np.full(len(images), images.shape[1])
    everything = ImageSet("digits", images, sizes, sizes, labels, tuple(str(name) for name in loaded.target_names))

    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    parts: dict[str, list[np.ndarray]] = {"validation": [], "test": [], "train": []}
    for label in range(len(everything.classes)):
        of_class = order[labels[order] == label]
        cuts = np.rint(np.cumsum([VALIDATION, TEST]) * len(of_class)).astype(int)
        for rows, part in zip(np.split(of_class, cuts), parts.values(), strict=True):
            part.append(rows)
    rows_of = {split: np.sort(np.concatenate(rows)) for split, rows in parts.items()}
    return Splits(**{split: everything.take(rows, name=f"digits/{split}") for split, rows in rows_of.items()})
