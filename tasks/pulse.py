"""Signs of life: each rank says in a file of its own where it is and when; its watcher reads them.

Times are those of the monotonic clock, which all processes of a machine share, but no two machines.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

HOST = platform.node()
"This machine; process numbers and times mean something there alone."
WIDTH = 256
"A pulse is written over the one before, so all have one length."

Doing = Literal["starting", "training", "validating", "saving", "waiting for other ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a rank said last."""

    rank: int
    pid: int
    step: int
    doing: Doing
    seconds: float
    host: str = HOST
    num_done: int = 0
    num_all: int = 0
    "How much of it is done, and how much there is; both zero of what is not counted."


class Heart:
    """Beats for one rank."""

    def __init__(self, control: Path, rank: int) -> None:
        self._descriptor = os.open(pulse_file(control, rank), os.O_CREAT | os.O_WRONLY, 0o644)
        self._rank = rank
        self._step = 0
        self._doing: Doing = "starting"
        self._counted = (0, 0)
        self.beat()

    @property
    def step(self) -> int:
        """The step that this rank has come to."""
        return self._step

    def beat(
        self,
        step: int | None = None,
        doing: Doing | None = None,
        counted: tuple[int, int] | None = None,
    ) -> None:
        """Say that this rank lives, and where it is; what it begins to do is not counted yet."""
        self._step = self._step if step is None else step
        if doing is not None:
            self._doing, self._counted = doing, (0, 0)
        self._counted = counted or self._counted
        self._write(self._doing)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say for the length of a block that this rank waits for others."""
        if self._doing == "starting":
            yield
            return
        self._write("waiting for other ranks")
        yield
        self._write(self._doing)

    def _write(self, doing: Doing) -> None:
        num_done, num_all = self._counted
        pulse = Pulse(
            rank=self._rank,
            pid=os.getpid(),
            step=self._step,
            doing=doing,
            seconds=time.monotonic(),
            num_done=num_done,
            num_all=num_all,
        )
        os.pwrite(self._descriptor, json.dumps(asdict(pulse)).ljust(WIDTH).encode(), 0)


def pulse_file(control: Path, rank: int) -> Path:
    """Name the file of a rank's pulse."""
    return control / f"rank-{rank}.pulse"


def read_pulse(control: Path, rank: int) -> Pulse | None:
    """Read what a rank said last; nothing before its first pulse, or while it is being written."""
    try:
        return Pulse(**json.loads(pulse_file(control, rank).read_text()))
    except (FileNotFoundError, ValueError):
        return None
