"""`conform` passes what is right, names what is wrong with a small counterexample, and judges parts."""

import io
import json

import pytest
from rich.console import Console

from swav_bench.conform import FAILED, PASSED, conform
from swav_spec.errors import InvalidInput
from swav_spec.testing import suite

STRANGERS = "tests.meta.strangers"


def judged(name, tmp_path, **settings):
    text = io.StringIO()
    path = tmp_path / "verdict.json"
    code = conform(f"{STRANGERS}:{name}", json_path=path, console=Console(file=text, width=200), **settings)
    return code, json.loads(path.read_text(encoding="utf-8")), text.getvalue()


def by_status(verdict, status):
    return {item["name"]: item for item in verdict["properties"] if item["status"] == status}


@pytest.mark.parametrize("settings", [{"precision": "float32"}, {"precision": "float64"}], ids=str)
def test_right_maths_passes(tmp_path, settings):
    code, verdict, _ = judged("Right", tmp_path, **settings)
    assert not by_status(verdict, "failed")
    assert code == PASSED
    assert verdict["suite_version"] == suite.VERSION
    assert {name.partition(".")[0] for name in by_status(verdict, "passed")} == {
        "sinkhorn",
        "loss",
        "queue",
        "optimizer",
        "prototypes",
    }


def test_a_part_gets_the_part_that_applies(tmp_path):
    code, verdict, text = judged("SinkhornOnly", tmp_path)
    assert code == PASSED
    passed, rest = by_status(verdict, "passed"), by_status(verdict, "not applicable")
    assert {name.partition(".")[0] for name in passed} == {"sinkhorn"}
    assert rest["sinkhorn.shards-equal-the-whole"]["reason"] == "has no sinkhorn:all_sum, sinkhorn:all_max"
    assert f"{len(passed)} passed, 0 failed, {len(rest)} not applicable" in text


@pytest.mark.parametrize(
    ("name", "violated", "idea"),
    [
        ("NoRowNormalisation", "sinkhorn.rows-sum-to-one", "sinkhorn"),
        ("EpsilonSlightlyOff", "sinkhorn.cross-ratios-are-those-of-the-kernel", "sinkhorn"),
        ("OwnViewPredicted", "loss.own-view-is-not-predicted", "loss"),
        ("UsedBeforeFull", "queue.read-with-the-given-prototypes", "queue"),
        ("RateInsideMomentum", "optimizer.the-rate-is-outside-the-buffer", "optimizer"),
    ],
)
def test_wrong_maths_is_named(tmp_path, name, violated, idea):
    code, verdict, text = judged(name, tmp_path)
    failed = by_status(verdict, "failed")
    assert code == FAILED
    assert violated in failed
    assert {item.partition(".")[0] for item in failed} == {idea}, "only the idea that is wrong"
    assert violated in text
    smallest = min(_size(item["counterexample"]) for item in failed.values())
    assert smallest <= (3, 3), "at most 3 rows and 3 prototypes"
    for item in failed.values():
        rows, prototypes = _size(item["counterexample"])
        assert rows <= 3, (item["name"], item["counterexample"])
        assert prototypes <= 3, (item["name"], item["counterexample"])


def _size(counterexample):
    """(rows, prototypes) of a counterexample's scores; (0, 0) where it has none."""
    for asked in ("problem", "prediction"):
        if asked in counterexample:
            *_, rows, prototypes = _shape(counterexample[asked]["scores"])
            return rows, prototypes
    return (0, 0)


def _shape(nested):
    return () if not isinstance(nested, list) else (len(nested), *_shape(nested[0]))


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("tests.meta.strangers:Nobody", "there is no class Nobody in tests.meta.strangers"),
        ("tests.meta.nowhere:Right", "there is no module tests.meta.nowhere"),
        ("nothing", "one of numpy, torch, jax, tensorflow"),
        ("collections:OrderedDict", "a class with at least one of"),
    ],
)
def test_bad_targets_get_a_sentence(target, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        conform(target, console=Console(file=io.StringIO()))


@pytest.mark.parametrize("settings", [{"profile": "careless"}, {"seed": -1}, {"select": "no such property"}])
def test_bad_settings_get_a_sentence(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        conform(f"{STRANGERS}:SinkhornOnly", console=Console(file=io.StringIO()), **settings)
