"""Ctrl-C at a terminal, in the middle of training: the run ends at once and says so."""

import os
import pty
import select
import signal
import sys
import time
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


def test_an_interrupt_ends_the_run_at_once_and_is_recorded(own_places: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(PROJECT)
        # Whoever runs the tests in the background has interrupts ignored, which is inherited.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        program = "from flows.cli import main; main()"
        changes = ("num_steps=100_000", "steps_per_epoch=1000", "max_passes=1000")
        many = [word for change in changes for word in ("--set", f"train.{change}")]
        os.execv(sys.executable, [sys.executable, "-c", program, "run", "--preset", "smoke", *many])
    try:
        assert b"train, loss" in read_until(terminal, b"train, loss", PATIENCE_SECONDS)
        children = psutil.Process(pid).children(recursive=True)
        os.write(terminal, ETX)
        said = read_until(terminal, b"never said", EXIT_SECONDS)
        status = exit_status(pid, EXIT_SECONDS)
    finally:
        os.close(terminal)
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()
    assert status == 130, said.decode(errors="replace")
    assert b"interrupted: what is finished is kept" in said
    assert b"Traceback" not in said
    record = all_runs()[-1].record()
    assert record is not None
    assert (record["outcome"], record["error"]) == ("interrupted", "KeyboardInterrupt")
    psutil.wait_procs(children, timeout=10)
    assert [child for child in children if child.is_running()] == []
