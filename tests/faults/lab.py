"""A tiny real pipeline in which one thing is wrong, and what stops it.

A fault is a function that does to the program what once went wrong elsewhere, and then uses it as a
user would. Its entry says what must stop it, and where. The same function in a lab where nothing is
planted must not be stopped: else something other than the fault was found.
"""

import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evidence.canonical import pretty
from evidence.errors import GateFailedError
from evidence.gates import require
from evidence.refs import EvaluationRef, TrainingRef
from flows.errors import FlowError, VerificationError
from tasks.errors import storage_error
from tasks.evaluations import difference_rows, find_evaluation
from tasks.known_errors import KNOWN_ERRORS
from tasks.run_record import Run
from tasks.snapshots import complete_snapshots
from tasks.stage import judge_all
from tasks.store import Artefact
from tasks.train_gates import TRAIN_GATES
from tasks.train_job import Job
from tasks.train_measure import SETTINGS, measure
from tasks.train_worker import work
from tasks.training_log import TRAIN_LOG, read_rows
from tasks.verify import verify_run
from tests.tasks.test_train_worker import job_of
from tests.tasks.tiny import EPOCH_STEPS, Finished

AT_ONCE = "before any work"
AT_START = "before step 1"
AT_THE_END = "at the end of the stage"

_FINE: set[str] = set()
"What has been tried without a fault: the same thing again would prove nothing more."


@dataclass(frozen=True, slots=True)
class Stopped:
    """What stopped something, and where."""

    by: str
    where: str


class NotComparedError(Exception):
    """A difference that is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failure of the reference, done to this program."""

    number: str
    failure: str
    seen: str
    "What it looked like there."
    stopped: Stopped
    do: Callable[["Lab"], None]
    needs_isolation: bool = False
    "Whether code that a model wrote is run, which takes a sandbox."


@dataclass(frozen=True, slots=True)
class Absent:
    """A failure of the reference that nothing here can have, and why."""

    number: str
    failure: str
    seen: str
    why: str


class Lab:
    """Where a fault is tried: a finished run to start from, and a place to train in."""

    def __init__(
        self,
        finished: Finished,
        patch: pytest.MonkeyPatch,
        directory: Path,
        *,
        planted: bool = True,
    ) -> None:
        self.finished = finished
        self.patch = patch
        self.directory = directory / "training"
        self.planted = planted
        self.stage = ""

    def replace(self, name: str, by: Any) -> Any:
        """Put something else in a function's place, and return the function."""
        owner_name, _, attribute = name.rpartition(".")
        owner = pkgutil.resolve_name(owner_name)
        before = getattr(owner, attribute)
        if self.planted:
            self.patch.setattr(owner, attribute, by)
        return before

    def drop_biases(self) -> None:
        """Have every product leave out its bias."""

        def without_bias(x: Any, weight: Any, _bias: Any = None) -> Any:
            return real(x, weight)

        real = self.replace("torch.nn.functional.linear", without_bias)

    def either(self, wrong: Any, right: Any) -> Any:
        """Choose what is wrong, or what it should have been."""
        return wrong if self.planted else right

    def job(self, *, thresholds: Mapping[str, float] | None = None, **settings: Any) -> Job:
        """Plan a training with other settings than the finished one's."""
        job = job_of(self.finished, self.directory, **{"state_digest_steps": 1, **settings})
        return replace(job, thresholds=replace(job.thresholds, **(thresholds or {})))

    def train(self, job: Job | None = None, *, judged: bool = False) -> None:
        """Train in this process, as the worker does; if asked, judge what was left."""
        job = job or self.job()
        if self._is_known(f"train {replace(job, directory='')} {judged}"):
            return
        work(job)
        if judged:
            self.judge()

    def resume(self, epochs: int = 1) -> None:
        """Go on from a snapshot of the finished training."""
        if self._is_known(f"resume {epochs}"):
            return
        shutil.copytree(self.finished.training.directory, self.directory)
        for record in sorted((self.directory / "ckpt").glob("*.metadata.json"))[epochs:]:
            record.unlink()
        work(self.job())

    def _is_known(self, what: str) -> bool:
        """Say whether the same was tried before without a fault."""
        known = not self.planted and what in _FINE
        if not self.planted:
            _FINE.add(what)
        return known

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Be in a stage, for what is stopped there."""
        self.stage, before = stage, self.stage
        yield
        self.stage = before

    def judge(self) -> None:
        """Measure and judge what the training left, as is done before anything uses it."""
        job = self.job()
        settings = {"model": asdict(job.model), "train": asdict(job.train)}
        (self.directory / SETTINGS).write_bytes(pretty({**settings, "context_length": 32}))
        artefact = Artefact(TrainingRef("0" * 64), self.directory, {})
        verdicts = judge_all(TRAIN_GATES, measure(artefact), asdict(job.thresholds))
        require(verdicts)

    def verify(self, run: Run) -> None:
        """Do as `assay verify` does; without a fault the run is the finished one."""
        if self._is_known("verify"):
            return
        report = verify_run(run)
        if report.failures:
            raise VerificationError(report.subject, report.num_checks, tuple(report.failures))

    def compare(self, *evaluations: EvaluationRef) -> None:
        """Do as `assay compare` does."""
        for row in difference_rows([find_evaluation(str(ref)) for ref in evaluations]):
            if row["nats"] is None:
                raise NotComparedError(row["comparable"])


def try_out(fault: Fault, lab: Lab) -> Stopped:
    """Do what went wrong, and say what stopped it."""
    try:
        fault.do(lab)
    except GateFailedError as error:
        return Stopped(error.gate, error.where or AT_THE_END)
    except NotComparedError as error:
        return Stopped("assay compare", _told((str(error),)))
    except VerificationError as error:
        return Stopped("assay verify", _told(error.failures))
    except Exception as error:
        cause = error if isinstance(error, (*KNOWN_ERRORS, FlowError)) else storage_error(error)
        if cause is None:
            raise
        return Stopped(type(cause).__name__, lab.stage or _where(cause, lab.directory))
    return Stopped("nothing", "never")


def _told(failures: tuple[str, ...]) -> str:
    """Name the file and the field of the first failure, without its digits."""
    return re.sub(r"[0-9a-f]{12,}|[\d.]+\d", "...", failures[0])


def _where(error: Exception, directory: Path) -> str:
    """Name the step that an error names, or how far training had come."""
    step = getattr(error, "step", None)
    if isinstance(step, int):
        return f"step {step}"
    if snapshots := complete_snapshots(directory):
        return f"before step {snapshots[-1].read()['step'] + 1}"
    return "epoch 0" if read_rows(directory / TRAIN_LOG) else AT_ONCE


def table(faults: Sequence[Fault], absent: Sequence[Absent]) -> str:
    """Lay the faults out as the page that people read."""
    numbers = {fault.number[:3] for fault in faults}
    head = (
        "# Failures, replayed\n\n"
        "Every failure that the reference system recorded, done to this program, and what stops\n"
        f"it: {len(numbers)} of {len(numbers) + len(absent)}, in {len(faults)} variants (`F01b` is "
        f"one of `F01`); {len(absent)} cannot happen here.\n"
        "Each is also done without what is wrong in it, and then nothing stops it. An epoch of\n"
        f"these trainings has {EPOCH_STEPS} steps.\n\n"
        "`make faults` replays them all. This page is written by `python -m tests.faults`; a test\n"
        "holds it to the code.\n\n"
        "| | failure | what the reference saw | stopped by | detected |\n|---|---|---|---|---|\n"
    )
    lines = {fault.number: _line(fault) for fault in faults}
    lines |= {
        each.number: f"| {each.number} | {each.failure} | {each.seen} | - | {each.why} |\n"
        for each in absent
    }
    return head + "".join(lines[number] for number in sorted(lines))


def _line(fault: Fault) -> str:
    stopped = f"`{fault.stopped.by}` | {fault.stopped.where}"
    return f"| {fault.number} | {fault.failure} | {fault.seen} | {stopped} |\n"
