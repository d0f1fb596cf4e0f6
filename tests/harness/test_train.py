"""`swav-bench train`, from its settings to what it leaves, with a fake instead of a framework."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.harness import in_process

from swav_bench import checkpoint, run_config, train
from swav_bench.inputs import Resident
from swav_bench.run_folder import RunFolder
from swav_bench.train_loop import Best
from swav_spec import config as configs
from swav_spec.errors import InvalidInput

STEPS = 12
#: Of a run whose first third has the lowest loss, if nothing is learnt.
UNLUCKY_SEED = 2


@pytest.fixture
def go(images, tmp_path):
    """Trains the fake in `tmp_path`/run; exit code and what was said."""

    def train_(framework="Fake", *, changes=None, data=images, out=tmp_path / "run", **given):
        framework = framework if ":" in framework else f"fake:{framework}"
        fields = {"framework": framework, "data": str(data), "out": str(out), "steps": STEPS, "precision": "float64"}
        fields |= {"threads": 1, "log_every": 4, "checkpoint_every": 4, "knn_every": 0.0}
        settings = run_config.settings(None, fields | given | {"changes": {"batch": 16} | (changes or {})})
        console = Console(file=io.StringIO(), width=1000, color_system=None)
        code = train.train(settings, console, {})
        return code, console.file.getvalue()

    return train_


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def here(monkeypatch):
    """No child process: what it does is done here, and finds the fake as a child would."""
    monkeypatch.setattr(train.children, "run", in_process.run)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def contents(folder):
    """Every file of a run but what says when and what was printed."""
    return {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and path.name not in ("child.log", ".lock")
    }


def last_arrays(folder):
    return checkpoint.latest(folder.checkpoints).arrays


def assert_same_arrays(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(found[name], array), name


def test_what_a_run_leaves(go, run, images):
    code, said = go(keep=2, seed=3, tensorboard=True)
    assert code == 0
    assert f"step {STEPS}/{STEPS}" in said
    config = run_config.Settings("torch", "x", "x", changes={"batch": 16}, steps=STEPS).config(96)
    told = run.read(run.config)
    assert configs.from_dict(told["config"]) == config
    assert told["run"]["seed"] == 3
    assert (told["run"]["data"]["images"], told["settings"]["data"]) == (96, str(images))
    (session,) = told["sessions"]
    assert (session["framework"], session["from_step"], session["input"]) == ("fake:Fake", 0, "resident")
    assert session["environment"]["packages"]["numpy"] == np.__version__

    lines = run.lines()
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert [line["steps"] for line in lines] == [4, 4, 4]
    assert [line["epoch"] for line in lines] == [step * 16 / 96 for step in (4, 8, 12)]
    assert all(line["samples_per_s"] > 0 and 0 <= line["input_waited"] <= 1 for line in lines)
    assert [line["time_s"] for line in lines] == sorted(line["time_s"] for line in lines)

    names = [path.name for path in checkpoint.steps(run.checkpoints)]
    assert names == ["step-000000008.safetensors", "step-000000012.safetensors"]
    best = min(lines, key=lambda line: line["loss"])
    assert checkpoint.read(run.best).step == best["step"]
    summary = run.read(run.summary)
    assert (summary["status"], summary["step"], summary["accuracy"]) == ("ok", STEPS, None)
    assert summary["best"] == {"by": "loss", "value": best["loss"], "step": best["step"]}
    (events,) = run.path.glob("events.out.tfevents.*")
    assert events.stat().st_size > 0


def test_the_lines_are_those_of_the_training(go, run, images):
    """Losses and weights as the loop alone makes them."""
    from tests.harness.fake import Fake

    from swav_bench import training
    from swav_data.sources import load
    from swav_spec.network import initial_weights

    go(seed=3)
    trainer, spans = Fake(configs.Execution(precision="float64")), []
    config, data = configs.from_dict(run.read(run.config)["config"]), load(images).train
    state = trainer.init(config, initial_weights(config.network, 3))
    feed = Resident(trainer, data, config, seed=3)
    state = training.train(trainer, state, feed, fences=[4, 8, 12], observe=spans.append)
    assert [line["loss"] for line in run.lines()] == [float(span.losses.mean()) for span in spans]
    assert [line["lr"] for line in run.lines()] == [float(span.metrics["lr"]) for span in spans]
    assert_same_arrays(last_arrays(run), trainer.to_arrays(state))


def test_a_finished_run_says_so_and_stays_as_it_is(go, run):
    go()
    before = contents(run)
    code, said = go()
    assert code == 0
    assert "has ended before; nothing is left to do" in said
    assert contents(run) == before


@pytest.mark.usefixtures("here")
def test_a_run_whose_log_is_lost_ends_without_the_log_s_figures(go, run):
    go()
    run.log.unlink()
    run.summary.unlink()
    code, said = go()
    assert code == 0
    assert "Loss" not in said
    summary = run.read(run.summary)
    assert (summary["step"], summary["final_loss"], summary["code_entropy"]) == (STEPS, None, None)
    assert "has ended before; nothing is left to do" in go()[1]


def test_another_run_is_refused_field_by_field(go, run, images, images_with_test, tmp_path):
    go()
    before = contents(run)
    with pytest.raises(InvalidInput) as caught:
        go(changes={"epsilon": 0.03, "queue_length": 32}, steps=20)
    for words in (
        "epsilon is 0.02 there and 0.03 here",
        "queue_length is 0 there",
        "schedule.steps is 12 there and 20",
    ):
        assert words in str(caught.value)
    with pytest.raises(InvalidInput, match="seed = 1: must be 0, as in "):
        go(seed=1)
    other = tmp_path / "other"
    shutil.copytree(images, other)
    (other / "train" / "lying" / "000.png").rename(other / "train" / "upright" / "x.png")
    with pytest.raises(InvalidInput, match=r"data = .*must be those that"):
        go(data=other)
    assert contents(run) == before


def test_the_same_images_elsewhere_are_the_same(go, run, images, tmp_path):
    go(steps=4)
    other = tmp_path / "elsewhere" / images.name
    shutil.copytree(images, other)
    code, said = go(steps=4, data=other)
    assert code == 0
    assert "has ended before" in said


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(go, run, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_MARK", str(tmp_path / "mark"))
    code, said = go("fake_training:KilledOnce", log_every=2)
    assert code == 1
    assert "SIGKILL" in said or "memory" in said
    assert [line["step"] for line in run.lines()] == [2, 4, 6]
    assert checkpoint.latest(run.checkpoints).step == 4
    (run.checkpoints / ".step-000000008.safetensors.123.part").write_bytes(b"half")
    with run.log.open("a") as log:
        log.write('{"step": 8, "lo')

    code, said = go("fake_training:KilledOnce", log_every=2)
    assert code == 0
    assert "Goes on from step 4 of 12" in said
    assert [line["step"] for line in run.lines()] == [2, 4, 6, 8, 10, 12]
    assert [json.loads(line)["step"] for line in run.log.read_text().splitlines()] == [2, 4, 6, 8, 10, 12]
    assert not list(run.path.rglob(".*.part"))
    assert [session["from_step"] for session in run.read(run.config)["sessions"]] == [0, 4]
    times = [line["time_s"] for line in run.lines()]
    assert times == sorted(times)

    straight = RunFolder(tmp_path / "straight")
    go(out=straight.path, log_every=2)
    assert_same_arrays(last_arrays(run), last_arrays(straight))
    same = ("step", "steps", "loss", "lr", "code_entropy", "prototypes_used", "epoch")
    for found, wanted in zip(run.lines(), straight.lines(), strict=True):
        assert {name: found[name] for name in same} == {name: wanted[name] for name in same}
    assert run.read(run.summary)["best"] == straight.read(straight.summary)["best"]


def test_the_best_of_before_the_kill_stays_the_best(go, run, tmp_path, monkeypatch):
    """Without learning, the first part of this seed's data happens to have the lowest loss."""
    monkeypatch.setenv("FAKE_MARK", str(tmp_path / "mark"))
    for _ in range(2):
        go("fake_training:KilledOnce", changes={"base_lr": 0.0}, seed=UNLUCKY_SEED)
    losses = [line["loss"] for line in run.lines()]
    assert losses[0] < min(losses[1:])
    assert run.read(run.summary)["best"] == {"by": "loss", "value": losses[0], "step": 4}
    assert checkpoint.read(run.best).step == 4


def test_what_is_better():
    assert Best("knn_top1", 0.6, 8).beats(Best("knn_top1", 0.5, 4))
    assert not Best("knn_top1", 0.5, 8).beats(Best("knn_top1", 0.5, 4))
    assert Best("loss", 2.0, 8).beats(Best("loss", 3.0, 4))
    assert not Best("loss", 3.0, 8).beats(Best("loss", 2.0, 4))
    assert Best("loss", 3.0, 8).beats(None)
    assert Best("knn_top1", 0.1, 8).beats(Best("loss", 2.0, 4))


def test_another_framework_goes_on_and_that_is_said(go, run, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_MARK", str(tmp_path / "mark"))
    go("fake_training:KilledOnce")
    code, said = go()
    assert code == 0
    assert "made with framework fake_training:KilledOnce: it goes on, but not bit for bit" in said


def test_figures_beside_raw_pixels_and_random_weights_and_a_curve(go, run, images_with_test):
    code, said = go(data=images_with_test, knn_every=1.0, log_every=0)
    assert code == 0
    lines = run.lines()
    curve = [(line["step"], line["knn_top1"]) for line in lines if line["knn_top1"] is not None]
    assert [step for step, _ in curve] == [6, 12]
    accuracy = run.read(run.summary)["accuracy"]
    assert accuracy["split"] == "test"
    assert accuracy["learnt"]["knn_top1"] == curve[-1][1]
    for part in ("learnt", "random_weights", "raw_pixels"):
        assert accuracy[part]["test_samples"] == 16
        assert f"{accuracy[part]['linear_top1']:.3f}" in said
    # Test images choose nothing: the best checkpoint goes by the loss.
    assert run.read(run.summary)["best"]["by"] == "loss"


@pytest.mark.usefixtures("here")
def test_images_of_several_sizes_are_judged_by_their_middles_wherever_they_come_from(go, tmp_path):
    draw = np.random.default_rng(6)
    for split, count in (("train", 40), ("test", 12)):
        for number in range(count):
            place = tmp_path / "photos" / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 120, (*draw.integers(8, 20, 2), 3)) + 120 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    found = {}
    for input_ in ("resident", "stream"):
        run = RunFolder(tmp_path / input_)
        code, _ = go(data=tmp_path / "photos", out=run.path, input=input_, knn_every=2.0, steps=4)
        assert code == 0
        found[input_] = run.read(run.summary)["accuracy"]
        assert found[input_]["learnt"]["knn_top1"] == run.lines()[-1]["knn_top1"]
    assert found["resident"] == found["stream"]
    # Dark and light: the mean of the pixels alone tells them apart.
    assert (found["stream"]["raw_pixels"]["knn_top1"], found["stream"]["raw_pixels"]["test_samples"]) == (1, 12)


def test_the_best_goes_by_neighbours_where_there_are_validation_images(go, run, images_with_test, tmp_path):
    data = tmp_path / "images"
    shutil.copytree(images_with_test, data)
    (data / "test").rename(data / "val")
    go(data=data, knn_every=0.5, evaluate=False)
    best = run.read(run.summary)["best"]
    curve = {line["step"]: line["knn_top1"] for line in run.lines() if line["knn_top1"] is not None}
    assert best["by"] == "knn_top1"
    assert best["value"] == max(curve.values()) == curve[best["step"]]
    assert checkpoint.read(run.best).step == best["step"]
    assert run.read(run.summary)["accuracy"] is None


def test_a_stream_and_resident_images_train_the_same(go, run, tmp_path):
    go()
    streamed = RunFolder(tmp_path / "streamed")
    go(out=streamed.path, input="stream")
    assert streamed.read(streamed.config)["sessions"][0]["input"] == "stream"
    assert_same_arrays(last_arrays(streamed), last_arrays(run))


def test_bad_images_are_an_error_or_left_out(go, run, images, tmp_path):
    data = tmp_path / "images"
    shutil.copytree(images, data)
    (data / "train" / "lying" / "007.png").write_bytes(b"no image")
    for input_ in ("resident", "stream"):
        with pytest.raises(InvalidInput, match=r"007\.png"):
            go(data=data, input=input_, out=tmp_path / input_)
    code, said = go(data=data, on_bad_image="skip")
    assert code == 0
    assert "1 training images were left out; the first: " in said
    assert run.read(run.config)["run"]["data"]["images"] == 95


def test_collapse_is_said_loudly_and_stops_a_run_that_asked_for_it(go, run):
    code, said = go("Collapsed", steps=60, stop_on_collapse=True)
    assert code == 1
    assert "COLLAPSE? step 20: the loss is 3.401 over 20 steps and stays there" in said
    assert "Known to help: a smaller epsilon (now 0.02)" in said
    summary = run.read(run.summary)
    assert (summary["status"], summary["step"], summary["accuracy"]) == ("collapsed", 20, None)
    assert checkpoint.latest(run.checkpoints).step == 20
    assert run.lines()[-1]["alarms"] == ["loss", "prototypes", "embeddings"]


def test_a_collapsed_run_that_was_not_to_stop_ends_with_its_verdict(go, run):
    code, said = go("Collapsed", steps=24)
    assert code == 1
    assert said.count("COLLAPSE?") == 3
    assert "collapsed: the loss ended at 3.401, within 3% of ln K = 3.401" in said
    assert run.read(run.summary)["step"] == 24


@pytest.mark.parametrize(
    ("framework", "words"),
    [
        ("fake:NotFinite", "scores of view 1 were not finite in step 12. Known to help: a smaller epsilon"),
        ("fake_training:Poisoned", "model/prototypes.weight was not finite after step 8"),
    ],
)
def test_no_value_that_is_not_finite_reaches_the_disk(go, run, framework, words):
    code, said = go(framework, steps=20, checkpoint_every=3, log_every=3)
    assert code == 1
    assert words in said
    kept = checkpoint.steps(run.checkpoints)
    assert f"The last checkpoint is of step {checkpoint.latest(run.checkpoints).step}" in said
    for path in (*kept, run.best):
        assert all(np.isfinite(array).all() for array in checkpoint.read(path).arrays.values())


def test_out_of_memory_says_what_helps(go, run):
    code, said = go("Full")
    assert code == 1
    assert "A batch of 16 does not fit into memory." in said
    assert "--batch 8 --queue-length 32" in said
    assert "Gradient accumulation is not offered" in said


def test_remarks_are_made_once(go, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_MARK", str(tmp_path / "mark"))
    _, said = go("fake_training:KilledOnce")
    assert "by the linear scaling rule a batch of 16 would take 0.075 (--scale-lr)" in said
    assert "Sinkhorn spreads 16 samples" in said
    _, said = go("fake_training:KilledOnce")
    assert "scaling rule" not in said


def test_a_folder_of_something_else_is_refused(go, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(InvalidInput, match=r"a new folder, or that of a run; it holds chapter1\.tex"):
        go(out=tmp_path / "thesis")
    with pytest.raises(InvalidInput, match="must be a folder"):
        go(out=tmp_path / "thesis" / "chapter1.tex")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_a_folder_in_use_is_refused(go, run):
    with run.held(), pytest.raises(InvalidInput, match="another run is using it"):
        go()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"framework": "pytorch"}, "implementation = 'pytorch': must be one of numpy, torch, jax, tensorflow"),
        ({"framework": "numpy"}, "framework = 'numpy': must be one that trains"),
        ({"framework": None}, "framework = None: must be given, with --framework"),
        ({"framework": "nowhere_at_all:Class"}, "nowhere_at_all is not installed"),
        ({"recipe": "imagenet"}, "recipe = 'imagenet': must be one of imagenet-100ep"),
        ({"data": "nowhere"}, "dataset = 'nowhere': "),
        ({"batch": 97}, "batch = 97: must be at most the number of training images (96)"),
        ({"set_": ["optimizer.kind=lion"]}, "optimizer.kind = 'lion': must be one of larc_sgd, sgd, adam"),
        ({"device": "tpu"}, "device = 'tpu': must be one of cpu, gpu"),
        ({"framework": "fake:WithoutGpu", "device": "gpu"}, "fake:WithoutGpu cannot use a GPU here: device = 'gpu'"),
        ({"precision": "fp8"}, "precision = 'fp8': must be one of float64"),
        ({"input_": "views"}, "input = 'views': must be one of auto, resident, stream"),
        ({"config": Path("nowhere.toml")}, "config = 'nowhere.toml': cannot be read"),
        ({"python": ["jax"]}, "python = 'jax': must be NAME=INTERPRETER"),
        ({"out": Path("/proc/nowhere")}, "must be a folder that can be written"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing(images, tmp_path, told, words):
    given = {"framework": "fake:Fake", "data": str(images), "out": tmp_path / "run", "precision": "float64"}
    with pytest.raises(InvalidInput) as caught:
        train.command(**given | told)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_mistake_gets_one_sentence_and_exit_code_2(command, images):
    done = command("train", "--framework", "fake:Fake", "--data", images, "--out", "run", "--set", "batch=97")
    assert done.returncode == 2
    assert done.stderr == "swav-bench: batch = 97: must be at most the number of training images (96)\n"


def test_the_command_from_a_file(command, images, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        f'framework = "fake:Fake"\ndata = "{images}"\nout = "run"\nprecision = "float64"\nsteps = 6\n'
        "[set]\nbatch = 16\n"
    )
    done = command("train", "--config", file, "--set", "epsilon=0.03", "--seed", 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("Run: run")
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (told["config"]["batch"], told["config"]["epsilon"], told["run"]["seed"]) == (16, 0.03, 4)
