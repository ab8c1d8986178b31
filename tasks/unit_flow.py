"""The units of one kind as the tasks of one Prefect sub-flow, on the task runner of the settings.

Workers that die without a word are tried again, as a stage's are. What a unit raises ends the
sub-flow: what waits is not begun, what is finished is kept.
"""

import pickle
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner

from tasks import places
from tasks.errors import UnitDiedError
from tasks.prefect_task import NUM_RETRIES
from tasks.runtime import RuntimeSettings
from tasks.store import open_store
from tasks.unit_cache import UnitCache, UnitJob
from tasks.unit_runners import RUNNERS, WorkersLostError
from tasks.unit_worker import portable


@dataclass(slots=True)
class _Batch:
    """The jobs of a sub-flow; jobs leave it as they are done."""

    waiting: dict[str, UnitJob]
    count: Callable[[], None]


# The flow finds its jobs here rather than in its parameters: those go to the server, and to every
# worker with every task.
_BATCH: ContextVar[_Batch] = ContextVar("batch")


def make_on_runner(
    runtime: RuntimeSettings,
    what: str,
    jobs: list[UnitJob],
    num_workers: int,
    count: Callable[[], None],
) -> None:
    """Make jobs on the settings' task runner, counting each that is done.

    Raises: UnitDiedError, SchedulerError, FeatureError, and what a unit raises.
    """
    batch = _Batch({job.key: job for job in jobs}, count)
    for _ in range(1 + NUM_RETRIES):
        number = min(num_workers, len(batch.waiting))
        try:
            with RUNNERS[runtime.task_runner](runtime, what, number) as task_runner:
                _run_flow(task_runner, what, batch)
        except WorkersLostError:
            continue
        return
    raise UnitDiedError(what, 1 + NUM_RETRIES)


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
    location = places.store_url() or str(places.store())
    futures: list[PrefectFuture[str]] = [
        _make_unit.submit(job.label, location, pickle.dumps(job)) for job in batch.waiting.values()
    ]
    for future in as_completed(futures):
        del batch.waiting[future.result()]
        batch.count()


@prefect.task(
    name="unit",
    task_run_name="{label}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _make_unit(label: str, location: str, pickled: bytes) -> str:
    """Make one unit in a worker; return its key."""
    job: UnitJob = pickle.loads(pickled)  # noqa: S301  # from the process that asks for it
    with portable(label):
        UnitCache(open_store(location)).make(job)
    return job.key
