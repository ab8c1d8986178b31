"""Close what a crash left open in Prefect and MLflow, by what the evidence says.

A run without a record whose process is gone gets its record: it crashed. What the tools then show
as running of any run whose process is gone is closed as its record says. Runs of other machines, of
which nothing here tells whether they live, are left alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Crashed, Failed

from evidence.errors import EvidenceError
from tasks import places
from tasks.alive import life_of
from tasks.errors import MirrorError
from tasks.gpu_slots import give_back_leases
from tasks.mirror_state import Sent
from tasks.mirroring import mirror_now
from tasks.run_record import Run, all_runs, finish_run
from tasks.schemas import require_shapes

CRASHED = "crashed"
"The outcome of a run whose process ended without a word."
REASON = "its process ended without a word: killed, or the machine went down"
STATES = {"completed": Completed, "failed": Failed}
_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


@dataclass(frozen=True, slots=True)
class Closed:
    """One thing that was open, and what it is now."""

    run: str
    what: str
    was: str
    now: str


def reconcile() -> Iterator[Closed]:
    """Close what is open, and yield each as it is closed.

    Raises: StorageError, what Prefect's client raises where the server fails, and at the end
        MalformedJsonError, BrokenSealError or WrongShapeError of runs that were left alone.
    """
    known = {run: life for run in all_runs() if (life := life_of(run)) != "unknown"}
    damage = _damage(known)
    alive = {_flow_run_id(run) for run, life in known.items() if life == "alive"}
    gone = [run for run, life in known.items() if life == "dead"]
    for run in gone:
        if run.record() is None:
            finish_run(run, CRASHED, REASON)
            yield Closed(run.name, "evidence", "unfinished", CRASHED)
    with get_client(sync_client=True) as client:
        for run in gone:
            # A retried flow run is the same one for Prefect.
            if (flow_run_id := _flow_run_id(run)) and flow_run_id not in alive:
                yield from _close_flow_run(client, run, flow_run_id)
    for holder in give_back_leases():
        yield Closed(holder, "GPU slot in Prefect", "held", "free")
    for run in gone:
        yield from _close_mirror(run)
    if damage:
        raise damage


def _damage(runs: dict[Run, Any]) -> EvidenceError | None:
    """Take out the runs whose records cannot be read; return why, of all."""
    found: list[EvidenceError] = []
    for run in list(runs):
        try:
            require_shapes(run)
        except EvidenceError as error:
            found.append(error)
            del runs[run]
    for other in found[1:]:
        found[0].add_note(f"error: {other}")
    return found[0] if found else None


def _flow_run_id(run: Run) -> UUID | None:
    with suppress(ValueError):
        return UUID(str(run.plan()["request"].get("prefect_flow_run_id")))
    return None


def _close_flow_run(client: SyncPrefectClient, run: Run, flow_run_id: UUID) -> Iterator[Closed]:
    """Close a flow run, its sub-flows and their task runs; another server's is not here."""
    try:
        flow_run = client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return
    record = run.record()
    assert record is not None
    flow_runs = [flow_run, *_children(client, flow_run_id)]
    outcomes = {
        stage.get("tracking", {}).get("prefect_task_run_id"): stage["outcome"]
        for stage in run.stage_records().values()
    }
    begun = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN)))
    own = FlowRunFilter(id=FlowRunFilterId(any_=[each.id for each in flow_runs]))
    for task_run in client.read_task_runs(flow_run_filter=own, task_run_filter=begun):
        state = _task_state(outcomes.get(str(task_run.id)))
        client.set_task_run_state(task_run.id, state, force=True)
        yield Closed(run.name, f"task run {task_run.name}", _name(task_run), str(state.name))
    for each in reversed(flow_runs):
        if each.state and each.state.is_final():
            continue
        state = STATES.get(record["outcome"], Crashed)(message=record["error"])
        client.set_flow_run_state(each.id, state, force=True)
        yield Closed(run.name, f"flow run {each.name}", _name(each), str(state.name))


def _children(client: SyncPrefectClient, flow_run_id: UUID) -> Sequence[FlowRun]:
    parent = FlowRunFilterParentFlowRunId(any_=[flow_run_id])
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))


def _task_state(outcome: str | None) -> State[Any]:
    """Return the state of a task run by its stage's outcome; without a record it crashed."""
    if outcome is None:
        return Crashed(message=REASON)
    return Failed() if outcome == "failed" else Completed()


def _name(run: Any) -> str:  # a flow run or a task run
    return run.state.name if run.state else "no state"


def _close_mirror(run: Run) -> Iterator[Closed]:
    """Send the rest of a run to MLflow, which ends what still runs there."""
    sent = Sent.load(run, places.mlflow_uri())
    if sent.complete:
        return
    try:
        mirror_now(run)
    except MirrorError as error:
        yield Closed(run.name, "MLflow run", "open", f"open: {error.reason}")
        return
    yield Closed(run.name, "MLflow run", "open" if sent.run_id else "not sent", "closed")
