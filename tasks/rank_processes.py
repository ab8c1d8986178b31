"""Run the ranks of a training to their end, and see to it that none outlives it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks import places
from tasks.held_signals import held
from tasks.meeting import call_nodes, meeting
from tasks.processes import write_owner
from tasks.pulse import Pulse, read_pulse
from tasks.rank_watch import RankWatch
from tasks.telemetry import sampling
from tasks.train_errors import NodesMissingError, WorkerHungError
from tasks.train_job import Job, write_job

LOOK_SECONDS = 0.2
CONTROL = ".control-"
"How the directory begins by which ranks are watched, inside of their training's."
END_SECONDS = 10.0
"Within which the launcher tells the exit statuses of ranks that are gone."


Look = Callable[[Pulse | None], None]
"Told what the first rank said last, if it is to be seen."


def run_ranks(job: Job, look: Look) -> None:
    """Train to the end, calling `look` now and then; a SIGTERM has training stop with a snapshot.

    Raises: WorkerFailedError with a rank's own words, WorkerDiedError if it had none,
        WorkerHungError, StoppedError.
    """
    with (
        _control(job) as control,
        tempfile.TemporaryFile("w+") as said,
        held(signal.SIGTERM) as asked,
    ):
        watch = RankWatch(control, job)
        write_job(job, control)
        if job.rendezvous:
            call_nodes(job.rendezvous, control)
        else:
            # Of other machines' processes the number of one here says nothing.
            write_owner(control)
        with (
            subprocess.Popen(
                _command(job, str(control)), stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                cwd=places.PROJECT, env=_environment(job),
            ) as process,
            sampling(Path(job.directory), process.pid),
        ):  # fmt: skip
            try:
                culprit = _watch(process, watch, look, asked)
                watch.end()
                _let_end(process)
            except WorkerHungError as error:
                if job.num_nodes > 1 and not watch.pulses():
                    raise _missing(job) from error
                raise
            finally:
                watch.end()
                process.kill()
        look(None)
        ended = [words.kind for words in watch.words().values()]
        if culprit is None and ended == ["done"] * job.num_ranks:
            return
        said.seek(0)
        raise watch.cause(culprit, process.returncode, said.read())


def _command(job: Job, control: str) -> list[str]:
    if job.num_ranks == 1:
        return [sys.executable, "-m", "tasks.train_worker", control]
    return [sys.executable, "-m", "tasks.launcher", control]


def _environment(job: Job) -> dict[str, str]:
    """Have numpy take as many threads as torch does: by itself, each rank's takes all cores."""
    return {"OPENBLAS_NUM_THREADS": str(job.num_threads), **os.environ}


@contextmanager
def _control(job: Job) -> Iterator[Path]:
    """Yield a directory that all ranks see: of this machine, or of all where they meet."""
    if job.rendezvous:
        with meeting(job) as control:
            yield control
    else:
        # Here whoever goes on with this training, and so has its lock, finds what a kill left.
        for left in Path(job.directory).glob(f"{CONTROL}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=CONTROL, dir=job.directory) as directory:
            yield Path(directory)


def _missing(job: Job) -> NodesMissingError:
    return NodesMissingError(job.rendezvous, job.num_nodes, job.start_timeout_seconds)


def _watch(
    process: subprocess.Popen[bytes],
    watch: RankWatch,
    look: Look,
    asked: Sequence[int],
) -> int | None:
    """Return when all is over, with the rank that ended it if it was one.

    A signal that was `asked` is the wish to stop.
    """
    over: float | None = None
    while True:
        if process.poll() is not None:
            over = over or time.monotonic()
        culprit = watch.look()
        if culprit is not None or (over and watch.has_heard_all(over)):
            return culprit
        if asked:
            watch.ask_to_stop()
        look(read_pulse(watch.control, 0))
        time.sleep(LOOK_SECONDS)


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """Give the launcher the time to say how its ranks ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
