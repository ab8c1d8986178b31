"""kill -9 at random moments: what comes out is what would have come out.

`ASSAY_TEST_KILLS=50` kills as often; `ASSAY_TEST_SEED` chooses other moments.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tasks import places
from tasks.train_job import Job, write_job
from tasks.train_worker import work
from tests.tasks.test_train_worker import assert_same_training, job_of, lenient
from tests.tasks.tiny import Finished

KILLS = int(os.environ.get("ASSAY_TEST_KILLS", "5"))
SEED = int(os.environ.get("ASSAY_TEST_SEED", "1"))
LONGEST_SECONDS = 0.6
"After the start of a worker; a training of this size takes about two of them."
OFTEN = {"batch_rows": 40, "micro_batch_rows": 20, "num_steps": 60, "steps_per_epoch": 3}
"Epochs so short that many kills come while a snapshot is written."


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.tasks.zygote"],
        cwd=places.PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def start(zygote: subprocess.Popen[str], control: Path) -> int:
    """Start a worker; return its pid once it trains."""
    for name in ("rank-0.pulse", "rank-0.said"):
        (control / name).unlink(missing_ok=True)
    assert zygote.stdin is not None
    zygote.stdin.write(f"{control}\n")
    zygote.stdin.flush()
    return int(line(zygote.stdout))


def test_a_training_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(
    finished: Finished, tmp_path: Path, zygote: subprocess.Popen[str]
) -> None:
    moments, kills, rounds = random.Random(SEED), 0, 0
    straight = tmp_path / "straight"
    work(job_of(finished, straight, thresholds=lenient(finished), **OFTEN))
    while kills < KILLS:
        control, directory = tmp_path / f"control-{rounds}", tmp_path / f"training-{rounds}"
        control.mkdir()
        job = job_of(finished, directory, thresholds=lenient(finished), **OFTEN)
        write_job(job, control)
        kills += kill_until_done(zygote, control, moments, KILLS - kills)
        assert_same_training(directory, straight)
        assert left_over(job) == []
        shutil.rmtree(directory)
        rounds += 1


def kill_until_done(
    zygote: subprocess.Popen[str], control: Path, moments: random.Random, at_most: int
) -> int:
    """Train to the end, killing the worker at most so often; return how often it was killed."""
    kills = 0
    while True:
        pid = start(zygote, control)
        if kills < at_most:
            time.sleep(moments.uniform(0, LONGEST_SECONDS))
            # The zygote waits for it: until then nobody else has this pid.
            os.kill(pid, signal.SIGKILL)
        status = int(line(zygote.stdout))
        if status == 0:
            return kills
        assert status == -signal.SIGKILL
        kills += 1


def left_over(job: Job) -> list[str]:
    """List what belongs to no snapshot that is complete."""
    names = [path.name for path in (Path(job.directory) / "ckpt").iterdir()]
    return [name for name in names if not name.startswith("epoch-")]
