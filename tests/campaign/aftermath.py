"""What must hold once a fault is over and the same command has been run again."""

import fcntl
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tasks.store import UNSEEN, UNSEEN_SECONDS
from tests.campaign.acknowledged import acknowledged, lost_bytes
from tests.campaign.bench import Bench, Ended
from tests.campaign.result import result

Again = Callable[[], Ended]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one fault."""

    happened: bool
    "Whether the fault could be made at all: beyond the last operation there is none."
    went_on: bool
    "Without being started again."
    code: int
    lost_bytes: int
    complaints: tuple[str, ...]
    num_checks: int = 0

    @property
    def survived(self) -> bool:
        """Whether everything is as it must be."""
        return not self.complaints and not self.lost_bytes


NOT_REACHED = Finding(
    happened=False, went_on=True, code=0, lost_bytes=0, complaints=(), num_checks=0
)


def judged(
    bench: Bench, home: Path, first: Ended, again: Again, codes: Collection[int], until: str
) -> Finding:
    """Run again what was stopped, and hold what is there then to what an undisturbed run left."""
    before, then = acknowledged(home), first
    complaints = [*_of_ending(first, codes)]
    if first.code != 0:
        age(home)
        then = again()
        if then.code != 0:
            complaints.append(f"the same command ends with {then.code}: {_last(then.said)}")
        complaints += _orphans(then)
    if then.code == 0 and result(home) != bench.expected(until):
        complaints.append("the result is another")
    num_checks, failures = bench.verify(home) if then.code == 0 else (0, [])
    complaints += [f"verify: {failure}" for failure in failures]
    complaints += leftovers(home)
    return Finding(
        happened=True,
        went_on=first.code == 0,
        code=first.code,
        lost_bytes=lost_bytes(before, home, bench.training(home)) if then.code == 0 else 0,
        complaints=tuple(complaints),
        num_checks=num_checks,
    )


def _of_ending(ended: Ended, codes: Collection[int]) -> list[str]:
    complaints = _orphans(ended)
    if ended.code not in codes:
        complaints.append(f"ended with {ended.code}, not {sorted(codes)}: {_last(ended.said)}")
    if ended.code > 0 and "Traceback" in ended.said:
        complaints.append(f"ended with a traceback: {_last(ended.said)}")
    if ended.code > 0 and "error: " not in ended.said:
        complaints.append(f"ended with {ended.code} without a word")
    return complaints


def _orphans(ended: Ended) -> list[str]:
    return [f"still runs: {name}" for name in ended.orphans]


def leftovers(home: Path) -> list[str]:
    """Name unfinished builds, and locks that somebody holds."""
    found = list[str]()
    for path in (home / "store" / "tmp").glob("*"):
        if path.suffix != ".lock" or path.name.startswith("build-"):
            found.append(f"left over: {path.name}")
        elif not _is_free(path):
            found.append(f"still held: {path.name}")
    # Who was killed cannot tidy up, and his run's directory is nobody else's.
    ended = [path.parent for path in (home / "evidence").glob("*/metadata.json")]
    found += [f"left over: {path}" for each in ended for path in each.glob(".*.partial")]
    return found


def age(home: Path) -> None:
    """Let an hour go by for what a killed build had not yet made its own."""
    for path in (home / "store" / "tmp").glob(f"*{UNSEEN}"):
        then = time.time() - UNSEEN_SECONDS - 1
        os.utime(path, (then, then))


def _is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _last(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or ["no word"])[-1][:300]
