"""The ledger from the command line: the chain and its pins, withdrawals, checks done over."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from evidence.chain import read_chain
from flows.cli import run as assay
from tasks.checkpoint import checkpoint_task
from tasks.run_record import Run, finish_run, start_run
from tasks.verify import verify_run
from tests.tasks.tampering import edit_rows, forge, reseal, set_at
from tests.tasks.tiny import Finished, begin


def ended(name: str = "demo") -> Run:
    run = start_run(name, {"thresholds": {}}, {})
    finish_run(run, "completed", None)
    return run


def rewrite(directory: Path) -> None:
    """Seal the first run anew, and write the chain anew over it."""
    from tests.tasks.tampering import rechain

    first = read_chain(directory).lines[0].run
    reseal(directory / first / "metadata.json", set_at("outcome", to="failed"))
    rechain(directory)


def test_the_chain_is_checked_and_its_head_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [ended() for _ in range(2)]
    head = read_chain(home / "evidence").head
    assert assay(["chain", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["head"], found["failures"]) == (str(head), [])
    (runs[0].directory / "metadata.json").unlink()
    assert assay(["chain"]) == 5
    assert "the record of line 1 is missing or was edited" in capsys.readouterr().err


def test_a_rewritten_chain_passes_alone_and_fails_against_a_pin(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E6."""
    ended()
    pin = str(read_chain(home / "evidence").head)
    assert assay(["chain", "--pin", pin]) == 0
    rewrite(home / "evidence")
    assert assay(["chain"]) == 0
    capsys.readouterr()
    assert assay(["chain", "--pin", pin]) == 5
    assert "a pin says" in capsys.readouterr().err


def test_a_head_in_a_commit_is_a_pin(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended()
    assert assay(["chain", "--trailer"]) == 0
    trailer = capsys.readouterr().out.strip()
    assert trailer == f"Assay-Evidence: {read_chain(home / 'evidence').head}"
    repository = home / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q"], check=True)
    commit = ["git", *who, "commit", "-q", "--allow-empty", "-m", "Note it", "--trailer", trailer]
    subprocess.run(commit, check=True)
    assert assay(["chain", "--pin", "git"]) == 0
    rewrite(home / "evidence")
    assert assay(["chain", "--pin", "git"]) == 5
    assert "(commit " in capsys.readouterr().err


def test_a_repository_without_a_pin_is_no_agreement(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended()
    monkeypatch.chdir(home)
    assert assay(["chain", "--pin", "git"]) == 3
    assert "no commit with the trailer Assay-Evidence" in capsys.readouterr().err


def test_a_record_without_its_line_is_named_and_repaired(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E10."""
    ended()
    for name in ("CHAIN.jsonl", "HEAD"):
        (home / "evidence" / name).rename(home / name)
    run = ended("other")
    for name in ("CHAIN.jsonl", "HEAD"):
        (home / name).rename(home / "evidence" / name)
    assert assay(["chain"]) == 5
    assert f"{run.name}: has a record that no line of the chain names" in capsys.readouterr().err
    assert assay(["chain", "--repair"]) == 0
    assert [line.run for line in read_chain(home / "evidence").lines][1] == run.name


def test_a_withdrawn_run_keeps_its_record_and_the_reason(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ended()
    before = (run.directory / "metadata.json").read_bytes()
    assert assay(["withdraw", run.name, "--reason", "it was another scope"]) == 0
    assert (run.directory / "metadata.json").read_bytes() == before
    line = read_chain(home / "evidence").lines[1]
    assert (line.event, line.run, line.reason) == ("withdrawn", run.name, "it was another scope")
    report = verify_run(run)
    assert report.failures == []
    assert report.notes == [f"withdrawn on {line.time[:10]}: it was another scope"]
    capsys.readouterr()
    assert assay(["status", run.name]) == 0
    assert "withdrawn: it was another scope" in capsys.readouterr().out
    assert assay(["withdraw", run.name, "--reason", "again"]) == 2
    assert "withdrawn in line 2 (it was another scope)" in capsys.readouterr().err
    second = ended()
    assert second.record() is not None
    assert verify_run(second).failures == []


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("chain", 3, "no chain of records"),
        ("withdraw nobody --reason x", 3, "no run nobody"),
        ("recheck nobody", 3, "no run nobody"),
        ("recheck nobody/train", 3, "no run nobody"),
        ("sign nobody --key key.pem", 3, "no run nobody"),
        ("claims --keep nobody", 3, "no run nobody"),
    ],
)
def test_a_mistake_is_a_sentence(
    home: Path, line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assay(line.split()) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_other_mistakes_are_sentences(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = start_run("demo", {"thresholds": {}}, {})
    assert assay(["withdraw", run.name, "--reason", "x"]) == 3
    assert "no record of a run that ended" in capsys.readouterr().err
    assert assay(["verify", run.name]) == 9
    said = capsys.readouterr().err
    assert "note: checked of what there is: plan.json" in said
    assert f"{run.name}: the run goes on (2 checks hold so far), should end" in said
    finish_run(run, "completed", None)
    assert assay(["recheck", run.name]) == 3
    assert "no finished stage" in capsys.readouterr().err
    assert assay(["recheck", run.name, "--device", "cuda:9"]) == 9
    assert assay(["recheck", run.name, "--texts", "-1"]) == 2
    assert "--texts is '-1', should be a number, or all" in capsys.readouterr().err
    assert assay(["withdraw", run.name, "--reason", " "]) == 2
    assert assay(["chain", "--pin", "newest"]) == 2
    assert "should be SEQ:SHA256" in capsys.readouterr().err


def test_a_recheck_shows_every_number_twice_and_fails_outside_a_bar(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    name = copied.run.name
    assert assay(["recheck", f"{name}/train", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert [row["verdict"] for row in rows] == ["holds"] * 4
    assert rows[0]["measured"] == rows[0]["recorded"] == 12_288
    forge(copied, copied.refs.training, edit_rows(lambda rows: rows[16].update(train_loss=1.0)))
    assert assay(["recheck", f"{name}/train"]) == 5
    assert "train: loss of step 17 is " in capsys.readouterr().err


def test_a_head_beside_a_checkpoint_is_a_pin(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = copied.run.directory.parent
    head = read_chain(directory).head
    sealed = sealed_after(str(head), copied)
    assert assay(["chain", "--pin", sealed]) == 0
    rewrite(directory)
    assert assay(["chain", "--pin", sealed]) == 5
    assert f"a pin says {str(head).partition(':')[2][:12]}" in capsys.readouterr().err


def test_a_checkpoint_from_before_the_first_record_is_no_pin(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assay(["chain", "--pin", str(copied.refs.checkpoint)]) == 3
    assert "no head of the chain" in capsys.readouterr().err


def sealed_after(head: str, copied: Finished) -> str:
    """Seal the finished evaluation again, in a run that began after the first had ended."""
    run = begin(copied.settings)
    assert run.plan()["chain_head"] == head
    settings = replace(copied.settings.checkpoint, name="again")
    checkpoint = checkpoint_task.fn(
        run, copied.refs.evaluation, settings, copied.settings.thresholds
    )
    return str(checkpoint)
