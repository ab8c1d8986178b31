"""The units of one kind as the tasks of one Prefect sub-flow, on the task runner of the settings.

Workers that die without a word are tried again, as a stage's are. What a unit raises ends the
sub-flow: what waits is not begun, what is finished is kept.
"""

import pickle
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import PrefectException
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Crashed
from prefect.task_runners import TaskRunner

from tasks import places
from tasks.errors import UnitDiedError
from tasks.prefect_task import NUM_RETRIES
from tasks.runtime import RuntimeSettings
from tasks.store import open_store
from tasks.unit_cache import UnitCache, UnitJob
from tasks.unit_progress import Count
from tasks.unit_runners import RUNNERS, WorkersLostError
from tasks.unit_worker import end_workers, portable


@dataclass(slots=True)
class _Batch:
    """The jobs of a sub-flow; jobs leave it as they are done."""

    waiting: dict[str, UnitJob]
    count: Count
    has_own_workers: bool
    "Whether they are processes that this one has started."
    flow_run: UUID | None = None
    "The sub-flow that makes them."


# The flow finds its jobs here rather than in its parameters: those go to the server, and to every
# worker with every task.
_BATCH: ContextVar[_Batch] = ContextVar("batch")

_BEGUN = [StateType.PENDING, StateType.RUNNING]


def make_on_runner(
    runtime: RuntimeSettings,
    what: str,
    jobs: list[UnitJob],
    num_workers: int,
    count: Count,
) -> None:
    """Make jobs on the settings' task runner, counting each that is done.

    Raises: UnitDiedError, SchedulerError, FeatureError, and what a unit raises.
    """
    is_pool, bereft = runtime.task_runner == "processes", list[UUID]()
    batch = _Batch({job.key: job for job in jobs}, count, is_pool)
    try:
        for _ in range(1 + NUM_RETRIES):
            number = min(num_workers, len(batch.waiting))
            try:
                with RUNNERS[runtime.task_runner](runtime, what, number) as task_runner:
                    _run_flow(task_runner, what, batch)
            except WorkersLostError:
                bereft += [batch.flow_run] if batch.flow_run else []
                continue
            return
        raise UnitDiedError(what, 1 + NUM_RETRIES)
    finally:
        # Not at once: the server hears late that they began.
        _say_crashed(bereft)


def _run_flow(task_runner: TaskRunner[Any], what: str, batch: _Batch) -> None:
    num = len(batch.waiting)
    flow = prefect.Flow(
        _flow,
        name="units",
        flow_run_name=f"{what}: {num} unit{'s' if num > 1 else ''}",
        task_runner=task_runner,
        persist_result=False,
    )
    token = _BATCH.set(batch)
    try:
        flow()
    finally:
        _BATCH.reset(token)


def _flow() -> None:
    batch = _BATCH.get()
    batch.flow_run = UUID(str(flow_run.id))
    location = places.store_url() or str(places.store())
    try:
        futures: list[PrefectFuture[tuple[str, int]]] = [
            _make_unit.submit(job.label, location, pickle.dumps(job))
            for job in batch.waiting.values()
        ]
        for future in as_completed(futures):
            key, num_tokens = future.result()
            del batch.waiting[key]
            batch.count(key, num_tokens)
    except BaseException as error:
        if batch.has_own_workers and not isinstance(error, Exception):
            end_workers()
        raise


@prefect.task(
    name="unit",
    task_run_name="{label}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _make_unit(label: str, location: str, pickled: bytes) -> tuple[str, int]:
    """Make one unit in a worker; return its key and how many tokens it holds."""
    job: UnitJob = pickle.loads(pickled)  # noqa: S301  # from the process that asks for it
    with portable(label):
        made = UnitCache(open_store(location)).make(job)
        return job.key, job.num_tokens(made)


def _say_crashed(flow_runs: list[UUID]) -> None:
    """Tell the server of tasks whose worker was killed, which it would show as running for ever."""
    if not flow_runs:
        return
    begun = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_BEGUN)))
    own = FlowRunFilter(id=FlowRunFilterId(any_=flow_runs))
    crashed: State[Any] = Crashed(message="its worker was killed")
    # A server that cannot be told changes nothing about the units.
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        for task_run in client.read_task_runs(flow_run_filter=own, task_run_filter=begun):
            client.set_task_run_state(task_run.id, crashed, force=True)
