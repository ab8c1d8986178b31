"""One training a GPU, whoever was killed holding it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.gpu_slots import gpu_names, gpu_slots
from tests.test_architecture import PROJECT

HOLD = """
import sys
from tasks.gpu_slots import gpu_slots
with gpu_slots(sys.argv[1].split(","), "holder"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(gpus: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, gpus],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_gpu_is_free_as_soon_as_its_holder_is_killed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder("GPU-a,GPU-b") as process:
        with gpu_slots(["GPU-c"], "another"):
            pass
        assert capsys.readouterr().err == ""
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        begun = time.monotonic()
        with gpu_slots(["GPU-b", "GPU-a"], "next"):
            assert time.monotonic() - begun < 1.0


def test_who_waits_for_a_gpu_says_for_whom(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder("GPU-a") as process:

        def let_go(_seconds: float) -> None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

        monkeypatch.setattr("tasks.gpu_slots.time.sleep", let_go)
        with gpu_slots(["GPU-a"], "next"):
            pass
    assert capsys.readouterr().err == "  next waits: GPU GPU-a is held by holder\n"


def test_a_training_takes_the_gpus_that_its_ranks_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x,GPU-y,GPU-z")
    assert gpu_names("cpu", 4) == []
    assert gpu_names("cuda", 1) == ["GPU-x"]
    assert gpu_names("cuda:2", 1) == ["GPU-z"]
    assert gpu_names("cuda", 3) == ["GPU-x", "GPU-y", "GPU-z"]
