"""The command `protocol`: what it writes, what stands beside its figures, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from swav_bench import protocol, protocol_task, weights
from swav_bench.protocol import CLASSIFIER, CONFUSION, PER_CLASS, RESULT, ProtocolError, Settings
from swav_data.epochs import batch_samples
from swav_data.sources import load
from swav_spec import supervised
from swav_spec.config import Augmentation, Network
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import crop_plan
from swav_spec.network import initial_weights
from swav_spec.supervised import labelled_subset
from swav_spec.testing.supervised_reference import SupervisedReference

REFERENCE = "swav_spec.testing.supervised_reference:SupervisedReference"
NETWORK = Network(block="conv", depths=(1,), widths=(4,), strides=(2,), stem="none", hidden=4, embedding=4)
LOOKS = Augmentation(mean=(0.4, 0.4, 0.4), std=(0.3, 0.25, 0.2))
CHANGES = {"epochs": 3, "batch": 16}


class Noting(SupervisedReference):
    """Notes what it is given, in the file that a variable names."""

    def init_classifier(self, config, network, given, classes, seed):
        self.note(init={"config": supervised.to_dict(config), "classes": classes, "seed": seed})
        return super().init_classifier(config, network, given, classes, seed)

    def classifier_step(self, state, images, labels, plan):
        boxes = [group.box.tolist() for group in plan.groups]
        self.note(step={"labels": labels.tolist(), "boxes": boxes, "type": str(labels.dtype)})
        return super().classifier_step(state, images, labels, plan)

    def note(self, **what):
        with Path(os.environ["NOTES"]).open("a") as file:
            file.write(json.dumps(what) + "\n")


class Diverging(SupervisedReference):
    def classifier_step(self, state, images, labels, plan):
        state, metrics = super().classifier_step(state, images, labels, plan)
        return state, metrics | {"loss": np.float64("nan")}


class DivergingAtRandom(SupervisedReference):
    """Breaks down where the running statistics are those of random weights, which were settled."""

    def classify(self, state, images, plan):
        logits = super().classify(state, images, plan)
        counted = next(value for name, value in state.tensors.items() if name.endswith("num_batches_tracked"))
        return logits * (np.nan if counted else 1)


class Dying(SupervisedReference):
    def classifier_step(self, state, images, labels, plan):
        os._exit(3)


class WithoutClassifier(SupervisedReference):
    fulfils = ("maths", "views")


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "some.safetensors"
    made = weights.Weights(NETWORK, initial_weights(NETWORK, 1), 8, LOOKS, {"file": "published.pth.tar"})
    weights.write(path, made)
    return path


@pytest.fixture
def go(source, images_with_test, tmp_path):
    """Runs a protocol with the specification; other arguments by name."""

    def run(name="linear", *, framework=REFERENCE, changes=CHANGES, data=images_with_test, **settings):
        return carried_out(name, source, data, tmp_path / "out", Settings(framework, **settings), changes)

    return run


@pytest.fixture(scope="module")
def linear(source, images_with_test, tmp_path_factory):
    """The linear protocol's result and the folder it left."""
    out = tmp_path_factory.mktemp("linear") / "out"
    return carried_out("linear", source, images_with_test, out, Settings(REFERENCE), CHANGES), out


def carried_out(name, source, data, out, settings, changes):
    with Path(os.devnull).open("w") as nowhere:
        return protocol.protocol(name, source, str(data), out, settings, changes, Console(file=nowhere))


def table(path):
    return list(csv.reader(io.StringIO(path.read_text())))


def test_a_protocol_leaves_its_figures_tables_and_classifier(linear, images_with_test):
    result, out = linear
    assert json.loads((out / RESULT).read_text()) == result
    assert {path.name for path in out.iterdir()} == {RESULT, CONFUSION, PER_CLASS, CLASSIFIER}
    assert (result["format"], result["protocol"], result["framework"]) == ("swav-bench protocol 1", "linear", REFERENCE)
    assert result["classes"] == ["lying", "upright"]
    assert result["weights"]["origin"] == {"file": "published.pth.tar"}
    assert result["environment"]["framework"] == "numpy"
    counts = ("train_samples", "labelled_samples", "test_samples", "skipped")
    assert [result["data"][name] for name in counts] == [96, 96, 16, 0]
    assert result["data"]["evaluated_on"] == "test"
    assert result["chance"] == 0.5
    assert str(out) not in (out / RESULT).read_text()
    assert str(images_with_test) not in (out / RESULT).read_text()

    config = supervised.from_dict(result["config"])
    assert (config.size, config.augmentation.mean, config.augmentation.std) == (8, LOOKS.mean, LOOKS.std)
    assert (config.epochs, config.batch, config.steps_per_epoch, config.head_lr) == (3, 16, 6, 0.3)

    # The last epoch is what counts; the best one stands beside it.
    curve = result["curve"]
    assert [line["epoch"] for line in curve] == [1, 2, 3]
    assert [line["head"] for line in curve] == [supervised.lr_of(config, epoch).head for epoch in range(3)]
    assert {line["trunk"] for line in curve} == {None}
    assert result["last"] == {"epoch": 3, "top1": curve[-1]["top1"], "top5": None}
    assert result["best"]["top1"] == max(line["top1"] for line in curve)

    # The tables are of the last epoch, and so is the classifier.
    (_, *names), *rows = table(out / CONFUSION)
    matrix = np.array([row[1:] for row in rows], dtype=int)
    assert names == [row[0] for row in rows] == result["classes"]
    assert matrix.sum(axis=1).tolist() == [8, 8]
    assert np.trace(matrix) / 16 == result["last"]["top1"]
    header, *classes = table(out / PER_CLASS)
    assert header == ["name", "samples", "recall", "precision", "confused_with"]
    assert [float(row[2]) for row in classes] == (np.diag(matrix) / 8).tolist()
    _, arrays = weights.read_tensors(out / CLASSIFIER)
    oracle = SupervisedReference()
    state = oracle.init_classifier(config, NETWORK, arrays, 2, 0)
    asked = load(images_with_test).evaluation
    plan = supervised.evaluation_plan(config, asked.heights, asked.widths)
    called = oracle.classify(state, asked.images, plan).argmax(axis=1)
    assert [np.bincount(called[asked.labels == label], minlength=2).tolist() for label in (0, 1)] == matrix.tolist()
    for name, value in initial_weights(NETWORK, 1).items():
        if name in supervised.backbone_shapes(NETWORK):
            assert np.array_equal(arrays[name], value), "the backbone was frozen"


def test_every_figure_stands_beside_random_weights_and_raw_pixels(linear):
    result, _ = linear
    random, raw = result["random"], result["raw_pixels"]
    assert random["reason"] is raw["reason"] is None
    assert len(random["curve"]) == 3
    assert random["last"]["epoch"] == 3
    assert random["curve"][0]["loss"] != result["curve"][0]["loss"]
    # Light and dark halves, upright or lying: pixels alone tell these images apart.
    assert raw["top1"] == 1
    assert raw["top5"] is None
    shown = Console(file=io.StringIO(), width=120)
    shown.print(protocol.summary(result))
    text = shown.file.getvalue()
    for line in ("these weights", "random weights", "raw pixels", "the most frequent class"):
        assert line in text


def test_random_weights_are_settled_before_they_are_frozen(go, monkeypatch, tmp_path):
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    go(framework="test_protocol:Noting", changes=CHANGES | {"epochs": 1})
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    inits = [at for at, note in enumerate(notes) if "init" in note]
    rates = [(notes[at]["init"]["config"]["trunk_lr"], notes[at]["init"]["config"]["head_lr"]) for at in inits]
    assert rates == [(None, 0.3), (0.0, 0.0), (None, 0.3)]
    ends = [*inits[1:], len(notes)]
    assert [end - at - 1 for at, end in zip(inits, ends, strict=True)] == [6, protocol_task.SETTLING, 6]


def test_steps_get_the_crops_and_labels_of_their_epoch(go, monkeypatch, tmp_path, images_with_test):
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    result = go("semi-10", framework="test_protocol:Noting", changes={"epochs": 2, "batch": 4}, seed=5, baselines=False)
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    known = load(images_with_test).train
    known = known.take(labelled_subset(known.labels, 0.1, 5))
    assert result["data"]["labelled_samples"] == len(known) == 10
    config = supervised.from_dict(result["config"])
    assert config.steps_per_epoch == 2
    assert notes[0]["init"]["classes"] == 2
    assert len(notes) == 1 + 4
    for step, note in enumerate(notes[1:]):
        epoch, samples = batch_samples(10, 4, 5, step)
        assert note["step"]["labels"] == known.labels[samples].tolist()
        assert note["step"]["type"] == "int32"
        plan = crop_plan(config, seed=5, epoch=epoch, samples=samples, heights=8, widths=8)
        assert note["step"]["boxes"] == [group.box.tolist() for group in plan.groups]


def test_fine_tuning_trains_the_backbone(go, tmp_path):
    result = go("semi-10", changes={"epochs": 5, "batch": 4, "head_lr": 0.1, "fraction": 0.5}, baselines=False)
    assert [line["trunk"] for line in result["curve"]] == pytest.approx([0.01, 0.01, 0.01, 0.002, 0.0004])
    assert result["data"]["labelled_samples"] == 48
    _, arrays = weights.read_tensors(tmp_path / "out" / CLASSIFIER)
    before = initial_weights(NETWORK, 1)
    assert not any(np.array_equal(arrays[name], before[name]) for name in supervised.backbone_shapes(NETWORK))


def test_batches_shrink_to_the_labels_there_are(go):
    result = go("semi-1", changes={"epochs": 1})
    assert result["config"]["batch"] == 2
    assert result["data"]["labelled_samples"] == 2
    assert result["raw_pixels"] == {
        "reason": "its strength is chosen on a second image of a class, and no class has one"
    }


@pytest.mark.parametrize(
    ("classes", "labels", "top1", "top5"),
    [(6, [0, 1, 2, 3, 4, 5], 1, 1), (6, [5, 5, 5, 5, 5, 0], 0, 2 / 6), (5, [0, 0, 0, 0, 0, 0], 1 / 6, None)],
)
def test_top5_where_classes_allow(classes, labels, top1, top5):
    # Row r calls class r first, then those next to it.
    scores = -np.abs(np.arange(6)[:, None] - np.arange(classes)).astype(float)
    images = dataclasses.replace(load("digits").test.take(np.arange(6)), labels=np.array(labels))
    task = protocol_task.Protocol({}, None)
    task._data = protocol_task.Data(images, images, 6)
    assert task._tops(scores) == {"top1": top1, "top5": top5}


def test_a_break_down_is_told(go, tmp_path):
    with pytest.raises(ProtocolError, match="training broke down: the loss was nan in epoch 1"):
        go(framework="test_protocol:Diverging")
    with pytest.raises(ProtocolError, match="exit code 3 while learnt weights, epoch 1 of 3"):
        go(framework="test_protocol:Dying")
    assert not (tmp_path / "out" / RESULT).exists()
    result = go(framework="test_protocol:DivergingAtRandom")
    assert result["random"]["reason"] == "logits were not finite after epoch 1 (random weights)"
    shown = Console(file=io.StringIO(), width=120)
    shown.print(protocol.summary(result))
    assert "none" in shown.file.getvalue()


@pytest.fixture
def here(monkeypatch):
    """No child process: what it does is done here."""
    from tests.harness import in_process

    monkeypatch.setattr(protocol.children, "run", in_process.run)


@pytest.mark.usefixtures("here")
def test_a_long_epoch_says_how_far_it_is(source, images_with_test, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol_task, "TELL_S", 0)
    said = []

    class Telling(Console):
        @contextlib.contextmanager
        def status(self, words):
            yield SimpleNamespace(update=lambda text: said.append(str(text)))

    console = Telling(file=io.StringIO())
    settings = Settings(REFERENCE, baselines=False)
    protocol.protocol("linear", source, str(images_with_test), tmp_path / "out", settings, CHANGES, console)
    phase = "learnt weights, epoch 2 of 3"
    assert said[said.index(phase) :][:7] == [phase, *(f"{phase}, step {step} of 6" for step in range(1, 7))]


def test_images_that_cannot_be_read(go, source, tmp_path, images_with_test):
    import shutil

    folder = tmp_path / "images"
    shutil.copytree(images_with_test, folder)
    (folder / "train" / "lying" / "000.png").write_bytes(b"no image")
    with pytest.raises((InvalidInput, ProtocolError), match=r"000\.png"):
        go(data=folder)
    result = go(data=folder, on_bad_image="skip", workers=1, baselines=False)
    assert result["data"]["skipped"] == 1
    assert "000.png" in result["data"]["skipped_reasons"][0]
    assert result["data"]["labelled_samples"] == 95


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "semi-2"}, "^protocol = 'semi-2'"),
        ({"changes": {"epochs": 0}}, "^epochs = 0"),
        ({"changes": {"trunk_lr": 0.1}}, "^trunk_lr = 0.1: must be left out, linear freezes the backbone"),
        ({"changes": {"fraction": 2.0}}, "^fraction = 2.0"),
        ({"data": "nowhere"}, "^dataset = 'nowhere'"),
        ({"framework": "nothing"}, "^implementation = 'nothing'"),
        ({"framework": "test_protocol:WithoutClassifier"}, "^framework = .* must be one that fulfils Classifier"),
        ({"seed": -1}, "^seed = -1"),
        ({"workers": -1}, "^workers = -1"),
        ({"on_bad_image": "cry"}, "^on_bad_image = 'cry'"),
        ({"framework": "fake:WithoutGpu", "device": "gpu"}, "^fake:WithoutGpu cannot use a GPU here: device = 'gpu'"),
    ],
)
def test_mistakes_get_one_sentence(go, tmp_path, arguments, words):
    with pytest.raises(InvalidInput, match=words):
        go(**arguments)
    assert not (tmp_path / "out" / RESULT).exists()


def test_a_folder_that_cannot_be_written(go, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InvalidInput, match=r"^out = .*out': cannot be written"):
        go()


def test_cells_of_a_table_are_no_formulas():
    assert protocol.as_csv([["=1+1", "-x", None, 3], ["plain, with a comma", "@x", 0.5, ""]]) == (
        "'=1+1,'-x,,3\n\"plain, with a comma\",'@x,0.5,\n"
    )


def test_the_command(source, images_with_test, tmp_path, monkeypatch):
    app = typer.Typer()
    app.command()(protocol.command)
    monkeypatch.chdir(tmp_path)
    arguments = ["linear", "--weights", str(source), "--data", str(images_with_test), "--framework", REFERENCE]
    ran = CliRunner().invoke(app, [*arguments, "--epochs", "1", "--batch", "32", "--no-baselines"])
    assert ran.exit_code == 0, ran.output
    (result,) = tmp_path.glob(f"results/protocols/linear-*/{RESULT}")
    found = json.loads(result.read_text())
    assert (found["config"]["epochs"], found["config"]["batch"]) == (1, 32)
    assert not {"random", "raw_pixels"} & found.keys()
    assert "epoch 1/1" in ran.output
    assert f"{found['last']['top1']:.4f}" in ran.output
    failed = CliRunner().invoke(app, [*arguments[:-1], "test_protocol:Diverging", "--epochs", "1"])
    assert failed.exit_code == 1
    assert "training broke down" in failed.stderr


@pytest.mark.usefixtures("here")
def test_a_figure_that_cannot_be_had_is_said_with_its_reason(source, images_with_test, main):
    arguments = ["--weights", source, "--data", images_with_test, "--framework", REFERENCE]
    done = main("protocol", "semi-1", *arguments, "--epochs", 1, "--out", "few")
    assert (done.code, done.err) == (0, "")
    assert "No figure for raw pixels: its strength is chosen on a second image of a class" in done.out
    assert "No figure for random weights" not in done.out
