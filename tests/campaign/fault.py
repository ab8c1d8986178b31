"""The kinds of faults, as plain values; what each does is in the module of its kind."""

import signal
from dataclasses import dataclass
from typing import Literal

from tests.campaign.inject import Injection

KILLED = -signal.SIGKILL
DIED = 1
"A worker that died is an unexpected end, and the hint says to run the same command again."
FULL = 7
STOPPED = 11
Disturbance = Literal["killed", "slow", "500", "never there"]
DAMAGED = 5
MALFORMED = 4
NETWORK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The n-th write, fsync or rename of a stage fails, or is the last thing that happens."""

    number: str
    "In the list of faults that others have met."
    stage: str
    injection: Injection
    codes: tuple[int, ...]

    def __str__(self) -> str:
        each, who = self.injection, "worker" if self.injection.in_worker else "stage"
        return f"{self.stage} ({who}): {each.deed} at {each.operation} {each.at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A signal at some moment of a stage's time, again and again until the stage is done."""

    number: str
    stage: str
    until: str
    signal: int
    shares: tuple[float, ...]
    "Of the time that an undisturbed run takes: when each start gets the signal."
    codes: tuple[int, ...]

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.2f}" for share in self.shares)
        name = signal.Signals(self.signal).name
        return f"{self.stage} to {self.until}: {name} after {shares} of its time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One bit of a file is another."""

    number: str
    path: str
    "Within the home of a run."
    share: float
    "Where in the file."
    again: bool
    "Whether the pipeline is run on it, besides being verified."

    def __str__(self) -> str:
        return f"a bit of {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk that is full after so many bytes, or takes nothing at all."""

    number: str
    stage: str
    kind: Literal["full", "read-only"]
    free_kib: int = 0

    def __str__(self) -> str:
        free = f" with {self.free_kib} KiB free" if self.kind == "full" else ""
        return f"{self.stage}: a {self.kind} disk{free}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """Two processes that do the same in one place at one time."""

    number: str
    stage: str
    until: str

    def __str__(self) -> str:
        return f"{self.stage} to {self.until}: two writers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """An object store that misbehaves for a while."""

    number: str
    how: Literal["500", "503", "403", "stalls", "gone"]
    after: int
    "Requests that it serves first."
    codes: tuple[int, ...]

    def __str__(self) -> str:
        return f"S3: {self.how} after {self.after} requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One of two ranks is killed, or hangs."""

    number: str
    how: Literal["killed", "hung"]
    rank: int
    at_step: int

    def __str__(self) -> str:
        return f"rank {self.rank} of 2: {self.how} after step {self.at_step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """MLflow or Prefect is killed, slow, or answers with an error during a run."""

    number: str
    name: Literal["MLflow", "Prefect"]
    how: Disturbance
    codes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.how}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """A process that makes units for a stage is killed as the kernel does it out of memory."""

    number: str
    runner: Literal["processes", "dask"]
    when: Literal["starting", "working"]
    codes: tuple[int, ...]

    def __str__(self) -> str:
        return f"a {self.when} worker of {self.runner}: killed"


Fault = Operation | Moment | Flip | Disk | Twin | Bucket | Rank | Service | Helper
