"""`assay up`: the Prefect server, the MLflow UI and the deployments, each a child process.

Everything listens on loopback. The children end with this process, however it ends: a signal stops
them in order, and the kernel tells them when there was no time for order.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flows.environment import UP_FILE, answers
from flows.errors import PortBusyError, ServiceFailedError
from flows.serve import READY
from tasks import places
from tasks.processes import die_with_parent
from tasks.store import locked

HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.5
PREFECT_ENVIRONMENT = {
    # Task runs travel through an in-memory queue that drops what is written one by one too slowly.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
}
# The job runner starts seven consumers of a quarter of a gigabyte each; nothing here needs it.
MLFLOW_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass(slots=True)
class Services:
    """The services of this machine."""

    prefect_port: int
    mlflow_port: int
    cron: str
    preset: str
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        """Start everything, yield the addresses, and stop everything.

        Raises: PortBusyError, ServiceFailedError.
        """
        require_free("Prefect", self.prefect_port, "--prefect-port")
        require_free("MLflow", self.mlflow_port, "--mlflow-port")
        prefect, mlflow = (
            f"http://{HOST}:{port}" for port in (self.prefect_port, self.mlflow_port)
        )
        os.environ["PREFECT_API_URL"] = f"{prefect}/api"
        os.environ["PREFECT_SERVER_UI_API_URL"] = f"{prefect}/api"
        with ExitStack() as stack:
            stack.callback(self._stop)
            self._start("prefect", self._prefect_command(), PREFECT_ENVIRONMENT)
            # Two processes that make the database at once leave it broken for good.
            with locked(places.mlflow_lock(), what="the MLflow database", wait=True):
                self._start("mlflow", self._mlflow_command(), MLFLOW_ENVIRONMENT)
                self._await("mlflow", lambda: answers(f"{mlflow}/health"))
            self._await("prefect", lambda: answers(f"{prefect}/api/health"))
            self._start("deployments", self._serve_command())
            self._await("deployments", lambda: READY in self._log("deployments").read_text())
            addresses = {"prefect": prefect, "mlflow": mlflow}
            up_file = places.home() / UP_FILE
            up_file.write_text(json.dumps({**addresses, "prefect_api": f"{prefect}/api"}))
            stack.callback(up_file.unlink, missing_ok=True)
            yield addresses

    def wait(self) -> None:
        """Return when a signal asks to stop; raise if a service ends by itself.

        Raises: ServiceFailedError.
        """
        asked = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _frame: asked.append(received))
        begin = time.monotonic()
        while not asked:
            for name, child in self._children.items():
                if child.poll() is not None:
                    seconds = time.monotonic() - begin
                    raise ServiceFailedError(name, str(self._log(name)), seconds)
            time.sleep(LOOK_SECONDS)

    def _prefect_command(self) -> list[str]:
        prefect = [sys.executable, "-m", "prefect", "server", "start"]
        return [*prefect, "--host", HOST, "--port", str(self.prefect_port)]

    def _mlflow_command(self) -> list[str]:
        # More than one worker costs 44 ms on every request (uvicorn drops TCP_NODELAY).
        mlflow = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--workers", "1"]
        artifacts = (places.mlflow_directory() / "artifacts").as_uri()
        store = ["--backend-store-uri", places.mlflow_uri(), "--default-artifact-root", artifacts]
        return [*mlflow, "--port", str(self.mlflow_port), *store]

    def _serve_command(self) -> list[str]:
        return [sys.executable, "-m", "flows.serve", self.cron, self.preset]

    def _start(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        with self._log(name).open("w") as log:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=places.PROJECT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_prepare_child,  # noqa: PLW1509  # nothing is threaded yet
            )

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        begin = time.monotonic()
        while not ready():
            seconds = time.monotonic() - begin
            if seconds > START_SECONDS or self._children[name].poll() is not None:
                raise ServiceFailedError(name, str(self._log(name)), seconds)
            time.sleep(LOOK_SECONDS)

    def _stop(self) -> None:
        """Stop the children, the last started first; kill what does not end."""
        for child in reversed(self._children.values()):
            # Not SIGTERM: only on an interrupt does Prefect's runner pause its schedules.
            child.send_signal(signal.SIGINT)
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._children.clear()

    def _log(self, name: str) -> Path:
        path = places.home() / "log" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def require_free(service: str, port: int, option: str) -> None:
    """Refuse a port that another program listens on.

    Raises: PortBusyError.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise PortBusyError(service, HOST, port, option) from None


def _prepare_child() -> None:
    """Let an interrupt through, whatever shell started us, and die with the parent (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()
