"""What a process that makes units owes the one that asked for them."""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import UnitFailedError
from tasks.known_errors import KNOWN_ERRORS
from tasks.processes import die_with_parent

THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
"How many threads the libraries of a process take; Arrow goes by the first."


def begin_worker(parent: int) -> None:
    """Tie a worker process to the one that started it."""
    # Not SIGTERM: a unit need not be told, and Prefect would take that for an order to cancel.
    die_with_parent(signal.SIGKILL)
    # The terminal sends an interrupt to all its processes; the one that asked ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_workers() -> None:
    """End the worker processes of this one; a pool that is left waits for what they are making."""
    for worker in multiprocessing.active_children():
        worker.kill()


@contextmanager
def portable(label: str) -> Iterator[None]:
    """See to it that what a unit raises can be raised in another process.

    Raises: UnitFailedError in place of an exception that cannot be pickled.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, KNOWN_ERRORS):
            # A traceback does not cross processes; a note does.
            error.add_note(f"in unit {label}:\n{traceback.format_exc()}")
        if not _survives_pickling(error):
            name, message = type(error).__name__, str(error)
            raise UnitFailedError(label, name, message) from error
        raise


def _survives_pickling(error: Exception) -> bool:
    try:
        back = pickle.loads(pickle.dumps(error))  # noqa: S301  # what was pickled here
    except Exception:  # noqa: BLE001  # whatever its class does
        return False
    return type(back) is type(error) and str(back) == str(error)
