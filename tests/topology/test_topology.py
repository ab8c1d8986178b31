"""A team's servers, by the commands of docker/compose.yaml: the pipeline runs through them.

PostgreSQL under Prefect and MLflow, both with logins, an object store, and two workers that share
nothing else.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.run_record import Run
from tests.flows.test_up import eventually
from tests.test_architecture import PROJECT
from tests.topology.team import Team, serving, wait_for_run

pytestmark = [pytest.mark.topology, pytest.mark.timeout(900)]

STAGES = ["pretokenize", "shard", "train", "evaluate", "checkpoint", "bisect"]
SMALL = ["runtime.num_threads=1", "code_benchmark.syntax_prompts=0"]
ASSAY = (sys.executable, "-c", "from flows.cli import main; main()")
WORKERS = ("worker-1", "worker-2")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with serving(tmp_path_factory.mktemp("team")) as found:
        yield found


@pytest.fixture(scope="module")
def deployed(team: Team) -> Team:
    """The servers with the deployments of prefect.yaml, none of which starts by the clock."""
    team.run("deployments")
    for each in team.prefect("/deployments/filter", {}):
        assert team.prefect(f"/deployments/{each['id']}", {"paused": True}, method="PATCH") is None
    return team


def start_run(team: Team, name: str, *overrides: str) -> str:
    """Ask for a run of the pipeline, as the form of the UI does."""
    (found,) = team.prefect("/deployments/filter", {"deployments": {"name": {"any_": ["manual"]}}})
    parameters = {"name": name, "preset": "smoke", "overrides": [*SMALL, *overrides]}
    made = team.prefect(
        f"/deployments/{found['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    return str(made["id"])


def evidence_of(team: Team, name: str) -> tuple[str, Run]:
    """Return on which worker a run was, and its evidence there."""
    found = [
        (worker, Run(path))
        for worker in WORKERS
        for path in (team.host.directory / worker / "evidence").glob(f"{name}-20*")
        if re.fullmatch(rf"{name}-[\d-]+", path.name)
    ]
    assert len(found) == 1, found
    return found[0]


def outputs(run: Run) -> dict[str, str]:
    return {stage: record["output"] for stage, record in run.stage_records().items()}


def outcomes(run: Run) -> list[str]:
    return [record["outcome"] for record in run.stage_records().values()]


@pytest.fixture(scope="module")
def first(deployed: Team) -> tuple[str, Run]:
    """A run of the pipeline by whichever worker took it."""
    for worker in WORKERS:
        deployed.start("worker", worker)
    ended = wait_for_run(deployed, start_run(deployed, "first"))
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    return evidence_of(deployed, "first")


def test_nobody_gets_in_without_a_login(team: Team) -> None:
    for login in ("nobody", "assay:wrong", "admin:password1234"):
        assert team.prefect("/flows/filter", {}, login=login) == 401
        assert team.mlflow("/experiments/search", {"max_results": 1}, login=login) == 401
    assert team.prefect("/flows/filter", {}) == []
    assert "experiments" in team.mlflow("/experiments/search", {"max_results": 1})


def test_the_pipeline_runs_through_the_servers(first: tuple[str, Run]) -> None:
    _, run = first
    assert outcomes(run) == ["produced"] * 6
    record = run.record()
    assert record is not None
    assert record["outcome"] == "completed"


def test_every_epoch_is_evaluated_by_whichever_worker_is_free(
    deployed: Team, first: tuple[str, Run]
) -> None:
    _, run = first
    wanted = {"flow_runs": {"name": {"like_": f"{run.name}: evaluate"}}}

    def ended() -> list[dict[str, Any]]:
        found = deployed.prefect("/flow_runs/filter", wanted)
        states = {each["state_type"] for each in found}
        return found if len(found) == 2 and states <= {"COMPLETED", "FAILED", "CRASHED"} else []

    found = eventually(ended, 600)
    assert {each["state_type"] for each in found} == {"COMPLETED"}, [
        each["state"]["message"] for each in found
    ]
    for epoch in ("epoch-000", "epoch-001"):
        (record,) = records(deployed, f"{run.name}-{epoch}", "evaluate")
        measured = json.loads(record.read_text())["measurements"]
        trained = json.loads((run.directory / f"{epoch}.metadata.json").read_text())
        assert measured["val_loss"] == trained["val_loss"]


def test_what_sqlite_and_a_directory_give_is_what_postgresql_and_a_bucket_give(
    first: tuple[str, Run], tmp_path: Path
) -> None:
    _, run = first
    alone = run_alone(tmp_path)
    # From training on an artefact holds its own times.
    same = ("pretokenize", "shard")
    assert {k: outputs(alone)[k] for k in same} == {k: outputs(run)[k] for k in same}
    for stage in STAGES:
        ours, theirs = (each.stage_records()[stage] for each in (run, alone))
        assert ours["recipe"]["settings"] == theirs["recipe"]["settings"]
        assert [gate["verdict"] for gate in ours["gates"]] == [
            gate["verdict"] for gate in theirs["gates"]
        ]
    for epoch in ("epoch-000", "epoch-001"):
        left, right = (
            json.loads((each.directory / f"{epoch}.metadata.json").read_text())
            for each in (run, alone)
        )
        exact = ("train_loss", "val_loss", "optimizer_state_sha", "tokens_seen", "grad_norm_max")
        assert {key: left[key] for key in exact} == {key: right[key] for key in exact}
        weights = f"{epoch}.apr"
        assert left["files"][weights] == right["files"][weights]


def run_alone(directory: Path) -> Run:
    """Run the same on this machine alone: embedded databases, artefacts in a directory."""
    own = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "ASSAY_HOME": str(directory / "home"),
        "ASSAY_EVIDENCE": str(directory / "evidence"),
        "OMP_NUM_THREADS": "1",
    }
    sets = [word for override in SMALL for word in ("--set", override)]
    done = subprocess.run(
        [*ASSAY, "run", "--preset", "smoke", "--name", "alone", *sets],
        env=own,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = (directory / "evidence").glob("alone-20*")
    return Run(found)


def test_a_worker_goes_on_from_what_another_has_made(
    deployed: Team, first: tuple[str, Run]
) -> None:
    worker, run = first
    (other,) = set(WORKERS) - {worker}
    deployed.stop(worker)
    again = wait_for_run(deployed, start_run(deployed, "again", "evaluate.rows=100"))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    found, second = evidence_of(deployed, "again")
    assert found == other
    assert outcomes(second) == ["reused"] * 3 + ["produced"] * 3
    same = ("pretokenize", "shard", "train")
    assert {k: outputs(second)[k] for k in same} == {k: outputs(run)[k] for k in same}


def test_mlflow_has_the_run_with_its_records_in_the_object_store(
    deployed: Team, first: tuple[str, Run]
) -> None:
    worker, run = first
    # A run waits for MLflow only so long; on a busy machine it is behind then.
    sent = assay(deployed, worker, "mirror", run.name)
    assert sent.returncode == 0, sent.stderr
    experiments = deployed.mlflow("/experiments/search", {"max_results": 9})["experiments"]
    (ours,) = [each for each in experiments if each["name"] == "assay"]
    wanted = {
        "experiment_ids": [ours["experiment_id"]],
        "filter": f"tags.`assay.run` = '{run.name}'",
    }
    (found,) = deployed.mlflow("/runs/search", wanted)["runs"]
    assert found["info"]["status"] == "FINISHED"
    assert found["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
    names = [name for name in object_names(deployed) if name.startswith("mlflow/")]
    assert any(name.endswith("/metadata.json") for name in names)


def object_names(team: Team) -> list[str]:
    import boto3

    client: Any = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{team.ports['objects']}",
        aws_access_key_id="assay",
        aws_secret_access_key=team.secret("OBJECTS"),
        region_name="us-east-1",
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="assay")
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def assay(team: Team, name: str, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine of its own that knows the servers."""
    return subprocess.run(
        [*ASSAY, *words],
        env={**team.client(name), **changes},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def run_words(name: str) -> list[str]:
    sets = [word for override in SMALL for word in ("--set", override)]
    return ["run", "--preset", "smoke", "--name", name, *sets]


def test_a_login_that_prefect_refuses_is_said_before_the_run(team: Team) -> None:
    done = assay(team, "laptop", *run_words("refused"), PREFECT_API_AUTH_STRING="assay:wrong")
    assert done.returncode == 10, done.stderr
    assert "answers 401 to our login, should be 200" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (team.host.directory / "laptop" / "evidence").exists()


def test_a_login_that_mlflow_refuses_stops_nothing_and_is_made_good_later(
    deployed: Team, first: tuple[str, Run]
) -> None:
    wrong = {"MLFLOW_TRACKING_PASSWORD": "wrong"}
    done = assay(deployed, "laptop", *run_words("behind"), **wrong)
    assert done.returncode == 0, done.stderr
    assert "MLflow is behind; `assay mirror behind-" in done.stderr
    refused = assay(deployed, "laptop", "mirror", "behind", **wrong)
    assert refused.returncode == 10
    assert "authenticated" in refused.stderr
    assert "Traceback" not in refused.stderr
    sent = assay(deployed, "laptop", "mirror", "behind")
    assert sent.returncode == 0, sent.stderr


def test_a_run_outlives_a_database_that_is_gone_for_a_moment(
    deployed: Team, first: tuple[str, Run]
) -> None:
    if not set(WORKERS) & set(deployed.processes):
        deployed.start("worker", WORKERS[0])
    run_id = start_run(deployed, "outage", "train.num_steps=160", "train.max_spikes=9")
    (shards,) = eventually(lambda: records(deployed, "outage", "shard"))
    assert shards
    deployed.postgres.kill()
    deployed.postgres.start()
    ended = wait_for_run(deployed, run_id)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    _, run = evidence_of(deployed, "outage")
    assert outcomes(run)[2:] == ["produced"] * 4


def records(team: Team, name: str, stage: str) -> list[Path]:
    return list(team.host.directory.glob(f"worker-*/evidence/{name}-20*/{stage}.metadata.json"))


def test_the_template_for_kubernetes_makes_a_work_pool(deployed: Team) -> None:
    template = str(PROJECT / "docker" / "kubernetes.json")
    line = ["work-pool", "create", "gpus", "--type", "kubernetes", "--base-job-template", template]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *line],
        env=deployed.client(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pool = eventually(lambda: deployed.prefect("/work_pools/gpus"), 30)
    assert pool["base_job_template"] == json.loads(Path(template).read_text())


def test_no_secret_is_in_any_record_log_or_database(deployed: Team, first: tuple[str, Run]) -> None:
    words = [word.encode() for word in deployed.secrets.values()]
    files = [path for path in deployed.host.directory.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if any(word in path.read_bytes() for word in words)] == []
    for database in ("prefect", "mlflow", "mlflow_auth"):
        dumped = dump(deployed, database)
        assert len(dumped) > 1000
        assert [word for word in words if word in dumped] == []


def dump(team: Team, database: str) -> bytes:
    environment = {**os.environ, "PGPASSWORD": team.secret("POSTGRES")}
    line = ["pg_dump", "-h", "127.0.0.1", "-p", str(team.ports["postgres"]), "-U", "assay"]
    return subprocess.run(
        [*line, database], check=True, capture_output=True, env=environment
    ).stdout
