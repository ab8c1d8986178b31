"""Several ranks, each a process of its own, joined by gloo."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tasks import rank_processes
from tasks.errors import TaskError
from tasks.rank_processes import run_ranks
from tasks.snapshots import complete_snapshots, stopped_snapshots
from tasks.train_errors import StoppedError, WorkerDiedError, WorkerHungError
from tasks.train_job import Job
from tasks.train_worker import work
from tasks.training_log import read_lines, read_rows
from tests.tasks.listening import beyond_this_machine, listening
from tests.tasks.test_resuming import stop_after
from tests.tasks.test_train_worker import job_of, lenient
from tests.tasks.tiny import EPOCH_STEPS, STEPS, Finished

TOLERANCE = 1e-4
"Relative: only the order of float32 sums differs, and forty-eight updates amplify that."


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still does anything; who waits for it may not have noticed its end."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def nothing(_pulse: object) -> None:
    pass


def ranks_of(launcher: psutil.Process) -> list[psutil.Process]:
    """Return the ranks in their order, once each has said that it trains."""
    return sorted(launcher.children(), key=lambda each: int(each.environ()["RANK"]))


def launcher() -> psutil.Process | None:
    found = psutil.Process().children()
    return next((each for each in found if "tasks.launcher" in each.cmdline()), None)


def step_of(directory: Path) -> int:
    path = directory / "train.jsonl"
    return len(read_rows(path)) if path.is_file() else 0


def interrupted(
    job: Job,
    at_step: int,
    interrupt: Callable[[list[psutil.Process]], object],
    num_snapshots: int = 0,
) -> tuple[TaskError, list[psutil.Process]]:
    """Train, do something to the ranks at a step, and return what came of it.

    Snapshots are written while the next steps run: `num_snapshots` are waited for.
    """
    directory = Path(job.directory)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(run_ranks, job, nothing)
        while step_of(directory) < at_step or len(complete_snapshots(directory)) < num_snapshots:
            assert not future.done(), future.exception()
            time.sleep(0.01)
        started = launcher()
        assert started is not None
        ranks = ranks_of(started)
        interrupt(ranks)
        with pytest.raises(TaskError) as caught:
            future.result()
    return caught.value, [started, *ranks]


def assert_near(directory: Path, other: Path) -> None:
    """Assert the same rows in the same order, and the losses of one rank up to rounding."""
    ours, theirs = (read_rows(each / "train.jsonl") for each in (directory, other))
    for key in ("step", "cursor_rows", "tokens", "tokens_seen", "learning_rate"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]
    for key in ("train_loss", "grad_norm", "update_norm"):
        expected = [row[key] for row in theirs]
        assert [row[key] for row in ours] == pytest.approx(expected, rel=TOLERANCE)
    losses = [snapshot.read()["val_loss"] for snapshot in complete_snapshots(directory)]
    expected = [each.read()["val_loss"] for each in complete_snapshots(other)]
    assert losses == pytest.approx(expected, rel=TOLERANCE)


def test_a_rank_that_is_killed_is_named_and_any_number_of_ranks_goes_on(
    finished: Finished, tmp_path: Path
) -> None:
    job = job_of(finished, tmp_path, num_ranks=2)
    error, processes = interrupted(job, 20, lambda ranks: ranks[1].kill(), num_snapshots=1)
    assert isinstance(error, WorkerDiedError)
    assert (error.rank, error.num_ranks, error.status) == (1, 2, -signal.SIGKILL)
    # The second rank may not have said yet what the first has logged.
    assert error.step >= 19
    assert error.silent_seconds is not None
    assert not any(is_alive(each) for each in processes)
    assert complete_snapshots(tmp_path)

    # Past what the log holds by now, which counts until it is cut, and not where an epoch ends.
    later = step_of(tmp_path) + 2
    later += later % EPOCH_STEPS == 0
    with pytest.raises(StoppedError):
        work(job_of(finished, tmp_path), stop_after(later, tmp_path))
    assert len(stopped_snapshots(tmp_path)) == 1

    again = job_of(finished, tmp_path, num_ranks=4, parallelism="fsdp", deterministic=True)
    with listening(psutil.Process()) as addresses:
        run_ranks(again, nothing)
    assert addresses
    assert beyond_this_machine(addresses) == set()
    assert_near(tmp_path, finished.training.directory)
    assert stopped_snapshots(tmp_path) == []
    starts = read_lines(tmp_path / "starts.jsonl")
    facts = ("num_ranks", "parallelism", "backend", "deterministic")
    assert [tuple(start[key] for key in facts) for start in starts] == [
        (2, "ddp", "gloo", False),
        (1, "none", "none", False),
        (4, "fsdp", "gloo", True),
    ]
    seeds = [rank["seed"] for rank in starts[0]["ranks"]]
    assert len(set(seeds)) == 2
    assert seeds == [rank["seed"] for rank in starts[2]["ranks"][:2]]


def test_matrices_held_in_parts_are_made_orthogonal_as_whole_ones(
    finished: Finished, tmp_path: Path
) -> None:
    changes = {"optimizer": "muon", "thresholds": lenient(finished)}
    work(job_of(finished, tmp_path / "whole", **changes))
    parts = {"num_ranks": 2, "parallelism": "fsdp"}
    run_ranks(job_of(finished, tmp_path / "parts", **changes, **parts), nothing)
    assert_near(tmp_path / "parts", tmp_path / "whole")


def test_a_rank_that_gives_no_sign_of_life_is_named_and_all_are_ended(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    job = job_of(finished, tmp_path, num_ranks=2, step_timeout_seconds=2.0)
    threads: list[str] = []

    def suspend_one(ranks: list[psutil.Process]) -> None:
        threads.extend(each.environ()["OPENBLAS_NUM_THREADS"] for each in ranks)
        ranks[1].suspend()

    error, processes = interrupted(job, 5, suspend_one)
    assert threads == 2 * [str(job.num_threads)]
    assert isinstance(error, WorkerHungError)
    assert (error.rank, error.num_ranks) == (1, 2)
    assert error.step >= 4
    assert error.silent_seconds is not None
    assert error.silent_seconds > 2
    assert error.hint.endswith("raise runtime.step_timeout_seconds if it was only slow")
    assert not any(is_alive(each) for each in processes)


def test_ranks_that_do_not_start_in_time_are_reported(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_processes, "_command", lambda _job, _control: ["sleep", "60"])
    job = job_of(finished, tmp_path, num_ranks=2, start_timeout_seconds=0.5)
    with pytest.raises(WorkerHungError) as caught:
        run_ranks(job, nothing)
    assert (caught.value.rank, caught.value.doing) == (0, "starting")
    assert caught.value.silent_seconds is None
    assert caught.value.setting == "runtime.start_timeout_seconds"


def test_ranks_that_are_told_to_stop_leave_a_snapshot_of_one_step(
    finished: Finished, tmp_path: Path
) -> None:
    job = job_of(finished, tmp_path, num_ranks=2)
    error, _ = interrupted(job, 5, lambda ranks: ranks[1].terminate())
    assert isinstance(error, StoppedError)
    (snapshot,) = stopped_snapshots(tmp_path)
    assert snapshot.read()["step"] == error.step
    facts = json.loads((snapshot.state / "state.json").read_text())
    assert (facts["step"], facts["cursor_rows"]) == (error.step, 8 * error.step)
    assert error.step < STEPS


def test_what_a_killed_process_left_beside_its_ranks_is_removed_by_the_next(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".control-dead"
    left.mkdir()
    (left / "owner").write_text("1")
    seen: list[str] = []

    def refuse(job: Job, control: Path) -> None:
        seen.extend(path.name for path in Path(job.directory).iterdir())
        assert control.name in seen
        raise KeyboardInterrupt

    monkeypatch.setattr(rank_processes, "write_job", refuse)
    with pytest.raises(KeyboardInterrupt):
        run_ranks(job_of(finished, tmp_path), nothing)
    assert left.name not in seen
    assert list(tmp_path.iterdir()) == []
