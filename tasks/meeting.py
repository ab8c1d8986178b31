"""Where the nodes of a training find its job: a file on the file system that they share."""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks import places
from tasks.train_job import Job


@contextmanager
def meeting(job: Job) -> Iterator[Path]:
    """Yield a directory for what ranks leave, and name it to the other nodes while the block runs.

    They see the file go, and end what they have started.
    """
    path = meeting_file(job.rendezvous)
    control = path.parent / f"control-{uuid.uuid4().hex[:12]}"
    control.mkdir(parents=True)
    try:
        yield control
    finally:
        if read_meeting(job.rendezvous) == control:
            path.unlink(missing_ok=True)
        shutil.rmtree(control, ignore_errors=True)


def call_nodes(rendezvous: str, control: Path) -> None:
    """Name the directory of a job to the nodes that wait for one."""
    path = meeting_file(rendezvous)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"control": str(control)}))
    partial.replace(path)


def read_meeting(rendezvous: str) -> Path | None:
    """Return the directory of the job that is under way, if one is."""
    try:
        return Path(json.loads(meeting_file(rendezvous).read_text())["control"])
    except FileNotFoundError:
        return None


def meeting_file(rendezvous: str) -> Path:
    """Name the file of a rendezvous."""
    return places.home() / "meetings" / f"{re.sub('[^A-Za-z0-9.-]', '_', rendezvous)}.json"
