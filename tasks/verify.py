"""Verify a run: recompute every digest, every measurement and every verdict from what is on disk.

Nothing is believed because it is written: a record must agree with its seal, the run's list of
files, the artefact that it names, and the numbers that this artefact gives again.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.canonical import digest, file_sha256
from evidence.errors import EvidenceError
from evidence.gates import gate_of, verdict_record
from evidence.records import RUN_RECORD, STAGES, epoch_fields, flatten, read_record, stage_file
from evidence.refs import Ref, parse_ref
from model.train_settings import TrainSettings
from tasks import bisection, checkpoint, evaluate, pretokenize, shard, train_measure
from tasks.epoch_end import COMPARED
from tasks.errors import NotFoundError
from tasks.known_errors import KNOWN_ERRORS
from tasks.run_record import PLAN, Run
from tasks.snapshots import FILES, Snapshot, complete_snapshots
from tasks.stage import Stage, judge_all
from tasks.store import Artefact, damages, open_store
from tasks.train_judge import watch_epochs
from tasks.training_log import TRAIN_LOG, read_rows
from tasks.val_losses import ValLosses

STAGE_OF: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        pretokenize.STAGE,
        shard.STAGE,
        train_measure.STAGE,
        evaluate.STAGE,
        checkpoint.STAGE,
        bisection.STAGE,
    )
}
assert tuple(STAGE_OF) == STAGES


@dataclass(slots=True)
class Report:
    """What was checked and what does not hold."""

    subject: str
    num_checks: int
    failures: list[str]

    def check(self, *, holds: bool, failure: str) -> None:
        """Count a check and keep its failure."""
        self.num_checks += 1
        if not holds:
            self.failures.append(failure)


def verify_run(run: Run) -> Report:
    """Check everything that a run's evidence says."""
    report = Report(run.name, 0, [])
    record = _read(report, run.directory / RUN_RECORD)
    plan = _read(report, run.directory / PLAN)
    if record is None or plan is None:
        return report
    with _surviving(report, RUN_RECORD):
        _check_files(report, run, record)
        _check_plan(report, plan, record)
        _check_outcome(report, run, record)
    for stage in STAGES:
        with _surviving(report, stage_file(stage)):
            if stage in record["refs"] or (run.directory / stage_file(stage)).is_file():
                _check_stage(report, run, stage, record)
    return report


def verify_ref(ref: Ref) -> Report:
    """Check every byte of an artefact."""
    report = Report(str(ref), 0, [])
    _open(report, ref)
    return report


@contextmanager
def _surviving(report: Report, name: str) -> Iterator[None]:
    """Keep as a failure whatever a sealed record that is no record makes of the checks."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # somebody's evidence may hold anything
        known = isinstance(error, EvidenceError)
        kind = f"{name}: cannot be checked: {type(error).__name__}: "
        said = str(error) if known else f"{kind}{error}"
        if said not in report.failures:
            report.check(holds=False, failure=said)


def _read(report: Report, path: Path) -> dict[str, Any] | None:
    """Read a record and check its seal."""
    try:
        record = read_record(path)
    except FileNotFoundError:
        why = "; the run goes on, or was killed before its end" if path.name == RUN_RECORD else ""
        report.check(holds=False, failure=f"{path.name}: missing{why}")
        return None
    except EvidenceError as error:
        report.check(holds=False, failure=str(error))
        return None
    report.check(holds=True, failure="")
    return record


def _check_files(report: Report, run: Run, record: Mapping[str, Any]) -> None:
    """Check that the directory holds exactly the listed files, byte for byte."""
    listed: Mapping[str, str] = record["files"]
    present = {
        path.name
        for path in run.directory.iterdir()
        if path.name != RUN_RECORD and not path.name.startswith(".")
    }
    for name in sorted(present - listed.keys()):
        report.check(holds=False, failure=f"{name}: not listed in {RUN_RECORD}")
    for name, sha256 in listed.items():
        path = run.directory / name
        found = file_sha256(path) if path.is_file() else "missing"
        report.check(
            holds=found == sha256,
            failure=f"{name}: sha256 is {found[:12]}, {RUN_RECORD} says {sha256[:12]}",
        )


def _check_plan(report: Report, plan: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    found = digest(plan["settings"])
    for name, said in ((PLAN, plan), (RUN_RECORD, record)):
        report.check(
            holds=said["settings_sha256"] == found,
            failure=f"{name}: settings_sha256 is not the digest of the planned settings",
        )


def _check_outcome(report: Report, run: Run, record: Mapping[str, Any]) -> None:
    """Check that a completed run has no failed stage and no failed gate."""
    failed = [name for name, each in run.stage_records().items() if each["outcome"] == "failed"]
    failed += [gate["id"] for gate in record["gates"] if gate["verdict"] == "FAIL"]
    report.check(
        holds=record["outcome"] != "completed" or not failed,
        failure=f"{RUN_RECORD}: outcome is completed, but failed: {', '.join(failed)}",
    )


def _check_recipe(
    report: Report,
    plan: Mapping[str, Any],
    record: Mapping[str, Any],
    run_record: Mapping[str, Any],
) -> None:
    """Check that a stage did what was planned, on what the run's earlier stages made."""
    name, recipe = stage_file(record["stage"]), record["recipe"]
    report.check(
        holds=digest(recipe) == record["recipe_sha256"],
        failure=f"{name}: recipe_sha256 is not the digest of the recipe",
    )
    report.check(
        holds=run_record["recipes"].get(record["stage"]) == record["recipe_sha256"],
        failure=f"{name}: recipe_sha256 is not the one in {RUN_RECORD}",
    )
    for section, asked in recipe["settings"].items():
        # A recipe leaves out what only finds an input: the input's digest stands for it.
        wanted = flatten({section: plan["settings"].get(section, asked)})
        found = flatten({section: asked})
        report.check(
            holds=all(wanted.get(key) == value for key, value in found.items()),
            failure=f"{name}: settings of {section} are not those of {PLAN}",
        )
    made = {ref.partition(":")[0]: ref for ref in run_record["refs"].values() if ref}
    for ref in recipe["inputs"].values():
        report.check(
            holds=ref == made.get(ref.partition(":")[0], ref),
            failure=f"{name}: input {ref} is not what this run made",
        )


def _check_stage(report: Report, run: Run, stage: str, run_record: Mapping[str, Any]) -> None:
    """Check one stage's record against its artefact and against the run's record."""
    name = stage_file(stage)
    record = _read(report, run.directory / name)
    if record is None:
        return
    plan = run.plan()
    _check_recipe(report, plan, record, run_record)
    report.check(
        holds=run_record["refs"].get(stage) == record["output"],
        failure=f"{name}: output is not the ref in {RUN_RECORD}",
    )
    report.check(
        holds=record["thresholds"] == plan["settings"]["thresholds"],
        failure=f"{name}: thresholds are not those of {PLAN}",
    )
    if record["output"] is None:
        return
    artefact = _open(report, parse_ref(record["output"]))
    if artefact is not None:
        _check_numbers(report, name, STAGE_OF[stage], record, artefact)
        if stage == "train":
            _check_epochs(report, run, artefact)
    own = [gate for gate in run_record["gates"] if gate["stage"] == stage]
    report.check(
        holds=own == [{"stage": stage, **gate} for gate in record["gates"]],
        failure=f"{name}: gates are not those of {RUN_RECORD}",
    )


def _open(report: Report, ref: Ref) -> Artefact | None:
    """Open an artefact, keeping every damage."""
    store = open_store()
    try:
        artefact = store.peek(ref)
    except (OSError, EvidenceError) as error:
        missing = NotFoundError(f"artefact {ref.short}", store.where)
        failure = str(missing) if isinstance(error, OSError) else str(error)
        report.check(holds=False, failure=failure)
        return None
    found = list(damages(artefact.directory, ref, artefact.index))
    for damage in found:
        report.failures.append(str(damage))
    report.num_checks += 1 + len(artefact.index.get("files", ()))
    return None if found else artefact


def _check_numbers(
    report: Report, name: str, stage: Stage, record: Mapping[str, Any], artefact: Artefact
) -> None:
    """Measure and judge again, and compare with what was recorded."""
    try:
        measured = dict(stage.measure(artefact))
    except KNOWN_ERRORS as error:
        report.check(holds=False, failure=f"{name}: cannot be measured again: {error}")
        return
    recorded = record["measurements"]
    for key in sorted(measured.keys() | recorded.keys()):
        found, said = measured.get(key), recorded.get(key)
        report.check(
            holds=_same(found, said), failure=f"{name}: {key} is {found}, record says {said}"
        )
    verdicts = judge_all(stage.gates, measured, record["thresholds"])
    for verdict, said_gate in zip(verdicts, record["gates"], strict=True):
        same = verdict_record(verdict) == said_gate and gate_of(said_gate) == verdict.gate
        report.check(holds=same, failure=f"{name}: gate {verdict.gate.id} is {verdict.word} now")


def _check_epochs(report: Report, run: Run, artefact: Artefact) -> None:
    """Recompute what every epoch's record says from the step log and the files."""
    rows = read_rows(artefact.directory / TRAIN_LOG)
    settings = json.loads((artefact.directory / train_measure.SETTINGS).read_text())
    _, compared = watch_epochs(artefact.directory, TrainSettings(**settings["train"]))
    previous = 0
    for snapshot, judged in zip(complete_snapshots(artefact.directory), compared, strict=True):
        name, said = snapshot.record.name, snapshot.read()
        own = [row for row in rows if previous < row["step"] <= said["step"]]
        tokens_seen = sum(row["tokens"] for row in rows if row["step"] <= said["step"])
        found = _recomputed(snapshot, own, tokens_seen) | {key: judged.get(key) for key in COMPARED}
        for key, value in found.items():
            report.check(
                holds=_same(value, said.get(key)),
                failure=f"{name}: {key} is {value}, says {said.get(key)}",
            )
        copy = run.directory / name
        report.check(
            holds=copy.is_file() and copy.read_bytes() == snapshot.record.read_bytes(),
            failure=f"{name}: not the record that the training left",
        )
        previous = said["step"]


def _recomputed(
    snapshot: Snapshot, rows: list[dict[str, Any]], tokens_seen: int
) -> dict[str, object]:
    val = ValLosses.read(snapshot.state).statistics()
    fields = epoch_fields(
        epoch=snapshot.epoch,
        train_losses=[row["train_loss"] for row in rows],
        val_loss=val.mean_nats,
        optimizer_state_sha=file_sha256(snapshot.state / "optimizer.safetensors"),
        wall_seconds=sum(row["wall_seconds"] for row in rows),
        tokens_seen=tokens_seen,
        grad_norms=[row["grad_norm"] for row in rows],
    )
    return {
        **fields,
        "val_loss_standard_error": val.standard_error_nats,
        "val_tokens": val.num_tokens,
        "val_documents": val.num_documents,
        "learning_rate": rows[-1]["learning_rate"],
        "tokens_per_second": sum(row["tokens"] for row in rows)
        / sum(row["wall_seconds"] for row in rows),
        FILES: snapshot.digests(),
    }


def _same(found: object, said: object) -> bool:
    """Compare numbers up to the rounding of a sum in another order, everything else exactly."""
    if isinstance(found, float) and isinstance(said, float | int):
        return math.isclose(found, said, rel_tol=1e-12, abs_tol=1e-15)
    return found == said
