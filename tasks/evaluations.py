"""Evaluations side by side: what each measured, and what may be subtracted from what.

Losses are subtracted only where both were measured on the same validation data, and bits per byte
where it was all of the same documents; by document, because most of what makes a loss uncertain is
which documents were held out, and both saw those.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evidence.errors import WrongRefError
from evidence.gates import Measurements
from evidence.refs import REF_TYPES, CheckpointRef, EvaluationRef, Ref, parse_ref
from model.loss_statistics import ratio_difference
from model.paired_losses import improvement
from tasks.errors import NotFoundError
from tasks.evaluate import STAGE
from tasks.evaluate_errors import OutdatedEvaluationError
from tasks.loss_evaluation import CARRIED, FORWARD, LOSSES
from tasks.run_record import find_run
from tasks.store import Artefact, open_store

_FIGURES = ("nats", "nats_error", "errors", "better_on", "bits_per_byte", "bits_error")
"""Of a difference: `errors` is how many standard errors it is, `better_on` a share of documents."""


@dataclass(frozen=True, slots=True)
class Named:
    """An evaluation, by the name that a person gave for it."""

    name: str
    artefact: Artefact

    def measurements(self) -> Measurements:
        """Compute what it measured, as far as that is known here."""
        return STAGE.measurements(self.artefact, open_store().observed(self.artefact.ref))


@dataclass(frozen=True, slots=True)
class Missing:
    """An evaluation that is not there, and why."""

    name: str
    why: str


def look_for_evaluation(text: str) -> Named | Missing:
    """Return an evaluation, or why there is none: records outlive what they are about.

    Raises: AmbiguousError, WrongRefError, ArtefactDamagedError.
    """
    try:
        return find_evaluation(text)
    except (NotFoundError, OutdatedEvaluationError) as error:
        return Missing(text, str(error))


def find_evaluation(text: str) -> Named:
    """Return the evaluation of this ref, of this checkpoint, or of this run.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ArtefactDamagedError,
        OutdatedEvaluationError.
    """
    is_ref = text.partition(":")[0] in REF_TYPES
    name, ref = _by_ref(text) if is_ref else _by_run(text)
    artefact = open_store().open(ref)
    require_current(artefact)
    return Named(name, artefact)


def require_current(artefact: Artefact) -> None:
    """Refuse an evaluation that does not say what it scored.

    Raises: OutdatedEvaluationError.
    """
    if not {*CARRIED, FORWARD} <= artefact.index["content"].keys():
        raise OutdatedEvaluationError(artefact.ref.short)


def _by_run(text: str) -> tuple[str, Ref]:
    run = find_run(text)
    record = run.stage_records().get("evaluate")
    if record is None or record["output"] is None:
        raise NotFoundError("evaluation", str(run.directory))
    return run.name, parse_ref(record["output"])


def _by_ref(text: str) -> tuple[str, Ref]:
    store = open_store()
    ref = store.resolve(text)
    if isinstance(ref, EvaluationRef):
        return ref.short, ref
    if not isinstance(ref, CheckpointRef):
        raise WrongRefError(text, "a run, an evaluation ref or a checkpoint ref")
    scored_in = store.open(ref).index["content"].get("evaluation")
    if scored_in is None:
        raise NotFoundError("evaluation", ref.short)
    return ref.short, parse_ref(scored_in)


def difference_rows(found: Sequence[Named | Missing]) -> list[dict[str, Any]]:
    """Lay out by how much each evaluation differs from the first, where that means something."""
    return [_difference(found[0], other) for other in found[1:]]


def _difference(first: Named | Missing, other: Named | Missing) -> dict[str, Any]:
    row = {"evaluation": other.name, "minus": first.name, **dict.fromkeys(_FIGURES)}
    if isinstance(first, Missing):
        return {**row, "comparable": f"not comparable: {first.why}"}
    if isinstance(other, Missing):
        return {**row, "comparable": f"not comparable: {other.why}"}
    ours, theirs = (each.artefact.index["content"] for each in (first, other))
    digests = [content["validation_sha256"] for content in (ours, theirs)]
    if digests[0] == digests[1]:
        left, right = (_documents(each, by_digest=False) for each in (first, other))
        return {**row, **_in_nats(left, right), **_in_bits(left, right), "comparable": "same data"}
    if all(content["rows"] == content["all_rows"] for content in (ours, theirs)):
        left, right = (_documents(each, by_digest=True) for each in (first, other))
        if left["sha256"].equals(right["sha256"]):
            figures = _in_bits(left, right)
            return {**row, **figures, "comparable": "same documents, other tokens: bits alone"}
    why = f"validation data differ ({digests[0][:12]}..., {digests[1][:12]}...)"
    return {**row, "comparable": f"not comparable: {why}"}


def _documents(evaluation: Named, *, by_digest: bool) -> pd.DataFrame:
    """Read the scored documents of an evaluation, in the order of their shards or digests."""
    table = pd.read_parquet(evaluation.artefact.directory / LOSSES)
    seen = table[table["target_tokens"] > 0]
    return (seen.sort_values("sha256") if by_digest else seen).reset_index(drop=True)


def _in_nats(left: pd.DataFrame, right: pd.DataFrame) -> dict[str, float | None]:
    """Subtract the losses of the same tokens."""
    ours, theirs = left["nats"].to_numpy(), right["nats"].to_numpy()
    fall = improvement(ours, theirs, left["target_tokens"].to_numpy())
    error = fall.standard_error_nats
    return {
        # Not negated: nothing would become less than nothing.
        "nats": 0.0 - fall.mean_nats,
        "nats_error": error,
        "errors": (0.0 - fall.mean_nats) / error if error else None,
        "better_on": float(np.mean(theirs < ours)),
    }


def _in_bits(left: pd.DataFrame, right: pd.DataFrame) -> dict[str, float | None]:
    """Subtract bits per byte, which is the same unit whatever the tokens are."""
    both = (
        (table["nats"].to_numpy() / math.log(2), table["target_bytes"].to_numpy())
        for table in (left, right)
    )
    found = ratio_difference(*both)
    return {"bits_per_byte": found.mean, "bits_error": found.standard_error}
