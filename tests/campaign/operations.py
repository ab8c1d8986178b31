"""Faults at the n-th operation, and at random moments."""

import os
import random
import time
from contextlib import suppress

from tests.campaign.aftermath import NOT_REACHED, Finding, judged
from tests.campaign.bench import Bench, Running
from tests.campaign.fault import Moment, Operation


def operation(bench: Bench, fault: Operation) -> Finding:
    """Have an operation fail or be the last; then run the same again without."""
    home = bench.home(fault.stage)
    first = bench.run(home, until=fault.stage, injection=fault.injection)
    if not first.happened:
        return NOT_REACHED
    return judged(
        bench,
        home,
        first,
        lambda: bench.run(home, until=fault.stage),
        (0, *fault.codes),
        fault.stage,
    )


def moment(bench: Bench, fault: Moment) -> Finding:
    """Send a signal at each of the moments, one start after another; then let it end."""
    home, ended = bench.home(fault.stage), None
    usual = bench.usual_seconds(fault.stage, fault.until)
    for share in fault.shares:
        running = bench.start(home, until=fault.until)
        ended = running.wait(_Signal(running, fault.signal, share * usual))
        if ended.code == 0 or ended.code not in fault.codes:
            break
    assert ended is not None
    return judged(
        bench,
        home,
        ended,
        lambda: bench.run(home, until=fault.until),
        (0, *fault.codes),
        fault.until,
    )


class _Signal:
    """Sends a signal once so many seconds are over."""

    def __init__(self, running: Running, number: int, seconds: float) -> None:
        self.running, self.number = running, number
        self.due: float | None = time.monotonic() + seconds

    def __call__(self) -> None:
        if self.due is None or time.monotonic() < self.due:
            return
        self.due = None
        # The supervisor waits for it: until `status.json` is there, nobody else has this pid.
        if not self.running.ended():
            with suppress(ProcessLookupError):
                os.kill(self.running.pid, self.number)


def shares(choose: random.Random, number: int) -> tuple[float, ...]:
    """Choose moments."""
    return tuple(round(choose.uniform(0.02, 1.0), 3) for _ in range(number))
