"""Published weights: read strictly, without running a pickle, and written back as they were."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.harness import in_process

from swav_bench import checkpoint, torch_files, weights
from swav_bench.convert import convert, describe
from swav_spec.errors import InvalidInput
from swav_spec.network import initial_weights, tensor_shapes
from swav_spec.recipes import NETWORKS, recipe, resolve

KEYS = json.loads(
    (Path(__file__).parents[1] / "golden" / "official_resnet50_state_dict_keys.json").read_text(encoding="utf-8")
)
CONFIG = resolve(recipe("textures"), samples=256, steps=4)
NETWORK = CONFIG.network  # convnet4
pytestmark = pytest.mark.usefixtures("in_this_process")


def drawn(network=NETWORK, seed=3):
    """Tensors of a network as a file holds them: float32, batch counts int64, all different from a fresh network's."""
    generator = np.random.default_rng(seed)
    return {
        name: np.array(7) if shape == () else generator.uniform(0.5, 1, shape).astype(np.float32)
        for name, shape in tensor_shapes(network).items()
    }


def as_torch(tensors, prefix=""):
    return {prefix + name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(found[name], tensor)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(torch_files.children, "run", in_process.run)


@pytest.fixture
def source(tmp_path):
    """Writes a file of torch.save."""

    def write(content, name="published.pth.tar", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


#: The authors' training files hold more besides; their published ones are the state dict.
CONTAINERS = {
    "bare": as_torch,
    "bare with module": lambda tensors: as_torch(tensors, "module."),
    "under state_dict": lambda tensors: {
        "state_dict": as_torch(tensors, "module."),
        "epoch": 800,
        "amp": {"loss": [1.0]},
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_of_the_published_files_is_read(source, tmp_path, container, zipped):
    tensors = drawn()
    file = source(CONTAINERS[container](tensors), _use_new_zipfile_serialization=zipped)
    convert(file, tmp_path / "ours.safetensors")
    found = weights.load(tmp_path / "ours.safetensors")
    assert found.network == NETWORK
    assert_same(found.tensors, tensors)
    assert list(found.tensors) == list(tensor_shapes(NETWORK))
    assert found.origin["file"] == "published.pth.tar"
    assert (found.size, found.backbone_only) == (32, False)


def official(start):
    """Name -> array without contents of an official model, in the order of its state dict."""
    (facts,) = (facts for title, facts in KEYS.items() if title.startswith(start))
    return {item["name"]: Shape(item["shape"]) for item in facts["state_dict"]}


class Shape:
    """An array without its numbers: those of w4 alone would be 1 GiB."""

    def __init__(self, shape):
        self.shape = tuple(shape)


@pytest.mark.parametrize("name", ["resnet50", "resnet50w2", "resnet50w4"])
def test_the_official_keys_and_shapes_are_those_of_the_named_networks(name):
    tensors = official(f"{name}_pretrain")
    network = weights.infer_network(tensors)
    assert weights.network_name(network) == name
    assert [(n, tensor.shape) for n, tensor in tensors.items()] == list(tensor_shapes(network).items())


@pytest.mark.parametrize("name", ["resnet50", "resnet50w2", "resnet50w4", "resnet50w5", "resnet18", "resnet18-cifar"])
def test_the_network_is_found_from_its_shapes(name):
    network = NETWORKS[name]
    other = {"prototypes.weight": (3, network.embedding)}
    tensors = {tensor: Shape(other.get(tensor, shape)) for tensor, shape in tensor_shapes(network).items()}
    found = weights.infer_network(tensors)
    assert weights.network_name(found) == name
    assert found.prototypes == 3
    assert found.hidden == network.hidden


def test_there_and_back_again(source, tmp_path):
    tensors = drawn()
    convert(source(as_torch(tensors, "module.")), tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "again.pth.tar", to="published")
    found = torch.load(tmp_path / "again.pth.tar", weights_only=True)
    assert_same(
        {name: tensor.numpy() for name, tensor in found.items()}, {f"module.{n}": t for n, t in tensors.items()}
    )
    convert(tmp_path / "again.pth.tar", tmp_path / "ours2.safetensors")
    assert_same(weights.load(tmp_path / "ours2.safetensors").tensors, tensors)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "again.pth.tar", "ours.safetensors", "ours2.safetensors", "published.pth.tar"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["resnet.safetensors", "resnet.pth"])
def test_torchvision_gets_the_backbone_and_nothing_else(tmp_path, name):
    tensors = drawn(NETWORKS["resnet18-cifar"])
    found = weights.Weights(NETWORKS["resnet18-cifar"], tensors, 32)
    weights.write(tmp_path / "ours.safetensors", found)
    convert(tmp_path / "ours.safetensors", tmp_path / name, to="torchvision")
    backbone = {n: t for n, t in tensors.items() if not n.startswith(("projection_head", "prototypes"))}
    if name.endswith(".pth"):
        read = {n: t.numpy() for n, t in torch.load(tmp_path / name, weights_only=True).items()}
    else:
        read = weights.read_tensors(tmp_path / name)[1]
    assert_same(read, backbone)
    # Back again, as a backbone.
    convert(tmp_path / name, tmp_path / "back.safetensors", backbone_only=True)
    assert_same(weights.load(tmp_path / "back.safetensors").tensors, backbone)


def test_torchvisions_names_are_those_of_the_official_backbone():
    """Its evaluation model is torchvision's ResNet-50 (318 tensors) without fc."""
    found = weights.torchvision(weights.Weights(NETWORKS["resnet50"], official("resnet50_pretrain"), 224))
    assert list(found) == list(official("resnet50_eval"))
    assert len(found) == 318


def test_a_backbone_alone_needs_to_be_asked_for(source, tmp_path):
    network = NETWORKS["resnet18-cifar"]
    backbone = {n: t for n, t in drawn(network).items() if not n.startswith(("projection_head", "prototypes"))}
    file = source(
        as_torch(backbone | {"fc.weight": np.ones((10, 512), np.float32), "fc.bias": np.ones(10, np.float32)})
    )
    out = tmp_path / "ours.safetensors"
    with pytest.raises(
        InvalidInput, match=r"10 missing .*prototypes\.weight.*2 unexpected .*fc\.bias, fc\.weight.*--backbone-only"
    ):
        convert(file, out)
    assert not out.exists()
    convert(file, out, backbone_only=True)
    found = weights.load(out)
    assert found.backbone_only
    assert_same(found.tensors, backbone)
    assert set(found.complete()) == set(tensor_shapes(found.network))
    assert_same({n: t for n, t in found.complete().items() if n in backbone}, backbone)
    with pytest.raises(InvalidInput, match="published layout needs head and prototypes"):
        convert(out, tmp_path / "again.pth", to="published")
    # What the option does not allow: half a head.
    half = source(as_torch(backbone | {"prototypes.weight": np.ones((3000, 128), np.float32)}), "half.pth")
    with pytest.raises(InvalidInput, match="9 missing"):
        convert(half, out, backbone_only=True)


def _without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def _with(**changes):
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in changes.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("layer2.0.bn1.running_var"), r"convnet4: 1 missing \(layer2\.0\.bn1\.running_var\)$"),
        (_with(extra__weight=np.ones(2, np.float32)), r"1 unexpected \(extra\.weight\)$"),
        (
            _with(layer1__0__conv1__weight=np.ones((16, 4, 3, 3), np.float32)),
            r"1 of another shape \(layer1\.0\.conv1\.weight \(16, 4, 3, 3\) for \(16, 3, 3, 3\)\)$",
        ),
        (_with(prototypes__weight=np.full((30, 32), np.nan, np.float32)), r"prototypes\.weight holds .* not finite"),
        (_with(prototypes__weight=np.ones((30, 32), np.int32)), r"type of prototypes\.weight = 'int32'"),
        (_with(layer1__0__bn1__running_var=np.full(16, -1, np.float32)), "a negative variance"),
        (lambda tensors: {}, "holds no state dict"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(source, tmp_path, change, says):
    file = source(as_torch(change(drawn())))
    with pytest.raises(InvalidInput, match=says):
        convert(file, tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


class Exploit:
    """What a pickle can do: run a command when it is read."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def test_nothing_in_a_pickle_is_run(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        file = source(as_torch(drawn()) | {"exploit": Exploit()}, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InvalidInput, match=r"published\.pth\.tar: cannot be read as tensors and plain containers"):
            convert(file, tmp_path / "ours.safetensors")
    assert not (tmp_path / "owned").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "owned").exists()  # it would have run


@pytest.mark.parametrize("content", [{"weight": [1, 2]}, torch.ones(3), {"state_dict": {"a": 1}}])
def test_other_contents_are_refused(source, tmp_path, content):
    with pytest.raises(InvalidInput, match=r"holds (other things than tensors|no state dict)"):
        convert(source(content), tmp_path / "ours.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_cut_off_files_are_refused(source, tmp_path, share):
    file = source(as_torch(drawn()))
    ours = tmp_path / "ours.safetensors"
    convert(file, ours)
    for path in (file, ours):
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(InvalidInput, match=path.name.replace(".", r"\.")):
            convert(path, tmp_path / "out.safetensors")
    with pytest.raises(InvalidInput, match=r"ours\.safetensors"):
        weights.load(ours)


def test_half_precision_is_widened(source, tmp_path):
    tensors = drawn()
    for kind in (torch.float16, torch.bfloat16):
        halves = {n: t.to(kind) if t.is_floating_point() else t for n, t in as_torch(tensors).items()}
        convert(source(halves), tmp_path / "ours.safetensors")
        wanted = {n: t.float().numpy() if t.is_floating_point() else t.numpy() for n, t in halves.items()}
        assert_same(weights.load(tmp_path / "ours.safetensors").tensors, wanted)


def test_a_checkpoint_is_read_and_converted(tmp_path):
    tensors = initial_weights(NETWORK, 5)
    arrays = {f"model/{name}": tensor for name, tensor in tensors.items()}
    arrays |= {"step": np.array(9), "queue_count": np.array(0), "momentum/prototypes.weight": np.ones((30, 32))}
    for step in (4, 9):
        checkpoint.save(
            tmp_path / "run" / "checkpoints", checkpoint.Checkpoint(CONFIG, arrays | {"step": np.array(step)})
        )
    found = weights.load(tmp_path / "run")
    assert_same(found.tensors, tensors)
    assert (found.size, found.network, found.augmentation) == (32, NETWORK, CONFIG.augmentation)
    assert found.origin == {"file": "step-000000009.safetensors", "step": 9}
    assert weights.load(tmp_path / "run" / "checkpoints" / "step-000000004.safetensors").origin["step"] == 4
    convert(tmp_path / "run", tmp_path / "run.pth", to="published")
    assert_same(torch_files.read(tmp_path / "run.pth"), {f"module.{n}": t for n, t in tensors.items()})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"to": "caffe"}, "to = 'caffe': must be one of swav-bench, published, torchvision"),
        ({"out": "ours.bin"}, r"out = .* must be a file that ends in \.safetensors"),
        ({"out": "ours.pth"}, r"out = .* must be a file that ends in \.safetensors"),
        ({"out": "nowhere/ours.safetensors"}, "out = .* in a folder that exists"),
        ({"source": "absent.pth"}, "absent.pth: there is no such file or folder"),
        ({"source": "."}, "has no checkpoint"),
        ({"source": "text.pth"}, "text.pth: cannot be read as safetensors"),
        ({"source": "other.safetensors"}, "are not those of"),
        ({"network": "resnet50"}, "are not those of resnet50: .* missing"),
        ({"network": "resnet51"}, "network = 'resnet51': must be one of resnet50, "),
        ({"interpreters": {"torch": "/no/python"}}, "python = '/no/python'"),
        ({"to": "torchvision", "out": "a.pth"}, "torchvision and timm have no such network"),
    ],
)
def test_mistakes_get_a_sentence(source, tmp_path, arguments, says):
    file = source(as_torch(drawn()))
    (tmp_path / "text.pth").write_text("no weights at all, but some text")
    weights.write_tensors(tmp_path / "other.safetensors", {"a": np.ones(3)})
    before = sorted(tmp_path.iterdir())
    given = {"source": file.name, "out": "ours.safetensors"} | arguments
    with pytest.raises(InvalidInput, match=says):
        convert(tmp_path / given.pop("source"), tmp_path / given.pop("out"), **given)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_converted_already_must_be_of_the_network_that_was_named(tmp_path):
    weights.write(tmp_path / "ours.safetensors", weights.Weights(NETWORK, drawn(), 32))
    convert(tmp_path / "ours.safetensors", tmp_path / "same.safetensors", network="convnet4")
    assert_same(weights.load(tmp_path / "same.safetensors").tensors, drawn())
    for network, says in (("resnet50", "are of convnet4, not of resnet50"), ("resnet51", "must be one of resnet50, ")):
        with pytest.raises(InvalidInput, match=says):
            convert(tmp_path / "ours.safetensors", tmp_path / "other.safetensors", network=network)
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "to", "says"),
    [
        ("folder.safetensors", "swav-bench", r"^out = .*folder\.safetensors': cannot be written \(Is a directory\)$"),
        ("/proc/ours.pth", "published", r"^out = '/proc/ours\.pth': cannot be written \("),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, out, to, says):
    weights.write(tmp_path / "ours.safetensors", weights.Weights(NETWORK, drawn(), 32))
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InvalidInput, match=says):
        convert(tmp_path / "ours.safetensors", tmp_path / out, to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.safetensors", "ours.safetensors"]


def test_numbers_that_numpy_does_not_have_are_refused_by_name(tmp_path):
    """Other programs write backbones in bfloat16; a file of PyTorch may hold it, see above."""
    from safetensors.torch import save_file

    save_file({name: tensor.bfloat16() for name, tensor in as_torch(drawn()).items()}, tmp_path / "half.safetensors")
    with pytest.raises(InvalidInput, match=r"half\.safetensors: cannot be read \(.*bfloat16"):
        convert(tmp_path / "half.safetensors", tmp_path / "ours.safetensors")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    unreadable = Path("/proc/self/clear_refs")  # by anybody, root included
    with pytest.raises(InvalidInput, match="/proc/self/clear_refs: cannot be read as safetensors"):
        convert(unreadable, tmp_path / "ours.safetensors")


def test_loading_says_what_to_do_with_other_files(source, tmp_path):
    with pytest.raises(InvalidInput, match="convert it first: swav-bench convert"):
        weights.load(source(as_torch(drawn())))
    weights.write_tensors(tmp_path / "other.safetensors", {"a": np.ones(3)})
    with pytest.raises(InvalidInput, match=r"neither a checkpoint nor a converted file .*swav-bench convert"):
        weights.load(tmp_path / "other.safetensors")


def test_a_damaged_header_is_refused(tmp_path):
    for damage in ({"network": "{}x"}, {"size": "big"}, {"network": json.dumps({"block": "round"})}, {"mean": "[1]x"}):
        header = {
            "format": weights.FORMAT,
            "network": "{}",
            "mean": "[0,0,0]",
            "std": "[1,1,1]",
            "size": "8",
            "origin": "{}",
        }
        weights.write_tensors(tmp_path / "a.safetensors", {"a": np.ones(3)}, header | damage)
        with pytest.raises(InvalidInput):
            weights.load(tmp_path / "a.safetensors")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    weights_file = tmp_path / "ours.safetensors"
    with pytest.raises(OSError, match="No space left"):
        weights.write(weights_file, weights.Weights(NETWORK, drawn(), 32))
    assert not list(tmp_path.iterdir())


def test_the_command(command, source, tmp_path):
    file = source(as_torch(drawn()))
    done = command("convert", file, "ours.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ours.safetensors: convnet4, 0.07 M parameters, 30 prototypes; layout: swav-bench\n"
    assert describe(weights.load(tmp_path / "ours.safetensors")) in done.stdout
    done = command("convert", file, "ours.bin")
    assert done.returncode == 2
    assert done.stderr.startswith("swav-bench: out = 'ours.bin'")
