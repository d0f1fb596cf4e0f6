"""The page in a real browser: nothing leaves the file, nothing fails, it fits a phone, filters and links work.

Chromium is driven over its debugging pipe (JSON messages between NUL bytes), which needs no further package.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import subprocess
import time
from pathlib import Path

import pytest
from tests.harness import synthetic_records as synthetic

from swav_bench import records, report

pytestmark = pytest.mark.browser


class Browser:
    """A headless Chromium with one tab."""

    def __init__(self, chromium: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def connect() -> None:
            # The pipe's ends are 3 (commands) and 4 (answers) for Chromium; first out of each other's way.
            commands, answers = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out))
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [chromium, *flags],
            pass_fds=(3, 4),
            preexec_fn=connect,  # noqa: PLW1509  # there is one thread
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._buffer = b""
        self._numbers = itertools.count(1)
        self._session = None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, /, **params):
        """The result of a command; events that arrive meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, method):
        """The next event of that name, new ones only."""
        while (event := self._receive()).get("method") != method:
            self.events.append(event)
        self.events.append(event)

    def open(self, page: Path, *, width=1280, height=900, dark=False):
        """Loads a page in a window of that size and colour scheme."""
        self.events.clear()
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=page.as_uri())
        self.wait("Page.loadEventFired")

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, full=False):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self, path: Path):
        data = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self):
        """Errors and warnings of the console, the page's own and the browser's."""
        self.evaluate("0")
        methods = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in methods]

    def requests(self):
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def close(self):
        os.close(self._out)
        os.close(self._in)
        self.process.terminate()
        self.process.wait(20)

    def _receive(self, patience=60):
        end = time.monotonic() + patience
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], max(0, end - time.monotonic()))[0], "Chromium does not answer"
            piece = os.read(self._in, 1 << 20)
            assert piece, "Chromium has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    opened = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every status, two devices, seeds, and names that would like to be more than text."""
    made = synthetic.demo()
    for number, status in enumerate(("oom", "timeout", "wrong", "collapsed", "error", "not_run")):
        made[4 * number] = synthetic.failed(made[4 * number], status, f"<img src=x onerror=alert({number})> went wrong")
    made += synthetic.demo(("<script>alert(1)</script>",), seed=1)
    made += [synthetic.gpu(record) for record in synthetic.demo(("torch",))]
    return report.write_report(synthetic.write(tmp_path_factory.mktemp("results") / "everything", made))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_quiet_and_fits(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    # The icon is an empty data: URI, so that no browser looks for one.
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("window.innerWidth") == width
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark


def test_quietness_is_seen(browser, page, tmp_path):
    """The same looks find a request, a console error and a page that is too wide."""
    text = page.read_text(encoding="utf-8")
    start, end = text.index('<meta http-equiv="Content-Security-Policy"'), text.index('<meta name="viewport"')
    faulty = text[:start] + text[end:].replace(
        "</main>", '<img src="missing.png"><div style="width:2000px">x</div><script>undefined.x</script></main>'
    )
    (tmp_path / "faulty.html").write_text(faulty, encoding="utf-8")
    browser.open(tmp_path / "faulty.html", width=390)
    assert any(url.endswith("missing.png") for url in browser.requests())
    assert browser.complaints()
    assert browser.evaluate("document.documentElement.scrollWidth") > 390


def test_script_of_data_does_not_run(browser, page):
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert "<script>alert(1)</script>" in browser.evaluate("document.body.innerText")


def test_filters_hide_rows_columns_and_lines_of_plots(browser, page):
    browser.open(page)
    seen = "[...document.querySelectorAll('[data-row]')].filter(row => row.offsetParent).length"
    points = "[...document.querySelectorAll('[data-series]')].filter(g => g.getClientRects().length).length"
    rows, lines = browser.evaluate(seen), browser.evaluate(points)
    browser.evaluate(
        "[...document.querySelectorAll('#filters label')].find(l => l.textContent.trim() == 'jax').firstChild.click()"
    )
    assert browser.evaluate(seen) == rows - 8
    assert 0 < browser.evaluate(points) < lines
    headers = "[...document.querySelectorAll('.pivot thead')].at(0).innerText"
    assert "jax" not in browser.evaluate(headers)
    browser.evaluate("document.querySelector('#filters button').click(); new Promise(done => setTimeout(done, 50))")
    assert browser.evaluate(seen) == rows
    assert browser.evaluate(points) == lines


def test_link_opens_the_raw_record(browser, page):
    browser.open(page)
    browser.evaluate("document.querySelector('.main .links a').click(); new Promise(done => setTimeout(done, 100))")
    assert browser.evaluate("document.querySelector(location.hash).closest('details').open")
    assert browser.evaluate("JSON.parse(document.querySelector(location.hash).textContent).schema") == records.SCHEMA


def test_page_without_script_is_complete(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        shown = browser.call("Page.captureSnapshot")["data"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    # 24 cells of the demo, 8 of a stranger, 8 on a GPU.
    assert shown.count("data-row") >= 40
    assert browser.evaluate("document.getElementById('filters').hidden")


def test_page_prints(browser, page, tmp_path):
    browser.open(page)
    browser.print(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
