"""What the pages of both UIs cost with very many runs: `python -m tests.benchmarks.ui`.

A thousand runs and ten million points in MLflow, as many flow runs in Prefect, both servers started
as `assay up` starts them. Each page is asked for as a person does, by a Chromium without a screen
(if there is one), until it shows what it is for; and as a program does, by the client.
"""

import argparse
import json
import os
import sqlite3
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import print_header
from tests.benchmarks.servers import Server, mlflow, prefect, working_in
from tests.flows.browser import CHROMIUM, Page, browser

TRIES = 3
METRIC = "train_loss"


def main() -> None:
    """Fill both databases, look at the pages, and print how long they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000, help="of each run in MLflow")
    given = parser.parse_args()
    print_header("pages", ("prefect", "mlflow"))
    with working_in(None) as home:
        facts = {
            "mlflow": _mlflow(home, given.runs, given.points),
            "prefect": _prefect(home, given.runs),
        }
    print(json.dumps({**facts, "load": os.getloadavg()[0]}, indent=1))


def _mlflow(home: Path, runs: int, points: int) -> dict[str, Any]:
    from mlflow import MlflowClient

    database = home / "mlflow.db"
    server = mlflow(home, f"sqlite:///{database}")
    server.start()
    try:
        url = server.health.rpartition("/")[0]
        client = MlflowClient(url)
        experiment, run_ids = _fill_mlflow(client, database, runs, points)
        below = f"metrics.{METRIC} < 1"
        asked: dict[str, Callable[[], object]] = {
            "a page of 100 runs": lambda: client.search_runs([experiment], max_results=100),
            "runs below a loss": lambda: client.search_runs([experiment], below, max_results=100),
            "a whole curve": lambda: client.get_metric_history(run_ids[0], METRIC),
        }
        here = f"{url}/#/experiments/{experiment}"
        shown = {
            "all runs": (f"{here}/runs", f"run-{runs - 1}"),
            "a run": (f"{here}/runs/{run_ids[0]}", METRIC),
            "its curves": (f"{here}/runs/{run_ids[0]}/model-metrics", METRIC),
        }
        seconds = {name: _median(ask) for name, ask in asked.items()}
        return {
            "points": runs * points,
            "client_seconds": seconds,
            "page_seconds": _pages(shown),
            "server_mb_and_descriptors": server.size(),
            "database_mb": database.stat().st_size / 1e6,
        }
    finally:
        server.stop()


def _fill_mlflow(client: Any, database: Path, runs: int, points: int) -> tuple[str, list[str]]:
    """Make the runs by MLflow and their points by SQL, which is the same table only sooner."""
    experiment = client.create_experiment("many")
    run_ids = []
    for number in range(runs):
        run_id = str(client.create_run(experiment, run_name=f"run-{number}").info.run_id)
        client.log_metric(run_id, METRIC, 1.0 - number / runs, step=points)
        run_ids.append(run_id)
    with sqlite3.connect(database, timeout=60) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for run_id in run_ids:
            connection.executemany(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)"
                f" VALUES ('{METRIC}', ?, ?, ?, ?, 0)",
                ((10.0 / (step + 1), step, run_id, step) for step in range(points)),
            )
    return experiment, run_ids


def _prefect(home: Path, runs: int) -> dict[str, Any]:
    server = prefect(home)
    api = server.health.removesuffix("/health")
    ui = {"PREFECT_SERVER_UI_ENABLED": "true", "PREFECT_UI_API_URL": api}
    server.environment = {**server.environment, **ui}
    server.start()
    try:
        return _look_at_prefect(server, runs)
    finally:
        server.stop()


def _look_at_prefect(server: Server, runs: int) -> dict[str, Any]:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Completed

    url = server.health.removesuffix("/api/health")

    @flow
    def pipeline() -> None: ...

    with (
        temporary_settings({PREFECT_API_URL: f"{url}/api"}),
        get_client(sync_client=True) as client,
    ):
        found = [
            client.create_flow_run(pipeline, name=f"run-{number}", state=Completed())
            for number in range(runs)
        ]
        asked = {"a page of 100 flow runs": _median(partial(client.read_flow_runs, limit=100))}
    shown = {
        "flow runs": (f"{url}/runs", f"run-{runs - 1}"),
        "a flow run": (f"{url}/runs/flow-run/{found[-1].id}", f"run-{runs - 1}"),
    }
    return {"flow_runs": runs, "client_seconds": asked, "page_seconds": _pages(shown),
            "server_mb_and_descriptors": server.size()}  # fmt: skip


def _median(ask: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - begin)
    return round(statistics.median(seconds), 2)


def _pages(shown: dict[str, tuple[str, str]]) -> dict[str, float] | None:
    """Time pages until they show a text, each from an empty tab."""
    if CHROMIUM is None:
        return None
    with browser() as page:
        return {name: _median(partial(_look, page, *what)) for name, what in shown.items()}


def _look(page: Page, url: str, text: str) -> None:
    page.open("about:blank")
    page.open(url, text, seconds=120)


if __name__ == "__main__":
    main()
