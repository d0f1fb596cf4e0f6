"""Precisions lower than float32 are judged in float32, in a process of its own, on fewer images where room is short."""

from __future__ import annotations

import json

import pytest

from swav_bench.runner import PARITY
from swav_spec.errors import InvalidInput


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """Sets the largest batch that fits in float32."""

    def has(images):
        monkeypatch.setenv("FAKE_ROOM", str(images))

    has(1000)
    return has


def kept(folder):
    (file,) = (folder / PARITY).glob("*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("lower", ["tf32", "bfloat16"])
def test_the_first_step_in_float32_is_compared_and_is_none_of_the_cell_s_memory(run, cell, tmp_path, lower):
    exact, wide = run(
        cell("Fake", batch=64, precision=lower), cell("WideFloat32", batch=64, precision=lower, multi_crop=False)
    )
    assert (exact["status"], wide["status"]) == ("ok", "ok"), wide["reason"]
    assert wide["environment"]["implementation"]["precision"] == lower
    assert (wide["parity"]["against"], wide["parity"]["loss_error"]) == ("fake:Fake", 0)
    assert kept(tmp_path / "results")["batch"] == 64
    # Float32 took 256 MiB more, which would be in the peak.
    peaks = [record["memory"]["process_peak_bytes"] for record in (exact, wide)]
    assert abs(peaks[1] - peaks[0]) < 64 << 20


def test_cells_with_and_without_a_queue_share_it(run, cell, tmp_path, monkeypatch):
    from swav_bench import children

    asked = []
    real = children.run

    def counted(task, *arguments, **settings):
        asked.append(task)
        return real(task, *arguments, **settings)

    monkeypatch.setattr(children, "run", counted)
    cells = [cell(precision="bfloat16"), cell(precision="bfloat16", queue_rows=32), cell(precision="bfloat16", seed=1)]
    assert [record["status"] for record in run(*cells)] == ["ok"] * 3
    assert asked == ["first step", "measure", "measure", "first step", "measure"]


def test_where_float32_has_no_room_fewer_images_are_compared(run, cell, room, tmp_path):
    room(20)
    one, other = run(cell("WideFloat32", precision="bfloat16", batch=64), cell("Fake", precision="bfloat16", batch=64))
    assert (one["status"], other["status"]) == ("ok", "ok"), (one["reason"], other["reason"])
    assert kept(tmp_path / "results")["batch"] == 16
    said = "its first step was checked on 16 images, as float32 does not fit with more"
    assert one["notes"][0] == other["notes"][0] == said
    assert (other["parity"]["against"], other["parity"]["loss_error"]) == ("fake:WideFloat32", 0)
    assert one["config"]["batch"] == 64


def test_one_with_less_room_than_the_first_is_not_compared_with_it(run, cell, room):
    room(20)
    one, other = run(cell("Fake", precision="bfloat16", batch=64), cell("WideFloat32", precision="bfloat16", batch=64))
    assert (one["status"], other["status"]) == ("ok", "ok")
    assert other["notes"][:2] == [
        "its first step was checked on 16 images, as float32 does not fit with more",
        "it was not compared with fake:Fake, whose had 64 images",
    ]
    assert other["parity"] is None


@pytest.mark.parametrize("fitting", [1000, 20])
@pytest.mark.parametrize("name", ["WideAndWrongInBfloat16", "WrongInBfloat16WithOwnViews"])
def test_a_low_precision_that_is_far_from_float32_is_wrong(run, cell, room, name, fitting):
    room(fitting)
    (record,) = run(cell(name, precision="bfloat16", batch=64))
    assert record["status"] == "wrong"
    assert record["reason"].startswith("the first loss in bfloat16 is ")
    assert record["timing"] is None


def test_own_views_in_a_low_precision_are_judged_on_the_specification_s(run, cell, room):
    room(20)
    fields = {"precision": "bfloat16", "batch": 64}
    one, ready, own = run(
        cell("WideWithOwnViews", **fields, input="views"),
        cell("OwnViews", **fields, input="views"),
        cell("OwnViews", **fields),
    )
    assert [record["status"] for record in (one, ready, own)] == ["ok"] * 3, own["reason"]
    assert ready["parity"]["loss_error"] == own["parity"]["loss_error"] == 0
    assert own["notes"][1].startswith("its views are its own")
    assert own["learning"]["loss_curve"][0] != ready["learning"]["loss_curve"][0]


def test_no_room_for_any_batch_is_out_of_memory(run, cell, room):
    room(1)
    record, after = run(cell("WideFloat32", precision="bfloat16", batch=64), cell())
    assert record["status"] == "oom"
    assert "checking the first step of batch 4, float32" in record["reason"]
    assert after["status"] == "ok"


def test_a_failure_of_it_is_the_cell_s(run, cell):
    record, after = run(cell("Broken", precision="tf32"), cell())
    assert record["status"] == "error"
    assert record["reason"].startswith("while checking the first step of batch 16, float32: ValueError: bad")
    assert after["status"] == "ok"


def test_its_time_is_the_cell_s(run, cell):
    record, after = run(cell("HangingInFloat32", precision="tf32"), cell(), timeout_s=4.0)
    assert record["status"] == "timeout"
    assert record["reason"] == "no result after 4 s; it was checking the first step of batch 16, float32"
    assert after["status"] == "ok"


def test_a_broken_file_of_what_to_compare_with_is_named(run, cell, tmp_path):
    assert run(cell())[0]["status"] == "ok"
    (file,) = (tmp_path / "results" / PARITY).glob("*.json")
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InvalidInput, match=rf"^{file.name} in parity cannot be read; delete it to compare afresh$"):
        run(cell(queue_rows=32))
    file.unlink()
    assert run(cell(queue_rows=32))[0]["status"] == "ok"
