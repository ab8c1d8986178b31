"""Commands about a run whose name, plan and error are somebody's attempt at a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from evidence.canonical import file_sha256
from evidence.records import RUN_RECORD
from flows.cli import run
from tasks.run_record import PLAN
from tests.tasks.tampering import reseal
from tests.tasks.tiny import Finished

NAME = "x\x1b]0;owned\x07[red]y[bold]\u202e<script>alert(1)<"
ERROR = "gate \x1b[2J [/b] <script>alert(2)</script>"


def forge(record: dict[str, Any]) -> None:
    """Put hostile names into a record, of the run and of a package that it ran on."""
    record["run"] = NAME
    record["provenance"]["packages"]["<script>alert(3)</script>\x1b[2J"] = "<b onclick=x>\x9b"


@pytest.fixture
def hostile(copied: Finished) -> Path:
    """A run that is named like this and failed with such words."""
    directory = copied.run.directory.with_name(NAME)
    copied.run.directory.rename(directory)
    for name in (PLAN, RUN_RECORD):
        reseal(directory / name, forge)
    digests = {PLAN: file_sha256(directory / PLAN)}
    reseal(directory / RUN_RECORD, lambda record: record["files"].update(digests))
    reseal(directory / RUN_RECORD, lambda record: record.update(outcome="failed", error=ERROR))
    return directory


@pytest.mark.parametrize(
    "line",
    [
        ["runs"],
        ["runs", "--json"],
        ["status", NAME],
        ["status", NAME, "--json"],
        ["verify", NAME],
        ["inspect", NAME],
        ["compare", NAME, NAME],
        ["report", NAME],
        ["export", NAME],
        ["audit", "DIRECTORY"],
        ["audit", "DIRECTORY", "--json"],
    ],
    ids=" ".join,
)
def test_no_command_passes_on_what_steers_a_terminal(
    hostile: Path, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([str(hostile) if each == "DIRECTORY" else each for each in line])

    said = capsys.readouterr()
    text = said.out + said.err
    assert code in (0, 5)
    assert all(each.isprintable() for each in text.split("\n")), text
    # Events name a run by a number of its own.
    assert "owned" in text or line[0] == "export"


def test_a_report_of_it_holds_no_foreign_markup(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"

    assert run(["report", NAME, "--out", str(page), "--json"]) == 0

    html = page.read_text()
    assert json.loads(capsys.readouterr().out)["run"] == NAME
    assert "<script" not in html
    assert "<b onclick" not in html
    for number in (1, 2, 3):
        assert f"&lt;script&gt;alert({number})" in html
    assert all(each.isprintable() for each in html.split("\n"))
