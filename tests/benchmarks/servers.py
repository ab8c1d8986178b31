"""Servers of a benchmark: Prefect and MLflow on loopback, started as `assay up` starts them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.environment import QUIET
from flows.up import MLFLOW_ENVIRONMENT, PREFECT_ENVIRONMENT, server_command
from tasks.processes import die_with_parent
from tests.benchmarks.harness import ROOT

START_SECONDS = 180.0
STOP_SECONDS = 20.0


@dataclass
class Server:
    """A server that can be killed and started again on its port."""

    name: str
    command: list[str]
    health: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; return how long it took to answer."""
        begin = time.monotonic()
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env={**os.environ, **QUIET, **self.environment},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # nothing is threaded yet
            )
        wait_until(lambda: answers(self.health), self.name, START_SECONDS)
        return time.monotonic() - begin

    def kill(self) -> None:
        """End it and all that it started, as a power cut does."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """End it in order, and kill what does not end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self.kill()

    def size(self) -> tuple[float, int]:
        """Return resident megabytes and open file descriptors, those of its children included."""
        assert self.process is not None
        return size_of(self.process.pid)


def size_of(pid: int) -> tuple[float, int]:
    """Return resident megabytes and open file descriptors of a process and its descendants."""
    megabytes, descriptors = 0.0, 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                megabytes += each.memory_info().rss / 1e6
                descriptors += each.num_fds()
    return megabytes, descriptors


def prefect(home: Path) -> Server:
    """Return a Prefect server on a database in a directory."""
    port = free_port()
    environment = {**PREFECT_ENVIRONMENT, "PREFECT_HOME": str(home / "prefect"),
                   "PREFECT_SERVER_UI_ENABLED": "false"}  # fmt: skip
    url = f"http://127.0.0.1:{port}/api/health"
    return Server("Prefect", server_command(port), url, home / "prefect.log", environment)


def mlflow(home: Path, database: str) -> Server:
    """Return an MLflow server on a database, started as `assay up` starts it."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1",
               "--port", str(port), "--backend-store-uri", database,
               "--default-artifact-root", (home / "artifacts").as_uri()]  # fmt: skip
    url = f"http://127.0.0.1:{port}/health"
    return Server("MLflow", command, url, home / "mlflow.log", MLFLOW_ENVIRONMENT)


def wait_until(ready: Callable[[], bool], what: str, seconds: float) -> None:
    """Return when something is ready, or give the benchmark up."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"{what} was not ready within {seconds:.0f} s")
        time.sleep(0.2)


def answers(url: str) -> bool:
    """Return whether a server on loopback answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def working_in(directory: Path | None) -> Iterator[Path]:
    """Yield an empty directory, and remove it at the end; a SIGTERM is an end like others."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    path = directory or Path(tempfile.mkdtemp(prefix="assay-benchmark-"))
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path.absolute()
    finally:
        shutil.rmtree(path, ignore_errors=True)
