"""A run's process lives as long as it holds the run's lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tasks.alive import life_of
from tasks.processes import write_owner
from tasks.run_record import Run
from tests.test_architecture import PROJECT

LIVE = """
import sys
from pathlib import Path
from tasks.alive import live
from tasks.run_record import Run
live(Run(Path(sys.argv[1])))
print("lives", flush=True)
sys.stdin.read()
"""
OWNED = """
import sys, time
from pathlib import Path
from tasks.processes import die_with_owner
die_with_owner(Path(sys.argv[1]))
print("lives", flush=True)
"""


def test_a_run_is_alive_until_its_process_is_killed(home: Path) -> None:
    run = Run(home / "evidence" / "some")
    assert life_of(run) == "unknown"
    with subprocess.Popen(
        [sys.executable, "-c", LIVE, str(run.directory)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "lives\n"
        assert life_of(run) == "alive"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert life_of(run) == "dead"


def start_owned(control: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OWNED, str(control)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_worker_whose_owner_is_gone_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    write_owner(tmp_path)
    assert start_owned(tmp_path).stdout == "lives\n"
    with subprocess.Popen([sys.executable, "-c", ""]) as owner:
        owner.wait()
    (tmp_path / "owner").write_text(str(owner.pid))
    ended = start_owned(tmp_path)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")
