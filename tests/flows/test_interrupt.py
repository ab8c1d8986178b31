"""Ctrl-C at a terminal or SIGTERM, in the middle of training: the run ends and says so."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.run_record import all_runs
from tests.test_architecture import PROJECT

PATIENCE_SECONDS = 120.0
EXIT_SECONDS = 30.0
ETX = b"\x03"
"What the terminal sends for Ctrl-C."

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def read_until(terminal: int, wanted: bytes, seconds: float) -> bytes:
    """Read until a text comes, the other side closes, or time is up."""
    said, end = b"", time.monotonic() + seconds
    while wanted not in said and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                said += os.read(terminal, 4096)
            except OSError:
                break
    return said


def exit_status(pid: int, seconds: float) -> int | None:
    """Return how a child ended; None if it did not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    return None


def run_until_training() -> tuple[int, int, list[psutil.Process]]:
    """Start a long run at a terminal; return its process, the terminal and its children."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(PROJECT)
        # Whoever runs the tests in the background has interrupts ignored, which is inherited.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        program = "from flows.cli import main; main()"
        changes = ("num_steps=100_000", "steps_per_epoch=1000", "max_passes=1000")
        many = [word for change in changes for word in ("--set", f"train.{change}")]
        words = ["run", "--preset", "smoke", *many]
        os.execv(sys.executable, [sys.executable, "-c", program, *words])
    said = read_until(terminal, b"train, loss", PATIENCE_SECONDS)
    assert b"train, loss" in said
    # What training will see is said before it begins.
    assert b"planned 102,400,000 tokens for " in said
    return pid, terminal, psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize(
    ("stop", "code", "words", "error"),
    [
        (
            lambda _pid, terminal: os.write(terminal, ETX),
            130,
            b"interrupted: smoke-",
            "KeyboardInterrupt",
        ),
        (
            lambda pid, _terminal: os.kill(pid, signal.SIGTERM),
            11,
            b"hint: run the same command: training goes on from there",
            "training: stopped after step ",
        ),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_a_run_that_is_told_to_end_ends_at_once_and_says_so(
    own_places: Path, stop: Callable[[int, int], object], code: int, words: bytes, error: str
) -> None:
    pid, terminal, children = run_until_training()
    try:
        stop(pid, terminal)
        said = read_until(terminal, b"never said", EXIT_SECONDS)
        status = exit_status(pid, EXIT_SECONDS)
    finally:
        os.close(terminal)
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()
    assert status == code, said.decode(errors="replace")
    assert words in said
    assert b"Traceback" not in said
    record = all_runs()[-1].record()
    assert record is not None
    assert record["outcome"] == "interrupted"
    assert str(record["error"]).startswith(error)
    psutil.wait_procs(children, timeout=10)
    assert [child for child in children if child.is_running()] == []
