"""Recheck a run: do the recorded checks over, on the recorded inputs, and compare within a bar.

`assay verify` asks whether the evidence agrees with itself and with the artefacts; this computes
anew what the artefacts are said to have measured: tokens, baselines, losses, texts, traces.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from evidence.records import STAGES
from tasks import recheck_data, recheck_model
from tasks.errors import NotFoundError
from tasks.recheck_written import Draw
from tasks.rechecked import Rechecked
from tasks.run_record import Run
from tasks.store import Store, open_store

Check = Callable[[Store, Mapping[str, Any], str], Iterator[Rechecked]]
FEW = Draw(20, seed=0)


def checks(draw: Draw) -> Mapping[str, Check]:
    """Name the checks of every stage."""
    return {
        "pretokenize": recheck_data.tokens_again,
        "shard": recheck_data.baselines_again,
        "train": recheck_model.training_again,
        "evaluate": partial(recheck_model.evaluation_again, draw=draw),
        "checkpoint": recheck_model.checkpoint_again,
        "bisect": recheck_model.trace_again,
    }


assert tuple(checks(FEW)) == STAGES


@dataclass(frozen=True, slots=True)
class StageRecheck:
    """What came of one stage's checks."""

    stage: str
    results: tuple[Rechecked, ...]


def recheck(run: Run, stage: str | None, device: str, draw: Draw = FEW) -> Iterator[StageRecheck]:
    """Do the checks of one stage over, or of all stages that have a result.

    `draw` says which of the texts that a model wrote it writes again.

    Raises: NotFoundError for an absent stage or input, and whatever opening an artefact raises.
    """
    records = {name: each for name, each in run.stage_records().items() if each["output"]}
    if not records or (stage is not None and stage not in records):
        raise NotFoundError(f"finished stage {stage or ''}".rstrip(), str(run.directory))
    store = open_store()
    for name in [stage] if stage else records:
        yield StageRecheck(name, tuple(checks(draw)[name](store, records[name], device)))
