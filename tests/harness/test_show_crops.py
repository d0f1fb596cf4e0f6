"""The contact sheet: what it shows, and what it says when it cannot."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from swav_bench import contact_sheet, show_crops, views_child
from swav_bench.views_child import Case, views_of
from swav_data.epochs import epoch_order
from swav_data.sources import load
from swav_spec import views as specification
from swav_spec.config import Augmentation, Config, CropGroup, Network, Schedule
from swav_spec.errors import InvalidInput

CROPS = (CropGroup(16, 2, (0.5, 1.0)), CropGroup(8, 1, (0.1, 0.3)))
PLAIN = Augmentation(flip=0, jitter=0, grayscale=0, blur=0)


def case_of(augmentation=PLAIN, count=2):
    textures = load("textures").train.take(np.arange(count))
    config = Config(batch=count, crops=CROPS, network=Network(), schedule=Schedule(1, 0.1), augmentation=augmentation)
    return Case(textures.images, textures.heights, textures.widths, np.arange(count), config, 3)


def drawn(case, views):
    data = contact_sheet.draw(case, views, title="a title")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_child_makes_the_views_that_this_process_makes():
    case = case_of(Augmentation())
    for made, expected in zip(
        views_of("numpy", {"some": case})["some"], specification.views(*case[:1], case.plan(), case.config), strict=True
    ):
        assert np.array_equal(made, expected)


def test_a_child_says_what_is_wrong():
    with pytest.raises(InvalidInput, match="there is no module nowhere"):
        views_of("nowhere:Class", {"some": case_of()})
    with pytest.raises(InvalidInput, match="failed: ModuleNotFoundError"):
        views_of("test_show_crops:Broken", {"some": case_of()})
    with pytest.raises(InvalidInput, match=r"^python = '/no/python': cannot be started"):
        views_of("numpy", {"some": case_of()}, interpreter="/no/python")


def test_a_child_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(views_child, "TIMEOUT_S", 0.01)
    with pytest.raises(InvalidInput, match=r"^implementation = 'numpy': made no views in 0\.01 s$"):
        views_of("numpy", {"some": case_of()})


def Broken(execution):  # noqa: N802 - stands for a class
    raise ModuleNotFoundError("a framework's own library", name="elsewhere")


def test_a_sheet_shows_each_view_and_where_it_was_cut():
    case = case_of()
    views = specification.views(case.images, case.plan(), case.config)
    one = drawn(case, {"one": views})
    red = [array.copy() for array in views]
    # The second view of the first image turns red.
    red[0][2] = (np.array([1.0, 0, 0]) - case.config.augmentation.mean) / case.config.augmentation.std
    other = drawn(case, {"one": red})
    assert one.shape == other.shape
    changed = np.argwhere((one != other).any(axis=-1))
    side = contact_sheet.VIEW * contact_sheet.DPI
    height, width = changed.max(axis=0) - changed.min(axis=0) + 1
    # One panel of one row; the row of differences of a lone implementation is black in both.
    assert abs(height - side) <= 2
    assert abs(width - side) <= 2
    assert ((other - [255, 0, 0] == 0).all(axis=-1)).sum() > 0.9 * side**2


def test_the_difference_is_magnified_to_be_seen():
    case = case_of()
    views = specification.views(case.images, case.plan(), case.config)
    moved = [array.copy() for array in views]
    moved[1][0, 3, 5, 2] += 4e-6 / case.config.augmentation.std[2]
    without, magnified = drawn(case, {"a": views, "b": views}), drawn(case, {"a": views, "b": moved})
    brighter = (magnified - without).min(axis=-1) > 200
    # One pixel of a view of 8 pixels, 4e-6 x 200,000 = .8 of white.
    pixel = contact_sheet.VIEW * contact_sheet.DPI / 8
    assert 0.5 * pixel**2 < brighter.sum() < 1.5 * pixel**2


@pytest.mark.parametrize(
    ("largest", "factor"), [(4.2e-7, 2_000_000), (1e-6, 1_000_000), (0.3, 3), (0.0, 1), (2.0, 1), (float("nan"), 1)]
)
def test_magnification_has_one_digit(largest, factor):
    assert contact_sheet._magnification(largest) == factor


@pytest.fixture
def command():
    """Runs the command with these arguments."""
    app = typer.Typer()
    app.command()(show_crops.command)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def test_the_command_draws_the_first_images_of_the_run(command, tmp_path, monkeypatch):
    seen = {}
    draw = contact_sheet.draw
    monkeypatch.setattr(
        contact_sheet, "draw", lambda case, views, **rest: seen.update(case=case) or draw(case, views, **rest)
    )
    out = tmp_path / "crops.png"
    result = command("--out", out, "-i", "numpy", "--count", 3, "--seed", 8, "--crops", "2x20+3x10")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        rf"{re.escape(str(out))}: numpy; views differ by at most 0\.0e\+00 after normalisation\n", result.output
    )
    with Image.open(out) as image:
        assert image.format == "PNG"
    assert [file.name for file in tmp_path.iterdir()] == ["crops.png"]
    train = load("textures").train
    expected = epoch_order(len(train), 8, 0)[:3]
    assert np.array_equal(seen["case"].samples, expected)
    assert np.array_equal(seen["case"].images, train.images[expected])
    assert seen["case"].config.resolutions == ((20, 2), (10, 3))


@pytest.fixture
def changed(monkeypatch):
    """No child process makes views: they are the specification's, with what this holds for a name done to each."""
    changes = {}

    def views(name, cases, **_):
        case = cases["shown"]
        made = specification.views(case.images, case.plan(), case.config)
        return {"shown": [changes.get(name, np.asarray)(view) for view in made]}

    monkeypatch.setattr(show_crops, "views_of", views)
    return changes


def test_frameworks_that_are_installed_are_drawn_and_the_others_are_told(command, changed, tmp_path, monkeypatch):
    def only_torch_and_jax(name, interpreter):
        if name not in ("torch", "jax"):
            raise InvalidInput(f"{name} is not installed")

    monkeypatch.setattr(show_crops.children, "check_installed", only_torch_and_jax)
    changed["jax"] = lambda view: view + 2**-10
    result = command("--out", tmp_path / "crops.png", "--count", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("crops.png: torch, jax; views differ by at most 9.8e-04 after normalisation\n")
    missing = [name for name in show_crops.FRAMEWORKS if name not in ("torch", "jax")]
    assert result.stderr.splitlines() == [f"Left out: {name} is not installed" for name in missing]
    assert missing


def test_views_of_other_shapes_are_one_sentence_and_no_sheet(changed, tmp_path):
    changed["fake:Fake"] = lambda view: view[:, :, 1:]
    with pytest.raises(InvalidInput, match=r"^implementation = 'fake:Fake': its views have other shapes than those of"):
        show_crops.show_crops("textures", tmp_path / "a.png", count=2, implementations=("numpy", "fake:Fake"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("changed")
def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "draw", lambda case, views, title: b"a picture")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InvalidInput, match=r"^out = .*a\.png': cannot be written \(Is a directory\)$"):
        show_crops.show_crops("textures", tmp_path / "a.png", count=2, implementations=("numpy",))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_frameworks_that_are_not_installed_are_told(command, tmp_path, monkeypatch):
    def nothing(name, interpreter):
        raise InvalidInput(f"{name} is not installed; {interpreter}")

    monkeypatch.setattr(show_crops.children, "check_installed", nothing)
    shown = show_crops.show_crops("textures", tmp_path / "a.png", count=2, interpreters={"jax": "/jax/python"})
    assert shown.names == ("numpy",)
    assert shown.missing == tuple(
        f"{name} is not installed; {'/jax/python' if name == 'jax' else sys.executable}"
        for name in show_crops.FRAMEWORKS
    )
    with pytest.raises(InvalidInput, match="torch is not installed"):
        show_crops.show_crops("textures", tmp_path / "b.png", implementations=("torch",))
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"out": "crops.jpg"}, "out = .* a .png file"),
        ({"out": "nowhere/crops.png"}, "out = .* in a folder that exists"),
        ({"count": 1}, "count = 1"),
        ({"count": 5000}, "count = 5000: must be at most the 2048 training images"),
        ({"recipe": "none"}, "recipe = 'none'"),
        ({"crops": "2x32"}, "crops = '2x32': must be 2 times COUNTxSIZE"),
        ({"crops": "2x32+ax4"}, "crops = "),
        ({"crops": "2x32+0x4"}, "crop count = 0"),
        ({"data": "nothing"}, "dataset = 'nothing'"),
        ({"implementations": ("nowhere:Class",)}, "nowhere is not installed"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, arguments, says):
    given = {"data": "textures", "out": "crops.png", "implementations": ("numpy",)} | arguments
    with pytest.raises(InvalidInput, match=says):
        show_crops.show_crops(given.pop("data"), tmp_path / given.pop("out"), **given)
    assert not list(tmp_path.iterdir())
