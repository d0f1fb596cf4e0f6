"""Whether a suite's cells have learnt what they should: read from records alone."""

from __future__ import annotations

from swav_bench.records import Record, Results
from swav_bench.suites import SUITES, Goals
from swav_spec.errors import InvalidInput, require


def goals_of(record: Record) -> Goals | None:
    """What this record's suite asks of it; None where the suite asks nothing, or of another data set or recipe."""
    cell = record["cell"]
    matrices = SUITES[cell["suite"]].matrices if cell["suite"] in SUITES else ()
    asked = (
        matrix.goals for matrix in matrices if (matrix.dataset, matrix.recipe) == (cell["dataset"], cell["recipe"])
    )
    return next(asked, None)


def check(results: Results) -> tuple[int, list[str]]:
    """How many cells were judged, and a sentence for each that misses its suite's goals or is not ok.

    Raises:
        InvalidInput: no record is of a suite that has goals.
    """
    judged = 0
    misses = []
    for record in results.records:
        goals = goals_of(record)
        if goals is None:
            continue
        judged += 1
        if record["status"] != "ok":
            misses.append(f"{record['cell']['id']}: {record['status']}, {record['reason']}")
        else:
            misses += [f"{record['cell']['id']}: {miss}" for miss in _misses(record, goals)]
    with_goals = ", ".join(name for name, suite in SUITES.items() if any(matrix.goals for matrix in suite.matrices))
    if not judged:
        raise InvalidInput(f"{results.name} has no record of a suite with goals ({with_goals})")
    return judged, misses


def _misses(record: Record, goals: Goals) -> list[str]:
    accuracy = record["accuracy"]
    require(accuracy is not None, "accuracy", None, f"in every ok record of suite {record['cell']['suite']}")
    wanted = (
        ("kNN", accuracy["knn_top1"], "raw pixels", accuracy["raw_knn_top1"] + goals.knn_over_raw),
        ("kNN", accuracy["knn_top1"], "random weights", accuracy["random_knn_top1"] + goals.knn_over_random),
    )
    misses = [
        f"{name} {value:.3f}, and {least:.3f} is needed ({beside} and a margin)"
        for name, value, beside, least in wanted
        if value < least
    ]
    learning = record["learning"]
    most = learning["ln_k"] - goals.loss_below_ln_k
    if learning["final_loss"] > most:
        misses.append(f"loss {learning['final_loss']:.3f}, and at most {most:.3f} is allowed (ln K less a margin)")
    return misses
