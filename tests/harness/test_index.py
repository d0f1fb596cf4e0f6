"""The page of all results: what the records say, and nothing that a name in them could add."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from tests.harness import synthetic_records as synthetic

from swav_bench import index


@pytest.fixture
def root(tmp_path):
    demo = synthetic.demo()
    synthetic.write(tmp_path / "all" / "cpu", [*demo[:-1], synthetic.failed(demo[-1], "oom", "no memory")])
    synthetic.write(tmp_path / "all" / "h200" / "core", [synthetic.gpu(record) for record in synthetic.demo(("jax",))])
    synthetic.write(tmp_path / "all" / "demo", demo)
    return tmp_path / "all"


def rows(page):
    return [line for line in page.splitlines() if line.startswith("| [")]


def test_a_row_says_what_where_when_and_how_it_went(root):
    found = index.folders(root)
    assert [path.relative_to(root).as_posix() for path in found] == ["cpu", "h200/core"]
    cpu, gpu = rows(index.pages(root, found)["index.md"])
    for words in (
        "[cpu](cpu/report.md)",
        "| demo |",
        "Example CPU 3 GHz with 2 hardware threads",
        "torch 2.13.0, jax 0.10.2, tensorflow 2.21.0",
        "| 2026-11-23 |",
        "| 0123456789 |",
        "| 23 ok, 1 oom |",
        "Fastest on Example CPU",
    ):
        assert words in cpu
    assert "[h200/core](h200/core/report.md)" in gpu
    assert "Example H200" in gpu


def test_the_command_writes_both_pages_and_checks_them(command, root):
    assert command("index", "all", "--check").returncode == 1
    done = command("index", "all")
    assert done.returncode == 0, done.stderr
    assert command("index", "all", "--check").returncode == 0
    synthetic.write(root / "cpu", [synthetic.record("torch", 128, multi_crop=False, queue=False)])
    done = command("index", "all", "--check")
    assert done.returncode == 1
    assert "index.md is not what the records give" in done.stdout
    done = command("index", "nowhere")
    assert done.returncode == 2
    assert "must be a folder of folders with records.jsonl" in done.stderr


def test_a_page_that_cannot_be_written_is_one_sentence_and_exit_code_2(main, root):
    (root / index.MARKDOWN).mkdir()
    done = main("index", "all")
    assert done == (2, "", "swav-bench: results = 'all': cannot be written (Is a directory)\n")


def test_what_ended_before_its_framework_was_there_names_none(tmp_path):
    record = synthetic.failed(synthetic.record("torch", 32, multi_crop=False, queue=False), "error", "it broke")
    record["environment"] |= {"implementation": None}
    folder = synthetic.write(tmp_path / "some", [record])
    columns = dict(zip(index.COLUMNS[1:], index.entry(tmp_path, folder).columns, strict=True))
    assert (columns["Implementations"], columns["Cells"]) == ("", "1 error")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.tags |= {f"{tag} {name}" for name, _ in attrs}


def test_hostile_names_are_shown_as_they_are(tmp_path):
    record = synthetic.record("torch", 32, multi_crop=False, queue=False)
    hostile = "<script>alert(1)</script>|[x](javascript:alert(1))"
    record["cell"] |= {"suite": hostile, "implementation": f"{hostile}:y"}
    record["environment"] |= {"cpu": hostile}
    folder = synthetic.write(tmp_path / "a <b>|c](d)", [record])
    made = index.pages(tmp_path, [folder])
    (row,) = rows(made["index.md"])
    assert row.replace("\\|", "").count("|") == len(index.COLUMNS) + 1
    assert "<script" not in row
    assert len(re.findall(r"(?<!\\)\]\(", row)) == 1  # the link to the folder
    assert "(a%20%3Cb%3E%7Cc%5D%28d%29/report.md)" in row
    page = Tags()
    page.feed(made["index.html"])
    assert not page.tags & {"script", "img", "a onclick"}
    plain = Tags()
    plain.feed(index.pages(tmp_path, [])["index.html"])
    assert page.tags - plain.tags == {"tr", "td", "a", "a href"} - plain.tags
