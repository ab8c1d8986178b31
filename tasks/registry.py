"""Which sealed checkpoint of a name is the candidate, and which the champion: gates decide.

The newest checkpoint of a run whose required gates all passed is the candidate. It becomes the
champion if it predicts the champion's own validation data better, by more than chance.
"""

from collections.abc import Mapping
from typing import Any

from evidence.gates import Gate, Measurements, Verdict, judge_all
from tasks.run_record import Run

CANDIDATE, CHAMPION = "candidate", "champion"

CANDIDATE_GATES = (
    Gate(
        id="registry.gates",
        sentence="every required gate of the run held",
        measured="failed_gates",
        operator="==",
        threshold=0,
    ),
)
CHAMPION_GATES = (
    Gate(
        id="registry.better",
        sentence="on the same validation data it predicts better than the champion, beyond chance",
        measured="errors_better",
        operator=">=",
        threshold=2.0,
        if_measured=True,
    ),
    Gate(
        id="registry.comparable",
        sentence="both were scored on the same validation data",
        measured="comparable",
        operator="==",
        threshold=1,
    ),
)


def judge_candidate(record: Mapping[str, Any]) -> list[Verdict]:
    """Judge whether a finished run's checkpoint is the candidate."""
    failed = [gate for gate in record["gates"] if gate["required"] and gate["verdict"] != "pass"]
    ended = 0 if record["outcome"] == "completed" else 1
    return judge_all(CANDIDATE_GATES, {"failed_gates": len(failed) + ended})


def judge_champion(evaluation: str, champions: str | None) -> list[Verdict]:
    """Judge whether what one evaluation scored takes the place of what another did.

    A champion that somebody made by hand has no evaluation to compare with, and stays.

    Raises: AmbiguousError, WrongRefError, ArtefactDamagedError.
    """
    measured = _compared(evaluation, champions) if champions else {"comparable": 0}
    return judge_all(CHAMPION_GATES, measured)


def _compared(evaluation: str, champions: str) -> Measurements:
    """Subtract the losses; what cannot be subtracted is not measured.

    Units: `errors_better` in standard errors of the difference, by document.
    """
    # Imports torch, which a mirror does without unless there is a champion already.
    from tasks.evaluations import difference_rows, look_for_evaluation

    (row,) = difference_rows([look_for_evaluation(champions), look_for_evaluation(evaluation)])
    if row["errors"] is None:
        return {"comparable": int(row["nats"] == 0.0), **_no_better(row["nats"])}
    return {"comparable": 1, "errors_better": -float(row["errors"])}


def _no_better(nats: float | None) -> Measurements:
    """The same losses on every document have no error, and are no better."""
    return {} if nats is None else {"errors_better": 0.0}


def evaluation_of(run: Run) -> str | None:
    """Return the evaluation that a run's checkpoint was sealed from."""
    record = run.stage_records().get("checkpoint")
    return str(record["recipe"]["inputs"]["evaluation"]) if record else None
