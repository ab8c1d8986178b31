"""`assay export`: one event a line, or one description."""

import json
from pathlib import Path

import pytest

from flows.cli import run
from tests.tasks.tiny import Finished


def test_events_are_printed_one_a_line(
    reading: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", reading.run.name, "--format", "openlineage"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(events) == 14
    assert {event["eventType"] for event in events} == {"START", "COMPLETE"}


def test_a_description_is_written_where_it_is_asked_for(
    reading: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "croissant.json"
    assert run(["export", reading.run.name, "--format", "croissant", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert json.loads(out.read_text())["name"] == f"{reading.run.name}-corpus"


def test_a_run_without_a_corpus_has_no_description(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied.run.directory / "pretokenize.metadata.json").unlink()
    assert run(["export", copied.run.name, "--format", "croissant"]) == 3
    assert "no corpus" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused(
    reading: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nowhere" / "events.jsonl"
    assert run(["export", reading.run.name, "--out", str(out)]) == 7
    assert "events.jsonl" in capsys.readouterr().err
