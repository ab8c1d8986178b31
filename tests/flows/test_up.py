"""`assay up` as a person uses it: it comes up, schedules, and leaves nothing behind."""

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.flows.conftest import USERS
from tests.tasks.tampering import reseal
from tests.tasks.tiny import Finished
from tests.test_architecture import PROJECT

PATIENCE_SECONDS = 150.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(ask: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.5)
    pytest.fail("nothing came in time")


def post(url: str, body: dict[str, Any]) -> Any:
    return json.loads(send(url, body))


def send(url: str, body: Any) -> bytes:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return bytes(reply.read())


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, finished: Finished) -> Path:
    """Directories in which a run has been made already."""
    root = tmp_path_factory.mktemp("up")
    for name in ("store", "live"):
        shutil.copytree(finished.home / name, root / "home" / name)
    shutil.copytree(finished.home / "evidence", root / "ev")
    # As a flow writes it; this run was made without one.
    runtime = asdict(finished.settings.runtime)
    reseal(
        root / "ev" / finished.run.name / "plan.json",
        lambda plan: plan["request"].update(runtime=runtime),
    )
    return root


@pytest.fixture(scope="module")
def up(places: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    home = places
    prefect, mlflow = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if name not in USERS}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "up"]
    process = subprocess.Popen(
        [
            *command,
            "--preset",
            "smoke",
            "--prefect-port",
            str(prefect),
            "--mlflow-port",
            str(mlflow),
        ],
        env={**environment, "ASSAY_HOME": str(home / "home"), "ASSAY_EVIDENCE": str(home / "ev")},
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "served" in line:
            break
    assert "served" in said[-1], said
    yield process, prefect, mlflow
    process.kill()
    process.communicate()


def test_both_services_answer(up: tuple[subprocess.Popen[str], int, int]) -> None:
    for port, path in ((up[1], "api/health"), (up[2], "health")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as reply:
            assert reply.status == 200


def test_the_deployments_are_served_and_the_nightly_one_gets_its_runs(
    up: tuple[subprocess.Popen[str], int, int],
) -> None:
    api = f"http://127.0.0.1:{up[1]}/api"
    deployments = post(f"{api}/deployments/filter", {})
    assert sorted(each["name"] for each in deployments) == ["epochs", "manual", "nightly"]
    nightly = next(each for each in deployments if each["name"] == "nightly")
    assert nightly["schedules"][0]["schedule"]["cron"] == "15 3 * * *"
    wanted = {"flow_runs": {"deployment_id": {"any_": [nightly["id"]]}}}
    runs = eventually(lambda: post(f"{api}/flow_runs/filter", wanted), 90)
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}


def test_the_manual_deployment_has_a_form_with_descriptions(
    up: tuple[subprocess.Popen[str], int, int],
) -> None:
    api = f"http://127.0.0.1:{up[1]}/api"
    deployments = post(f"{api}/deployments/filter", {})
    manual = next(each for each in deployments if each["name"] == "manual")
    form = manual["parameter_openapi_schema"]["properties"]
    assert set(form) == {"name", "preset", "overrides"}
    assert all(field["description"] for field in form.values())


def test_an_event_of_a_snapshot_has_it_evaluated_and_added_to_the_trend(
    up: tuple[subprocess.Popen[str], int, int], places: Path, finished: Finished
) -> None:
    api, run = f"http://127.0.0.1:{up[1]}/api", finished.run.name
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.datetime.now(datetime.UTC).isoformat(),
        "event": "assay.snapshot",
        "resource": {"prefect.resource.id": f"assay.snapshot.{run}.epoch-001"},
        "payload": {"run": run, "snapshot": "epoch-001"},
    }
    send(f"{api}/events", [event])
    wanted = {"flow_runs": {"name": {"any_": [f"{run}: evaluate epoch-001"]}}}
    (found,) = eventually(lambda: ended(post(f"{api}/flow_runs/filter", wanted)))
    assert found["state_type"] == "COMPLETED", found["state"]["message"]
    (evidence,) = (places / "ev").glob(f"{run}-epoch-001-*")
    measured = json.loads((evidence / "evaluate.metadata.json").read_text())["measurements"]
    trained = json.loads((finished.run.directory / "epoch-001.metadata.json").read_text())
    assert measured["val_loss"] == trained["val_loss"]
    client = MlflowClient(f"http://127.0.0.1:{up[2]}")
    experiment = client.get_experiment_by_name("assay")
    assert experiment is not None
    (trend,) = client.search_runs([experiment.experiment_id], f"tags.`assay.trend` = '{run}'")
    (point,) = client.get_metric_history(trend.info.run_id, "val_bits_per_byte")
    assert (point.step, point.value) == (1, measured["val_bits_per_byte"])


def ended(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]


def test_a_signal_stops_everything_and_frees_the_ports(
    up: tuple[subprocess.Popen[str], int, int],
) -> None:
    process, prefect, mlflow = up
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert [child for child in children if child.is_running() and child.status() != "zombie"] == []
    for port in (prefect, mlflow):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
