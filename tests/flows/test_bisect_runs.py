"""`assay bisect` over training time: `--runs A B`, `--run R` and `--step k`."""

import json
from pathlib import Path

import pytest

from evidence.records import read_record
from flows.cli import run
from tests.tasks.planted import FAULTS, FAULTY, Short, train_short
from tests.tasks.tiny import Finished

pytestmark = pytest.mark.usefixtures("own_threads")


@pytest.fixture
def faulty(finished: Finished, home: Path) -> Short:
    """A training one bit of whose weights changed."""
    (home / "store").symlink_to(finished.home / "store")
    return train_short(finished, home / "faulty", FAULTS["lowest bit of one weight"])


def test_two_runs_and_then_one_of_them_tell_the_step_the_kind_and_who_is_wrong(
    finished: Finished, faulty: Short, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = train_short(finished, home / "sound")
    capsys.readouterr()

    assert run(["bisect", "--runs", sound.run.name, sound.run.name]) == 0
    assert capsys.readouterr().out == "no parting: 12 steps agree bit for bit\n"

    assert run(["bisect", "--runs", sound.run.name, faulty.run.name]) == 5
    out = capsys.readouterr().out
    assert out.startswith(f"step {FAULTY}: memory: state_digest is ")
    assert f"assay bisect --run {sound.run.name} --step {FAULTY}" in out
    assert run(["bisect", "--runs", sound.run.name, faulty.run.name, "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["parting"]["kind"] == "memory"

    step = ["--step", str(FAULTY)]
    assert run(["bisect", "--run", sound.run.name, *step]) == 0
    assert f"step {FAULTY} reproduces bit for bit: 2 steps from epoch-000" in (
        capsys.readouterr().out
    )
    assert run(["bisect", "--run", faulty.run.name, *step, "--name", "replayed"]) == 5
    out = capsys.readouterr().out
    assert f"step {FAULTY} does not reproduce" in out
    assert "memory: weights or optimizer state, beside the update" in out
    assert "two replays agree bit for bit" in out
    evidence = Path(out.splitlines()[-1].split()[-1])
    assert (evidence / "replay.md").read_text() in out
    found = json.loads((evidence / "replay.json").read_text())
    assert found["verdicts"] == ["does not reproduce"]
    assert found["replays"][0]["recorded"]["step"] == FAULTY
    assert read_record(evidence / "metadata.json")["outcome"] == "completed"
    assert run(["verify", evidence.name]) == 0


def test_a_run_alone_is_searched_for_what_stands_out(
    faulty: Short, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    code = run(["bisect", "--run", faulty.run.name, "--json"])

    found = json.loads(capsys.readouterr().out)
    assert found["spike"]["num_before"] >= 8
    assert [each["step"] for each in found["replays"]] == [found["spike"]["line"]["step"]]
    assert code == {"reproduces bit for bit": 0, "does not reproduce": 5}[found["verdicts"][0]]


def test_a_step_that_is_not_in_the_log_is_a_sentence(
    faulty: Short, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in ("0", "99"):
        assert run(["bisect", "--run", faulty.run.name, "--step", step]) == 2
        assert f"--step is {step}, should be from 1 to 12" in capsys.readouterr().err
