"""Writes fixtures/resize.npz: torch's antialiased bilinear resize in float64, as an independent oracle.

Run by hand, with torch installed:

    python tests/spec/make_oracles.py
"""

from pathlib import Path

import numpy as np
import torch

#: Height and width before and after: shrunk, enlarged, one of each, a pixel, odd factors, unchanged.
SIZES = (((37, 53), 16), ((9, 7), 24), ((5, 40), 12), ((1, 1), 3), ((31, 17), 1), ((24, 24), 24), ((96, 80), 35))


def main():
    rng = np.random.default_rng(0)
    arrays = {"torch_version": np.array(torch.__version__)}
    for number, (shape, out) in enumerate(SIZES):
        image = rng.random((*shape, 3))
        channels_first = torch.from_numpy(image).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(
            channels_first, size=(out, out), mode="bilinear", antialias=True, align_corners=False
        )
        arrays[f"image_{number}"] = image
        arrays[f"resized_{number}"] = resized[0].permute(1, 2, 0).numpy()
    np.savez_compressed(Path(__file__).parent / "fixtures" / "resize.npz", **arrays)


if __name__ == "__main__":
    main()
