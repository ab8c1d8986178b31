"""Prefect's task runners for units: processes of this machine, a Dask cluster, a Ray cluster."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from tasks.errors import FeatureError, SchedulerError, UnitDiedError
from tasks.runtime import RuntimeSettings
from tasks.unit_worker import THREAD_LIMITS, begin_worker

CONNECT_SECONDS = 10

Runners: TypeAlias = Callable[[RuntimeSettings, str, int], AbstractContextManager[TaskRunner[Any]]]


class WorkersLostError(Exception):
    """A pool whose workers died without a word; what was being made has to be made again."""


@contextmanager
def processes(_runtime: RuntimeSettings, _what: str, number: int) -> Iterator[TaskRunner[Any]]:
    """Yield a pool of processes that share the cores and end with this one.

    Raises: WorkersLostError.
    """
    with limited_threads(number):
        try:
            yield ProcessPoolTaskRunner(number, initializer=begin_worker, initargs=(os.getpid(),))
        except BrokenExecutor as death:
            raise WorkersLostError from death


@contextmanager
def dask(runtime: RuntimeSettings, what: str, number: int) -> Iterator[TaskRunner[Any]]:
    """Yield the cluster of the settings' scheduler, or one of processes of this machine.

    Dask itself gives the units of a dead worker to others, but does not start with one.

    Raises: FeatureError, SchedulerError, UnitDiedError, WorkersLostError.
    """
    try:
        from distributed import CancelledError, Client, KilledWorker
        from distributed.comm import CommClosedError
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise FeatureError("runtime.task_runner", "dask", "prefect-dask") from None
    local = {
        "n_workers": number,
        "threads_per_worker": 1,
        "memory_limit": None,
        # By default pages of workers are served to everybody.
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "worker_dashboard_address": "127.0.0.1:0",
    }
    address = runtime.scheduler
    try:
        if address:
            Client(address, timeout=CONNECT_SECONDS, set_as_default=False).close()
            yield DaskTaskRunner(address=address)
        else:
            with limited_threads(number):
                yield DaskTaskRunner(cluster_kwargs=local)
    except KilledWorker as death:
        raise UnitDiedError(what, death.allowed_failures + 1) from death
    except (CommClosedError, CancelledError) as loss:
        raise SchedulerError(address, str(loss) or type(loss).__name__) from loss
    except (OSError, ValueError) as refusal:
        if not _is_about_connecting(refusal):
            raise
        raise SchedulerError(address, " ".join(str(refusal).split())) from refusal
    except RuntimeError as death:
        if str(death) not in ("Nanny failed to start.", "Worker failed to start."):
            raise
        raise WorkersLostError from death


def _is_about_connecting(error: OSError | ValueError) -> bool:
    """Tell Dask's words about its scheduler from the same errors of a unit."""
    said = str(error)
    return "trying to connect to" in said or "unknown address scheme" in said


@contextmanager
def ray(runtime: RuntimeSettings, what: str, number: int) -> Iterator[TaskRunner[Any]]:
    """Yield the Ray cluster of the settings' address, or one of this machine.

    Ray itself gives the units of a dead worker to others.

    Raises: FeatureError, SchedulerError, UnitDiedError.
    """
    try:
        from prefect_ray import RayTaskRunner
        from ray.exceptions import WorkerCrashedError
    except ImportError:
        raise FeatureError("runtime.task_runner", "ray", "prefect-ray") from None
    local = {"num_cpus": number, "include_dashboard": False}
    address = runtime.scheduler
    try:
        with limited_threads(number):
            yield RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=local)
    except WorkerCrashedError as death:
        raise UnitDiedError(what, 1) from death
    except ConnectionError as refusal:
        raise SchedulerError(address, " ".join(str(refusal).split())) from refusal


RUNNERS: dict[str, Runners] = {"processes": processes, "dask": dask, "ray": ray}


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
