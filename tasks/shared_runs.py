"""What other machines need of a run where the store is a URL: its records, its training's place.

They are views: no record depends on them, and a run goes on if they cannot be sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks import places
from tasks.errors import ArtefactDamagedError, StoreRefusedError, StoreUnreachableError
from tasks.remote import Remote
from tasks.run_record import NAME, PLAN, Run, find_run
from tasks.saying import say
from tasks.store import open_store

RUNS = "runs"
UNFINISHED = "unfinished"
"What holds copies of trainings under way."
TRAINING = "training"
"Names the directory of the training, as it is called while it is unfinished."


def share_run(run: Run) -> None:
    """Copy the records that a run has so far to where the store is, if that is elsewhere."""
    if (remote := open_store().remote) is None:
        return
    files = [path for path in run.directory.iterdir() if path.is_file()]
    with excused(f"the records of {run.name}"):
        remote.put({f"{RUNS}/{run.name}/{path.name}": path for path in files})


def share_place(remote: Remote, run: Run, training: Path) -> None:
    """Say what a run's training is called."""
    remote.write(f"{RUNS}/{run.name}/{TRAINING}", training.name.encode())


def read_place(remote: Remote, run: Run) -> str | None:
    """Return what a run's training is called, if it was said.

    Raises: ArtefactDamagedError if that cannot be the name of a directory.
    """
    where = f"{RUNS}/{run.name}/{TRAINING}"
    if not (found := remote.read(where)):
        return None
    name = found.decode(errors="replace")
    if not NAME.fullmatch(name):
        raise ArtefactDamagedError(Path(where), f"{name!a:.80}", "the name of a training")
    return name


def find_shared_run(name: str) -> Run:
    """Return the run of this name here, or a copy of the records that another machine has sent.

    The copy is apart from this machine's evidence, whose chain it is no part of.

    Raises: NotFoundError, StoreRefusedError, StoreUnreachableError.
    """
    # Others send the name with an event: it must not lead out of where copies are kept.
    remote = open_store().remote if NAME.fullmatch(name) else None
    is_here = (places.evidence() / name / PLAN).is_file()
    if remote is None or is_here or not remote.has(f"{RUNS}/{name}/{PLAN}"):
        return find_run(name)
    run = Run(places.home() / RUNS / name)
    files = [each for each in remote.names(f"{RUNS}/{name}") if each != TRAINING]
    remote.download(f"{RUNS}/{name}", files, run.directory)
    return run


@contextmanager
def excused(what: str) -> Iterator[None]:
    """Say what could not be sent, and go on: the run itself does not need it."""
    try:
        yield
    except (StoreRefusedError, StoreUnreachableError) as error:
        say(f"warning: {what} could not be sent for other machines: {error}")
