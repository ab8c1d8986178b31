"""A Dask cluster of this machine whose workers stand for other machines: each has its own home."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks import places

QUIET = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")


@contextmanager
def cluster(
    directory: Path, num_machines: int, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a scheduler and its workers, which find it through `directory / "scheduler"`."""
    file = ("--scheduler-file", str(directory / "scheduler"))
    # One death is an accident; a unit that kills twice is to blame.
    lenient = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    with ExitStack() as stack:
        start = [*file, "--port", "0", *QUIET]
        scheduler = stack.enter_context(_program("dask_scheduler", start, lenient))
        for number in range(num_machines):
            own = {
                **environment,
                "ASSAY_HOME": str(directory / f"machine-{number}"),
                "PREFECT_HOME": str(directory / f"prefect-{number}"),
            }
            start = [*file, "--nthreads", "1", "--local-directory", str(directory), *QUIET]
            stack.enter_context(_program("dask_worker", start, own))
        yield scheduler


def address(directory: Path, num_machines: int) -> str:
    """Return the scheduler's address once all workers are there."""
    from distributed import Client

    deadline = time.monotonic() + 60
    while not (directory / "scheduler").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with Client(scheduler_file=str(directory / "scheduler"), set_as_default=False) as client:
        client.wait_for_workers(num_machines, timeout=60)
        return str(client.scheduler.address)


@contextmanager
def _program(
    name: str, arguments: list[str], environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ASSAY_")}
    with subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{name}", *arguments],
        cwd=places.PROJECT,
        env={**inherited, "PYTHONPATH": str(places.PROJECT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)
