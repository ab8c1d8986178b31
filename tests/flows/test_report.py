"""What the looking commands print of evaluations and of acceptance."""

import json
import shutil
from typing import Any

import pytest

from flows.cli import run
from tests.tasks.tampering import reseal, set_at
from tests.tasks.test_evaluate import evaluated
from tests.tasks.tiny import Finished, begin


def said(capsys: pytest.CaptureFixture[str], *line: str, code: int = 0) -> str:
    assert run(list(line)) == code
    return capsys.readouterr().out


def test_status_prints_the_gates_and_the_table_of_acceptance(
    reading: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "status", reading.run.name)
    lines = [line.split() for line in text.splitlines()]
    assert ["acceptance"] in lines
    by_id = {words[0]: words for words in lines if words and words[0].startswith("AC-SHIP2")}
    assert len(by_id) == 12
    assert by_id["AC-SHIP2-003"][1] == "met"
    assert by_id["AC-SHIP2-010"][1:3] == ["not", "measured"]
    last = text.splitlines()[-1]
    assert "whatever its model learns, this run does not meet these" in text
    assert "AC-SHIP2-005" in last


def test_status_of_a_run_whose_plan_was_changed_fails(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    easier = set_at("settings", "acceptance", "max_val_loss", to=9.0)
    reseal(copied.run.directory / "plan.json", easier)
    found = json.loads(said(capsys, "status", copied.run.name, "--json", code=5))
    assert len(found["plan_faults"]) == 1
    shown = next(each for each in found["acceptance"] if each["criterion"] == "AC-SHIP2-003")
    assert shown["should be"] == "<= 9"


def test_compare_subtracts_what_was_measured_on_the_same_data(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    rounded = evaluated(copied, str(copied.refs.training), precision="bfloat16")
    some = evaluated(copied, str(copied.refs.training), rows=7)
    refs = [str(copied.refs.checkpoint), str(rounded), str(some)]
    found: dict[str, Any] = json.loads(said(capsys, "compare", *refs, "--json"))
    same, other = found["differences"]
    assert same["comparable"] == "same data"
    assert other["comparable"].startswith("not comparable: validation data differ (")
    precisions = next(row for row in found["results"] if row["measured"] == "precision")
    assert list(precisions.values()) == ["precision", "float32", "bfloat16", "float32"]
    text = said(capsys, "compare", *refs)
    assert "losses, paired by document" in text
    assert "not comparable: validation data differ" in text


def test_compare_of_runs_shows_settings_results_and_differences(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "compare", copied.run.name, copied.run.name)
    assert "no settings differ" in text
    assert "evaluate.five_gram_nats" in text
    assert "same data" in text


def test_compare_of_runs_shows_their_records_where_an_evaluation_is_gone(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied.store.directory(copied.refs.evaluation))
    found = json.loads(said(capsys, "compare", copied.run.name, copied.run.name, "--json"))
    assert "evaluate.val_loss" in {row["measured"] for row in found["results"]}
    (row,) = found["differences"]
    assert row["comparable"].startswith("not comparable: ")
    assert f"no artefact {copied.refs.evaluation.short}" in row["comparable"]


def test_compare_of_runs_names_the_one_that_was_not_evaluated(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = begin(copied.settings, "bare").name
    found = json.loads(said(capsys, "compare", copied.run.name, bare, "--json"))
    (row,) = found["differences"]
    assert (row["evaluation"], row["nats"]) == (bare, None)
    assert row["comparable"].endswith("no evaluation, should exist")
