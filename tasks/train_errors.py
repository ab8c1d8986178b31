"""What can go wrong while a model is trained.

TaskError
+-- WorkerFailedError      a rank of the training stopped and said why
+-- WorkerDiedError        a rank of the training died without a word; may be retried
+-- WorkerHungError        a rank of the training gave no sign of life
+-- NodesMissingError      machines that should train together did not meet
+-- StoppedError           training stopped where it was asked to, with a snapshot
+-- SnapshotDamagedError   a snapshot's bytes are not what its record says
+-- MemoryFullError        rows at a time need more memory than there is
"""

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import TaskError


@dataclass(eq=False)
class WorkerFailedError(TaskError):
    """The training worker stopped on purpose and said why."""

    error: str
    message: str
    advice: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}"

    @property
    def hint(self) -> str:  # type: ignore[override]  # the worker's own
        """Pass on the worker's hint."""
        return self.advice


@dataclass(eq=False, kw_only=True)
class WorkerDiedError(TaskError):
    """A rank of the training died without a word: killed, out of memory, crashed."""

    rank: int
    num_ranks: int
    step: int
    silent_seconds: float | None
    "Since its last sign of life, if it ever gave one."
    status: int | None
    "Its exit status, or minus the signal that ended it; not known of every rank."
    output: str
    hint = "run the same command again: training goes on from its last snapshot"

    def __str__(self) -> str:
        tail = self.output.strip().splitlines()
        said = f" ({tail[-1].strip()})" if tail else ""
        ended = "it is gone" if self.status is None else f"exit status {self.status}"
        return (
            f"training worker: rank {self.rank} of {self.num_ranks}, after step {self.step}, "
            f"{_silence(self.silent_seconds)}: {ended}{said}, should be 0"
        )


@dataclass(eq=False, kw_only=True)
class WorkerHungError(TaskError):
    """A rank of the training gave no sign of life for longer than it may."""

    rank: int
    num_ranks: int
    step: int
    silent_seconds: float | None
    doing: str
    setting: str
    limit_seconds: float

    def __str__(self) -> str:
        return (
            f"training worker: rank {self.rank} of {self.num_ranks}, after step {self.step}, "
            f"{self.doing}: {_silence(self.silent_seconds)}, "
            f"should be within {self.limit_seconds:g} s"
        )

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the setting
        """Name the limit."""
        return (
            f"run the same command again: training goes on from its last snapshot; "
            f"raise {self.setting} if it was only slow"
        )


@dataclass(eq=False)
class NodesMissingError(TaskError):
    """Machines that should train together did not meet."""

    rendezvous: str
    num_nodes: int
    limit_seconds: float

    def __str__(self) -> str:
        return (
            f"runtime.rendezvous: fewer than {self.num_nodes} nodes came to {self.rendezvous}, "
            f"should be all within {self.limit_seconds:g} s"
        )

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the rendezvous
        """Name what the other machines run."""
        return f"on every machine but the first, run python -m tasks.node {self.rendezvous}"


def _silence(seconds: float | None) -> str:
    return "no sign of life" if seconds is None else f"last sign of life {seconds:.1f} s ago"


@dataclass(eq=False)
class StoppedError(TaskError):
    """Training stopped where it was asked to."""

    step: int
    num_steps: int
    hint = "run the same command: training goes on from there"

    def __str__(self) -> str:
        return (
            f"training: stopped after step {self.step} as asked, with a snapshot, "
            f"should reach step {self.num_steps}"
        )


@dataclass(eq=False)
class SnapshotDamagedError(TaskError):
    """A snapshot whose bytes are not what its record says."""

    path: Path
    found: str
    expected: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, should be sha256 {self.expected}"

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the files
        """Name what to delete."""
        return f"delete {self.name}.* beside it: training goes on from the snapshot before"


@dataclass(eq=False, kw_only=True)
class MemoryFullError(TaskError):
    """More rows at a time than fit into memory."""

    device: str
    step: int
    setting: str
    found: int
    fits: int | None
    "Rows at a time, by the estimate; not known of a model that ranks hold in parts."
    row_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        expected = "less" if self.fits is None else f"at most {self.fits}"
        a_row = f"about {self.row_bytes / 1e6:,.1f} MB a row, " if self.row_bytes else ""
        return (
            f"after step {self.step}: {self.device} is out of memory, {self.setting} is "
            f"{self.found} ({a_row}{self.free_bytes / 1e6:,.0f} MB free for rows), "
            f"should be {expected}"
        )

    @property
    def hint(self) -> str:  # type: ignore[override]  # depends on what would fit
        """Say what helps."""
        if self.fits == 0:
            return "not one row fits: use a smaller model or context, or runtime.parallelism fsdp"
        return f"lower {self.setting}; it changes no result beyond rounding"
