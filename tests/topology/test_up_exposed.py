"""`assay up --host 0.0.0.0` for real: who gets in, and what is left of it when it is killed."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.exposure import own_names
from tasks.training_log import read_lines
from tests.flows.browser import CHROMIUM, browser
from tests.flows.test_up import (
    eventually,
    free_port,
    gone,
    long_training,
    prepared,
    start_up,
    until_it_trains,
    workers_of,
)
from tests.tasks.tiny import Finished
from tests.test_architecture import PROJECT
from tests.topology.team import ask

pytestmark = [pytest.mark.topology, pytest.mark.timeout(900)]

PREFECT_LOGIN, MLFLOW_LOGIN = "me:a-secret", "assay:a-long-secret"
ANALYTICS = "sr-client-cfg.amplitude.com"
LOGINS = {
    "PREFECT_SERVER_API_AUTH_STRING": PREFECT_LOGIN,
    "MLFLOW_AUTH_ADMIN_PASSWORD": MLFLOW_LOGIN.removeprefix("assay:"),
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "another",
}


@dataclass(frozen=True)
class Up:
    process: subprocess.Popen[str]
    root: Path
    prefect_port: int
    mlflow_port: int

    def prefect(self, host: str, path: str, body: Any, login: str = PREFECT_LOGIN) -> Any:
        return ask(f"http://{host}:{self.prefect_port}/api{path}", login, body)

    def mlflow(self, host: str, login: str) -> Any:
        url = f"http://{host}:{self.mlflow_port}/api/2.0/mlflow/experiments/search"
        return ask(url, login, {"max_results": 1})


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, finished: Finished) -> Iterator[Up]:
    root, ports = prepared(tmp_path_factory.mktemp("up"), finished), (free_port(), free_port())
    options = ("--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]))
    process = start_up(root, "--host", "0.0.0.0", *options, **LOGINS)
    children = psutil.Process(process.pid).children(recursive=True)
    yield Up(process, root, *ports)
    process.kill()
    process.communicate()
    for left in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()


def addresses() -> list[str]:
    """All of this machine: a loopback one and, as others have them, those of its cards."""
    names = set(own_names("0.0.0.0")) - {"localhost", socket.gethostname()}
    assert "127.0.0.1" in names
    return sorted(names)


def test_nobody_gets_in_without_a_login_by_whatever_address(up: Up) -> None:
    for host in addresses():
        for wrong in ("nobody", "me:wrong", "assay:wrong", "admin:password1234"):
            assert up.prefect(host, "/flows/filter", {}, wrong) == 401
            assert up.mlflow(host, wrong) == 401
        assert isinstance(up.prefect(host, "/flows/filter", {}), list)
        assert "experiments" in up.mlflow(host, MLFLOW_LOGIN)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_page_that_another_machine_opens_asks_the_server_alone(up: Up) -> None:
    others = [host for host in addresses() if host != "127.0.0.1"]
    if not others:
        pytest.skip("this machine has no address but loopback")
    with browser(reach=others[0]) as page:
        page.open(f"http://{others[0]}:{up.prefect_port}/", "Login")
        page.screenshot("prefect-login")
        assert page.hosts == {others[0]}
        # Its other UI, to which its address does not lead, is why.
        page.open(f"http://{others[0]}:{up.prefect_port}/v2/", "Login")
        assert eventually(lambda: page.evaluate("1") and ANALYTICS in page.hosts, 30)


def prefect(up: Up, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PREFECT_HOME": str(up.root / "client"),
        "PREFECT_API_URL": f"http://127.0.0.1:{up.prefect_port}/api",
        "PREFECT_API_AUTH_STRING": PREFECT_LOGIN,
    }
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_work_pool_that_does_not_exist_is_named(up: Up) -> None:
    deployed = prefect(up, "deploy", "--name", "nightly")
    assert deployed.returncode == 1
    said = " ".join((deployed.stdout + deployed.stderr).split())
    assert "references work pool 'assay' which does not exist" in said
    found = up.prefect("127.0.0.1", "/deployments/filter", {})
    assert {each["work_pool_name"] for each in found} == {None}
    once = ("--no-create-pool-if-not-found", "--run-once")
    worker = prefect(up, "worker", "start", "--pool", "nope", *once)
    assert "Work pool 'nope' not found!" in worker.stdout + worker.stderr
    assert up.prefect("127.0.0.1", "/work_pools/filter", {}) == []


def test_nothing_outlives_an_assay_up_that_was_killed(up: Up, finished: Finished) -> None:
    found = up.prefect("127.0.0.1", "/deployments/filter", {})
    manual = next(each["id"] for each in found if each["name"] == "manual")
    settings = long_training(up.root, finished)
    parameters = {"name": "long", "preset": "smoke", "overrides": settings}
    body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
    up.prefect("127.0.0.1", f"/deployments/{manual}/create_flow_run", body)
    run, training = until_it_trains(up.root, "long")
    everything = psutil.Process(up.process.pid).children(recursive=True)
    assert set(workers_of(run.plan()["process"])) <= set(everything)
    up.process.kill()
    eventually(lambda: gone(everything), 90)
    # The snapshot is made at once; the record waits for a server that is gone, too.
    step = read_lines(training / "train.jsonl")[-1]["step"]
    assert (training / "ckpt" / f"step-{step:08d}.metadata.json").exists() or step % 400 == 0
