"""Queue flow runs on a work pool that runs one at a time, and see that each has one turn, in order.

The pool, its `gpu` queue, the worker and the GPU's slot are those of `prefect.yaml`; the flow does
nothing else. What is queued must run once, in the order in which it was queued, and no two at once.
A worker is killed once on the way, and another goes on.

    python -m tests.benchmarks.work_pool --runs 200
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import ROOT, print_header
from tests.benchmarks.servers import STOP_SECONDS, Server, prefect, size_of, working_in

POOL, QUEUE, SLOTS = "assay", "gpu", 1
LOOK_SECONDS = 1.0


def main() -> None:
    """Queue, run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kill-after", type=int, default=20, help="turns, then kill the worker")
    parser.add_argument("--minutes", type=float, default=60.0, help="give up after these")
    given = parser.parse_args()
    print_header("work pool", ("prefect",))
    with working_in(None) as home:
        server = prefect(home)
        start_seconds = server.start()
        url = server.health.rpartition("/")[0]
        os.environ.update(PREFECT_API_URL=url, PREFECT_HOME=str(home / "prefect"),
                          ASSAY_HOME=str(home / "home"), ASSAY_PROJECT=str(ROOT))  # fmt: skip
        try:
            facts = {"server_start_seconds": start_seconds, **_measure(server, home, given)}
        finally:
            server.stop()
    print(json.dumps(facts, indent=1))
    sys.exit(
        0
        if facts["all"] and facts["none_twice"] and facts["in_order"] and facts["one_at_a_time"]
        else 1
    )


def _measure(server: Server, home: Path, given: argparse.Namespace) -> dict[str, Any]:
    log = home / "turns.jsonl"
    deployment = _deploy(home)
    before = server.size()
    latencies = _queue(deployment, given.runs, log)
    queued = server.size()
    begin = time.monotonic()
    worker, killed_after = _worker(home), None
    most = 0.0
    try:
        while len(turns(log)) < given.runs and time.monotonic() < begin + given.minutes * 60:
            most = max(most, size_of(worker.pid)[0])
            if killed_after is None and len(turns(log)) >= given.kill_after:
                killed_after = len(turns(log))
                worker.kill()
                worker.wait()
                worker = _worker(home)
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - begin
        time.sleep(5 * LOOK_SECONDS)
    finally:
        _end(worker)
    found = turns(log)
    numbers = [turn["number"] for turn in found]
    ends = [turn["end"] for turn in found]
    return {
        "queued": given.runs,
        "ran": len(numbers),
        "all": len(numbers) == given.runs,
        "none_twice": len(set(numbers)) == len(numbers),
        "in_order": numbers == sorted(numbers),
        "one_at_a_time": all(a["end"] <= b["begin"] for a, b in itertools.pairwise(found)),
        "worker_killed_after": killed_after,
        "queue_milliseconds": _spread([1000 * each for each in latencies]),
        "seconds": seconds,
        "seconds_between_turns": _spread([b - a for a, b in itertools.pairwise(ends)]),
        "server_mb_and_descriptors": {"before": before, "queued": queued, "after": server.size()},
        "worker_most_mb": most,
        "database_mb": (home / "prefect" / "prefect.db").stat().st_size / 1e6,
        "states": _states(),
        "load": os.getloadavg()[0],
    }


def _deploy(home: Path) -> Any:
    """Make the pool with its queue of one slot, and the deployment; return the deployment's id."""
    _prefect("work-pool", "create", "--type", "process", POOL)
    _prefect("work-queue", "create", QUEUE, "--pool", POOL, "--limit", str(SLOTS))
    _prefect("global-concurrency-limit", "create", QUEUE, "--limit", str(SLOTS))
    declared = {
        "name": "queue",
        "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        "deployments": [
            {
                "name": "queued",
                "entrypoint": "tests/benchmarks/work_pool_flow.py:queued",
                "work_pool": {"name": POOL, "work_queue_name": QUEUE},
            }
        ],
    }
    path = home / "prefect.yaml"
    path.write_text(json.dumps(declared))
    _prefect("deploy", "--all", "--prefect-file", str(path))
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name("queued/queued").id


def _queue(deployment: Any, num: int, log: Path) -> list[float]:
    """Queue runs one after the other; return how long each call took."""
    from prefect.client.orchestration import get_client

    taken = []
    with get_client(sync_client=True) as client:
        for number in range(num):
            begin = time.perf_counter()
            parameters = {"number": number, "log": str(log)}
            client.create_flow_run_from_deployment(deployment, parameters=parameters)
            taken.append(time.perf_counter() - begin)
    return taken


def _states() -> dict[str, int]:
    """Count the states of all flow runs."""
    from prefect.client.orchestration import get_client

    counts: dict[str, int] = {}
    with get_client(sync_client=True) as client:
        for offset in range(0, 10_000, 200):
            found = client.read_flow_runs(limit=200, offset=offset)
            for run in found:
                counts[str(run.state_name)] = counts.get(str(run.state_name), 0) + 1
            if len(found) < 200:
                break
    return counts


def _worker(home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--work-queue",
               QUEUE, "--limit", str(SLOTS)]  # fmt: skip
    with (home / "worker.log").open("ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT
        )


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Ask a worker to end; Prefect's does not always."""
    worker.terminate()
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def _prefect(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"prefect {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def turns(log: Path) -> list[dict[str, Any]]:
    """Read what the runs have noted, in the order in which they did."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines]


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ranked = sorted(values)
    p99 = ranked[int(0.99 * (len(ranked) - 1))]
    return {"median": statistics.median(ranked), "p99": p99, "most": ranked[-1]}


if __name__ == "__main__":
    main()
