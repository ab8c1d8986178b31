"""One training a GPU: a lock of the operating system, and Prefect's limit `gpu` as its picture.

The kernel frees a lock when its process ends, however that ends. Prefect would hold the slot of a
process that was killed for as long as its lease; whoever gets the lock next knows that the lease in
it belongs to nobody any more, and gives it back.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.concurrency.context import ConcurrencyContext
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException

from tasks import places
from tasks.saying import say

LIMIT = "gpu"
"Prefect's concurrency limit; where it is not set, the locks alone count."
LEASE_SECONDS = 60.0
"The shortest that Prefect allows."
LOOK_SECONDS = 0.5


@contextmanager
def gpu_slots(gpus: Sequence[str], run: str) -> Iterator[None]:
    """Hold GPUs for the length of a block; wait for those that another run holds."""
    with ExitStack() as stack:
        # In one order, so that two that want the same do not wait for each other.
        locks = [stack.enter_context(_gpu_lock(gpu, run)) for gpu in sorted(gpus)]
        if locks and TaskRunContext.get() is not None:
            stack.enter_context(_prefect_slots(locks))
        yield


def give_back_leases() -> list[str]:
    """Give back the slots of processes that are gone; return whose they were.

    Raises: httpx.HTTPError, PrefectException.
    """
    found = []
    for path in sorted(_directory().glob("*.lock")):
        with path.open("r+") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if held := _release_lease(file):
                found.append(held)
            _write(file, {})
    return found


def gpu_names(device: str, num_ranks: int) -> list[str]:
    """Name the GPUs that a training takes, as their driver does; none on the CPU."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return []
    first = int(number or 0)
    return [_physical(rank) for rank in range(first, first + num_ranks)]


def num_gpus() -> int:
    """Count the GPUs of this machine; none where no driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def _physical(number: int) -> str:
    """Name the GPU that this process knows by a number, whatever another process calls it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    name = visible.split(",")[number].strip() if visible else str(number)
    if not name.isdigit():
        return name
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(int(name))))
    except pynvml.NVMLError:
        return name


@contextmanager
def _gpu_lock(gpu: str, run: str) -> Iterator[IO[str]]:
    path = _directory() / f"{gpu.replace('/', '_')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _wait_for(file, gpu, run)
        if TaskRunContext.get() is not None:
            with suppress(httpx.HTTPError, PrefectException):
                _release_lease(file)
        _write(file, {"run": run, "pid": os.getpid()})
        yield file
        _write(file, {})


def _wait_for(file: IO[str], gpu: str, run: str) -> None:
    has_said = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not has_said:
                holder = _read(file).get("run", "another run")
                say(f"  {run} waits: GPU {gpu} is held by {holder}")
            has_said = True
            time.sleep(LOOK_SECONDS)
        else:
            return


@contextmanager
def _prefect_slots(locks: Sequence[IO[str]]) -> Iterator[None]:
    """Hold as many of Prefect's slots, where the limit is set.

    The first lock keeps the lease's id.
    """
    before = _leases()
    with concurrency(
        LIMIT,
        occupy=len(locks),
        lease_duration=LEASE_SECONDS,
        raise_on_lease_renewal_failure=False,
    ):
        for lease in _leases() - before:
            _write(locks[0], {**_read(locks[0]), "lease": str(lease)})
        yield


def _leases() -> set[UUID]:
    context = ConcurrencyContext.get()
    return set(context.cleanup_lease_ids) if context else set()


def _release_lease(file: IO[str]) -> str | None:
    """Give back the lease that a process left in its lock when it was killed."""
    left = _read(file)
    try:
        lease, run = UUID(left["lease"]), left["run"]
    except (KeyError, ValueError):
        return None
    with get_client(sync_client=True) as client:
        client.release_concurrency_slots_with_lease(lease)
    return run


def _read(file: IO[str]) -> dict[str, str]:
    file.seek(0)
    with suppress(ValueError, RecursionError):
        found = json.loads(file.read() or "{}")
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}
    return {}


def _write(file: IO[str], holder: dict[str, object] | dict[str, str]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder))
    file.flush()


def _directory() -> Path:
    return places.home() / "gpus"
