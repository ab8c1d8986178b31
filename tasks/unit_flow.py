"""The units of one kind as the tasks of one Prefect sub-flow, on the task runner of the settings.

A worker that dies without a word is tried again, as a stage's is. What a unit raises ends the
sub-flow: what is being made then is finished, what waits is not begun.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from tasks.errors import UnitDiedError
from tasks.prefect_task import NUM_RETRIES
from tasks.runtime import RuntimeSettings
from tasks.store import open_store
from tasks.unit_cache import UnitCache, UnitJob
from tasks.unit_worker import THREAD_LIMITS, begin_worker, portable
from tasks.units import num_workers


@dataclass(slots=True)
class _Batch:
    """The jobs of a sub-flow; jobs leave it as they are done."""

    waiting: dict[str, UnitJob]
    count: Callable[[], None]


# The flow finds its jobs here rather than in its parameters: those go to the server, and to every
# worker with every task.
_BATCH: ContextVar[_Batch] = ContextVar("batch")


def make_on_runner(
    runtime: RuntimeSettings, what: str, jobs: list[UnitJob], count: Callable[[], None]
) -> None:
    """Make jobs on the settings' task runner, counting each that is done.

    Raises: UnitDiedError, and what a unit raises.
    """
    batch = _Batch({job.key: job for job in jobs}, count)
    runner = _processes
    for _ in range(1 + NUM_RETRIES):
        try:
            with runner(min(num_workers(runtime), len(batch.waiting))) as task_runner:
                _run_flow(task_runner, what, batch)
        except BrokenExecutor:
            continue
        return
    raise UnitDiedError(what, 1 + NUM_RETRIES)


@contextmanager
def _processes(number: int) -> Iterator[TaskRunner[Any]]:
    """Yield a pool of processes that share the cores and end with this one."""
    with limited_threads(number):
        yield ProcessPoolTaskRunner(number, initializer=begin_worker, initargs=(os.getpid(),))


@contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """Let the processes that are started meanwhile have their share of the cores.

    Libraries read this when they are loaded: the ones of this process stay as they are.
    """
    share = str(max(1, len(os.sched_getaffinity(0)) // number))
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    os.environ.update(dict.fromkeys(THREAD_LIMITS, share))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
    futures: list[PrefectFuture[str]] = [
        _make_unit.submit(job.label, pickle.dumps(job)) for job in batch.waiting.values()
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
def _make_unit(label: str, pickled: bytes) -> str:  # noqa: ARG001  # names the task run
    """Make one unit in a worker; return its key."""
    job: UnitJob = pickle.loads(pickled)  # noqa: S301  # from the process that asks for it
    with portable(job.label):
        UnitCache(open_store()).make(job)
    return job.key
