"""The servers of a team, as docker/compose.yaml has them, for the length of a test."""

import base64
import json
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from tests.flows.test_up import eventually, free_port
from tests.topology.compose import INSIDE, Host, command_of, services, stop
from tests.topology.postgres import Postgres

NAMES = ("POSTGRES", "OBJECTS", "PREFECT", "MLFLOW", "FLASK")
START_SECONDS = 240.0


@dataclass
class Team:
    """Servers that answer, and what a client needs to know."""

    secrets: dict[str, str]
    ports: dict[str, int]
    host: Host
    postgres: Postgres
    services: dict[str, Any]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def secret(self, name: str) -> str:
        return self.secrets[f"ASSAY_{name}_SECRET"]

    def start(self, service: str, name: str = "", **changes: str) -> None:
        name = name or service
        self.processes[name] = self.host.start(self.services[service], name, changes)

    def stop(self, name: str) -> None:
        stop(self.processes.pop(name))

    def stop_all(self) -> None:
        for name in reversed([*self.processes]):
            self.stop(name)

    def run(self, service: str) -> None:
        """Run a service that ends."""
        process = self.host.start(self.services[service], service)
        assert process.wait(START_SECONDS) == 0, self.said(service)

    def said(self, name: str) -> str:
        return self.host.log(name).read_text()

    def client(self, name: str = "worker") -> dict[str, str]:
        """Return the environment of a worker's container."""
        return self.host.environment(self.services["worker"], name)

    def prefect(self, path: str, body: Any = None, *, method: str = "", login: str = "") -> Any:
        url = f"http://127.0.0.1:{self.ports['prefect']}/api{path}"
        return ask(url, login or f"assay:{self.secret('PREFECT')}", body, method)

    def mlflow(self, path: str, body: Any = None, *, login: str = "") -> Any:
        url = f"http://127.0.0.1:{self.ports['mlflow']}/api/2.0/mlflow{path}"
        return ask(url, login or f"assay:{self.secret('MLFLOW')}", body)


def ask(url: str, login: str, body: Any = None, method: str = "") -> Any:
    """Ask a server; return the status where it refuses."""
    headers = {"content-type": "application/json"}
    if login != "nobody":
        headers["authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method or None)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextmanager
def serving(directory: Path) -> Iterator[Team]:
    """Start PostgreSQL, an object store, Prefect and MLflow, and stop everything."""
    words = {f"ASSAY_{name}_SECRET": f"{name.lower()}-{secrets.token_hex(16)}" for name in NAMES}
    ports = {name: free_port() for name in INSIDE}
    with ExitStack() as stack:
        postgres = Postgres(ports["postgres"], "assay", words["ASSAY_POSTGRES_SECRET"])
        stack.callback(postgres.remove)
        create_databases(postgres.port, words["ASSAY_POSTGRES_SECRET"])
        team = Team(words, ports, Host(ports, directory), postgres, services(words))
        stack.callback(team.stop_all)
        start_objects(team)
        team.start("prefect")
        team.run("bucket")
        team.start("mlflow")
        for name, path in (("prefect", "api/health"), ("mlflow", "health")):
            url = f"http://127.0.0.1:{ports[name]}/{path}"
            eventually(lambda url=url: is_up(url), START_SECONDS)  # type: ignore[misc]
        yield team


def create_databases(port: int, password: str) -> None:
    """Make what the container makes at its first start: its own database, and those of the file."""
    import yaml

    from tests.topology.compose import COMPOSE

    script = yaml.safe_load(COMPOSE.read_text())["configs"]["databases"]["content"]
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user="assay", password=password, dbname="postgres"
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in ["CREATE DATABASE prefect", *filter(str.strip, script.split(";"))]:
            cursor.execute(statement)
    connection.close()


def start_objects(team: Team) -> None:
    """Start moto in the place of the gateway of the file, which is no Python program."""
    assert command_of(team.services["objects"]) == ["posix", "/data"]
    log = team.host.log("objects").open("ab")
    team.processes["objects"] = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(team.ports["objects"])],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    log.close()
    eventually(lambda: is_up(f"http://127.0.0.1:{team.ports['objects']}/moto-api/"), 60)


def wait_for_run(team: Team, run_id: str, seconds: float = 600.0) -> dict[str, Any]:
    """Return a flow run once it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = team.prefect(f"/flow_runs/{run_id}")
        if isinstance(found, dict) and found["state_type"] in ("COMPLETED", "FAILED", "CRASHED"):
            return found
        time.sleep(1.0)
    raise AssertionError(f"flow run {run_id} has not ended")
