"""Two processes at one work: writers that know nothing of each other, and ranks of a training."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.campaign.acknowledged import acknowledged, lost_bytes
from tests.campaign.aftermath import Finding, age, judged, leftovers
from tests.campaign.bench import Bench, Running
from tests.campaign.fault import DIED, FULL, Rank, Twin
from tests.campaign.result import result

RANKS = ("runtime.num_ranks=2", "runtime.step_timeout_seconds=4.0")


def twin(bench: Bench, fault: Twin) -> Finding:
    """Start the same twice at once: one at least ends well, the other waits, or says why not."""
    home = bench.home(fault.stage)
    running = [bench.start(home, until=fault.until) for _ in range(2)]
    ended = [each.wait() for each in running]
    before = acknowledged(home)
    complaints = [f"ended with {each.code}" for each in ended if each.code not in (0, FULL)]
    if all(each.code for each in ended):
        complaints.append("neither came to an end")
    refused = [each for each in ended if each.code]
    complaints += [
        "refused without saying that another process works on it"
        for each in refused
        if "is held by another process" not in each.said
    ]
    age(home)
    again = bench.run(home, until=fault.until)
    if again.code or result(home) != bench.expected(fault.until):
        complaints.append(f"the same command ends with {again.code}, or with another result")
    checks, failures = bench.verify(home)
    complaints += [f"verify: {failure}" for failure in failures] + leftovers(home)
    return Finding(
        happened=True,
        went_on=not refused,
        code=max(each.code for each in ended),
        lost_bytes=lost_bytes(before, home, bench.training(home)),
        complaints=tuple(complaints),
        num_checks=checks,
    )


def rank(bench: Bench, fault: Rank) -> Finding:
    """Kill or stop one of two ranks; the training then goes on to what two ranks come to."""
    if not bench.of_two_ranks:
        straight = bench.home("train")
        assert bench.run(straight, until="train", changes=RANKS).code == 0
        bench.of_two_ranks = result(straight)
    home = bench.home("train")
    running = bench.start(home, until="train", changes=RANKS)
    first = running.wait(_Disturbance(home, running, fault))
    expected = bench.straight
    bench.straight = bench.of_two_ranks
    try:
        return judged(
            bench,
            home,
            first,
            lambda: bench.run(home, until="train", changes=RANKS),
            (DIED,),
            "train",
        )
    finally:
        bench.straight = expected


class _Disturbance:
    """Does something to a rank once the log says that a step was made."""

    def __init__(self, home: Path, running: Running, fault: Rank) -> None:
        self.home, self.running, self.fault, self.done = home, running, fault, False

    def __call__(self) -> None:
        if self.done or self._step() < self.fault.at_step:
            time.sleep(0.02)
            return
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self.running.pid).children(recursive=True):
                is_rank = any("train_worker" in word for word in each.cmdline())
                if is_rank and each.environ().get("RANK") == str(self.fault.rank):
                    hang = self.fault.how == "hung"
                    os.kill(each.pid, signal.SIGSTOP if hang else signal.SIGKILL)
                    self.done = True

    def _step(self) -> int:
        logs = list((self.home / "store" / "tmp").glob("train-*/train.jsonl"))
        lines = logs[0].read_text().splitlines() if logs else []
        with suppress(json.JSONDecodeError):
            return int(json.loads(lines[-1]).get("step", 0)) if lines else 0
        return 0
