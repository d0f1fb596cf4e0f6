"""The published ResNet-50's layout, full size, in three frameworks and NumPy: the same file gives the same features.

The weights are drawn, in the published names, shapes and container; each framework reads the converted file in a
process of its own and looks at the same image files, of several sizes. The figures are printed, and written to
published.txt in the folder of --figures.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from swav_bench import reading, torch_files, weights
from swav_bench.convert import convert
from swav_bench.features_task import LEARNT
from swav_bench.reading import Reading
from swav_data.sources import load
from swav_spec import views
from swav_spec.config import CropGroup
from swav_spec.multicrop import central_plan
from swav_spec.network import initial_weights
from swav_spec.recipes import NETWORKS
from swav_spec.testing.images import random_images
from swav_spec.testing.reference_network import Pass
from swav_spec.tolerance import bound, error

FRAMEWORKS = ("torch", "jax", "tensorflow")
KINDS = ("features", "embeddings")
NETWORK = NETWORKS["resnet50"]
#: Height and width: one is shown whole, of two the middle 224 of 256, enlarged or shrunk.
SIZES = ((224, 224), (256, 300), (200, 160))
#: Roundings in a row: 53 convolutions and the head's 2 layers, each a product and a normalisation of some 4 roundings.
DEPTH = 4 * (53 + 2)

pytestmark = pytest.mark.timeout(900)


def published_weights():
    """Float32 tensors of which none is as a fresh network has it, so that any two mistaken for each other show."""
    draw = np.random.default_rng(50)
    tensors = initial_weights(NETWORK, 50)
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim == 1:
            one = name.endswith(("running_var", "weight"))
            drawn = draw.normal(0, 0.2, tensor.shape)
            tensors[name] = np.exp(drawn) if one else drawn
        tensors[name] = tensors[name].astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(framework or "numpy", kind) -> [3, F]."""
    folder = tmp_path_factory.mktemp("published")
    tensors = published_weights()
    torch_files.write(folder / "published.pth.tar", {f"module.{name}": tensor for name, tensor in tensors.items()})
    convert(folder / "published.pth.tar", folder / "ours.safetensors")
    images = [random_images(number, 5, *size)[4] for number, size in enumerate(SIZES)]
    for number, image in enumerate(images):
        place = folder / "images" / "some"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    arrays = {}
    for framework in FRAMEWORKS:
        given = Reading(folder / "ours.safetensors", str(folder / "images"), framework, batch=4)
        job = {"random": False, "splits": ["train"], "keep": KINDS}
        with reading.asked("features", given, folder, Console(quiet=True), **job) as (_, left):
            for kind in KINDS:
                arrays[framework, kind] = np.array(reading.array(left, f"train-{LEARNT}-{kind}"))
    reference = Pass(NETWORK, tensors, [reference_views(folder / "images")], train=False)
    return arrays | {("numpy", "features"): reference.features, ("numpy", "embeddings"): reference.embeddings}


def reference_views(folder):
    """[3, 224, 224, 3] float64: the first image whole, the middle 7/8 of the others."""
    images = load(str(folder)).train
    config = NETWORK_CONFIG
    made = []
    for row, share in enumerate((1, 224 / 256, 224 / 256)):
        plan = central_plan(224, images.heights[[row]], images.widths[[row]], share=share, index=np.array([row]))
        made += views.views(images.images, plan, config)
    return np.concatenate(made)


class NETWORK_CONFIG:  # noqa: N801 - a value
    """What swav_spec.views needs of a config."""

    crops = (CropGroup(224, 1, (1.0, 1.0)),)
    augmentation = weights.Weights(NETWORK, {}, 224).augmentation


def test_the_same_file_gives_the_same_features(found, request):
    lines = [
        "The published ResNet-50's layout, drawn weights, 3 images at 224, float32: error = max|a - b| / max|b|",
        "",
    ]
    failures = []
    for kind in KINDS:
        for one, other in itertools.combinations((*FRAMEWORKS, "numpy"), 2):
            # Two float32 sides have roundings of their own; NumPy's float64 has none to speak of.
            allowed = bound("float32", depth=DEPTH) * (1 if other == "numpy" else 2)
            value = error(found[one, kind], found[other, kind])
            lines.append(f"{kind:10}  {one:10} {other:10}  {value:8.1e} ({allowed:7.1e})")
            if not value <= allowed:
                failures.append(lines[-1])
    text = "\n".join(lines) + "\n"
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        request.config.pluginmanager.get_plugin("terminalreporter").write("\n" + text)
    folder = request.config.getoption("--figures")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "published.txt").write_text(text, encoding="utf-8")
    assert not failures, "\n".join(failures)


def test_the_features_tell_the_images_apart(found):
    """Parity of features that are all alike would say nothing."""
    for kind in KINDS:
        array = found["numpy", kind]
        for one, other in itertools.combinations(array, 2):
            assert error(one, other) > 10 * bound("float32", depth=DEPTH)
