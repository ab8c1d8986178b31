"""Record how a run ended: completed, failed or interrupted."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.alive import live
from tasks.held_signals import held
from tasks.known_errors import KNOWN_ERRORS
from tasks.run_record import Run, finish_run
from tasks.train_errors import StoppedError


@contextmanager
def recording_the_end(run: Run) -> Iterator[None]:
    """Write the run's record when the block ends, however it ends but by a kill."""
    live(run)
    try:
        yield
    except BaseException as error:
        # The record outweighs the haste of whoever sends another.
        with held(signal.SIGINT, signal.SIGTERM):
            finish_run(run, *_end(error))
        if not isinstance(error, Exception):
            error.add_note(_what_stays(run))
        raise
    with held(signal.SIGINT, signal.SIGTERM) as came:
        finish_run(run, "completed", None)
    for number in came:
        signal.raise_signal(number)


def _end(error: BaseException) -> tuple[str, str]:
    """Return the outcome and its reason; what is no `Exception` came from outside."""
    outside = isinstance(error, StoppedError) or not isinstance(error, Exception)
    said = str(error) if isinstance(error, KNOWN_ERRORS) else _with_type(error)
    return "interrupted" if outside else "failed", said


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _what_stays(run: Run) -> str:
    finished = ", ".join(run.stage_records())
    return f"{run.name}, {'after ' + finished if finished else 'before a stage was finished'}"
