"""The page in a real browser: on a phone and a desk, in light and dark, and on paper."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.run_report import write_report
from tests.tasks.html_report.browser import Tab, browsing, find_browser
from tests.tasks.tiny import Finished, at_home

BROWSER = find_browser()
PHONE, DESK = 390, 1280

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")

WIDER_THAN_THE_SCREEN = """
Array.from(document.querySelectorAll('body *'))
  .filter(each => !each.closest('.heard, svg') && getComputedStyle(each).position !== 'absolute')
  .filter(each => each.getBoundingClientRect().right > window.innerWidth + 1)
  .map(each => each.tagName + '.' + each.className)
"""


@pytest.fixture(scope="module")
def report(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with at_home(finished.home):
        return write_report(finished.run, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    assert BROWSER is not None
    with browsing(BROWSER) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_loads_alone_without_complaint_and_fits(
    tab: Tab, report: Path, width: int, scheme: str
) -> None:
    tab.open(report, width=width, scheme=scheme)
    requests = [each["request"]["url"] for each in tab.seen("Network.requestWillBeSent")]
    assert requests == [report.as_uri()]
    complaints = tab.seen("Log.entryAdded") + tab.seen("Runtime.exceptionThrown")
    assert complaints + tab.seen("Runtime.consoleAPICalled") == []
    tab.ask("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert tab.ask("document.documentElement.scrollWidth") <= width
    assert tab.ask(WIDER_THAN_THE_SCREEN) == []


def test_headings_and_plots_are_there_and_drawn(tab: Tab, report: Path) -> None:
    tab.open(report, width=DESK)
    levels = tab.ask("Array.from(document.querySelectorAll('h1,h2,h3')).map(h => h.tagName)")
    assert levels[0] == "H1"
    assert levels.count("H1") == 1
    assert levels.count("H2") == 9
    boxes = tab.ask(
        "Array.from(document.querySelectorAll('svg path.curve')).map(each => {"
        " const box = each.getBoundingClientRect(); return [box.width, box.height] })"
    )
    assert len(boxes) >= 4
    assert all(width > 100 and height > 10 for width, height in boxes)


def test_dark_is_dark_and_light_is_light(tab: Tab, report: Path) -> None:
    brightness = []
    for scheme in ("light", "dark"):
        tab.open(report, width=DESK, scheme=scheme)
        colour = tab.ask("getComputedStyle(document.body).backgroundColor")
        numbers = colour.removeprefix("rgb(").removesuffix(")").split(",")
        brightness.append(sum(map(int, numbers)) / 3)
    assert brightness[0] > 200
    assert brightness[1] < 60


def test_names_of_levels_do_not_lie_on_each_other(tab: Tab, report: Path) -> None:
    for width in (PHONE, DESK):
        tab.open(report, width=width)
        tops = tab.ask(
            "Array.from(document.querySelectorAll('#loss .name'))"
            ".map(each => each.getBoundingClientRect().top)"
        )
        assert len(tops) == 5
        assert all(below - above >= 10 for above, below in pairwise(tops))


def test_words_of_the_lineage_stay_in_their_rows_and_dots_stand_beside_them(
    tab: Tab, report: Path
) -> None:
    for width in (PHONE, DESK):
        tab.open(report, width=width)
        heights = tab.ask(
            "Array.from(document.querySelectorAll('.lineage li'))"
            ".map(each => [each.scrollHeight, each.clientHeight])"
        )
        assert len(heights) == 8
        assert all(needed <= given for needed, given in heights)
        apart = tab.ask(
            "(() => { const middle = each => { const box = each.getBoundingClientRect();"
            " return (box.top + box.bottom) / 2 };"
            " const dots = document.querySelectorAll('.lineage .node:not(.hollow)');"
            " return Array.from(document.querySelectorAll('.lineage li'))"
            ".map((row, number) => Math.abs(middle(row) - middle(dots[number]))) })()"
        )
        assert all(each < 2 for each in apart)


def test_a_phone_sees_the_name_of_a_column_beside_every_cell(tab: Tab, report: Path) -> None:
    tab.open(report, width=PHONE)
    said = tab.ask(
        "getComputedStyle(document.querySelector('#plan td:nth-child(3)'), '::before').content"
    )
    assert said == '"bound"'


def test_it_prints(tab: Tab, report: Path) -> None:
    tab.open(report, width=DESK)
    pdf = tab.pdf()
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 4
