"""Progress for whoever watches: bars on a terminal, lines in a log, an artifact in the Prefect UI.

Stage code calls one function with what, done and total; this module decides what becomes of it.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from tasks.saying import say

ARTIFACT_SECONDS = 5.0
"Each update of the artifact is a request to the Prefect server."
LASTING_SECONDS = 1.0
LINE_SECONDS = 15.0
"Where there is no terminal, a line as often as this is enough to see that all goes well."


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Yield a progress function: a bar if stderr is a terminal, else lines; and an artifact."""
    console = Console(stderr=True)
    is_terminal = sys.stderr.isatty()
    bars = Progress(
        TextColumn("  {task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not is_terminal,
    )
    known: dict[str, TaskID] = {}
    work: dict[str, Work] = {}

    def show(what: str, done: float, total: int) -> None:
        # "train, loss 3.2" and "train, loss 3.1" are one bar: what follows the comma may change.
        name = what.partition(",")[0]
        if name not in known:
            known[name] = bars.add_task(what, total=total)
            work[name] = Work(name)
        bars.update(known[name], description=what, completed=done, total=total)
        work[name].show(what, done, total, in_lines=not is_terminal)

    try:
        with bars:
            yield show
    finally:
        for each in work.values():
            each.artifact.tell()


@dataclass(slots=True)
class Work:
    """Something that is being done: when it began and who was told last."""

    name: str
    told: float = field(init=False)
    artifact: "ProgressArtifact" = field(init=False)
    first: tuple[float, float] | None = None
    "When the first of it was done, and how much that was: what came before is the start."

    def __post_init__(self) -> None:
        """Begin; the artifact's name is as Prefect wants it, lower case and dashes."""
        self.told = time.monotonic()
        key = re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")
        self.artifact = ProgressArtifact(f"{key}-progress")

    def show(self, what: str, done: float, total: int, *, in_lines: bool) -> None:
        """Update the artifact, and say a line on stderr if one is due."""
        now = time.monotonic()
        if self.first is None and done:
            self.first = (now, done)
        said = f"{what}: {int(done):,} of {total:,}{self._left(now, done, total)}"
        self.artifact.show(done, total, said)
        if in_lines and now - self.told >= LINE_SECONDS:
            self.told = now
            say(f"  {said}")

    def _left(self, now: float, done: float, total: int) -> str:
        """Say how long the rest takes at the pace so far; nothing before there is a pace."""
        if self.first is None or done <= self.first[1] or done >= total:
            return ""
        since, before = self.first
        return f", {clock((now - since) * (total - done) / (done - before))} left"


def clock(seconds: float) -> str:
    """Write a duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say_done(stage: str, summary: str, record: Mapping[str, Any]) -> None:
    """Say on stderr that a stage is done: a run of minutes must not be silent."""
    source = record["reused_from"]
    how = f"reused from {source}" if source else f"{record['wall_seconds']:.1f} s"
    say(f"  {stage:<12} {summary} ({how})")


class ProgressArtifact:
    """One progress artifact of the current task run; outside of a task run it does nothing."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None
        self._begun = time.monotonic()
        self._last = self._begun
        self._percent, self._lasted = 0.0, False
        self._untold: str | None = None

    def show(self, done: float, total: int, description: str) -> None:
        """Update the artifact, every few seconds and once all is done."""
        now, before = time.monotonic(), self._percent
        self._percent, self._untold = 100.0 * done / max(1, total), description
        self._lasted = now - self._begun >= LASTING_SECONDS
        if now - self._last >= ARTIFACT_SECONDS or self._percent >= 100.0 > before:
            self.tell()

    def tell(self) -> None:
        """Tell what was not told yet; what was done at once has no artifact."""
        if self._untold is None or not self._lasted or TaskRunContext.get() is None:
            return
        self._last = time.monotonic()
        percent, description, self._untold = self._percent, self._untold, None
        if self._id is None:
            self._id = shown(
                lambda: _identity(create_progress_artifact(percent, self._key, description))
            )
        else:
            made = self._id
            shown(lambda: update_progress_artifact(made, percent, description))


def _identity(made: object) -> UUID:
    assert isinstance(made, UUID)
    return made
