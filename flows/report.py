"""Tables about runs, computed from their evidence alone."""

from typing import Any

from evidence.errors import EvidenceError
from evidence.gates import gate_of
from evidence.records import differences, flatten
from flows.screen import text_of
from tasks.run_record import Run
from tasks.stage import judge_all


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """Lay out a run's stages: time, outcome, main figures, verdicts."""
    return [
        {
            "stage": stage,
            "seconds": record["wall_seconds"],
            "outcome": record["outcome"],
            "figures": _summary(stage, record),
            "gates": _verdicts(record["gates"]),
        }
        for stage, record in run.stage_records().items()
    ]


def _summary(stage: str, record: dict[str, Any]) -> str:
    from tasks.verify import STAGE_OF

    if record["outcome"] == "failed":
        return str(record["error"]["message"])
    return STAGE_OF[stage].summary(record["measurements"])


def _verdicts(gates: list[dict[str, Any]]) -> str:
    """Count the passes and name the rest."""
    others = [f"{gate['id']} {gate['verdict']}" for gate in gates if gate["verdict"] != "pass"]
    passed = len(gates) - len(others)
    return ", ".join([f"{passed} pass", *others])


def run_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Lay out runs, one a row."""
    return [_run_row(run) for run in runs]


def _run_row(run: Run) -> dict[str, Any]:
    try:
        return {
            "run": run.name,
            "outcome": outcome(run),
            "started": run.plan()["started"][:19] + "Z",
            "stages": " ".join(run.stage_records()),
            "val_loss": value(run, "evaluate", "val_loss"),
            "bits_per_byte": value(run, "evaluate", "val_bits_per_byte"),
        }
    except EvidenceError:
        # One damaged record must not hide the other runs; `assay verify` says what is wrong.
        unknown = dict.fromkeys(("started", "stages", "val_loss", "bits_per_byte"))
        return {"run": run.name, "outcome": "damaged", **unknown}


def outcome(run: Run) -> str:
    """Say how a run ended; a run without a record has not."""
    record = run.record()
    return str(record["outcome"]) if record else "unfinished"


def error(run: Run) -> str | None:
    """Say why a run failed; None if it did not."""
    record = run.record()
    return str(record["error"]) if record and record["error"] else None


def value(run: Run, stage: str, name: str) -> float | str | None:
    """Return one measurement of a run."""
    record = run.stage_records().get(stage)
    found: float | str | None = record["measurements"].get(name) if record else None
    return found


def comparison(runs: list[Run]) -> dict[str, list[dict[str, Any]]]:
    """Put runs side by side: the settings that differ, and all results."""
    plans = [flatten(run.plan()["settings"]) for run in runs]
    changed = sorted({each.key for plan in plans[1:] for each in differences(plans[0], plan)})
    settings = [
        {"setting": key, **{run.name: plan.get(key) for run, plan in zip(runs, plans, strict=True)}}
        for key in changed
    ]
    measured = [
        {
            f"{stage}.{name}": found
            for stage, record in run.stage_records().items()
            for name, found in record["measurements"].items()
        }
        for run in runs
    ]
    names = sorted({name for each in measured for name in each})
    results = [
        {"measured": name, **{run.name: m.get(name) for run, m in zip(runs, measured, strict=True)}}
        for name in names
    ]
    return {"settings": settings, "results": results}


def gate_table(run: Run) -> list[dict[str, Any]]:
    """Judge every gate of a run again, from its measurements and its plan's thresholds."""
    thresholds = run.plan()["settings"]["thresholds"]
    return [
        {
            "gate": verdict.gate.id,
            "verdict": verdict.word,
            "measured": verdict.value,
            "should be": f"{verdict.gate.operator} {text_of(verdict.threshold)}",
            "holds when": verdict.gate.sentence,
        }
        for record in run.stage_records().values()
        for verdict in judge_all(
            tuple(gate_of(gate) for gate in record["gates"]), record["measurements"], thresholds
        )
    ]
