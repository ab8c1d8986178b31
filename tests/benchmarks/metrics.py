"""Very many metric points of several runs at once into MLflow, through the mirror of a run.

Each run has a step log of its own and a mirror process of its own, which sends it in batches to one
MLflow server, started as `assay up` starts it, on SQLite or on PostgreSQL. Afterwards the points
are counted in the database.

    python -m tests.benchmarks.metrics --points 1000000 --database postgresql
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy

from evidence.records import write_record
from flows.environment import QUIET
from tasks.live import announce
from tasks.mirror_log import STEP_METRICS
from tasks.run_record import Run
from tests.benchmarks.harness import ROOT, print_header
from tests.benchmarks.servers import free_port, mlflow, working_in
from tests.topology.postgres import BINARIES, Postgres

DATABASES = ("sqlite", "postgresql")
STARTED = "2026-01-01T00:00:00.000+00:00"


def make_run(home: Path, number: int, num_steps: int) -> Run:
    """Write a run that trains: a plan, and a step log of so many steps."""
    run = Run(home / "evidence" / f"run-{number}")
    run.directory.mkdir(parents=True)
    plan = {"run": run.name, "request": {"flow": "train"}, "settings": {"seed": number},
            "settings_sha256": "0", "started": STARTED, "process": os.getpid(),
            "provenance": {"git_commit": None}}  # fmt: skip
    write_record(run.directory / "plan.json", plan)
    training = home / "trainings" / run.name
    training.mkdir(parents=True)
    with (training / "train.jsonl").open("w") as file:
        for step in range(1, num_steps + 1):
            values = {
                name: 1.0 + step / (position + 7) for position, name in enumerate(STEP_METRICS)
            }
            row = {"step": step, "time": 1.8e9 + step, "cursor_rows": step, **values}
            file.write(json.dumps(row) + "\n")
    announce(run, training)
    return run


@contextmanager
def database(kind: str, home: Path) -> Iterator[str]:
    """Yield the address of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{home / 'mlflow.db'}"
        return
    if not BINARIES:
        raise SystemExit("no PostgreSQL is installed (apt-get install postgresql)")
    server = Postgres(free_port(), "assay", "words")
    try:
        yield f"postgresql+psycopg2://assay:words@127.0.0.1:{server.port}/postgres"
    finally:
        server.remove()


def measure(kind: str, num_points: int, num_runs: int) -> dict[str, Any]:
    """Send so many points, and count them."""
    num_steps = -(-num_points // (num_runs * len(STEP_METRICS)))
    expected = num_steps * num_runs * len(STEP_METRICS)
    with working_in(None) as home, database(kind, home) as url:
        os.environ.update(QUIET, ASSAY_HOME=str(home), ASSAY_EVIDENCE=str(home / "evidence"))
        runs = [make_run(home, number, num_steps) for number in range(num_runs)]
        server = mlflow(home, url)
        start_seconds = server.start()
        try:
            before = server.size()
            begin = time.perf_counter()
            told = _mirror(runs, home, server.health.rpartition("/")[0])
            seconds = time.perf_counter() - begin
            after = server.size()
        finally:
            server.stop()
        counted, size_mb = _count(url)
    batches = sorted(each for run in told for each in run["batches"])
    return {
        "database": kind,
        "expected": expected,
        "counted": sum(counted.values()),
        "each_run_has_its_own": set(counted.values()) == {num_steps * len(STEP_METRICS)},
        "seconds": seconds,
        "points_per_second": expected / seconds,
        "batch_milliseconds": {
            "median": 1000 * statistics.median(batches),
            "p99": 1000 * batches[int(0.99 * (len(batches) - 1))],
            "most": 1000 * batches[-1],
        },
        "idle_pass_seconds": statistics.median(run["idle_pass_seconds"] for run in told),
        "mirror_most_mb": max(run["most_mb"] for run in told),
        "server_start_seconds": start_seconds,
        "server_mb_and_descriptors": {"before": before, "after": after},
        "database_mb": size_mb,
        "load": os.getloadavg()[0],
    }


def _mirror(runs: list[Run], home: Path, uri: str) -> list[dict[str, Any]]:
    """Send all runs at once, each from a process of its own."""
    outs = [home / f"{run.name}.facts" for run in runs]
    command = [sys.executable, "-m", "tests.benchmarks.metrics_run"]
    processes = [
        subprocess.Popen(
            [*command, str(run.directory), str(out)],
            cwd=ROOT, env={**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"},
        )
        for run, out in zip(runs, outs, strict=True)
    ]  # fmt: skip
    if [process for process in processes if process.wait()]:
        raise SystemExit("a mirror failed")
    return [json.loads(out.read_text()) for out in outs]


def _count(url: str) -> tuple[dict[str, int], float]:
    """Count the points of each run in the database, and weigh it."""
    engine = sqlalchemy.create_engine(url)
    by_run = "SELECT run_uuid, COUNT(*) FROM metrics GROUP BY run_uuid"
    weigh = (
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        if url.startswith("sqlite")
        else "SELECT pg_database_size('postgres')"
    )
    with engine.connect() as connection:
        counted = {run: int(num) for run, num in connection.execute(sqlalchemy.text(by_run))}
        num_bytes = connection.execute(sqlalchemy.text(weigh)).scalar_one()
    engine.dispose()
    return counted, num_bytes / 1e6


def main() -> None:
    """Measure one database and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    given = parser.parse_args()
    print_header("metrics", ("mlflow", "sqlalchemy", "psycopg2-binary"))
    facts = measure(given.database, given.points, given.runs)
    print(json.dumps(facts, indent=1))
    sys.exit(0 if facts["counted"] == facts["expected"] and facts["each_run_has_its_own"] else 1)


if __name__ == "__main__":
    main()
