"""Evaluations side by side: what each measured, and what may be subtracted from what.

Two losses are compared only where both were measured on the same validation data, and then by
document: most of what makes a loss uncertain is which documents were held out, and both saw those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evidence.errors import WrongRefError
from evidence.gates import Measurements
from evidence.refs import REF_TYPES, CheckpointRef, EvaluationRef, parse_ref
from model.loss_statistics import bits_per_byte
from model.paired_losses import improvement
from tasks.errors import NotFoundError
from tasks.evaluate import measure
from tasks.loss_evaluation import LOSSES
from tasks.run_record import find_run
from tasks.store import Artefact, open_store

_FIGURES = ("nats", "standard_error", "errors", "bits_per_byte", "better_on")
"""Of a difference: `errors` is how many standard errors it is, `better_on` a share of documents."""


@dataclass(frozen=True, slots=True)
class Named:
    """An evaluation, by the name that a person gave for it."""

    name: str
    artefact: Artefact

    def measurements(self) -> Measurements:
        """Compute what it measured."""
        return measure(self.artefact)


def find_evaluation(text: str) -> Named:
    """Return the evaluation of this ref, of this checkpoint, or of this run.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ArtefactDamagedError.
    """
    store = open_store()
    if text.partition(":")[0] not in REF_TYPES:
        run = find_run(text)
        record = run.stage_records().get("evaluate")
        if record is None or record["output"] is None:
            raise NotFoundError("evaluation", str(run.directory))
        return Named(run.name, store.open(parse_ref(record["output"])))
    ref = store.resolve(text)
    if isinstance(ref, CheckpointRef):
        sealed = store.open(ref).index["content"]
        if not sealed.get("evaluation"):
            raise NotFoundError("evaluation", ref.short)
        return Named(ref.short, store.open(parse_ref(sealed["evaluation"])))
    if not isinstance(ref, EvaluationRef):
        raise WrongRefError(text, "a run, an evaluation ref or a checkpoint ref")
    return Named(ref.short, store.open(ref))


def difference_rows(found: Sequence[Named]) -> list[dict[str, Any]]:
    """Lay out by how much each evaluation differs from the first, where that means something."""
    return [_difference(found[0], other) for other in found[1:]]


def _difference(first: Named, other: Named) -> dict[str, Any]:
    row = {"evaluation": other.name, "minus": first.name}
    if why := _incomparable(first, other):
        return {**row, **dict.fromkeys(_FIGURES), "comparable": f"not comparable: {why}"}
    left, right = (pq.read_table(each.artefact.directory / LOSSES) for each in (first, other))
    ours, theirs = left["nats"].to_numpy(), right["nats"].to_numpy()
    tokens, num_bytes = left["target_tokens"].to_numpy(), int(pc.sum(left["target_bytes"]).as_py())
    fall = improvement(ours, theirs, tokens)
    error = fall.standard_error_nats
    bits = bits_per_byte(-fall.mean_nats, fall.num_tokens, num_bytes)
    better_on = float(np.mean((theirs < ours)[tokens > 0]))
    figures = (-fall.mean_nats, error, -fall.mean_nats / error if error else None, bits, better_on)
    return {**row, **dict(zip(_FIGURES, figures, strict=True)), "comparable": "same data"}


def _incomparable(first: Named, other: Named) -> str | None:
    """Say why two losses may not be subtracted; None if they may."""
    ours, theirs = (each.artefact.index["content"]["validation_sha256"] for each in (first, other))
    if ours == theirs:
        return None
    return f"validation data differ ({ours[:12]}..., {theirs[:12]}...)"
