"""Several nodes, each with a launcher of its own: here two of them on one machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from model.errors import WrongSettingError
from tasks import node, places
from tasks.meeting import call_nodes, meeting_file, read_meeting
from tasks.rank_processes import run_ranks
from tasks.snapshots import complete_snapshots, stopped_snapshots
from tasks.train_errors import NodesMissingError, StoppedError, WorkerDiedError
from tasks.training_log import read_lines
from tests.flows.test_up import free_port
from tests.tasks.test_ranks import is_alive, nothing, step_of
from tests.tasks.test_train_worker import job_of, losses
from tests.tasks.tiny import EPOCH_STEPS, Finished, tiny_settings

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rendezvous() -> str:
    return f"127.0.0.1:{free_port()}"


@contextmanager
def second_node(rendezvous: str) -> Iterator[subprocess.Popen[bytes]]:
    """The agent of another machine."""
    command = [sys.executable, "-m", "tasks.node", rendezvous]
    with subprocess.Popen(
        command, cwd=places.PROJECT, env={**os.environ}, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def ranks_below(process: psutil.Process) -> list[psutil.Process]:
    found = process.children(recursive=True)
    return [each for each in found if "tasks.train_worker" in each.cmdline()]


def test_two_nodes_train_what_two_ranks_of_one_node_do_to_the_bit(
    finished: Finished, tmp_path: Path, rendezvous: str
) -> None:
    alone, apart = tmp_path / "alone", tmp_path / "apart"
    short = {"num_ranks": 2, "num_steps": EPOCH_STEPS}
    with second_node(rendezvous):
        run_ranks(job_of(finished, alone, **short), nothing)
        job = job_of(finished, apart, **short, num_nodes=2, rendezvous=rendezvous)
        run_ranks(job, nothing)
        assert losses(apart) == losses(alone)
        told = [[each.read()["val_loss"] for each in complete_snapshots(d)] for d in (apart, alone)]
        assert told[0] == told[1]
        (start,) = read_lines(apart / "starts.jsonl")
        assert (start["num_ranks"], start["backend"]) == (2, "gloo")
        assert read_meeting(rendezvous) is None
        assert list(meeting_file(rendezvous).parent.iterdir()) == []


@pytest.mark.topology
def test_a_node_serves_one_training_after_another_and_a_dead_rank_of_it_is_named(
    finished: Finished, tmp_path: Path, rendezvous: str
) -> None:
    job = job_of(finished, tmp_path / "x", num_ranks=2, num_nodes=2, rendezvous=rendezvous)
    directory = Path(job.directory)
    with second_node(rendezvous) as other, ThreadPoolExecutor(1) as threads:
        training = threads.submit(run_ranks, job, nothing)
        while step_of(directory) < 3:
            assert not training.done(), training.exception()
            time.sleep(0.01)
        (theirs,) = ranks_below(psutil.Process(other.pid))
        number = int(theirs.environ()["RANK"])
        theirs.kill()
        with pytest.raises(WorkerDiedError) as caught:
            training.result()
        assert (caught.value.rank, caught.value.status) == (number, -signal.SIGKILL)
        assert not is_alive(theirs)

        again = threads.submit(run_ranks, job, nothing)
        while step_of(directory) < 8:
            assert not again.done(), again.exception()
            time.sleep(0.01)
        # As a machine that is to be taken away.
        other.terminate()
        with pytest.raises(StoppedError) as stopped:
            again.result()
        (snapshot,) = stopped_snapshots(directory)
        assert snapshot.read()["step"] == stopped.value.step == step_of(directory)
        assert other.wait(20) == 0


def test_a_node_that_does_not_come_is_missed(
    finished: Finished, tmp_path: Path, rendezvous: str
) -> None:
    job = job_of(
        finished,
        tmp_path / "x",
        num_ranks=2,
        num_nodes=2,
        rendezvous=rendezvous,
        start_timeout_seconds=1.0,
    )
    with pytest.raises(NodesMissingError) as caught:
        run_ranks(job, nothing)
    assert caught.value.hint.endswith(f"run python -m tasks.node {rendezvous}")


def test_a_node_needs_a_rendezvous(capsys: pytest.CaptureFixture[str]) -> None:
    assert node.main(["somewhere"]) == 2
    assert capsys.readouterr().err == "error: rendezvous is 'somewhere', should be HOST:PORT\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ["runtime.num_nodes=0"],
        ["runtime.num_nodes=2"],
        ["runtime.rendezvous=a:1"],
        ["runtime.num_nodes=2", "runtime.rendezvous=a"],
        ["runtime.num_nodes=2", "runtime.rendezvous=a:0"],
    ],
)
def test_several_nodes_need_a_place_to_meet_and_one_has_none(home: Path, wrong: list[str]) -> None:
    with pytest.raises(WrongSettingError, match=r"runtime\.(num_nodes|rendezvous)"):
        tiny_settings(home, wrong)


def test_of_two_jobs_at_one_rendezvous_the_last_is_named(home: Path) -> None:
    call_nodes("a:1", home / "one")
    call_nodes("a:1", home / "two")
    assert read_meeting("a:1") == home / "two"
