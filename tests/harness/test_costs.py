"""What a run measures beside the training when it is asked to: from the command to the record."""

from __future__ import annotations

from swav_bench import records
from swav_bench.derive import derive


def test_parts_and_traces_on_request(command, images, tmp_path):
    options = ("-i", "fake:Traced", "--dataset", images, "--precision", "float64", "--batch", 16, "--multi-crop", "off")
    done = command("run", *options, "--queue", "off", "--steps", 20, "--out", "results", "--parts", "--trace")
    assert done.returncode == 0, done.stderr
    (record,) = records.finished(tmp_path / "results").values()
    assert record["status"] == "ok", record["reason"]
    names = [part["name"] for part in record["parts"]["parts"]]
    assert names[:2] == ["views", "forward"]
    assert record["parts"]["method"] == "separate"
    assert record["overhead"]["overhead_share_low"] <= record["overhead"]["overhead_share"]
    assert derive(record) == record
    traces = sorted(path.name for path in (tmp_path / "results" / "traces" / record["cell"]["id"]).iterdir())
    assert traces == ["2-trace.xplane.pb", "trace.json.gz", "trace.xplane.pb"]
    assert any(note.startswith("3 steps were traced: ") for note in record["notes"])
    assert not any(str(tmp_path) in note for note in record["notes"])


def test_neither_without(run, cell, tmp_path):
    (record,) = run(cell("Traced"))
    assert record["parts"] is None
    assert record["overhead"]["encoder_step_s_median"] > 0
    assert not (tmp_path / "results" / "traces").exists()
