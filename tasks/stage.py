"""Run one stage: reuse or build, measure, judge, record.

Every task goes through `perform`, so every stage is cached, measured, gated and recorded in the
same way. What a stage measured is computed from the artefact on disk, by the same function that
`assay verify` calls again later. What was seen of the machine and the moment (how fast it was, what
the chain of records ended with) is in the record and beside the recipe, never in the artefact: the
same inputs have the same ref.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.gates import Gate, Measurements, Verdict, require, verdict_record
from evidence.gates import judge_all as judge_measured
from evidence.records import STAGE_SCHEMA, Recipe, stage_file, write_record
from evidence.refs import REF_TYPES, Ref, parse_ref
from tasks.errors import storage_error
from tasks.logins import without_login
from tasks.provenance import provenance
from tasks.run_record import Run, now
from tasks.shared_runs import share_run
from tasks.store import Artefact, Store, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What distinguishes one stage from another."""

    name: str
    version: int
    ref_type: type[Ref]
    measure: Callable[[Artefact], Measurements]
    summary: Callable[[Measurements], str]
    "Says in a line what came out."
    gates: tuple[Gate, ...]
    "With thresholds named `thresholds.<field>`, filled in from the run's settings."
    measure_observed: Callable[[Mapping[str, Any]], Measurements] = lambda _: {}
    "Measures what was observed while the artefact was made."

    def measurements(self, artefact: Artefact, observed: Mapping[str, Any]) -> Measurements:
        """Compute all that a record of this stage says was measured."""
        return {**self.measure(artefact), **self.measure_observed(observed)}


@dataclass(frozen=True, slots=True)
class Built:
    """An index, and what was observed while it came about that another time would be otherwise."""

    index: object
    observed: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage: its artefact and the record that says how it came about."""

    artefact: Artefact
    record: Mapping[str, Any]

    @property
    def ref(self) -> Ref:
        """The artefact's ref."""
        return self.artefact.ref


def perform(
    run: Run,
    stage: Stage,
    recipe: Recipe,
    build: Callable[[Path], object],
    *,
    thresholds: Mapping[str, float],
    resumable: bool = False,
    illustrate: Callable[[Artefact], object] = lambda _: None,
    tracking: Mapping[str, str | None],
) -> Done:
    """Reuse or build a stage's artefact, and write its record either way.

    `build` returns the artefact's index, or `Built`. `illustrate` writes what goes beside the
    record, before the record says that all is there.

    Raises: GateFailedError after the record is written, StorageError, and whatever `build` raises.
    """
    facts = _facts(recipe, thresholds, tracking)
    path = run.directory / stage_file(stage.name)
    begin = time.perf_counter()
    try:
        artefact, observed, reused_from = _obtain(run, stage, recipe, build, resumable=resumable)
        measurements = dict(stage.measurements(artefact, observed))
        illustrate(artefact)
        verdicts = judge_all(stage.gates, measurements, thresholds)
        result = {
            "outcome": "reused" if reused_from else "produced",
            "reused_from": reused_from,
            "output": str(artefact.ref),
            **({"observed": dict(observed)} if observed else {}),
            "measurements": measurements,
            "gates": [verdict_record(verdict) for verdict in verdicts],
            "wall_seconds": round(time.perf_counter() - begin, 3),
        }
        record = write_record(path, {**facts, **result})
    except Exception as error:
        cause = storage_error(error) or error
        _write_failure(path, facts, cause, time.perf_counter() - begin)
        if cause is error:
            raise
        raise cause from error
    # What others may take away is what they know no use of.
    share_run(run)
    require(verdicts)
    return Done(artefact, record)


def _facts(
    recipe: Recipe, thresholds: Mapping[str, float], tracking: Mapping[str, str | None]
) -> dict[str, Any]:
    """Collect what is known before the stage starts."""
    return {
        "schema": STAGE_SCHEMA,
        "stage": recipe.stage,
        "recipe": recipe.as_record(),
        "recipe_sha256": recipe.digest,
        "thresholds": dict(thresholds),
        "tracking": dict(tracking),
        "provenance": provenance(),
        "started": now(),
    }


def judge_all(
    gates: Iterable[Gate], measurements: Measurements, thresholds: Mapping[str, float]
) -> list[Verdict]:
    """Judge gates against measurements and the run's thresholds."""
    named = {f"thresholds.{name}": value for name, value in thresholds.items()}
    return judge_measured(gates, {**measurements, **named})


def _obtain(
    run: Run, stage: Stage, recipe: Recipe, build: Callable[[Path], object], *, resumable: bool
) -> tuple[Artefact, Mapping[str, Any], str | None]:
    """Return the artefact, what was observed, and the run that made it if that was not this one."""
    store = open_store()
    if made := store.find(recipe):
        _check_inputs(store, recipe)
        artefact = store.open(made.ref)
        # Whoever made it may have been cut off before it was sent.
        store.share(recipe, made.ref)
        return artefact, made.observed, made.run
    store.check_writable()
    name = work_name(recipe)
    with store.resuming(name) if resumable else store.building(name) as directory:
        built = build(directory)
        if not isinstance(built, Built):
            built = Built(built, {})
        ref = store.commit(directory, stage.ref_type, built.index)
    store.remember(recipe, ref, run.name, built.observed)
    return store.peek(ref), built.observed, None


def work_name(recipe: Recipe) -> str:
    """Return what the directory is called in which this recipe is being made."""
    return f"{recipe.stage}-{recipe.digest[:16]}"


def _check_inputs(store: Store, recipe: Recipe) -> None:
    """Refuse to reuse what was made of an input that has been damaged since.

    An input that was removed on purpose is no damage: what was made of it stands for itself.
    """
    for text in recipe.inputs.values():
        if text.partition(":")[0] in REF_TYPES and store.directory(ref := parse_ref(text)).is_dir():
            store.open(ref)


def _write_failure(path: Path, facts: Mapping[str, Any], error: Exception, seconds: float) -> None:
    """Record a failure; a disk that refuses this too leaves the error itself to speak."""
    record = {
        **facts,
        "outcome": "failed",
        "error": {"type": type(error).__name__, "message": without_login(str(error))},
        "output": None,
        "measurements": {},
        "gates": [],
        "wall_seconds": round(seconds, 3),
    }
    try:
        write_record(path, record)
    except OSError as refusal:
        error.add_note(f"the failure could not be recorded: {refusal}")
