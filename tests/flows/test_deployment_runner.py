"""A runner of deployments whose parent was killed ends, and its flow runs before it."""

import inspect
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prefect.runner import Runner

from flows.deployment_runner import DeploymentRunner, end_children
from tests.test_architecture import PROJECT

FLOW_RUN = """
import pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path(sys.argv[1], "snapshot").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop if sys.argv[2] == "stops" else signal.SIG_IGN)
print("runs", flush=True)
time.sleep(120)
"""
RUNNER = """
import signal, subprocess, sys
from flows.deployment_runner import DeploymentRunner
runner = DeploymentRunner(name="test")
signal.signal(signal.SIGTERM, runner.handle_sigterm)
flow_run = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
flow_run.stdout.readline()
print(flow_run.pid, flush=True)
flow_run.wait()
signal.pause()
"""


@contextmanager
def running(directory: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Start a runner with a flow run that, when told to end, does or does not."""
    command = [sys.executable, "-c", RUNNER, FLOW_RUN, str(directory), how]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        yield runner, psutil.Process(int(runner.stdout.readline()))
        runner.kill()


@pytest.mark.usefixtures("own_places")
def test_a_runner_that_is_told_to_end_ends_its_flow_runs_first(tmp_path: Path) -> None:
    with running(tmp_path, "stops") as (runner, flow_run):
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(60) == 0
        assert (tmp_path / "snapshot").exists()
        assert not flow_run.is_running()


@pytest.mark.usefixtures("own_places")
def test_a_flow_run_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, "stays") as (runner, flow_run):
        end_children(psutil.Process(runner.pid), 0.2)
        psutil.wait_procs([flow_run], 20)
        assert not flow_run.is_running()
        assert not (tmp_path / "snapshot").exists()


def test_prefect_installs_our_answer_to_the_signal() -> None:
    """The name is Prefect's: should it be another one day, ours would never be called."""
    assert "signal.signal(signal.SIGTERM, self.handle_sigterm)" in inspect.getsource(Runner.start)
    assert DeploymentRunner.handle_sigterm is not Runner.handle_sigterm
