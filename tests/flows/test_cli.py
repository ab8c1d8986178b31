"""The command line: refusals come before any work, as a sentence and an exit code."""

import errno
import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli import run
from tests.test_architecture import PROJECT

REFUSALS = [
    ("run --preset nope", 2, "preset nope does not exist"),
    ("run --preset smoke --set train.peek_lr=1", 2, "hint: did you mean train.peak_lr?"),
    ("run --preset smoke --set train.num_steps=many", 2, "train.num_steps is 'many'"),
    ("run --preset smoke --set model.num_heads=3", 2, "should be a multiple of model.num_heads"),
    ("run --presett smoke", 2, "No such option"),
    ("verify nobody", 3, "no run nobody"),
    ("verify", 3, "no runs yet"),
    ("status nobody", 3, "no run nobody"),
    ("compare one two", 3, "no run one"),
    ("compare checkpoint:abcdef one", 3, "no artefact checkpoint:abcdef"),
    ("compare one", 2, "NAME is one alone, should be two names or more"),
    ("evaluate --shards shards:ab", 2, "should be --training or --checkpoint"),
    ("evaluate --shards shards:ab --rows -1 --training training:ab", 2, "--rows"),
    ("inspect checkpoint:abcdef", 3, "no artefact checkpoint:abcdef"),
    ("inspect checkpoint:xyz", 2, "should be KIND:DIGEST"),
    ("inspect nothing.apr", 3, "no file nothing.apr"),
    ("generate --checkpoint checkpoint:abcdef --prompt x", 3, "no artefact checkpoint:abcdef"),
    ("run --preset nope.toml", 3, "no preset file nope.toml"),
    ("run --preset smoke --name a/b", 2, "run name is 'a/b'"),
    ("run --preset smoke --name=", 2, "run name is ''"),
    ("run --preset smoke --set model.vocab_size=600", 2, "should be tokenizer.vocab_size (512)"),
    ("generate --checkpoint nowhere --prompt x", 3, "no model.apr"),
    ("generate --checkpoint x --prompt a --prompt-file b", 2, "should be absent beside --prompt"),
    ("generate --checkpoint x --prompt-file nowhere.py", 3, "no prompt file"),
    ("generate --checkpoint x --prompt a --device tpu", 2, "'tpu' is not one of"),
    ("mirror nobody", 3, "no run nobody"),
    ("report nobody", 3, "no run nobody"),
    ("report", 3, "no runs yet"),
    ("export nobody", 3, "no run nobody"),
    ("export --format csv", 2, "'csv' is not one of"),
    ("up --preset nope", 2, "preset nope does not exist"),
    ("shard --tokens shards:ab", 3, "no artefact shards:ab"),
    ("shard --tokens nothing", 2, "should be KIND:DIGEST"),
    (
        "train --shards shards:abcd --preset smoke",
        3,
        "hint: `assay inspect RUN` lists a run's refs",
    ),
    ("checkpoint --evaluation evaluation:ab", 3, "no artefact evaluation:ab"),
    ("bisect --checkpoint checkpoint:ab", 3, "no artefact checkpoint:ab"),
    ("evaluate --shards shards:ab --checkpoint nowhere", 3, "no model, should be a ref"),
    ("runs nobody", 2, "unexpected extra argument"),
    ("status nobody", 3, "hint: `assay runs` lists the runs"),
    ("inspect nothing.apr", 3, "hint: check the path"),
    ("run --preset nope.toml", 3, "without .toml is one of assay's own presets"),
]


pytestmark = pytest.mark.usefixtures("own_places")


@pytest.mark.parametrize(("line", "code", "said"), REFUSALS, ids=[each[0] for each in REFUSALS])
def test_a_mistake_is_a_sentence_and_an_exit_code(
    line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_prompt_on_standard_input_that_is_no_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"def \xff")))
    assert run(["generate", "--checkpoint", "x"]) == 2
    assert "standard input is 'utf-8' codec can't decode" in capsys.readouterr().err


def test_a_bad_ref_is_refused_before_a_server_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.embedded.prefect_server", None)
    assert run(["train", "--shards", "shards:abcd", "--preset", "smoke"]) == 3
    assert "no artefact shards:abcd" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    begun = time.monotonic()
    assert run(["run", "--preset", "smoke"]) == 10
    said = capsys.readouterr().err
    assert "PREFECT_API_URL is http://127.0.0.1:9/api: [Errno 111] Connection refused" in said
    assert "hint: start it, or unset PREFECT_API_URL" in said
    assert time.monotonic() - begun < 20


def test_no_runs_yet_is_not_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs"]) == 0
    assert "no runs yet" in capsys.readouterr().err
    assert run(["runs", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


def test_a_busy_port_is_named_with_the_option_that_changes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["up", "--preset", "smoke", "--mlflow-port", str(port)]) == 10
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port} is in use" in said
    assert "--mlflow-port" in said


def test_a_home_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "file" / "home"))
    assert run(["run", "--preset", "smoke"]) == 7
    assert "should be writable" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["runs --json", "runs", "--help"])
def test_a_reader_who_has_gone_is_no_news(line: str, own_places: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    # Of the errors, too, as with 2>&1: `assay runs` says there that there are none.
    ended = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *line.split()],
        cwd=PROJECT,
        stdout=writing,
        stderr=writing if line == "runs" else subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr or b"") == (141, b"")


def test_a_broken_pipe_to_anything_else_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise BrokenPipeError(errno.EPIPE, "to a worker")

    monkeypatch.setattr("tasks.run_record.all_runs", broken)
    with pytest.raises(BrokenPipeError, match="to a worker"):
        run(["runs"])
