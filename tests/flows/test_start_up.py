"""Commands answer at once: what is heavy is imported by the commands that need it."""

import os
import subprocess
import sys

from tests.test_architecture import PROJECT

TRIES = 5
LIMIT_SECONDS = 0.3


def processor_seconds(*arguments: str) -> float:
    """Of a command, which other work on the machine does not make longer, or hardly."""
    program = "import sys; from flows.cli import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=PROJECT, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_takes_less_than_a_third_of_a_second() -> None:
    assert min(processor_seconds("--help") for _ in range(TRIES)) < LIMIT_SECONDS
