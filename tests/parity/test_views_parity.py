"""The same pixels in every framework: each change of a view alone and all together, pair by pair.

A change alone means that everything else in the plan is neutral: the whole image at its own size, factors 1, no flip,
no blur. Differences are absolute, after normalisation. The tables are printed, and written to views-DATASET.md in
the folder of --figures.
"""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from swav_bench import environment
from swav_bench.records import write_atomically
from swav_bench.views_child import Case, views_of
from swav_data.canvas import Canvas
from swav_data.sources import load, open_source
from swav_data.stream import Stream
from swav_spec import views as specification
from swav_spec.config import Augmentation, Config, CropGroup, Network, Schedule
from swav_spec.multicrop import BRIGHTNESS, CONTRAST, HUE, SATURATION
from swav_spec.testing.assertions import VIEWS_FLOAT32
from swav_spec.testing.images import random_images

SPECIFICATION = "specification"
#: Column of the table -> implementation, execution mode.
COLUMNS = {
    "torch": ("torch", "default"),
    "jax": ("jax", "default"),
    "tf graph": ("tensorflow", "graph"),
    "tf xla": ("tensorflow", "xla"),
}
PAIRS = (*itertools.combinations(COLUMNS, 2), *((column, SPECIFICATION) for column in COLUMNS))
SEED = 4

#: Square boxes of the whole image, and nothing else.
NEUTRAL = Augmentation(ratio=(1, 1), flip=0, jitter=0, grayscale=0, blur=0)
_JITTER = dataclasses.replace(NEUTRAL, jitter=1, brightness=0, contrast=0, saturation=0, hue=0)
CHANGES = {
    "normalise": NEUTRAL,
    "flip": dataclasses.replace(NEUTRAL, flip=1),
    "brightness": dataclasses.replace(_JITTER, brightness=0.8),
    "contrast": dataclasses.replace(_JITTER, contrast=0.8),
    "saturation": dataclasses.replace(_JITTER, saturation=0.8),
    "hue": dataclasses.replace(_JITTER, hue=0.5),
    "jitter in every order": dataclasses.replace(NEUTRAL, jitter=1, hue=0.5),
    "grayscale": dataclasses.replace(NEUTRAL, grayscale=1),
    "blur": dataclasses.replace(NEUTRAL, blur=1),
}
#: The kind of jitter that each of them is about.
KINDS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
LARGE, SMALL = (0.14, 1.0), (0.05, 0.14)
OF_32 = (CropGroup(32, 2, LARGE), CropGroup(16, 4, SMALL))
OF_PHOTOS = (CropGroup(160, 2, LARGE), CropGroup(96, 4, SMALL))


def config(batch, crops, augmentation):
    return Config(batch=batch, crops=crops, network=Network(), schedule=Schedule(1, 0.1), augmentation=augmentation)


def cases_of(images, heights, widths, samples, crops):
    """Name -> Case: the crops with nothing else, each other change alone, and all together."""
    square = int(np.minimum(heights, widths).min())
    sides = np.full(len(images), square)  # of the images' top left corners, so that a box can be all there is
    whole = (CropGroup(square, 2, (1.0, 1.0)),)
    resize = dataclasses.replace(NEUTRAL, ratio=Augmentation().ratio)
    crops_alone = Case(images, heights, widths, samples, config(len(images), crops, resize), SEED)
    alone = {
        name: Case(images, sides, sides, samples, config(len(images), whole, augmentation), SEED)
        for name, augmentation in CHANGES.items()
    }
    everything = crops_alone._replace(config=config(len(images), crops, Augmentation()))
    return {"resize": crops_alone, **alone, "whole": everything}


def embedded():
    """64 textures, and ten images of very different sizes on one canvas."""
    textures = load("textures").train.take(np.arange(64))
    sides = textures.heights, textures.widths
    cases = cases_of(textures.images, *sides, np.arange(64), OF_32)
    heights, widths = np.array([40, 17, 33, 5, 28, 40, 1, 64, 3, 50]), np.array([48, 48, 9, 6, 31, 20, 1, 64, 64, 2])
    canvas = np.full((10, 64, 64, 3), 255, dtype=np.uint8)  # what lies outside an image must not matter
    for row, (height, width) in enumerate(zip(heights, widths, strict=True)):
        canvas[row, :height, :width] = random_images(row, 5, height, width)[4]
    mixed = config(10, OF_32, Augmentation())
    return cases | {"whole, mixed sizes": Case(canvas, heights, widths, np.arange(10), mixed, SEED)}


def first_batch(data_dir, name, batch, crops):
    encoded = open_source(Path(data_dir) / name).train
    with Stream(encoded, batch=batch, seed=SEED, steps=range(1), canvas=Canvas()) as stream:
        (found,) = stream
    height, width = found.heights.max(), found.widths.max()
    return cases_of(found.images[:, :height, :width], found.heights, found.widths, found.samples, crops)


def every_columns_views(cases, device):
    """Column -> case -> views; the specification's in float64."""

    def made(column):
        implementation, mode = COLUMNS[column]
        return views_of(implementation, cases, mode=mode, device=device)

    with ThreadPoolExecutor(2) as pool:  # small machines have two cores
        found = dict(zip(COLUMNS, pool.map(made, COLUMNS), strict=True))
    found[SPECIFICATION] = {
        name: specification.views(case.images, case.plan(), case.config) for name, case in cases.items()
    }
    return found


def differences(found, cases):
    """(case, pair) -> largest and mean absolute difference over all views; infinite where shapes or values are bad."""
    table = {}
    for case, (one, other) in itertools.product(cases, PAIRS):
        gaps = []
        for a, b in zip(found[one][case], found[other][case], strict=True):
            gap = np.abs(a.astype(np.float64) - b) if a.shape == b.shape else np.array([np.inf])
            gaps.append(np.where(np.isfinite(gap), gap, np.inf).ravel())
        every = np.concatenate(gaps)
        table[case, (one, other)] = float(every.max()), float(every.mean())
    return table


def page(dataset, cases, table, device):
    """The table as Markdown."""
    here = environment.describe()
    chip, computed = here["gpus"][0]["name"] if device == "gpu" else here["cpu"], f"float32 on a {device.upper()}"
    versions = ", ".join(
        f"{name} {here['packages'][name]}"
        for name in ("torch", "jax", "tensorflow-cpu", "numpy")
        if name in here["packages"]
    )
    lines = [
        f"# The same pixels: {dataset}",
        "",
        f"Largest and mean absolute difference of views after normalisation, {computed}; the specification is",
        'float64. Each change alone, everything else neutral; "resize" and "whole" are the crops. At most',
        f"{VIEWS_FLOAT32:g} is allowed.",
        "",
        f"{chip}; {versions}. Made by tests/parity/test_views_parity.py.",
        "",
        "| change | views | " + " | ".join(" - ".join(pair) for pair in PAIRS) + " |",
        "|---|---|" + "---|" * len(PAIRS),
    ]
    for name, case in cases.items():
        sizes = " + ".join(f"{count}x{side}" for side, count in case.config.resolutions)
        figures = " | ".join("{:.1e} {:.1e}".format(*table[name, pair]) for pair in PAIRS)
        lines.append(f"| {name} | {len(case.images)} x ({sizes}) | {figures} |")
    return "\n".join(lines) + "\n"


def check(request, dataset, cases):
    device = request.config.getoption("device")
    found = every_columns_views(cases, device)
    table = differences(found, cases)
    text = page(dataset, cases, table, device)
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.write_line("")
        reporter.write(text)
    folder = request.config.getoption("--figures")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / f"views-{dataset}.md", text)
    wrong = [
        f"{name}, {' - '.join(pair)}: {gap[0]:.3g}"
        for (name, pair), gap in table.items()
        if not gap[0] <= VIEWS_FLOAT32
    ]
    assert not wrong, "\n".join([f"{dataset}: larger than {VIEWS_FLOAT32:g}:", *wrong])
    return found


def test_embedded_data(request):
    found = check(request, "textures", embedded())
    # Changes that change nothing would agree as well.
    nothing = found[SPECIFICATION]["normalise"][0]
    for name in CHANGES:
        same = np.array_equal(found[SPECIFICATION][name][0], nothing)
        assert same == (name == "normalise"), name


def test_a_change_alone_is_alone():
    for name, case in embedded().items():
        if name not in CHANGES:
            continue
        (group,) = case.plan().groups
        assert (group.box == [0, 0, 32, 32]).all()
        for chosen, change in ((group.flip, "flip"), (group.grayscale, "grayscale"), (group.blur[..., 0] < 1, "blur")):
            assert (chosen == (name == change)).all(), name
        neutral = np.array([1, 1, 1, 0], dtype=np.float32)
        for kind in range(4):
            changed = (group.jitter_factor[..., kind] != neutral[kind]).any()
            assert changed == (name == "jitter in every order" or KINDS.get(name) == kind), (name, kind)
    orders = {
        tuple(order) for order in embedded()["jitter in every order"].plan().groups[0].jitter_order.reshape(-1, 4)
    }
    assert len(orders) == 24


@pytest.mark.needs_data
@pytest.mark.parametrize(("name", "batch", "crops"), [("cifar10", 64, OF_32), ("flowers", 4, OF_PHOTOS)])
def test_photographs(request, name, batch, crops):
    check(request, name, first_batch(request.config.getoption("data_dir"), name, batch, crops))
