"""What operations cost: starts of commands, Prefect around the stages, MLflow's rates and tables.

    python -m tests.benchmarks.operations --part start|tasks|pipeline|mlflow

Prints a Markdown table and the load of the machine; `mlflow` adds PostgreSQL where its programs are
(`--postgres DIR`, run as root, who becomes the user `postgres`).
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ASSAY = "import sys; from flows.cli import run; sys.exit(run(sys.argv[1:]))"
TRIES = 3
TASKS = 100
BATCH = 900
BATCHES = 20
Row = dict[str, Any]


def start() -> list[Row]:
    """Time the help of every command, best of a few."""
    import typer.main

    from flows.cli import app

    names = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    return [
        {"command": f"assay {' '.join(words)}", **_best([sys.executable, "-c", ASSAY, *words])}
        for words in ([], *([name] for name in names))
        for words in ([*words, "--help"],)
    ]


def _best(command: Sequence[str], environment: dict[str, str] | None = None) -> Row:
    """Run a command a few times; return its shortest wall and processor seconds."""
    walls, processors = [], []
    for _ in range(TRIES):
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        walls.append(time.perf_counter() - begin)
        processors.append(usage.ru_utime + usage.ru_stime)
    return {"wall s": round(min(walls), 2), "processor s": round(min(processors), 2)}


def tasks() -> list[Row]:
    """Time tasks that do nothing, called one after the other against a server on SQLite."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.testing.utilities import prefect_test_harness

    @task(cache_policy=NO_CACHE, persist_result=False)
    def nothing() -> None:
        return None

    @flow(persist_result=False)
    def many(number: int) -> float:
        begin = time.perf_counter()
        for _ in range(number):
            nothing()
        return time.perf_counter() - begin

    with prefect_test_harness(server_startup_timeout=180):
        many(1)
        begin = time.perf_counter()
        many(0)
        empty = time.perf_counter() - begin
        each = min(many(TASKS) for _ in range(TRIES)) / TASKS
    return [
        {"what": "a task that does nothing", "ms": round(1000 * each, 1)},
        {"what": "a flow without tasks", "ms": round(1000 * empty, 1)},
    ]


def pipeline() -> list[Row]:
    """Run a tiny pipeline cold and warm; what is not in its stages is what surrounds them."""
    from tests.tasks.tiny import OVERRIDES, write_corpus

    rows = []
    with tempfile.TemporaryDirectory() as home:
        write_corpus(Path(home) / "corpus")
        overrides = [*OVERRIDES, f'source.path="{home}/corpus"']
        settings = [word for each in overrides for word in ("--set", each)]
        command = [sys.executable, "-c", ASSAY, "run", "--preset", "smoke", "--json", *settings]
        places = {"ASSAY_HOME": f"{home}/home", "ASSAY_EVIDENCE": f"{home}/evidence"}
        for name in ("cold, and a new home", "warm", "warm again"):
            begin = time.perf_counter()
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **places},
                capture_output=True,
                text=True,
                check=True,
            )
            wall = time.perf_counter() - begin
            stages = sum(stage["seconds"] for stage in json.loads(done.stdout)["stages"])
            found = {"wall s": wall, "stages s": stages, "around them s": wall - stages}
            rows.append({"run": name, **{key: round(value, 1) for key, value in found.items()}})
    return rows


def mlflow(postgres: str | None) -> list[Row]:
    """Time single metrics and full batches on each kind of store."""
    with tempfile.TemporaryDirectory() as home:
        stores: dict[str, Callable[[], Any]] = {"SQLite, direct": lambda: _sqlite(home)}
        stores["SQLite, through a server"] = lambda: _served(home, f"sqlite:///{home}/served.db")
        if postgres:
            stores["PostgreSQL, direct"] = lambda: _postgres(postgres, home)
        rows = []
        for name, opened in stores.items():
            with opened() as uri:
                rows.append({"store": name, **_rates(uri)})
        return rows


def _rates(uri: str) -> Row:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment(f"rates {time.time()}")).info.run_id
    singles, batches = [], []
    for step in range(BATCHES):
        begin = time.perf_counter()
        client.log_metric(run_id, "single", float(step), step=step)
        singles.append(time.perf_counter() - begin)
        points = [Metric(f"m{key}", float(key), 0, step) for key in range(BATCH)]
        begin = time.perf_counter()
        client.log_batch(run_id, metrics=points)
        batches.append(time.perf_counter() - begin)
    batch = statistics.median(batches)
    return {
        "one metric, ms": round(1000 * statistics.median(singles), 1),
        f"a batch of {BATCH}, ms": round(1000 * batch, 1),
        "metrics/s in batches": round(BATCH / batch),
    }


@contextmanager
def _sqlite(home: str) -> Iterator[str]:
    yield f"sqlite:///{home}/direct.db"


@contextmanager
def _served(home: str, store: str) -> Iterator[str]:
    from flows.environment import answers

    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(
        [*command, "--backend-store-uri", store],
        cwd=home,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            while not answers(f"http://127.0.0.1:{port}/health"):
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


@contextmanager
def _postgres(programs: str, home: str) -> Iterator[str]:
    data, port = f"{home}/postgres", _free_port()
    Path(home).chmod(0o755)
    Path(data).mkdir()
    shutil.chown(data, "postgres")

    def control(*words: str) -> None:
        command = ["runuser", "-u", "postgres", "--", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    control(f"{programs}/initdb", "-D", data, "-A", "trust")
    listen = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
    server = (f"{programs}/pg_ctl", "-D", data, "-w", "-l", f"{data}/log")
    control(*server, "-o", listen, "start")
    try:
        control(f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "mlflow")
        yield f"postgresql://postgres@127.0.0.1:{port}/mlflow"
    finally:
        control(*server, "-m", "immediate", "stop")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure one part and print it."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "start": start, "tasks": tasks, "pipeline": pipeline
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=(*parts, "mlflow"), required=True)
    parser.add_argument("--postgres", help="Directory of PostgreSQL's programs.")
    options = parser.parse_args()
    # Else a server that was started here would outlive this.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    parts["mlflow"] = lambda: mlflow(options.postgres)
    loads = [os.getloadavg()[0]]
    rows = parts[options.part]()
    loads.append(os.getloadavg()[0])
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    print(f"\nload of {os.cpu_count()} cores before and after: {loads[0]:.1f}, {loads[1]:.1f}")


if __name__ == "__main__":
    main()
