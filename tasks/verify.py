"""Verify a run: recompute every digest, every measurement and every verdict from what is on disk.

Nothing is believed because it is written: a record must agree with its seal, the run's list of
files, the artefact that it names, and the numbers that this artefact gives again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.canonical import digest, file_sha256
from evidence.errors import EvidenceError
from evidence.gates import gate_of, verdict_record
from evidence.records import RUN_RECORD, STAGES, flatten, read_record, stage_file
from evidence.refs import Ref, parse_ref
from evidence.statement import STATEMENTS, statements
from tasks import bisection, checkpoint, evaluate, pretokenize, shard, train_measure
from tasks.errors import NotFoundError
from tasks.known_errors import KNOWN_ERRORS
from tasks.preregistration import departures, order_faults, registered
from tasks.run_record import CHAIN_HEAD, PLAN, Run
from tasks.schemas import schema_fault
from tasks.stage import Stage, judge_all
from tasks.store import Artefact, damages, open_store
from tasks.verify_chain import check_place
from tasks.verify_epochs import check_epochs
from tasks.verify_report import Report, same

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


def verify_run(run: Run) -> Report:
    """Check everything that a run's evidence says."""
    report = Report(run.name, 0, [])
    plan = _read(report, run.directory / PLAN)
    if not (run.directory / RUN_RECORD).is_file():
        _check_so_far(report, run, plan)
        return report
    record = _read(report, run.directory / RUN_RECORD)
    if record is None or plan is None:
        return report
    with report.surviving(RUN_RECORD):
        _check_files(report, run, record)
        _check_plan(report, plan, record)
        _check_outcome(report, run, record)
        check_place(report, run, plan, record)
        _check_registration(report, run)
        _check_statements(report, run)
        for name, each in (("plan", plan), ("run", record)):
            _check_schema(report, name, each, PLAN if name == "plan" else RUN_RECORD)
    for stage in STAGES:
        with report.surviving(stage_file(stage)):
            if stage in record["refs"] or (run.directory / stage_file(stage)).is_file():
                _check_stage(report, run, stage, record)
    return report


def verify_ref(ref: Ref) -> Report:
    """Check every byte of an artefact."""
    report = Report(str(ref), 0, [])
    _open(report, ref)
    return report


def _read(report: Report, path: Path) -> dict[str, Any] | None:
    """Read a record and check its seal."""
    try:
        record = read_record(path)
    except FileNotFoundError:
        report.check(holds=False, failure=f"{path.name}: missing")
        return None
    except EvidenceError as error:
        report.check(holds=False, failure=str(error))
        return None
    report.check(holds=True, failure="")
    return record


def _check_so_far(report: Report, run: Run, plan: Mapping[str, Any] | None) -> None:
    """Check the stages that a run without a record has finished, and say why it has none."""
    with report.surviving(PLAN):
        report.state = "goes on" if run.goes_on() else "killed"
        if report.state == "killed":
            report.check(
                holds=False, failure=f"{RUN_RECORD}: missing: the run was killed before its end"
            )
        _check_schema(report, "plan", plan or {}, PLAN)
        stages = run.stage_records()
        so_far = {
            "recipes": {stage: each["recipe_sha256"] for stage, each in stages.items()},
            "refs": {stage: each["output"] for stage, each in stages.items()},
            "gates": run.gates(),
        }
        report.notes.append(f"checked of what there is: {', '.join((PLAN, *stages))}")
        for stage in stages:
            with report.surviving(stage_file(stage)):
                _check_stage(report, run, stage, so_far)


def _check_files(report: Report, run: Run, record: Mapping[str, Any]) -> None:
    """Check that the directory holds exactly the listed files, byte for byte."""
    listed: Mapping[str, str] = record["files"]
    for name in [name for name in listed if Path(name).name != name or name.startswith(".")]:
        report.check(holds=False, failure=f"{name}: leads out of the run's directory")
        return
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
        found = "a link" if path.is_symlink() else found
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


def _check_registration(report: Report, run: Run) -> None:
    """Check that a run by a registered plan did what that plan says, and began after it."""
    registration = registered(run)
    report.num_checks += 1
    report.failures += order_faults(run)
    if registration is not None:
        for each in departures(registration, run):
            report.check(
                holds=False,
                failure=f"{PLAN}: {each.key} is {each.after}, was registered as {each.before}",
            )


def _check_statements(report: Report, run: Run) -> None:
    """Check that the statements are those that the stages' records make."""
    stages, path = run.stage_records(), run.directory / STATEMENTS
    found = path.read_bytes() if path.is_file() else b""
    report.check(
        holds=found == statements(run.name, stages),
        failure=f"{STATEMENTS}: not what the records of the stages say",
    )


def _check_schema(report: Report, kind: str, record: Mapping[str, Any], name: str) -> None:
    fault = schema_fault(kind, record)
    report.check(holds=fault is None, failure=f"{name}: {fault}")


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
    _check_schema(report, "stage", record, name)
    _check_recipe(report, plan, record, run_record)
    report.check(
        holds=run_record["refs"].get(stage) == record["output"],
        failure=f"{name}: output is not the ref in {RUN_RECORD}",
    )
    report.check(
        holds=record["thresholds"] == plan["settings"]["thresholds"],
        failure=f"{name}: thresholds are not those of {PLAN}",
    )
    if record["outcome"] == "produced" and CHAIN_HEAD in record.get("observed", {}):
        report.compare(name, CHAIN_HEAD, plan[CHAIN_HEAD], record["observed"][CHAIN_HEAD])
    if record["output"] is None:
        return
    artefact = _open(report, parse_ref(record["output"]))
    if artefact is not None:
        _check_numbers(report, name, STAGE_OF[stage], record, artefact)
        if stage == "train":
            check_epochs(report, run, record, artefact)
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
        measured = dict(stage.measurements(artefact, record.get("observed", {})))
    except KNOWN_ERRORS as error:
        report.check(holds=False, failure=f"{name}: cannot be measured again: {error}")
        return
    recorded = record["measurements"]
    for key in sorted(measured.keys() | recorded.keys()):
        found, said = measured.get(key), recorded.get(key)
        report.check(
            holds=same(found, said), failure=f"{name}: {key} is {found}, record says {said}"
        )
    verdicts = judge_all(stage.gates, measured, record["thresholds"])
    for verdict, said_gate in zip(verdicts, record["gates"], strict=True):
        is_same = verdict_record(verdict) == said_gate and gate_of(said_gate) == verdict.gate
        report.check(holds=is_same, failure=f"{name}: gate {verdict.gate.id} is {verdict.word} now")
