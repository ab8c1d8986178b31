"""What a page is written from: a run's records, and what is wrong with them.

A damaged record is left out and named, instead of hiding the rest of the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evidence.canonical import file_sha256
from evidence.errors import EvidenceError
from evidence.gates import Verdict, gate_of
from evidence.records import RUN_RECORD, STAGES, read_record, stage_file
from evidence.refs import Ref, parse_ref
from tasks.run_record import PLAN, Run
from tasks.schemas import require_shape
from tasks.stage import judge_all

EPOCHS = "epoch-*.metadata.json"


@dataclass(frozen=True)
class Facts:
    """A run as its records tell it."""

    run: Run
    plan: Mapping[str, Any]
    record: Mapping[str, Any] | None
    """None while the run goes on, or if nobody wrote it."""
    stages: Mapping[str, Mapping[str, Any]]
    epochs: list[Mapping[str, Any]]
    files: Mapping[str, str]
    """Name and sha256 of every file of the evidence, as found."""
    faults: list[str] = field(default_factory=list)
    """Sentences; not empty means that the evidence is not what was written."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was planned."""
        found: Mapping[str, Any] = self.plan["settings"]
        return found

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The bounds of the plan; a comparison of two models has none."""
        found: Mapping[str, float] = self.settings.get("thresholds", {})
        return found

    @cached_property
    def verdicts(self) -> dict[str, list[Verdict]]:
        """Every gate of every stage, judged again from what was measured and planned."""
        return {
            stage: judge_all(
                [gate_of(gate) for gate in record["gates"]],
                record["measurements"],
                self.thresholds,
            )
            for stage, record in self.stages.items()
        }

    def failed(self) -> list[Verdict]:
        """List the required gates that do not hold."""
        return [
            verdict
            for verdicts in self.verdicts.values()
            for verdict in verdicts
            if verdict.gate.required and not verdict.passed
        ]


def read_facts(run: Run) -> Facts:
    """Read a run's evidence.

    Raises: BrokenSealError, MalformedJsonError, WrongShapeError if the plan itself is damaged.
    """
    faults: list[str] = []
    plan = run.plan()
    require_shape("plan", plan, run.directory / PLAN)
    record = _read("run", run.directory / RUN_RECORD, faults)
    stages = {stage: _read("stage", run.directory / stage_file(stage), faults) for stage in STAGES}
    epochs = [_read("epoch", path, faults) for path in sorted(run.directory.glob(EPOCHS))]
    files = {path.name: file_sha256(path) for path in _files(run.directory)}
    found = Facts(
        run=run,
        plan=plan,
        record=record,
        stages={stage: each for stage, each in stages.items() if each is not None},
        epochs=[each for each in epochs if each is not None],
        files=files,
        faults=faults,
    )
    faults += [*_listed(record, files), *_changed_verdicts(found)]
    return found


def _read(kind: str, path: Path, faults: list[str]) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = read_record(path)
        require_shape(kind, record, path)
        return record
    except EvidenceError as error:
        faults.append(str(error))
        return None


def _files(directory: Path) -> list[Path]:
    return sorted(
        path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")
    )


def _listed(record: Mapping[str, Any] | None, files: Mapping[str, str]) -> list[str]:
    """Compare the files with what the run's record lists."""
    if record is None:
        return []
    return [
        f"{name}: sha256 is {files.get(name, 'nothing')[:12]}, {RUN_RECORD} says {listed[:12]}"
        for name, listed in record["files"].items()
        if files.get(name) != listed
    ]


def _changed_verdicts(found: Facts) -> list[str]:
    """Compare the recorded verdicts with those that the numbers give."""
    return [
        f"{stage}: gate {verdict.gate.id} is {verdict.word}, the record says {gate['verdict']}"
        for stage, record in found.stages.items()
        for gate in record["gates"]
        for verdict in found.verdicts[stage]
        if verdict.gate.id == gate["id"] and verdict.word != gate["verdict"]
    ]


def output_of(facts: Facts, stage: str) -> Ref | None:
    """Return what a stage of the run made; None if it made nothing."""
    record = facts.stages.get(stage)
    return parse_ref(record["output"]) if record and record["output"] else None


def plan_name(found: Facts) -> str:
    """Name the file of the plan with the beginning of its seal."""
    return f"{PLAN} {found.plan['record_sha256'][:12]}"
