"""The report: made from records alone, right about who may be ranked, safe with what others wrote into the data."""

from __future__ import annotations

import copy
import csv
import io
import math
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from tests.harness import synthetic_records as synthetic

from swav_bench import findings, plots, records, report, tables
from swav_bench.asides import aside_tables
from swav_spec.errors import InvalidInput

HOSTILE = "<script>alert('x')</script>|`$a_b$`[red](javascript:alert(1))\u202e"


class Outline(HTMLParser):
    """Checks that tags nest and ids are unique; keeps the text of each row of the main table."""

    VOID = ("meta", "link", "input", "br", "hr", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.targets, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.targets += [value[1:] for name, value in attrs if name == "href" and value.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(made, tmp_path):
    """report.html of these records, without its plots (which are slow)."""
    results = records.load(synthetic.write(tmp_path, made))
    return report.as_html(results, tables.study(results.records), [])


def lead(made):
    return " ".join(findings.headline(tables.study(made)))


def everything(made):
    study = tables.study(made)
    return " ".join(findings.headline(study) + [s for _, sentences in findings.details(study) for s in sentences])


@pytest.fixture(scope="module")
def mixed():
    """The demo with one cell of every outcome."""
    made = synthetic.demo()
    for number, status in enumerate(records.STATUSES[1:]):
        made[4 * number] = synthetic.failed(made[4 * number], status, f"Reason {number}")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mixed):
    where = synthetic.write(tmp_path_factory.mktemp("results") / "demo", mixed)
    report.write_report(where)
    return where


@pytest.fixture
def small(tmp_path):
    """A folder with a report of four cells, to be tampered with."""
    made = [record for record in synthetic.demo(("torch", "jax")) if not record["cell"]["queue"]][:4]
    where = synthetic.write(tmp_path / "small", made)
    report.write_report(where)
    return where


def files(where):
    return {path.relative_to(where).as_posix(): path.read_bytes() for path in where.rglob("*") if path.is_file()}


def test_the_same_records_give_the_same_bytes(folder, tmp_path):
    copied = tmp_path / folder.name
    copied.mkdir()
    shutil.copy(folder / records.RECORDS, copied)
    report.write_report(copied)
    first, second = files(folder), files(copied)
    assert first == second
    assert {"report.html", "report.md", "report.csv", "plots/throughput.png", "plots/throughput.svg"} <= set(first)


def test_an_edited_report_is_noticed(small):
    page = small / "report.html"
    page.write_text(page.read_text(encoding="utf-8").replace("torch", "t0rch", 1), encoding="utf-8")
    (small / "plots" / "memory.svg").unlink()
    (small / "plots" / "leftover.png").write_bytes(b"")
    assert report.differences(small) == ["plots/leftover.png", "plots/memory.svg", "report.html"]
    report.write_report(small)
    assert report.differences(small) == []


def test_another_matplotlib_excuses_plots_but_not_text(small):
    for path in (small / "plots").glob("*.svg"):
        path.write_text(path.read_text(encoding="utf-8").replace(">matplotlib ", ">matplotlib 0"), encoding="utf-8")
    page = (small / "report.html").read_text(encoding="utf-8")
    drawn = re.sub(r"(<svg role.*?)<path", r"\1<path class='other'", page, count=1, flags=re.DOTALL)
    assert drawn != page
    (small / "report.html").write_text(drawn, encoding="utf-8")
    assert report.differences(small) == []
    (small / "report.html").write_text(drawn.replace("torch", "t0rch", 1), encoding="utf-8")
    assert report.differences(small) == ["report.html"]


def test_page_is_well_formed_and_whole(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert set(outline.targets) <= set(outline.ids)
    assert {f"record-{number}" for number in range(1, 25)} <= set(outline.ids)
    addresses = [value for _, attrs in outline.tags for name, value in attrs.items() if name in ("href", "src")]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    # In the plots, url(#...) refers to the page itself.
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    headers = [attrs for tag, attrs in outline.tags if tag == "th"]
    assert all("scope" in attrs for attrs in headers)
    assert sum(tag == "table" for tag, _ in outline.tags) == sum(tag == "caption" for tag, _ in outline.tags)


def test_plots_are_files_that_can_be_read(folder):
    for path in (folder / "plots").glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")
    names = {path.stem for path in (folder / "plots").glob("*.png")}
    assert names == {
        "throughput",
        "memory",
        "parts",
        "first-step",
        "accuracy-time",
        "accuracy-samples",
        "accuracy",
        "loss",
        "front",
    }


def test_failed_cells_are_shown_and_not_ranked(mixed, folder):
    study = tables.study(mixed)
    speed = tables.METRIC["samples_per_s"]
    failed = {index for index, record in enumerate(mixed) if record["status"] != "ok"}
    assert len(failed) == 6
    ranked = {
        index
        for metric in tables.METRICS
        for setting in study.settings
        for row, _ in study.ranking(setting, metric)
        for index, _ in row.records
    }
    assert ranked == set(range(24)) - failed
    assert len([row for row in study.rows if row.estimate(speed)]) == 18
    text = (folder / "report.html").read_text(encoding="utf-8")
    for number, word in enumerate(("out of memory", "timeout", "wrong", "collapsed", "error", "not run")):
        assert f'<span class="badge">{word}</span>' in text
        assert f"Reason {number}" in text
        assert f"Reason {number}" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_faster_cell_that_is_wrong_is_not_the_fastest():
    made = synthetic.demo()
    assert "torch in 8 of 8 settings" in lead(made)
    wrong = [
        record | {"status": "wrong", "reason": "gradient"} if record["cell"]["implementation"] == "torch" else record
        for record in made
    ]
    assert "jax in 8 of 8 settings" in lead(wrong)
    assert "torch in" not in lead(wrong)
    assert "16 of 24 cells ended well; 8 failed the parity gate" in lead(wrong)


def test_one_failed_seed_keeps_a_row_out_of_the_ranking():
    made = [record for seed in (0, 1) for record in synthetic.demo(seed=seed)]
    assert "torch in 8 of 8" in lead(made)
    made[0] = synthetic.failed(made[0], "collapsed", "The loss stayed at ln K")
    assert "torch in 7 of 8" in lead(made)
    waiting = [synthetic.failed(made[0], "not_run", "planned, not reached yet"), *made[1:]]
    assert "torch in 8 of 8" in lead(waiting)


def test_the_answer_follows_the_data():
    slow = synthetic.demo(("torch",)) + synthetic.demo(("jax",), speed=1.5)
    assert "jax in 8 of 8 settings" in lead(slow)
    factor = float(re.search(r"\((\d\.\d\d)", lead(slow))[1])
    assert factor == pytest.approx(1.5 * 2050 / 2400, abs=0.02)


def test_the_answer_is_summed_up_where_there_is_much_of_it():
    made = [
        in_precision(precision, name=name) for precision in ("float32", "tf32", "bfloat16") for name in ("torch", "jax")
    ]
    data = tables.study(made)
    answer = findings.headline(data)
    assert answer[0].startswith("Fastest on Example CPU 3 GHz with 2 hardware threads: torch in 3 of 3 settings (1.")
    assert len([sentence for sentence in answer if sentence.startswith("kNN top-1 on textures is ")]) == 1
    places = dict(findings.details(data))
    assert [sentences[0].partition(":")[0] for place, sentences in places.items() if place != "Precision"] == [
        "Fastest on float32",
        "Fastest on tf32",
        "Fastest on bfloat16",
    ]
    few = tables.study([record for record in made if record["cell"]["precision"] != "tf32"])
    assert [sentence.partition(":")[0] for sentence in findings.headline(few) if sentence.startswith("Fastest")] == [
        "Fastest on float32",
        "Fastest on bfloat16",
    ]
    assert not dict(findings.details(few))["bfloat16"][0].startswith("Fastest")


def test_overlapping_intervals_name_nobody():
    made = synthetic.demo(("torch", "jax"))
    for record in made:
        record["timing"] |= {"samples_per_s_low": 1.0, "samples_per_s_high": 9999.0}
    assert "no implementation is named fastest" in lead(made)
    assert "In every setting the 95\u00a0% intervals" in lead(made)
    assert " times the next" not in lead(made)


def test_intervals_that_touch_overlap():
    metric = tables.METRIC["samples_per_s"]
    one, other = tables.Estimate(10, 9, 11), tables.Estimate(12, 11, 13)
    assert not tables.separated(one, other, metric)
    assert tables.separated(one, tables.Estimate(12, 11.01, 13), metric)


@pytest.mark.parametrize(("seeds", "claimed"), [(1, False), (3, False), (4, True)])
def test_accuracy_differences_need_enough_seeds(seeds, claimed):
    made = [record for seed in range(seeds) for record in synthetic.demo(("torch", "jax"), seed=seed)]
    for record in made:
        record["accuracy"]["knn_top1"] = 0.9 if record["cell"]["implementation"] == "jax" else 0.8
        record["accuracy"]["knn_top1"] += 0.001 * record["cell"]["seed"]
    said = "kNN top-1 is highest, beyond the spread over seeds, for jax" in everything(made)
    assert said is claimed
    if seeds == 1:
        assert "With one seed in each cell, no difference in accuracy" in everything(made)


def test_accuracies_that_overlap_are_no_difference():
    made = [record for seed in range(5) for record in synthetic.demo(("torch", "jax"), seed=seed)]
    for record in made:
        record["accuracy"]["knn_top1"] = record["accuracy"]["linear_top1"] = 0.8 + 0.001 * record["cell"]["seed"]
    assert "No difference in accuracy between implementations" in everything(made)


def test_different_devices_are_not_ranked_together(tmp_path):
    cpu = synthetic.demo(("torch",))
    h200 = [synthetic.gpu(record) for record in synthetic.demo(("jax",))]
    other = [synthetic.gpu(record, "Example H100") for record in synthetic.demo(("tensorflow",))]
    for record in other:
        record["cell"]["id"] += "-h100"
    study = tables.study([*cpu, *h200, *other])
    assert len(study.settings) == 24
    for setting in study.settings:
        assert len(study.ranking(setting, tables.METRIC["samples_per_s"])) == 1
    assert "Fastest" not in lead([*cpu, *h200, *other])
    assert "Different devices are never ranked" in lead([*cpu, *h200, *other])
    assert "never ranked against each other" in page_of([*cpu, *h200, *other], tmp_path)


def test_other_recipes_precisions_and_lengths_are_not_ranked_together():
    made = synthetic.demo(("torch", "jax"))
    for field, value in (("precision", "tf32"), ("recipe", "x"), ("dataset", "x"), ("steps", 9), ("lr", 0.5)):
        changed = copy.deepcopy(made)
        for record in changed:
            if record["cell"]["implementation"] == "jax":
                record["cell"][field] = value
        assert "Fastest" not in lead(changed)
        labels = {tables.study(changed).setting_label(setting) for setting in tables.study(changed).settings}
        assert len(labels) == 16


def test_environments_that_differ_are_flagged(tmp_path):
    made = synthetic.demo(("torch", "jax"))
    assert "environments, which differ" not in page_of(made, tmp_path / "same")
    for record in made[1::2]:
        record["environment"] = record["environment"] | {"python": "3.12.9"}
    text = page_of(made, tmp_path / "different")
    assert "Cells ran in 2 environments, which differ in: Python." in text
    assert "Environment B" in text


def test_two_runs_of_one_cell_elsewhere_stay_apart():
    made = synthetic.demo(("torch",))
    again = copy.deepcopy(made)
    for record in again:
        record["environment"]["packages"]["torch"] = "2.12.0"
        record["cell"]["id"] += "-old"
    study = tables.study(made + again)
    assert [study.label(contestant) for contestant in study.contestants] == ["torch [A]", "torch [B]"]


def test_what_multi_crop_costs_is_said():
    made = [record for record in synthetic.demo(("torch",)) if not record["cell"]["queue"]]
    on, off = (
        next(record["work"]["model_flops_per_step"] for record in made if record["cell"]["multi_crop"] is crops)
        for crops in (True, False)
    )
    assert on > off
    said = "samples/s come to 52\u00a0% (torch) of what they are without; by its arithmetic it would be"
    assert f"With multi-crop, {said} {100 * off / on:.0f}\u00a0%." in everything(made)
    assert "With the queue" not in everything(made)


def test_gpu_figures_have_their_columns(tmp_path):
    text = page_of([synthetic.gpu(record) for record in synthetic.demo()], tmp_path)
    for title in ("Peak GPU memory", "GPU memory of the process", "Energy", "Share of the chip"):
        assert title in text
    assert "CPU figures are no claim" not in text
    assert "GPU temperature before and after cells: 52 to 64 °C." in text


def test_a_crowded_machine_is_told():
    made = synthetic.demo(("torch",))
    assert "something else ran on the machine" not in lead(made)
    for record in made[:2]:
        record["timing"]["cores_busy"] = 0.6
    assert "In 2 of 8 timed cells the process had less than 0.9 of a core" in lead(made)


def test_a_loss_above_ln_k_is_told():
    made = synthetic.demo(("torch",))
    assert "not below ln K" not in everything(made)
    made[0]["learning"]["final_loss"] = made[0]["learning"]["ln_k"] + 0.5
    assert "In 1 of 8 rows the final loss is not below ln K" in everything(made)


def test_nothing_is_said_of_a_loss_on_noise():
    made = synthetic.record("torch", 32, multi_crop=True, queue=False)
    made["learning"] = made["learning"] | {"final_loss": 1.1 * made["learning"]["ln_k"]}
    made["cell"] = made["cell"] | {"dataset": "noise-32"}
    said = [sentence for _, sentences in findings.details(tables.study([made])) for sentence in sentences]
    assert said
    assert not [sentence for sentence in said if "loss" in sentence]


def test_tables_have_no_rows_or_columns_without_a_figure():
    learnt, timed = (synthetic.record("torch", batch, multi_crop=True, queue=False) for batch in (32, 64))
    timed["accuracy"] = None
    failed = synthetic.failed(synthetic.record("torch", 16, multi_crop=True, queue=False), "oom", "full")
    made = [
        learnt,
        timed,
        failed,
        synthetic.record("jax", 32, multi_crop=True, queue=False),
        synthetic.kernels("torch"),
    ]
    data = tables.study(made)
    tables_shown = {pivot.metric.key: pivot for pivot in report.pivots(data)}
    assert [line.label[-8:] for line in tables_shown["samples_per_s"].lines] == ["batch 16", "batch 32", "batch 64"]
    assert [line.label[-8:] for line in tables_shown["knn"].lines] == ["batch 16", "batch 32"]
    assert [label for label, _ in _asides(data)[0].columns] == ["torch"]


def test_conditions_are_told(tmp_path):
    made = [synthetic.gpu(record) for record in synthetic.demo(("torch", "jax"))]
    made[0]["energy"]["after"] = made[0]["energy"]["after"] | {"throttle_reasons": ["SwPowerCap"], "other_processes": 1}
    made[1]["environment"] = made[1]["environment"] | {"compile_cache": "warm"}
    made[2] |= {"dirty": True, "commit": "f" * 40}
    made[3]["timing"]["recompilations"] = 2
    made[4]["notes"] = ["no energy: the blocks were short"]
    text = page_of(made, tmp_path)
    for sentence in (
        "by NVML&#39;s reasons: SwPowerCap",
        "Other processes computed on the GPU beside some cells",
        "Compile caches were warm in some cells",
        "changes that were not committed",
        "different commits",
        "1 of 16 cells compiled again after warm-up",
        "no energy: the blocks were short (1 of 16 cells)",
    ):
        assert sentence in text


def test_what_is_within_the_intervals_is_no_cost():
    made = synthetic.demo(("torch",))
    for record in made:
        record["timing"] |= {"samples_per_s_low": 1.0, "samples_per_s_high": 9999.0}
    assert "With multi-crop" not in everything(made)
    assert "In 4 pairs of cells what multi-crop costs is within the 95\u00a0% intervals." in everything(made)


def test_modes_are_contestants_of_their_own():
    made = synthetic.demo(("torch",)) + synthetic.demo(("torch",), speed=1.3)
    for record in made[8:]:
        record["cell"] |= {"mode": "compile", "id": record["cell"]["id"] + "-compile"}
    study = tables.study(made)
    assert [study.label(contestant) for contestant in study.contestants] == ["torch eager", "torch compile"]
    assert "torch compile in 8 of 8 settings" in lead(made)


def test_hostile_names_are_text(tmp_path):
    made = synthetic.demo((HOSTILE, "torch"))[:4]
    made[0]["cell"] |= {"recipe": "=cmd|' /C calc'!A0", "dataset": HOSTILE}
    made[0]["environment"] |= {"cpu": HOSTILE, "variables": {HOSTILE: HOSTILE}, "packages": {HOSTILE: HOSTILE}}
    made[0]["notes"] = [HOSTILE]
    made[2] = synthetic.failed(made[2], "error", f"</pre></details>{HOSTILE}")
    where = synthetic.write(tmp_path / "hostile <b>", made)
    report.write_report(where)
    text = (where / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert sum(tag == "script" for tag, _ in outline.tags) == 1
    assert not any(tag in ("b", "img") for tag, _ in outline.tags)
    assert "&lt;script&gt;alert(" in text
    markdown = (where / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)
    header, *rows = [line for line in markdown.splitlines() if line.startswith("| ")][:5]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(re.findall(r"(?<!\\)\|", header))}
    assert "\n'=cmd" not in markdown
    cells = list(csv.DictReader(io.StringIO((where / "report.csv").read_text(encoding="utf-8"))))
    assert cells[0]["cell.recipe"].startswith("'=")
    assert cells[0]["cell.dataset"] == HOSTILE
    for path in (where / "plots").glob("*.svg"):
        assert not ET.parse(path).getroot().findall(".//{*}script")
    console = Console(width=200, file=io.StringIO())
    console.print(*report.terminal_tables(made))
    assert "[red](javascript:alert(1))" in console.file.getvalue()
    assert "\u202e" not in console.file.getvalue()


def test_csv_has_the_figures_of_the_records(folder, mixed):
    lines = list(csv.DictReader(io.StringIO((folder / "report.csv").read_text(encoding="utf-8"))))
    assert len(lines) == len(mixed)
    compared = 0
    for line, record in zip(lines, mixed, strict=True):
        assert line["status"] == record["status"]
        for group in ("cell", "timing", "memory", "work", "parity", "accuracy"):
            for name, value in (record[group] or {}).items():
                if isinstance(value, list):
                    assert f"{group}.{name}" not in line
                elif value is None:
                    assert line[f"{group}.{name}"] == ""
                elif isinstance(value, (int, float)) and not isinstance(value, bool):
                    assert float(line[f"{group}.{name}"]) == value
                    compared += 1
        if record["timing"] is None:
            assert line["timing.samples_per_s"] == ""
    assert compared > 18 * 30


def test_a_row_joins_its_seeds():
    made = [synthetic.record("torch", 32, multi_crop=False, queue=False, seed=seed) for seed in range(3)]
    (row,) = tables.study(made).rows
    speed = row.estimate(tables.METRIC["samples_per_s"])
    assert speed.value == sorted(record["timing"]["samples_per_s"] for record in made)[1]
    assert speed.low == min(record["timing"]["samples_per_s_low"] for record in made)
    knn = row.estimate(tables.METRIC["knn"])
    assert knn.value == pytest.approx(sum(record["accuracy"]["knn_top1"] for record in made) / 3)
    assert (knn.low, knn.high, knn.runs) == (
        min(record["accuracy"]["knn_top1"] for record in made),
        max(record["accuracy"]["knn_top1"] for record in made),
        3,
    )


@pytest.mark.parametrize("status", ["error", "not_run"])
def test_only_failures_still_give_a_report(tmp_path, status):
    made = [synthetic.failed(record, status, "No luck") for record in synthetic.demo()]
    for record in made:
        record["environment"] = record["environment"] | {"implementation": None}
        record["config"] = None
    where = synthetic.write(tmp_path / "failed", made)
    text = report.write_report(where).read_text(encoding="utf-8")
    Outline(text)
    assert "0 of 24 cells ended well" in text
    assert "No luck" in text
    assert "Nothing was measured that could be drawn" in text
    assert not list((where / "plots").iterdir())
    assert "Fastest" not in text.split("How to read")[0]


def test_an_empty_folder_of_results_gives_a_report_or_a_sentence(tmp_path):
    with pytest.raises(InvalidInput, match="results folder"):
        report.write_report(tmp_path)
    (tmp_path / records.RECORDS).write_bytes(b"")
    assert "There are no records yet" in report.write_report(tmp_path).read_text(encoding="utf-8")
    (empty,) = report.terminal_tables([])
    assert empty.row_count == 0


def test_a_broken_line_is_told(tmp_path):
    where = synthetic.write(tmp_path, synthetic.demo(("torch",)))
    with (where / records.RECORDS).open("ab") as file:
        file.write(b'{"schema":1,"stat')
    results = records.load(where)
    assert "line 9 is left out" in report.as_html(results, tables.study(results.records), [])


def test_the_terminal_shows_every_row(mixed):
    console = Console(width=160, file=io.StringIO())
    console.print(*report.terminal_tables(mixed))
    text = console.file.getvalue()
    assert sum(text.count(name) for name in ("torch eager ", "jax jit ", "tensorflow graph ")) >= 24
    for word in ("collapsed", "wrong", "out of memory", "not run"):
        assert word in text


def test_every_implementation_keeps_its_looks():
    few, many = (
        plots.Looks(tables.study(synthetic.demo(names))) for names in (("jax",), ("torch", "jax", "plain-torch", "zz"))
    )
    jax = tables.Contestant("jax", "jit")
    assert (few.colour(jax), few.marker(jax)) == (many.colour(jax), many.marker(jax))
    looks = [*plots.LOOKS.values(), *plots.OTHERS]
    assert len({marker for _, _, marker in looks}) == len(looks)


def test_modes_are_told_apart_without_lines():
    names = [("torch", mode) for mode in ("xla", "compile", "eager", "cudagraph")]
    made = [
        record | {"cell": record["cell"] | {"mode": mode, "id": f"{record['cell']['id']}-{mode}"}}
        for name, mode in names
        for record in [synthetic.record(name, 32, multi_crop=True, queue=False)]
    ]
    for record in made:
        described = record["environment"]["implementation"] | {"mode": record["cell"]["mode"]}
        record["environment"] = record["environment"] | {"implementation": described}
    data = tables.study(made)
    looks = plots.Looks(data)
    assert [contestant.mode for contestant in data.contestants] == ["eager", "compile", "cudagraph", "xla"]
    assert looks.fill(data.contestants[0]) == "full"
    for told in (looks.fill, looks.line, lambda contestant: plots.swatch(data, contestant)):
        assert len({str(told(contestant)) for contestant in data.contestants}) == 4
    assert len({looks.marker(contestant) for contestant in data.contestants}) == 1


def test_long_settings_leave_room_for_their_points():
    made = [
        record | {"cell": record["cell"] | {"dataset": "-".join(["long"] * 30), "id": f"{record['cell']['id']}-long"}}
        for record in [synthetic.record("torch", 32, multi_crop=True, queue=False)]
    ]
    data = tables.study([*made, synthetic.record("torch", 32, multi_crop=True, queue=False)])
    (panel,) = next(plot for plot in plots.plots(data) if plot.name == "first-step").panels
    with plots.style():
        figure = Figure(figsize=(plots.WIDTH, plots.HEIGHT))
        axes = figure.subplots()
        panel.draw(axes)
        figure.canvas.draw()
        assert axes.get_position().width > 0.5
    assert any("\n" in label.get_text() for label in axes.get_yticklabels())


@pytest.mark.parametrize("ground", ["#ffffff", "#14171c"])
def test_colours_stand_out_from_the_ground(ground):
    """At least 3:1, which WCAG asks of graphics."""
    for light, dark, _ in (*plots.LOOKS.values(), *plots.OTHERS):
        colour = light if ground == "#ffffff" else dark
        bright, dim = sorted((_luminance(colour), _luminance(ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3, colour


def _luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1234.5, 4, "1,234"),
        (1234.5, 3, "1,230"),
        (9.996, 3, "10.0"),
        (0.04567, 3, "0.0457"),
        (0, 3, "0"),
        (812.34, 4, "812.3"),
    ],
)
def test_significant_digits(value, digits, shown):
    assert tables.significant(value, digits) == shown


def test_front_holds_what_nothing_beats():
    points = [(1, 9), (2, 9), (3, 5), (2.5, 7), (3, 6), (0.5, 8)]
    front = plots.pareto(points)
    assert front == [(2, 9), (2.5, 7), (3, 6)]
    beaten = [p for p in points if any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)]
    assert sorted(front) == sorted(set(points) - set(beaten))


def test_loss_is_not_hidden_where_it_is_not_a_number():
    made = synthetic.demo(("torch",))
    made[0] = synthetic.failed(made[0], "collapsed", "Loss is not finite")
    made[0]["learning"] |= {"final_loss": None, "loss_curve": [[0, 3.4], [1, None]]}
    study = tables.study(made)
    assert study.rows[0].estimate(tables.METRIC["loss"]) is None
    assert any(plot.name == "loss" for plot in plots.plots(study))
    assert math.isclose(study.reference(study.settings[0], ("learning", "ln_k")), math.log(30))


def test_a_cpu_s_answer_says_that_it_is_no_claim():
    claim = "no claim about a framework"
    assert claim in lead(synthetic.demo())
    assert claim not in lead([synthetic.gpu(record) for record in synthetic.demo()])


def test_overhead_is_beside_throughput_with_its_interval(tmp_path):
    page = page_of(synthetic.demo(), tmp_path)
    assert "Overhead over the encoder" in page
    data = tables.study(synthetic.demo())
    estimate = data.rows[0].estimate(tables.METRIC["overhead"])
    (_, made), *_ = data.rows[0].records
    assert estimate.value == made["overhead"]["overhead_share"]
    assert (estimate.low, estimate.high) == (
        made["overhead"]["overhead_share_low"],
        made["overhead"]["overhead_share_high"],
    )
    assert "SwAV's whole step takes 11" in everything(synthetic.demo())


def in_precision(precision, *, name="torch", seed=0, loss=0.0):
    """A run in that precision; its loss is so much above the same run's in float32, all along."""
    made = synthetic.record(name, 32, multi_crop=True, queue=False, seed=seed)
    learning = made["learning"]
    curve = [[step, value + loss] for step, value in learning["loss_curve"]]
    made["learning"] = learning | {"loss_curve": curve, "final_loss": learning["final_loss"] + loss}
    cell = made["cell"]
    return made | {"cell": cell | {"precision": precision, "id": f"{cell['id']}-{precision}"}}


def test_the_loss_in_each_precision_lies_over_that_in_float32(tmp_path):
    made = [in_precision("bfloat16", loss=0.14), in_precision("float32"), in_precision("tf32", loss=0.03)]
    made += [in_precision("float32", seed=1), synthetic.record("jax", 32, multi_crop=True, queue=False)]
    data = tables.study(made)
    ((_, contestant),) = data.by_precision
    assert contestant.implementation == "torch"
    assert [(name, list(runs)) for name, runs in data.by_precision[next(iter(data.by_precision))].items()] == [
        ("float32", [0]),
        ("tf32", [0]),
        ("bfloat16", [0]),
    ]
    plot = next(plot for plot in plots.plots(data) if plot.name == "precision")
    (panel,) = plot.panels
    assert panel.title == "torch, 2×32 + 4×16, no queue, batch 32"
    with plots.style():
        axes = Figure().subplots()
        panel.draw(axes)
    ends = {line.get_label(): line.get_ydata()[-1] for line in axes.get_lines()}
    assert ends["tf32"] - ends["float32"] == pytest.approx(0.03)
    assert ends["bfloat16"] - ends["float32"] == pytest.approx(0.14)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float32", "tf32", "bfloat16"]
    said = dict(findings.details(data))["Precision"]
    assert said == [
        "The final loss in tf32 is within 0.030 (torch) nats of the same run's in float32.",
        "The final loss in bfloat16 is within 0.14 (torch) nats of the same run's in float32.",
    ]
    page = report.write_report(synthetic.write(tmp_path, made)).read_text(encoding="utf-8")
    assert "Loss by precision" in page
    assert (tmp_path / "plots" / "precision.svg").exists()


@pytest.mark.parametrize("lost", ["loss_curve", "final_loss"])
def test_a_precision_whose_loss_ended_as_no_number_is_laid_over_nothing(lost):
    made = [in_precision("bfloat16"), in_precision("float32")]
    learning = made[0]["learning"]
    nothing = {"loss_curve": [[step, None] for step, _ in learning["loss_curve"]], "final_loss": None}
    made[0]["learning"] = learning | {lost: nothing[lost]}
    data = tables.study(made)
    assert data.by_precision == {}
    assert "precision" not in {plot.name for plot in plots.plots(data)}
    assert "Precision" not in dict(findings.details(data))


def test_without_float32_beside_it_a_precision_is_shown_alone():
    data = tables.study([in_precision("bfloat16"), in_precision("float32", seed=1)])
    assert data.by_precision == {}
    assert "precision" not in {plot.name for plot in plots.plots(data)}
    assert "Precision" not in dict(findings.details(data))


def test_waiting_for_input_is_told_of_streams_only(tmp_path):
    assert "Waiting for input" not in page_of(synthetic.demo(), tmp_path)
    streamed = [made | {"cell": made["cell"] | {"input": "stream"}} for made in synthetic.demo()]
    assert "Waiting for input" in page_of(streamed, tmp_path)
    assert "waiting for input takes at most" in everything(streamed)


def test_streams_and_networks_are_not_ranked_with_others():
    fast = [made | {"cell": made["cell"] | {"input": "stream"}} for made in synthetic.demo(("torch",), speed=3.0)]
    other = [made | {"cell": made["cell"] | {"network": "resnet18"}} for made in synthetic.demo(("jax",), speed=9.0)]
    data = tables.study(synthetic.demo(("tensorflow",)) + fast + other)
    assert all(len(data.ranking(setting, tables.METRIC["samples_per_s"])) == 1 for setting in data.settings)


def test_kernels_and_largest_batches_have_tables_of_their_own(tmp_path):
    made = [
        *synthetic.demo(("torch", "jax")),
        synthetic.kernels("torch"),
        synthetic.kernels("jax", speed=2.0),
        synthetic.largest_batch("torch", 512),
        synthetic.largest_batch("jax", None),
        synthetic.largest_batch("torch", 192, multi_crop=True),
    ]
    data = tables.study(made)
    assert len(data.rows) == len(synthetic.demo(("torch", "jax")))
    page = page_of(made, tmp_path)
    tables_shown = {pivot.metric.title: pivot for pivot in _asides(data)}
    assert list(tables_shown) == ["Largest batch that fits", "sinkhorn", "larc_sgd"]
    largest = {line.label: [cell.text for cell in line.cells] for line in tables_shown["Largest batch that fits"].lines}
    assert sorted(map(tuple, largest.values())) == [("192", "–"), ("512", "none")]
    first, second = tables_shown["sinkhorn"].lines
    assert [cell.text for cell in first.cells] == ["300", "150"]
    assert [cell.best for cell in second.cells] == [False, True]
    assert re.search(r"not 576, [\d,]+ samples/s", page)
    results = records.load(synthetic.write(tmp_path, made))
    assert "## Single operations and largest batches" in report.as_markdown(results, data, [])


def test_what_one_has_not_measured_is_a_dash_or_left_out():
    alone = synthetic.largest_batch("torch", 512) | {"timing": None}
    fewer = synthetic.kernels("jax")
    fewer["kernels"] = [kernel for kernel in fewer["kernels"] if kernel["name"] != "sinkhorn"]
    shown = {pivot.metric.title: pivot for pivot in _asides(tables.study([alone, synthetic.kernels("torch"), fewer]))}
    (line,) = shown["Largest batch that fits"].lines
    assert [(cell.text, cell.small) for cell in line.cells] == [("512", "not 576"), ("–", "")]
    assert {line.cells[1].text for line in shown["sinkhorn"].lines} == {"–"}
    assert "–" not in {line.cells[1].text for line in shown["larc_sgd"].lines}


def test_the_terminal_shows_single_operations_and_largest_batches():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(*report.terminal_tables([synthetic.kernels("torch"), synthetic.largest_batch("torch", 512)]))
    text = console.export_text()
    assert all(words in text for words in ("sinkhorn (µs)", "4096x3000", "5,000", "Largest batch", "512"))
    assert "by setting and implementation" not in text


def test_kernels_alone_give_a_report(tmp_path):
    made = [
        synthetic.kernels("torch"),
        synthetic.failed(synthetic.kernels("jax"), "error", "it broke") | {"kernels": None},
    ]
    page = page_of(made, tmp_path)
    assert "sinkhorn" in page
    assert "it broke" in page
    assert 'id="comparison"' not in page


def _asides(data):
    return aside_tables(data, str, str, lambda setting: data.setting_label(setting) or "All")
