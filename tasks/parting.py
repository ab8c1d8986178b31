"""The first step at which two trainings part, and in what: without Prefect, from their step logs.

Numbers are compared to the bit. A step's facts are in the order in which they come about, so the
first of them that differs says where to look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import NotFoundError
from tasks.run_record import find_run
from tasks.store import open_store
from tasks.training_log import TRAIN_LOG, read_rows

KINDS = {
    "tokens": "data: other rows, or another batch",
    "cursor_rows": "data: other rows, or another batch",
    "train_loss": "the rows, the forward pass, or weights that changed since the last step",
    "grad_norm": "the backward pass",
    "learning_rate": "the schedule",
    "update_norm": "the optimizer or its state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first step that is not the same."""

    step: int
    fact: str
    left: Any
    right: Any
    kind: str


def find_parting(
    left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]
) -> Parting | None:
    """Compare two step logs as far as both go; None if they agree."""
    for ours, theirs in zip(left, right, strict=False):
        for fact, kind in KINDS.items():
            # As text, in which NaN equals itself and every other number only itself.
            if repr(ours.get(fact)) != repr(theirs.get(fact)):
                return Parting(
                    step=ours["step"],
                    fact=fact,
                    left=ours.get(fact),
                    right=theirs.get(fact),
                    kind=kind,
                )
    return None


def part_runs(left: str, right: str) -> tuple[int, Parting | None]:
    """Count the steps that two runs' trainings both made, and find where they part.

    Raises: NotFoundError if there is no such run, or it trained nothing to its end.
    """
    logs = [_rows(name) for name in (left, right)]
    return min(map(len, logs)), find_parting(*logs)


def _rows(name: str) -> list[dict[str, Any]]:
    run = find_run(name)
    ref = run.stage_records().get("train", {}).get("output")
    if ref is None:
        raise NotFoundError("finished training", run.name)
    store = open_store()
    return read_rows(store.open(store.resolve(ref)).directory / TRAIN_LOG)
