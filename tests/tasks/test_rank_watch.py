"""Who ended a training: read from what ranks left, without any rank."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.pulse import Pulse, pulse_file
from tasks.rank import Words, said_file, statuses_file
from tasks.rank_watch import RankWatch
from tasks.train_errors import StoppedError, WorkerDiedError, WorkerFailedError, WorkerHungError
from tests.tasks.test_train_worker import job_of
from tests.tasks.tiny import Finished

NOBODY = 2**22 + 1
"No process has this number: the kernel's largest is below."


@pytest.fixture
def watch(finished: Finished, tmp_path: Path) -> RankWatch:
    return RankWatch(tmp_path, job_of(finished, tmp_path / "x", num_ranks=3))


def leave_pulse(watch: RankWatch, rank: int, **changes: Any) -> None:
    usual: dict[str, Any] = {
        "rank": rank,
        "pid": os.getpid(),
        "step": 7,
        "doing": "training",
        "seconds": time.monotonic(),
    }
    pulse = Pulse(**{**usual, **changes})
    pulse_file(watch.control, rank).write_text(json.dumps(asdict(pulse)))


def leave_words(watch: RankWatch, rank: int, kind: Any, seconds: float = 0.0) -> None:
    words = Words(
        kind=kind,
        step=7,
        error="NonFiniteError",
        message=f"words of {rank}",
        hint="lower it",
        outcome="FAILED",
        seconds=seconds,
    )
    said_file(watch.control, rank).write_text(json.dumps(asdict(words)))


def test_ranks_that_live_and_train_are_left_alone(watch: RankWatch) -> None:
    for rank in range(3):
        leave_pulse(watch, rank)
    assert watch.look() is None


def test_a_rank_that_is_gone_without_a_word_comes_before_those_that_it_left_behind(
    watch: RankWatch,
) -> None:
    leave_pulse(watch, 0)
    leave_pulse(watch, 1, pid=NOBODY)
    leave_pulse(watch, 2)
    leave_words(watch, 0, "crashed")
    statuses_file(watch.control).write_text(json.dumps({"0": 1, "1": -9}))
    assert watch.look() == 1
    error = watch.cause(1, 1, "noise of the launcher")
    assert isinstance(error, WorkerDiedError)
    assert (error.rank, error.step, error.status, error.output) == (1, 7, -9, "")


def test_a_rank_that_gave_its_reason_comes_first(watch: RankWatch) -> None:
    leave_pulse(watch, 0, pid=NOBODY)
    leave_pulse(watch, 1)
    leave_words(watch, 1, "failed")
    assert watch.look() == 1
    error = watch.cause(1, 1, "")
    assert isinstance(error, WorkerFailedError)
    assert (error.error, error.message, error.hint) == (
        "NonFiniteError",
        "words of 1",
        "lower it",
    )


def test_of_ranks_that_crashed_the_first_is_the_cause(watch: RankWatch) -> None:
    for rank, seconds in enumerate((3.0, 1.0, 2.0)):
        leave_pulse(watch, rank)
        leave_words(watch, rank, "crashed", seconds)
    assert watch.look() == 1
    error = watch.cause(1, 1, "")
    assert isinstance(error, WorkerDiedError)
    assert (error.rank, error.output) == (1, "words of 1")


def test_ranks_that_stopped_or_are_done_end_nothing(watch: RankWatch) -> None:
    for rank, kind in enumerate(("stopped", "stopped", "done")):
        leave_pulse(watch, rank, pid=NOBODY)
        leave_words(watch, rank, kind)
    assert watch.look() is None
    error = watch.cause(None, 0, "")
    assert isinstance(error, StoppedError)
    assert (error.step, error.num_steps) == (7, 48)


def silent_for(seconds: float) -> float:
    return time.monotonic() - seconds


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"seconds": 61.0}, "runtime.step_timeout_seconds"),
        ({"seconds": 61.0, "doing": "starting"}, "runtime.start_timeout_seconds"),
    ],
)
def test_of_silent_ranks_one_that_waits_for_others_is_not_the_cause(
    watch: RankWatch, changes: dict[str, Any], setting: str
) -> None:
    leave_pulse(watch, 0, seconds=silent_for(62), doing="waiting for other ranks")
    leave_pulse(watch, 1, seconds=silent_for(62), doing="waiting for other ranks")
    leave_pulse(watch, 2, **{**changes, "seconds": silent_for(changes["seconds"])})
    # A pulse may be read while it is written: a first look may be mistaken.
    assert watch.look() is None
    with pytest.raises(WorkerHungError) as caught:
        watch.look()
    assert (caught.value.rank, caught.value.setting) == (2, setting)
    assert caught.value.silent_seconds == pytest.approx(61, abs=2)


def test_a_rank_that_is_slow_within_its_limit_is_left_alone(watch: RankWatch) -> None:
    for rank in range(3):
        leave_pulse(watch, rank, seconds=silent_for(59))
    assert [watch.look(), watch.look()] == [None, None]
