"""Whether the process that makes a run still lives: it holds a lock, which the kernel frees.

A pid says less: another process may have it by now, and one of another machine looks the same.
"""

import fcntl
from pathlib import Path
from typing import IO, Literal

from tasks import places
from tasks.errors import BusyError
from tasks.run_record import Run
from tasks.store import locked

Life = Literal["alive", "dead", "unknown"]

_HELD: list[IO[str]] = []
"Locks of the runs of this process; they are freed when it ends, not before."


def live(run: Run) -> None:
    """Hold the run's lock until this process ends."""
    path = _lock(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    _HELD.append(file)


def life_of(run: Run) -> Life:
    """Say whether the run's process lives; one of another machine has no lock here."""
    path = _lock(run)
    if not path.is_file():
        return "unknown"
    try:
        with locked(path, what="this run"):
            return "dead"
    except BusyError:
        return "alive"


def _lock(run: Run) -> Path:
    return places.home() / "alive" / f"{run.name}.lock"
