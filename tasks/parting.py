"""The first step at which two trainings part, and in what: without Prefect, from their step logs.

Numbers are compared to the bit. A step's facts are in the order in which they come about, so the
first of them that differs says where to look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evidence.records import differences
from tasks.recorded_training import Line, RecordedTraining
from tasks.step_watch import SPIKE, STATE_DIGEST

DATA, COMPUTE, OPTIMIZER, MEMORY = "data order", "compute", "optimizer", "memory"
START, SETTINGS = "start", "settings"

FACTS = {
    "batch_digest": (DATA, "other ids, or the same in another order"),
    "tokens": (DATA, "another number of targets"),
    "cursor_rows": (DATA, "other rows"),
    "train_loss": (COMPUTE, "the forward pass"),
    "grad_norm": (COMPUTE, "the backward pass"),
    SPIKE: (SETTINGS, "one answered a spike, the other learnt from it"),
    "learning_rate": (OPTIMIZER, "the schedule"),
    "updates": (OPTIMIZER, "an update that was not made"),
    "update_norm": (OPTIMIZER, "the update, from the same gradient"),
    STATE_DIGEST: (MEMORY, "weights or optimizer state, beside the update"),
}
"""What a step's line says, in the order in which it comes about; its kind, and where to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first step that is not the same."""

    step: int
    """0 is the state before the first."""
    fact: str
    left: Any
    right: Any
    kind: str
    look: str
    same_state: int | None
    """The last step before it whose digests of the state are equal; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs' trainings, as far as both went."""

    num_steps: int
    settings: Mapping[str, tuple[Any, Any]]
    """Of the model, the training and the shards, that are not the same."""
    parting: Parting | None


def find_parting(
    left: Sequence[Line], right: Sequence[Line], same_state: int | None = None
) -> Parting | None:
    """Compare two step logs as far as both go; None if they agree.

    `same_state` is the step of the state with which both begin, if that is known to be the same.
    """
    for ours, theirs in zip(left, right, strict=False):
        for fact, (kind, look) in FACTS.items():
            if not _agree(ours, theirs, fact):
                is_open = kind == COMPUTE and same_state != ours["step"] - 1
                return Parting(
                    step=ours["step"],
                    fact=fact,
                    left=ours.get(fact),
                    right=theirs.get(fact),
                    kind=f"{COMPUTE} or {MEMORY}" if is_open else kind,
                    look=f"{look}, or a state that changed before it" if is_open else look,
                    same_state=same_state,
                )
        if STATE_DIGEST in ours and STATE_DIGEST in theirs:
            same_state = ours["step"]
    return None


def part_runs(left: str, right: str) -> Comparison:
    """Count the steps that two runs' trainings both made, and find where they part.

    Raises: NotFoundError if there is no such run, or it trained nothing.
    """
    ours, theirs = RecordedTraining.of(left), RecordedTraining.of(right)
    return Comparison(
        num_steps=min(len(ours.steps), len(theirs.steps)),
        settings={
            each.key: (each.before, each.after)
            for each in differences(_settings(ours), _settings(theirs))
        },
        parting=_part(ours, theirs),
    )


def _agree(ours: Line, theirs: Line, fact: str) -> bool:
    """Compare a fact as text, in which NaN equals itself and every other number only itself."""
    if fact != SPIKE and not (fact in ours and fact in theirs):
        # Digests of the state are not taken at every step, and older logs have fewer facts.
        return True
    return repr(ours.get(fact)) == repr(theirs.get(fact))


def _part(ours: RecordedTraining, theirs: RecordedTraining) -> Parting | None:
    first, second = (each.starts[0].get(STATE_DIGEST) for each in (ours, theirs))
    if first is None or second is None:
        return find_parting(ours.lines, theirs.lines)
    if first == second:
        return find_parting(ours.lines, theirs.lines, same_state=0)
    return Parting(
        step=0,
        fact=STATE_DIGEST,
        left=first,
        right=second,
        kind=START,
        look="the weights that were drawn",
        same_state=None,
    )


def _settings(training: RecordedTraining) -> dict[str, Any]:
    return {
        "model": asdict(training.llama),
        "train": asdict(training.train),
        "shards": training.shards,
    }
