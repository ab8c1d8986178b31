"""`assay up` as a person uses it: it comes up, schedules, and leaves nothing behind."""

import dataclasses
import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from flows.mlflow_pages import TRAINING, experiment_page
from model.train_settings import TrainSettings
from tasks.run_record import Run
from tasks.training_log import read_lines
from tests.flows.browser import CHROMIUM, browser
from tests.flows.conftest import USERS
from tests.tasks.listening import beyond_this_machine, listening
from tests.tasks.tampering import reseal
from tests.tasks.tiny import OVERRIDES, Finished
from tests.test_architecture import PROJECT

PATIENCE_SECONDS = 150.0
DEPLOYMENTS = ["bisect", "corpus", "epochs", "manual", "nightly", "train"]
SAID = "said-by-up.txt"
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LONG = ("train.num_steps=200000", "train.steps_per_epoch=400", "train.max_passes=100000",
        "train.early_stop_patience=100000")  # fmt: skip
"A training that does not end while a test looks at it."
PLOTS = "document.querySelectorAll('.js-plotly-plot').length"
PARAMETERS_THAT_DIFFER = '[aria-label="Parameters - Show diff only"]'


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


def send(url: str, body: Any, method: str = "POST") -> bytes:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method=method
    )
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            # SQLite is busy: Prefect's own client tries again, too.
            if error.code != 503:
                raise
            time.sleep(0.2)
    pytest.fail(f"{url} is busy")


def prepared(root: Path, finished: Finished) -> Path:
    """Make directories in which a run has been made already."""
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
def places(tmp_path_factory: pytest.TempPathFactory, finished: Finished) -> Path:
    return prepared(tmp_path_factory.mktemp("up"), finished)


def env_of(root: Path) -> dict[str, str]:
    return {"ASSAY_HOME": str(root / "home"), "ASSAY_EVIDENCE": str(root / "ev")}


def start_up(root: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    """Start `assay up`; return once it serves."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "up"]
    process = subprocess.Popen(
        [*command, "--preset", "smoke", *options],
        env={**environment, **env_of(root), "PREFECT_RUNNER_POLL_FREQUENCY": "2", **variables},
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "served" in line:
            (root / SAID).write_text("".join(said))
            return process
    pytest.fail(f"assay up ended: {said}")


@pytest.fixture(scope="module")
def up(places: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    prefect, mlflow = free_port(), free_port()
    ports = ("--prefect-port", str(prefect), "--mlflow-port", str(mlflow))
    process = start_up(places, *ports)
    yield process, prefect, mlflow
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)


def test_both_services_answer(up: tuple[subprocess.Popen[str], int, int]) -> None:
    for port, path in ((up[1], "api/health"), (up[2], "health")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as reply:
            assert reply.status == 200


def test_the_address_of_mlflow_is_that_of_trainings_before_there_is_a_run(
    up: tuple[subprocess.Popen[str], int, int], places: Path
) -> None:
    page = f"http://127.0.0.1:{up[2]}/#/experiments/1?workflowType=machine_learning"
    assert f"mlflow      {page}\n" in (places / SAID).read_text()
    experiment = MlflowClient(f"http://127.0.0.1:{up[2]}").get_experiment("1")
    assert experiment.name == "assay"


def test_prefect_reports_nothing_and_shows_the_pages_that_ask_no_other_host(
    up: tuple[subprocess.Popen[str], int, int],
) -> None:
    server = f"http://127.0.0.1:{up[1]}"
    with urllib.request.urlopen(f"{server}/api/admin/settings", timeout=10) as reply:
        assert json.loads(reply.read())["server"]["analytics_enabled"] is False
    as_a_browser = urllib.request.Request(server, headers={"Accept": "text/html"})
    with urllib.request.urlopen(as_a_browser, timeout=10) as reply:
        assert urllib.parse.urlsplit(reply.url).path in ("", "/")


def test_all_of_it_listens_for_this_machine_alone(
    up: tuple[subprocess.Popen[str], int, int],
) -> None:
    with listening(psutil.Process(up[0].pid)) as addresses:
        time.sleep(1)

    assert addresses
    assert beyond_this_machine(addresses) == set()


def test_the_deployments_are_served_and_the_nightly_one_gets_its_runs(
    up: tuple[subprocess.Popen[str], int, int],
) -> None:
    api = f"http://127.0.0.1:{up[1]}/api"
    deployments = post(f"{api}/deployments/filter", {})
    assert sorted(each["name"] for each in deployments) == DEPLOYMENTS
    nightly = next(each for each in deployments if each["name"] == "nightly")
    schedule = nightly["schedules"][0]["schedule"]
    assert (schedule["cron"], schedule["timezone"]) == ("15 3 * * *", "UTC")
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
    assert set(form) == {"name", "preset", "overrides", "ask_first"}
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


class Server:
    """The Prefect server of `assay up`, by its API."""

    def __init__(self, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}/api"

    def start(self, deployment: str, hours_ago: int = 0, **parameters: Any) -> str:
        """Ask for a flow run; return its id."""
        found = post(f"{self.api}/deployments/filter", {})
        chosen = next(each["id"] for each in found if each["name"] == deployment)
        due = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours_ago)
        details = {"scheduled_time": due.isoformat()}
        body = {"state": {"type": "SCHEDULED", "state_details": details}, "parameters": parameters}
        return str(post(f"{self.api}/deployments/{chosen}/create_flow_run", body)["id"])

    def run(self, flow_run: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.api}/flow_runs/{flow_run}", timeout=10) as reply:
            found: dict[str, Any] = json.loads(reply.read())
            return found

    def end_of(self, flow_run: str) -> dict[str, Any]:
        """Wait until a flow run has ended; return it."""

        def look() -> dict[str, Any] | None:
            found = self.run(flow_run)
            return found if found["state_type"] in ENDS else None

        found: dict[str, Any] = eventually(look)
        return found

    def task_states(self, flow_run: str) -> dict[str, str]:
        wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
        found = post(f"{self.api}/task_runs/filter", wanted)
        return {each["name"].split()[0]: each["state_type"] for each in found}


@pytest.fixture
def server(up: tuple[subprocess.Popen[str], int, int]) -> Server:
    return Server(up[1])


def long_training(places: Path, finished: Finished) -> list[str]:
    """Settings that reuse the finished run's tokens and shards, and train for long."""
    return [*OVERRIDES, f'source.path="{finished.home / "corpus"}"', *LONG]


def until_it_trains(places: Path, name: str, num_starts: int = 1) -> tuple[Run, Path]:
    """Wait until a run trains, at so many starts of its training; return it and the directory."""

    def look() -> tuple[Run, Path] | None:
        for plan in sorted((places / "ev").glob(f"{name}-*/plan.json")):
            live = places / "home" / "live" / f"{plan.parent.name}.json"
            if live.is_file():
                directory = Path(json.loads(live.read_text())["training"])
                starts = starts_of(directory)
                steps = read_lines(directory / "train.jsonl")
                begun = steps and len(starts) >= num_starts
                if begun and steps[-1]["step"] > starts[-1]["step"] + 20:
                    return Run(plan.parent), directory
        return None

    found: tuple[Run, Path] = eventually(look)
    return found


def starts_of(training: Path) -> list[dict[str, Any]]:
    return read_lines(training / "starts.jsonl")


def workers_of(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "tasks.train_worker" in child.cmdline()]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != "zombie" for each in processes)


def test_a_cancelled_run_ends_its_training_with_a_snapshot(
    server: Server, places: Path, finished: Finished
) -> None:
    flow_run = server.start(
        "manual", name="cancelled", preset="smoke", overrides=long_training(places, finished)
    )
    run, training = until_it_trains(places, "cancelled")
    workers = workers_of(run.plan()["process"])
    assert workers
    body = {"state": {"type": "CANCELLING"}}
    post(f"{server.api}/flow_runs/{flow_run}/set_state", body)
    assert server.end_of(flow_run)["state_type"] == "CANCELLED"
    record = eventually(run.record)
    assert record["outcome"] == "interrupted"
    assert record["error"].startswith("training: stopped after step ")
    assert gone(workers)
    snapshots = [path.name for path in (training / "ckpt").glob("*.metadata.json")]
    step = int(record["error"].split()[4])
    assert f"step-{step:08d}.metadata.json" in snapshots or step % 400 == 0


def test_a_killed_run_is_crashed_and_leaves_no_rank_and_its_successor_goes_on(
    server: Server, places: Path, finished: Finished
) -> None:
    arguments: dict[str, Any] = {"preset": "smoke", "overrides": long_training(places, finished)}
    flow_run = server.start("manual", name="killed", **arguments)
    run, training = until_it_trains(places, "killed", num_starts=2)
    # It goes on from where the cancelled one stopped.
    assert starts_of(training)[-1]["step"] > 0
    pid = run.plan()["process"]
    workers = workers_of(pid)
    assert workers
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(workers), 10)
    ended = server.end_of(flow_run)
    assert ended["state_type"] == "CRASHED", ended["state"]["message"]
    assert run.record() is None
    # Prefect's server writes down what tasks tell it a while after they told it.
    eventually(lambda: server.task_states(flow_run).get("train") == "RUNNING")


def test_reconcile_closes_what_the_killed_run_left_open(
    up: tuple[subprocess.Popen[str], int, int], server: Server, places: Path
) -> None:
    (run,) = [Run(path.parent) for path in (places / "ev").glob("killed-*/plan.json")]
    client = MlflowClient(f"http://127.0.0.1:{up[2]}")

    def in_mlflow() -> dict[str, str]:
        found = client.search_experiments(filter_string="name = 'assay'")
        runs = client.search_runs([each.experiment_id for each in found])
        named = {each.info.run_name: each.info.status for each in runs}
        return {name: status for name, status in named.items() if name.startswith(run.name)}

    assert in_mlflow()[f"{run.name}: train"] == "RUNNING"
    closed = reconcile(places)
    assert {(each["what"], each["was"], each["now"]) for each in closed} == {
        ("evidence", "unfinished", "crashed"),
        ("task run train 2x32 for 200000 steps", "Running", "Crashed"),
        ("MLflow run", "open", "closed"),
    }
    record = run.record()
    assert record is not None
    assert record["outcome"] == "crashed"
    flow_run = run.plan()["request"]["prefect_flow_run_id"]
    assert server.task_states(flow_run)["train"] == "CRASHED"
    assert in_mlflow()[run.name] == in_mlflow()[f"{run.name}: train"] == "KILLED"
    assert reconcile(places) == []


def reconcile(places: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = assay(places, "reconcile")
    return found


def assay(places: Path, *words: str) -> Any:
    """Do a command where the run is; return what it says."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS}
    program = "from flows.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--json"],
        env={**environment, **env_of(places)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.topology
def test_a_missed_run_is_made_up_for_and_one_that_overlaps_is_cancelled(
    server: Server, finished: Finished
) -> None:
    arguments: dict[str, Any] = {
        "preset": "smoke",
        "overrides": [*OVERRIDES, f'source.path="{finished.home / "corpus"}"'],
    }
    missed = server.start("corpus", hours_ago=5, **arguments)
    eventually(lambda: server.run(missed)["state_type"] in ("PENDING", "RUNNING", *ENDS))
    overlapping = server.start("corpus", **arguments)
    assert server.end_of(overlapping)["state_type"] == "CANCELLED"
    assert server.end_of(missed)["state_type"] == "COMPLETED"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": {"peak_lr": "fast"}}, "fast"),
        ({"train": {"peek_lr": 0.1}}, "peek_lr"),
        ({"train": {"optimizer": "sgd"}}, "sgd"),
        ({"shards": "tokens:abcd"}, "tokens:abcd"),
        ({"preset": "nope"}, "nope"),
    ],
)
def test_the_form_of_a_training_refuses_what_no_setting_can_be(
    server: Server, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.start("train", **{"shards": "shards:abcd", **wrong})
    assert refused.value.code in (409, 422)
    assert said in refused.value.read().decode()


def test_the_form_of_a_training_describes_its_settings(server: Server) -> None:
    found = post(f"{server.api}/deployments/filter", {})
    form = next(each for each in found if each["name"] == "train")["parameter_openapi_schema"]
    fields = form["definitions"]["Train_settings"]["properties"]
    assert set(fields) == {field.name for field in dataclasses.fields(TrainSettings)}
    assert fields["max_spikes"]["description"] == "As many are answered; one more is an error."
    assert all(field["description"] for field in fields.values())


def shown_run(server: Server, finished: Finished, name: str, *changes: str) -> str:
    """A whole pipeline of what has been made, by the deployment for hands."""
    overrides = [*OVERRIDES, f'source.path="{finished.home / "corpus"}"', *changes]
    flow_run = server.start("manual", name=name, preset="smoke", overrides=overrides)
    ended = server.end_of(flow_run)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert ended["name"] == f"{name}: smoke on directory"
    return flow_run


def sent_of(places: Path, name: str) -> tuple[Run, dict[str, Any]]:
    """Return the run of a name and what MLflow has of it."""
    (run,) = [Run(path.parent) for path in (places / "ev").glob(f"{name}-????-??-??/plan.json")]
    return run, json.loads((places / "home" / "mirror" / f"{run.name}.json").read_text())


@pytest.mark.topology
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_person_sees_runs_losses_and_models_in_a_browser_without_a_network(
    up: tuple[subprocess.Popen[str], int, int], server: Server, places: Path, finished: Finished
) -> None:
    flow_run = shown_run(server, finished, "shown")
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in up[1:])
    run, sent = sent_of(places, "shown")
    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
    artifacts = post(f"{server.api}/artifacts/filter", wanted)
    loss = next(each["id"] for each in artifacts if each["key"] == "train-loss")
    gates = next(each["id"] for each in artifacts if each["key"] == "gates")
    experiment = f"{mlflow}/#/experiments/{sent['experiment_id']}"
    with browser() as page:
        page.open(f"{prefect}/runs/flow-run/{flow_run}", "shown: smoke on directory", "6 Task runs",
                  f"reused from {finished.run.name}")  # fmt: skip
        page.screenshot("prefect-run")
        page.open(f"{prefect}/artifacts/artifact/{loss}", "train 2x32 for 48 steps")
        eventually(lambda: page.evaluate(
            "[...document.images].some(image => image.naturalWidth > 500)"), 30)  # fmt: skip
        page.screenshot("prefect-loss")
        page.open(f"{prefect}/artifacts/artifact/{gates}", "shard.disjoint", "pass")
        page.screenshot("prefect-gates")
        page.open(f"{prefect}/deployments", *DEPLOYMENTS)
        page.screenshot("prefect-deployments")
        page.open(f"{experiment}/runs/{sent['run_id']}", run.name, "evaluate.val_loss")
        page.screenshot("mlflow-run")
        page.open(f"{experiment}/models", f"{run.name}-epoch-002", "assay-smoke")
        page.screenshot("mlflow-models")
        page.open(f"{mlflow}/#/models/assay-smoke", "champion", "candidate", run.name)
        page.screenshot("mlflow-registry")
        assert page.hosts == {"127.0.0.1"}


@pytest.mark.topology
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_person_compares_trainings_in_a_browser_without_a_network(
    up: tuple[subprocess.Popen[str], int, int], server: Server, places: Path, finished: Finished
) -> None:
    shown_run(server, finished, "slower", "train.peak_lr=5e-3")
    assay(places, "mirror", finished.run.name)
    runs = [sent_of(places, name) for name in ("tiny", "slower")]
    trainings = [sent["stage_run_ids"]["train"] for _, sent in runs]
    (experiment,) = {sent["experiment_id"] for _, sent in runs}
    losses = [run.stage_records()["train"]["measurements"]["best_val_loss"] for run, _ in runs]
    mlflow = f"http://127.0.0.1:{up[2]}"
    of_trainings = experiment_page(mlflow, experiment)
    charts = f"{mlflow}/#/experiments/{experiment}/runs?{TRAINING}&compareRunsMode=CHART"
    query = {"runs": json.dumps(trainings), "experiments": json.dumps([experiment])}
    comparison = f"{mlflow}/#/compare-runs?{urllib.parse.urlencode(query)}"
    with browser() as page:
        shown = page.open(of_trainings, *(run.name for run, _ in runs))
        assert "Playground" not in shown, "language-model applications are shown"
        page.screenshot("mlflow-runs")
        page.open(charts, "Model metrics", "bisect.sites")
        eventually(lambda: page.evaluate(PLOTS), 60)
        page.screenshot("mlflow-charts")
        page.open(comparison, *(f"{run.name}: train" for run, _ in runs),
                  "Parallel Coordinates Plot", "train.num_steps\t48\t48")  # fmt: skip
        eventually(lambda: "0.01000" in page.text(), 60)
        page.screenshot("mlflow-compare")
        page.evaluate(f"document.querySelector('{PARAMETERS_THAT_DIFFER}').click()")
        eventually(lambda: "train.num_steps" not in page.text(), 60)
        parameters, metrics = page.text().split("Show diff only")[1:3]
        assert parameters.split() == ["train.peak_lr", "0.01", "0.005", "Metrics"]
        assert {"train.best_val_loss", *(f"{loss:.3f}" for loss in losses)} <= {*metrics.split()}
        page.screenshot("mlflow-compare-parameters")
        assert page.hosts == {"127.0.0.1"}


def test_a_flow_that_fell_silent_is_crashed(server: Server) -> None:
    from flows.automations import silent_flows_have_crashed

    found = post(f"{server.api}/automations/filter", {})
    (ours,) = [each for each in found if each["name"] == "assay: silent flows have crashed"]
    assert ours["trigger"]["within"] == 90.0
    # The same automation, less patient: nothing else runs now.
    body = silent_flows_have_crashed(10).model_dump(mode="json", exclude_unset=True)
    send(f"{server.api}/automations/{ours['id']}", body, "PUT")
    flow = post(f"{server.api}/flows/", {"name": "silent"})["id"]
    state = {"type": "RUNNING", "name": "Running"}
    silent = post(f"{server.api}/flow_runs/", {"flow_id": flow, "state": state})["id"]
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.datetime.now(datetime.UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{silent}"},
        "related": [{"prefect.resource.id": "prefect.tag.assay", "prefect.resource.role": "tag"}],
    }
    send(f"{server.api}/events", [event])
    assert server.end_of(silent)["state_type"] == "CRASHED"


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
