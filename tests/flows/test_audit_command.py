"""`assay audit`, as it is typed."""

import json
from pathlib import Path

import pytest

from evidence.audit import RULES
from flows.cli import run
from tests.evidence.told import Told
from tests.tasks.tiny import Finished
from tests.test_architecture import PROJECT

FIRST = PROJECT / "tests" / "reference" / "model-2-first-training-2026-04-26"


def test_the_references_first_training_has_findings_and_exit_code_5(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["audit", str(FIRST)]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("derived-hash: ") for line in lines) == 12
    assert lines[-1] == (
        f"{FIRST}: 12 files, 2 runs, 12 epochs, {len(RULES) + 1} rules: {len(lines) - 1} findings"
    )


def test_a_run_of_ours_has_no_findings(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", str(finished.run.directory)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"1 run, 3 epochs, {len(RULES) + 1} rules: no findings")


def test_a_training_of_ours_with_its_steps_has_no_findings_but_its_provenance(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    # An artefact alone does not say who made it; the run's evidence does.
    assert run(["audit", str(finished.training.directory), "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert {each["rule"] for each in found["findings"]} == {"no-provenance"}


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    told.set(3, grad_norm_max=1.0)
    told.audit(tmp_path)
    assert run(["audit", str(tmp_path), "--json"]) == 5
    assert json.loads(capsys.readouterr().out) == {
        "subject": str(tmp_path),
        "files": 7,
        "runs": 1,
        "epochs": 5,
        "rules": len(RULES) + 1,
        "findings": [
            {
                "rule": "constant-norm",
                "file": "run/epoch-003.metadata.json",
                "field": "grad_norm_max",
                "found": "1",
                "should": "a measured norm, before clipping",
                "resembles": "F08",
            }
        ],
        "malformed": [],
    }


def test_the_speed_of_a_known_device_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    told.beside["num_parameters"] = 40_000_000_000
    told.audit(tmp_path)
    assert run(["audit", str(tmp_path)]) == 5
    assert "impossible-speed: run/epoch-000.metadata.json" in capsys.readouterr().out


def test_nothing_to_judge_is_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", str(tmp_path)]) == 3
    assert run(["audit", str(tmp_path / "nowhere")]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "no directory, should be a directory with evidence of a training" in said.err
    assert "hint: name a directory with epoch-NNN.metadata.json" in said.err


def test_what_cannot_be_read_is_exit_code_4_after_the_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    told.set(3, grad_norm_max=1.0)
    told.audit(tmp_path)
    (tmp_path / "run" / "epoch-004.metadata.json").write_text("{")
    assert run(["audit", str(tmp_path)]) == 4
    said = capsys.readouterr()
    assert said.out.startswith("constant-norm: run/epoch-003.metadata.json")
    assert "run/epoch-004.metadata.json: cannot be read" in said.err
    assert "Traceback" not in said.err
