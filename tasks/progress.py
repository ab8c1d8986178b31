"""Progress for whoever watches: bars on a terminal, an artifact in the Prefect UI.

Stage code calls one function with what, done and total; this module decides what becomes of it.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from data.progress import Progress as OnProgress
from tasks.prefect_view import shown

ARTIFACT_SECONDS = 5.0
"Each update of the artifact is a request to the Prefect server."


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Yield a progress function that draws a bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("  {task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    known: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        # "train, loss 3.2" and "train, loss 3.1" are one bar: what follows the comma may change.
        name = what.partition(",")[0]
        if name not in known:
            known[name] = bars.add_task(what, total=total)
        bars.update(known[name], description=what, completed=done, total=total)

    with bars:
        yield show


def say_done(stage: str, summary: str, record: Mapping[str, Any]) -> None:
    """Say on stderr that a stage is done: a run of minutes must not be silent."""
    source = record["reused_from"]
    how = f"reused from {source}" if source else f"{record['wall_seconds']:.1f} s"
    sys.stderr.write(f"  {stage:<12} {summary} ({how})\n")
    sys.stderr.flush()


class ProgressArtifact:
    """One progress artifact of the current task run; outside of a task run it does nothing."""

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._id: UUID | None = None
        self._last = float("-inf")

    def show(self, done: int, total: int) -> None:
        """Update the artifact, at most every few seconds and at the end."""
        finished = done >= total
        if TaskRunContext.get() is None or not (finished or self._is_due()):
            return
        self._last = time.monotonic()
        percent = 100.0 * done / total
        if self._id is None:
            self._id = shown(
                lambda: _identity(create_progress_artifact(percent, self._key, self._description))
            )
        else:
            made = self._id
            shown(lambda: update_progress_artifact(made, percent))

    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= ARTIFACT_SECONDS


def _identity(made: object) -> UUID:
    assert isinstance(made, UUID)
    return made
