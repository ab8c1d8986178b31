"""Run the pipeline again and again while something goes wrong, and see that nothing grows or stays.

One run follows the other against one Prefect and one MLflow server, each with another seed. Into
most of them goes a fault; then the same run is asked for again without it and must complete. After
each, it is counted what is left: processes, held locks, unfinished builds, holes in the chain of
records. Memory and file descriptors are those of the servers after each run, and of the run's own
processes at their most.

    python -m tests.benchmarks.soak --minutes 60
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.harness import ROOT, print_header
from tests.benchmarks.servers import Server, mlflow, prefect, size_of, working_in
from tests.tasks.tiny import OVERRIDES, write_corpus

FULL_DISK_BYTES = 60_000
"No file grows beyond it: less than a snapshot of this model."
RUN_SECONDS = 1200.0
"After which it hangs; on a busy machine a run of half a minute takes several."
ORPHAN_SECONDS = 15.0
FAULTS = ("none", "kill -9", "full disk", "MLflow killed", "Prefect killed", "SIGTERM")
EXPECTED = {
    "none": {0},
    "kill -9": {0, -9},
    "full disk": {7},
    "MLflow killed": {0},
    "Prefect killed": {0, 10},
    "SIGTERM": {0, 11, -15},
}
"Exit codes: a fault may come after the end of a run, and a signal before its first line."


@dataclass
class Outcome:
    """One run, and what there was after it."""

    number: int
    fault: str
    seed: int
    exit_code: int
    seconds: float
    most_megabytes: float
    most_descriptors: int
    again: int | None
    "The exit code of the same run without the fault."
    orphans: list[str] = field(default_factory=list)
    held_locks: list[str] = field(default_factory=list)
    builds: list[str] = field(default_factory=list)
    chain_faults: list[str] = field(default_factory=list)
    servers: dict[str, tuple[float, int]] = field(default_factory=dict)
    said: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it ended as it may, and nothing was left behind."""
        left = self.orphans or self.held_locks or self.builds or self.chain_faults
        return self.exit_code in EXPECTED[self.fault] and self.again in (None, 0) and not left


class Soak:
    """The servers, the directories and the moments of faults."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.moments = random.Random(seed)
        self.servers = {
            "Prefect": prefect(home),
            "MLflow": mlflow(home, f"sqlite:///{home / 'mlflow.db'}"),
        }
        self.typical_seconds = 40.0

    def start(self) -> None:
        """Start the servers, and write the corpus."""
        write_corpus(self.home / "corpus")
        for server in self.servers.values():
            server.start()

    def stop(self) -> None:
        """Stop the servers."""
        for server in self.servers.values():
            server.stop()

    def environment(self) -> dict[str, str]:
        """Point the program to the servers and the directories."""
        urls = {name: server.health.rpartition("/")[0] for name, server in self.servers.items()}
        return {
            **os.environ,
            "ASSAY_HOME": str(self.home / "home"),
            "ASSAY_STORE": str(self.home / "store"),
            "ASSAY_EVIDENCE": str(self.home / "evidence"),
            "PREFECT_API_URL": urls["Prefect"],
            "MLFLOW_TRACKING_URI": urls["MLflow"],
            "PREFECT_CLIENT_MAX_RETRIES": "3",
        }

    def one(self, number: int) -> Outcome:
        """Make a run with a fault, then the same without, and look at what is left."""
        fault = FAULTS[number % len(FAULTS)]
        seed = number + 1
        begin = time.monotonic()
        code, most, said = self._run(seed, fault)
        seconds = time.monotonic() - begin
        again = None
        if fault == "none":
            self.typical_seconds = seconds
        else:
            again, _, said_again = self._run(seed, "none")
            said = said_again if again else said
        return Outcome(
            number=number,
            fault=fault,
            seed=seed,
            exit_code=code,
            seconds=seconds,
            most_megabytes=most[0],
            most_descriptors=most[1],
            again=again,
            orphans=self.orphans(),
            held_locks=held_locks(self.home),
            builds=[path.name for path in (self.home / "store" / "tmp").glob("build-*")],
            chain_faults=chain_faults(self.home / "evidence"),
            servers={name: server.size() for name, server in self.servers.items()},
            said="" if code in EXPECTED[fault] and not again else said[-1500:],
        )

    def _run(self, seed: int, fault: str) -> tuple[int, tuple[float, int], str]:
        """Run the pipeline; return its exit code, its size at the most, and what it said."""
        changes = [*OVERRIDES, f'source.path="{self.home / "corpus"}"', f"train.seed={seed}"]
        # A model so small spikes with some seeds, which is a verdict and no damage.
        changes.append("train.spike_deviations=1000.0")
        # Each third run begins with other rows, and the rest with what is there.
        changes.append(f"shard.seed={seed // 3}")
        command = [sys.executable, "-c", "from flows.cli import main; main()", "run",
                   "--preset", "smoke", "--name", f"soak-{seed}"]  # fmt: skip
        command += [part for change in changes for part in ("--set", change)]
        log = self.home / "run.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env=self.environment(),
                preexec_fn=_small_files if fault == "full disk" else None,  # noqa: PLW1509
            )
            most = self._watch(process, fault)
        return process.returncode, most, log.read_text(errors="replace")

    def _watch(self, process: subprocess.Popen[bytes], fault: str) -> tuple[float, int]:
        """Measure a run to its end, and do to it what is due at some moment."""
        begin = time.monotonic()
        due = begin + self.moments.uniform(0.1, 0.9) * self.typical_seconds
        has_come, most = False, (0.0, 0)
        killed: Server | None = None
        while process.poll() is None:
            size = size_of(process.pid)
            most = (max(most[0], size[0]), max(most[1], size[1]))
            if killed is self.servers["Prefect"]:
                # Without it no run ends; it is gone for as long as its start takes.
                killed.start()
                killed = None
            if not has_come and time.monotonic() > due:
                has_come, killed = True, self._harm(process, fault)
            if time.monotonic() > begin + RUN_SECONDS:
                process.kill()
            time.sleep(0.3)
        if killed:
            killed.start()
        return most

    def _harm(self, process: subprocess.Popen[bytes], fault: str) -> Server | None:
        """Do the fault; return the server that must be started again, if one must."""
        if fault == "kill -9":
            process.kill()
        elif fault == "SIGTERM":
            process.terminate()
        elif fault.endswith("killed"):
            server = self.servers[fault.split()[0]]
            server.kill()
            return server
        return None

    def orphans(self) -> list[str]:
        """Name the processes of ours that are no servers, after the time that ends take."""
        end = time.monotonic() + ORPHAN_SECONDS
        while (found := self._own_processes()) and time.monotonic() < end:
            time.sleep(0.3)
        return found

    def _own_processes(self) -> list[str]:
        known = set()
        for server in self.servers.values():
            assert server.process is not None
            root = psutil.Process(server.process.pid)
            known |= {root.pid, *(each.pid for each in root.children(recursive=True))}
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get("ASSAY_HOME") == str(self.home / "home")
                if is_ours and process.pid not in known:
                    found.append(" ".join(process.cmdline())[:200])
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK_BYTES, FULL_DISK_BYTES))


def held_locks(directory: Path) -> list[str]:
    """Name the files below a directory on which somebody holds a lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    held = {int(line.split()[5].split(":")[2]) for line in lines if "FLOCK" in line}
    locks = (
        path
        for name in ("store", "home", "evidence")
        for path in (directory / name).rglob("*lock*")
    )
    return [str(path.relative_to(directory)) for path in locks if path.stat().st_ino in held]


def chain_faults(evidence: Path) -> list[str]:
    """Say what does not hold of the chain of records."""
    from tasks.verify_chain import verify_chain

    return list(verify_chain(evidence, {}).failures)


def summary(outcomes: list[Outcome], home: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Look back: what grew, what verifies, what a reconciliation and a collection still find."""

    def assay(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    completed = sorted(
        path.parent.name for path in (home / "evidence").glob("*/metadata.json")
        if json.loads(path.read_bytes())["outcome"] == "completed"
    )  # fmt: skip
    verified = {name: assay("verify", name)[0] for name in completed[-3:]}
    reconciled = assay("reconcile", "--json")
    collected = assay("gc", "--grace-hours", "0", "--trainings", "--json")
    after = [assay("verify", name)[0] for name in completed[-1:]]
    return {
        "runs": len(outcomes),
        "again": sum(each.again is not None for each in outcomes),
        "good": sum(each.is_good for each in outcomes),
        "faults": {name: sum(each.fault == name for each in outcomes) for name in FAULTS},
        "records": len(list((home / "evidence").glob("*/metadata.json"))),
        "completed": len(completed),
        "verified": verified,
        "verified_after_gc": after,
        "reconciled": [each["what"] for each in json.loads(reconciled[1] or "[]")],
        "gc": {key: value for key, value in json.loads(collected[1]).items() if key != "garbage"},
        "left_in_tmp": [path.name for path in (home / "store" / "tmp").iterdir()],
        "orphans": [each for outcome in outcomes for each in outcome.orphans],
        "chain": chain_faults(home / "evidence"),
    }


def main() -> None:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="an empty directory; default: one of its own")
    given = parser.parse_args()
    print_header("soak", ("prefect", "mlflow", "torch"))
    outcomes: list[Outcome] = []
    with working_in(given.home) as home:
        soak = Soak(home, given.seed)
        try:
            soak.start()
            end = time.monotonic() + given.minutes * 60
            while time.monotonic() < end:
                outcomes.append(soak.one(len(outcomes)))
                line = {
                    **asdict(outcomes[-1]),
                    "load": os.getloadavg()[0],
                    "ok": outcomes[-1].is_good,
                }
                print(json.dumps(line), flush=True)
            print(json.dumps(summary(outcomes, home, soak.environment()), indent=1), flush=True)
        finally:
            soak.stop()
    sys.exit(0 if all(each.is_good for each in outcomes) else 1)


if __name__ == "__main__":
    main()
