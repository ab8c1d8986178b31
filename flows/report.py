"""Tables about runs, computed from their evidence alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evidence.errors import EvidenceError
from evidence.gates import gate_of
from evidence.records import differences, flatten
from evidence.refs import REF_TYPES
from flows.screen import text_of
from tasks.run_record import Run, find_run
from tasks.stage import judge_all

_DIGEST = re.compile("[0-9a-f]{64}")


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


def comparison(names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Put runs or evaluations side by side: settings that differ, results, and differences.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ArtefactDamagedError, WrongShapeError.
    """
    from tasks.evaluations import difference_rows, find_evaluation, look_for_evaluation
    from tasks.schemas import require_shapes

    if any(name.partition(":")[0] in REF_TYPES for name in names):
        found = [find_evaluation(name) for name in names]
        results = _side_by_side({each.name: each.measurements() for each in found})
        return {"settings": [], "results": results, "differences": difference_rows(found)}
    runs = [find_run(name) for name in names]
    for run in runs:
        require_shapes(run)
    is_any_evaluated = any("evaluate" in _finished_stages(run) for run in runs)
    return {
        "settings": _changed_settings(runs),
        "results": _side_by_side({run.name: _all_measured(run) for run in runs}),
        "differences": difference_rows([look_for_evaluation(run.name) for run in runs])
        if is_any_evaluated
        else [],
    }


def _finished_stages(run: Run) -> list[str]:
    return [stage for stage, record in run.stage_records().items() if record["output"]]


def _changed_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    plans = [flatten(run.plan()["settings"]) for run in runs]
    changed = sorted({each.key for plan in plans[1:] for each in differences(plans[0], plan)})
    return [
        {"setting": key, **{run.name: plan.get(key) for run, plan in zip(runs, plans, strict=True)}}
        for key in changed
    ]


def _all_measured(run: Run) -> dict[str, Any]:
    return {
        f"{stage}.{name}": found
        for stage, record in run.stage_records().items()
        for name, found in record["measurements"].items()
    }


def _side_by_side(measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay out a row a measurement and a column a name."""
    keys = sorted({key for each in measured.values() for key in each})
    return [
        {"measured": key, **{name: each.get(key) for name, each in measured.items()}}
        for key in keys
    ]


def shortened(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cut digests to what people compare."""
    return [{key: _short(value) for key, value in row.items()} for row in rows]


def _short(value: Any) -> Any:
    is_digest = isinstance(value, str) and _DIGEST.fullmatch(value)
    return f"{value[:12]}..." if is_digest else value


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


def departure_rows(run: Run, plan: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Lay out what a run did otherwise than a plan, by default the one that it was made by.

    Also say what is wrong with the order of the two.
    """
    from tasks.preregistration import departures, find_plan, order_faults, read_plan, registered

    held_to = read_plan(find_plan(plan)) if plan else registered(run)
    found = departures(held_to, run) if held_to else []
    rows = [{"setting": each.key, "plan": each.before, "run": each.after} for each in found]
    return rows, [] if plan else order_faults(run)


def acceptance_table(run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """Judge the criteria of acceptance by a run's records and the bounds of its plan.

    Also name those that the run could not have met, whatever its model learnt.
    """
    from tasks.acceptance import CRITERIA, GATES, judge_criteria, out_of_reach

    judged = judge_criteria(run, (*CRITERIA, *GATES))
    rows = [
        {
            "criterion": each.id,
            "verdict": each.verdict,
            "measured": each.value,
            "should be": f"{each.operator} {text_of(each.threshold)}",
            "holds when": each.sentence,
            "record": each.record,
        }
        for each in judged
    ]
    return rows, out_of_reach(run, judged)
