"""`assay report`, and the page that every run leaves."""

import json
from pathlib import Path

import pytest

from flows import run as flow_run
from flows.cli import run
from tests.tasks.tiny import Finished


def test_report_prints_where_the_page_is(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", copied.run.name]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == copied.home / "reports" / f"{copied.run.name}.html"
    assert path.read_text().startswith("<!doctype html>")


def test_report_is_of_the_last_run_unless_told_otherwise(
    copied: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert run(["report", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"run": copied.run.name, "report": str(out), "bytes": out.stat().st_size}


def test_report_writes_nothing_into_the_evidence(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied.run.directory / "report.html"
    assert run(["report", copied.run.name, "--out", str(out)]) == 2
    assert "outside of the run's evidence" in capsys.readouterr().err
    assert not out.exists()


def test_report_of_a_damaged_plan_is_refused(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = copied.run.directory / "plan.json"
    plan.write_text(plan.read_text().replace('"started": "2', '"started": "3'))
    assert run(["report", copied.run.name]) == 5
    assert "plan.json" in capsys.readouterr().err


def test_report_to_a_place_that_cannot_be_written_is_refused(
    copied: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["report", copied.run.name, "--out", str(tmp_path / "file" / "page.html")]) == 7
    assert "should be writable" in capsys.readouterr().err


def test_report_makes_no_directories(
    copied: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", copied.run.name, "--out", str(tmp_path / "typo" / "page.html")]) == 3
    assert not (tmp_path / "typo").exists()
    assert f"{tmp_path / 'typo'}: no directory, should exist" in capsys.readouterr().err


def test_a_report_that_fails_stops_no_run_and_is_said(
    copied: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr(flow_run, "write_report", fail)
    assert flow_run.reported(copied.run) is None
    said = capsys.readouterr().err
    assert said == f"warning: no report of {copied.run.name}: RuntimeError: no ink\n"
