"""The page in headless Chromium, light and dark, wide and narrow; skips where Chromium or axe-core is missing."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, browsing, find_axe, find_chromium
from factories import STUDIES

from autodistill.records import FinalistRecord, InspectionRecord
from autodistill.report import render, render_inspection

pytestmark = pytest.mark.slow

PAGES = ("nothing", "all failed", "profiled", "profiled, 40 hostile teachers")
INSPECTION = "inspection"
NARROW, A4 = 360, 718
"""CSS pixels: a phone, and a sheet of A4 without its margins."""
REPORTED = """
axe.run(document, {resultTypes: ["violations"]}).then(found => done(found.violations
  .filter(one => ["serious", "critical"].includes(one.impact))
  .map(one => [one.id, one.nodes.length, one.nodes.slice(0, 3).map(node => [node.html, node.failureSummary])])));
"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network but the loopback, where chromedriver listens."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a test tried to reach {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = find_chromium()
    if found is None:
        pytest.skip("chromedriver and chromium are not on the path (Debian: chromium, chromium-driver)")
    with browsing(*found) as running:
        yield running


@pytest.fixture(scope="module")
def axe(repository: Path) -> str:
    found = find_axe(repository)
    if found is None:
        pytest.skip("no axe-core: `npm install --no-save axe-core`, or name its axe.min.js in AUTODISTILL_AXE")
    return found.read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=[*PAGES, INSPECTION])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    if request.param != INSPECTION:
        return render(STUDIES[request.param](), folder)
    study = STUDIES["profiled"]()
    return render_inspection(
        InspectionRecord(data=study.data, teachers=study.teachers, agreement=study.agreement), folder
    )


def unfold(browser: Browser) -> None:
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; });")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_neither_complains_nor_scrolls_sideways(browser: Browser, page: Path, scheme: str) -> None:
    browser.show(page, width=NARROW, scheme=scheme)
    folded = browser.run("return document.scrollingElement.scrollWidth")
    unfold(browser)
    unfolded = browser.run("return document.scrollingElement.scrollWidth")
    assert (folded, unfolded, browser.complaints()) == (NARROW, NARROW, [])
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground[4:-1]}]")) > 384) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, axe: str, page: Path, scheme: str) -> None:
    browser.show(page, scheme=scheme)
    unfold(browser)
    browser.run(axe)
    assert browser.run_async(REPORTED) == []


def test_nothing_is_cut_on_paper(browser: Browser, page: Path) -> None:
    browser.show(page, width=A4, medium="print")
    assert browser.run("return document.scrollingElement.scrollWidth") <= A4
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("balanced", [False, True])
def test_a_desk_shows_the_leaderboard_whole(browser: Browser, balanced: bool, tmp_path: Path) -> None:
    record = STUDIES["profiled"]()
    if balanced:
        record = record.model_copy(update={"finalists": tuple(map(with_balanced_scores, record.finalists))})
    page = render(record, tmp_path)
    assert ("Mean over classes" in page.read_text()) == balanced
    browser.show(page, width=1100)
    wide = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
    assert browser.run(f"return {wide}.map(one => one.getAttribute('aria-label'))") == []


def with_balanced_scores(finalist: FinalistRecord) -> FinalistRecord:
    runs = []
    for run in finalist.runs:
        last = run.curve[-1].model_copy(update={"test_balanced_top1": run.test_top1})
        runs.append(run.model_copy(update={"curve": (*run.curve[:-1], last)}))
    return finalist.model_copy(update={"runs": tuple(runs)})


def test_the_tests_see_faults(browser: Browser, axe: str, tmp_path: Path) -> None:
    """A page with a pale text, a wide block and a failing script is found out: the checks above can fail."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><html lang=en><title>t</title><body><main><h1>h</h1><p style='color:#ccc;width:900px'>pale"
        "<script>throw new Error('broken')</script>"
    )
    browser.show(page, width=NARROW)
    assert browser.run("return document.scrollingElement.scrollWidth") > NARROW
    assert "broken" in "".join(browser.complaints())
    browser.run(axe)
    assert [name for name, _, _ in browser.run_async(REPORTED)] == ["color-contrast"]
