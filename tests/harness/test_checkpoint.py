"""Checkpoints: exact, whole or absent, and refused when they are not what was asked for."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest

from swav_bench import checkpoint
from swav_bench.checkpoint import Checkpoint
from swav_spec import config as configs
from swav_spec.errors import InvalidInput
from swav_spec.recipes import recipe, resolve

CONFIG = resolve(recipe("textures"), samples=256, steps=40)


def made(step: int = 7, **changes) -> Checkpoint:
    generator = np.random.default_rng(step)
    arrays = {
        "model/conv.weight": generator.normal(size=(3, 2, 3, 3)),
        "momentum/conv.weight": generator.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "queue": generator.normal(size=(2, 8, 4)).transpose(0, 2, 1),  # not in C order
        "step": np.asarray(step, dtype=np.int64),
        "queue_count": np.asarray(16, dtype=np.int64),
    }
    return Checkpoint(CONFIG, arrays | changes, {"seed": 3, "curve": [[0, 3.4]]})


def assert_same(found: Checkpoint, wanted: Checkpoint) -> None:
    assert found.config == wanted.config
    assert found.run == wanted.run
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found.arrays[name], array)


def test_reading_gives_what_was_written(tmp_path):
    wanted = made()
    assert_same(checkpoint.read(checkpoint.save(tmp_path, wanted)), wanted)


def test_latest_is_the_last_and_older_ones_go(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for step in (1, 2, 10, 9):
        checkpoint.save(tmp_path, made(step), keep=2)
    assert [path.name for path in checkpoint.steps(tmp_path)] == [
        "step-000000009.safetensors",
        "step-000000010.safetensors",
    ]
    assert checkpoint.latest(tmp_path).step == 10


def test_a_value_that_is_not_finite_is_never_written(tmp_path):
    bad = made(**{"model/conv.weight": np.array([1.0, np.nan])})
    with pytest.raises(InvalidInput, match=r"model/conv\.weight holds a value that is not finite"):
        checkpoint.save(tmp_path, bad)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_half_file(tmp_path, monkeypatch):
    first = made(1)
    checkpoint.save(tmp_path, first, keep=1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, made(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert_same(checkpoint.latest(tmp_path), first)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = checkpoint.save(tmp_path, made())
    left = tmp_path / ".step-000000008.safetensors.4711.part"
    left.write_bytes(b"half")
    (tmp_path / "notes.part").write_text("a person's")
    assert checkpoint.clean(tmp_path) == [left]
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, "notes.part"}
    assert checkpoint.clean(tmp_path / "nowhere") == []


@pytest.mark.parametrize("cut", [0, 5, 300, -1])
def test_a_cut_off_file_is_refused_by_name(tmp_path, cut):
    path = checkpoint.save(tmp_path, made())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidInput, match=r"step-000000007\.safetensors"):
        checkpoint.read(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(InvalidInput, match="no such file"):
        checkpoint.read(tmp_path / "absent")
    save_file({"weight": np.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(InvalidInput, match="format = None"):
        checkpoint.read(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("damage", [{"config": "{"}, {"run": "[1"}, {"config": None}, {"run": None}])
def test_a_damaged_header_is_refused_by_name(tmp_path, damage):
    from safetensors.numpy import save_file

    path = checkpoint.save(tmp_path, made())
    header = {"format": checkpoint.FORMAT, "config": json.dumps(configs.to_dict(CONFIG)), "run": "{}"} | damage
    kept = {name: text for name, text in header.items() if text is not None}
    save_file({"step": np.asarray(7)}, path, kept)
    with pytest.raises(InvalidInput, match=r"step-000000007\.safetensors: its header is damaged"):
        checkpoint.read(path)


def test_another_config_is_refused_field_by_field():
    other = dataclasses.replace(
        CONFIG, epsilon=0.03, network=dataclasses.replace(CONFIG.network, prototypes=31), queue_length=256
    )
    checkpoint.require_same_config(CONFIG, CONFIG, Path("x"))
    with pytest.raises(InvalidInput) as caught:
        checkpoint.require_same_config(CONFIG, other, Path("x"))
    sentence = str(caught.value)
    for part in (
        "network.prototypes is 30 there and 31 here",
        "epsilon is 0.02 there and 0.03 here",
        "queue_length is 0 there and 256 here",
    ):
        assert part in sentence
    assert sentence.count(" there and ") == 3
