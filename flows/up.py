"""`assay up`: the Prefect server, the MLflow UI and the deployments, on loopback by default."""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from flows.children import Children, log_of
from flows.environment import UP_FILE, answers
from flows.errors import PortBusyError
from flows.exposure import LOOPBACK, Exposure, own_login
from flows.mlflow_pages import experiment_page
from flows.serve import READY
from tasks import places
from tasks.mirroring import experiment_id
from tasks.store import locked

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
    exposure: Exposure = field(default_factory=Exposure)
    _children: Children = field(default_factory=Children)

    @contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        """Start everything, yield the pages to look at, and stop everything.

        Raises: PortBusyError, ServiceFailedError.
        """
        host, reachable = self.exposure.host, self.exposure.reachable
        require_free("Prefect", self.prefect_port, "--prefect-port", host)
        require_free("MLflow", self.mlflow_port, "--mlflow-port", host)
        prefect, mlflow = (
            f"http://{reachable}:{port}" for port in (self.prefect_port, self.mlflow_port)
        )
        os.environ["PREFECT_API_URL"] = f"{prefect}/api"
        ui_api = self.exposure.prefect_api_path or f"{prefect}/api"
        os.environ.setdefault("PREFECT_SERVER_UI_API_URL", ui_api)
        os.environ.update(own_login(os.environ))
        children = self._children
        with ExitStack() as stack:
            stack.callback(children.stop)
            children.start("prefect", server_command(self.prefect_port, host), PREFECT_ENVIRONMENT)
            mlflow_environment = {
                **MLFLOW_ENVIRONMENT,
                **self.exposure.mlflow_environment(),
                # Not an option: all users of a machine see those, and it may hold a login.
                "MLFLOW_BACKEND_STORE_URI": places.mlflow_uri(),
            }
            # Two processes that make the database at once leave it broken for good.
            with locked(places.mlflow_lock(), what="the MLflow database", wait=True):
                children.start("mlflow", self._mlflow_command(), mlflow_environment)
                children.wait_until("mlflow", lambda: answers(f"{mlflow}/health"))
            children.wait_until("prefect", lambda: answers(f"{prefect}/api/health"))
            children.start("deployments", self._serve_command())
            runs = experiment_page(mlflow, experiment_id())
            children.wait_until("deployments", lambda: READY in log_of("deployments").read_text())
            addresses = {"prefect": prefect, "mlflow": mlflow, "prefect_api": f"{prefect}/api"}
            up_file = places.home() / UP_FILE
            up_file.write_text(json.dumps(addresses))
            stack.callback(up_file.unlink, missing_ok=True)
            yield {"prefect": prefect, "mlflow": runs}

    def wait(self) -> None:
        """Return when a signal asks to stop.

        Raises: ServiceFailedError if a service ends by itself.
        """
        asked: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _frame: asked.append(received))
        self._children.wait(lambda: bool(asked))

    def _mlflow_command(self) -> list[str]:
        # More than one worker costs 44 ms on every request (uvicorn drops TCP_NODELAY).
        mlflow = [sys.executable, "-m", "mlflow", "server", "--host", self.exposure.host]
        artifacts = (places.mlflow_directory() / "artifacts").as_uri()
        own = ["--workers", "1", "--port", str(self.mlflow_port), *self.exposure.mlflow_options()]
        return [*mlflow, *own, "--default-artifact-root", artifacts]

    def _serve_command(self) -> list[str]:
        return [sys.executable, "-m", "flows.serve", self.cron, self.preset]


def server_command(port: int, host: str = LOOPBACK) -> list[str]:
    """Return the command that starts a Prefect server, on loopback unless told otherwise."""
    prefect = [sys.executable, "-m", "prefect", "server", "start"]
    return [*prefect, "--host", host, "--port", str(port)]


def require_free(service: str, port: int, option: str, host: str = LOOPBACK) -> None:
    """Refuse a port that another program listens on.

    Raises: PortBusyError.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise PortBusyError(service, host, port, option) from None
