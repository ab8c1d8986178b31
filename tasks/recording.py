"""Record how a run of something that is no stage ended."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.alive import live
from tasks.run_record import Run, finish_run


@contextmanager
def recording_the_end(run: Run) -> Iterator[None]:
    """Write the run's record when the block ends, however it ends but by a kill."""
    live(run)
    try:
        yield
    except BaseException as error:
        finish_run(run, "failed", str(error))
        raise
    finish_run(run, "completed", None)
