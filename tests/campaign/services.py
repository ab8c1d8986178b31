"""MLflow and Prefect killed, slow or failing under `assay run`, and helpers of a stage killed."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.up import server_command
from tasks import places
from tests.campaign.acknowledged import Acknowledged, acknowledged, lost_bytes
from tests.campaign.aftermath import Finding, age, leftovers
from tests.campaign.bench import Bench
from tests.campaign.fault import Helper, Service
from tests.campaign.proxy import Proxy, in_front_of
from tests.campaign.result import result
from tests.tasks.tiny import OVERRIDES

PATIENCE_SECONDS = 900.0
START_SECONDS = 120.0
SMALL_UNITS = ("source.unit_bytes=4000",)


@dataclass(slots=True)
class Command:
    """An `assay` command under way."""

    process: "subprocess.Popen[bytes]"
    log: Path
    children: dict[int, psutil.Process]

    def wait(self, meanwhile: Callable[[], object] = lambda: None) -> tuple[int, str]:
        """Wait for the end; return exit code and output."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for each in psutil.Process(self.process.pid).children(recursive=True):
                    self.children.setdefault(each.pid, each)
            meanwhile()
            if time.monotonic() > end:
                self.process.kill()
            time.sleep(0.1)
        return self.process.wait(), self.log.read_text()

    def orphans(self) -> list[str]:
        """Name what it has started and what outlives it."""
        _, alive = psutil.wait_procs(list(self.children.values()), timeout=15)
        names = [" ".join(each.cmdline()[:4]) for each in alive if each.is_running()]
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return names


def start(
    bench: Bench, home: Path, words: Sequence[str], environment: Mapping[str, str], log: Path
) -> Command:
    """Start an `assay` command in a home."""
    inherited = {key: value for key, value in os.environ.items() if key not in PLACES}
    own = {"ASSAY_HOME": str(home), "ASSAY_EVIDENCE": str(home / "evidence"), **QUICK}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", *words],
            cwd=places.PROJECT,
            env={**inherited, **own, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    return Command(process, log, {})


PLACES = ("ASSAY_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")
QUICK = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def settings(bench: Bench, *more: str) -> list[str]:
    """Write the settings of the undisturbed run as words of a command."""
    changes = (*OVERRIDES, f'source.path="{bench.whole / "corpus"}"', *more)
    return ["--preset", "smoke", "--name", "campaign", *(w for c in changes for w in ("--set", c))]


@dataclass(slots=True)
class Servers:
    """Servers that all faults share, each behind a proxy."""

    ports: dict[str, int]

    def environment(self, name: str, proxy: Proxy) -> dict[str, str]:
        """Point one of them to its proxy, and the other past it."""
        at = {**self.ports, name: proxy.port}
        return {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{at['MLflow']}",
            "PREFECT_API_URL": f"http://127.0.0.1:{at['Prefect']}/api",
        }


@contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    """Run an MLflow server and a Prefect server."""
    directory.mkdir(parents=True)
    ports = {"MLflow": free_port(), "Prefect": free_port()}
    environment = {
        **os.environ,
        "PREFECT_HOME": str(directory / "prefect"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    database = f"sqlite:///{directory / 'mlflow.db'}"
    mlflow = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
    mlflow += ["--artifacts-destination", str(directory / "artifacts"), "--workers", "1"]
    commands = {
        "MLflow": [*mlflow, "--host", "127.0.0.1", "--port", str(ports["MLflow"])],
        "Prefect": server_command(ports["Prefect"]),
    }
    running = []
    try:
        for name, command in commands.items():
            with (directory / f"{name}.log").open("w") as log:
                running.append(
                    subprocess.Popen(
                        command, cwd=places.PROJECT, env=environment, stdout=log, stderr=log,
                        start_new_session=True,
                    )
                )  # fmt: skip
        _wait(f"http://127.0.0.1:{ports['MLflow']}/health")
        _wait(f"http://127.0.0.1:{ports['Prefect']}/api/health")
        yield Servers(ports)
    finally:
        for each in running:
            os.killpg(each.pid, 9)
            each.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
            if reply.status == 200:
                return
        time.sleep(0.3)
    raise TimeoutError(url)


def service(bench: Bench, fault: Service, shared: Servers) -> Finding:
    """Run the pipeline while a server misbehaves; what MLflow missed is sent afterwards."""
    home = bench.home("train")
    (home / "log").mkdir()
    with in_front_of(shared.ports[fault.name]) as proxy:
        environment = shared.environment(fault.name, proxy)
        if fault.how == "never there":
            proxy.set("killed")
        words = ["run", *settings(bench)]
        first = start(bench, home, words, environment, home / "log" / "first")
        code, said = first.wait(_Disturbance(home, proxy, fault))
        complaints = [f"still runs: {name}" for name in first.orphans()]
        complaints += ended_badly(code, said, (0, *fault.codes))
        before = acknowledged(home)
        proxy.set("serve")
        if code:
            age(home)
            again = start(bench, home, words, environment, home / "log" / "again")
            final, said = again.wait()
            complaints += [f"the same command ends with {final}: {said[-300:]}"] if final else []
            complaints += [f"still runs: {name}" for name in again.orphans()]
        elif fault.name == "MLflow":
            late = start(bench, home, ["mirror"], environment, home / "log" / "mirror")
            final, said = late.wait()
            complaints += [f"assay mirror ends with {final}: {said[-300:]}"] if final else []
    return concluded(bench, home, before, complaints, code, bench.expected("bisect"))


def concluded(
    bench: Bench,
    home: Path,
    before: Acknowledged,
    complaints: list[str],
    code: int,
    expected: Mapping[str, Any],
) -> Finding:
    """Hold what is there to the undisturbed run."""
    if result(home) != expected:
        complaints.append("the result is another")
    checks, failures = bench.verify(home)
    complaints += [f"verify: {failure}" for failure in failures] + leftovers(home)
    return Finding(
        happened=True,
        went_on=code == 0,
        code=code,
        lost_bytes=lost_bytes(before, home, bench.training(home)),
        complaints=tuple(complaints),
        num_checks=checks,
    )


def ended_badly(code: int, said: str, codes: Sequence[int]) -> list[str]:
    """Say what is wrong with an end."""
    complaints = []
    if code not in codes:
        complaints.append(f"ended with {code}, not {sorted(codes)}: {said.strip()[-300:]}")
    if code and "Traceback" in said:
        complaints.append(f"a traceback: {said.strip()[-300:]}")
    return complaints


class _Disturbance:
    """Disturbs a server once the training has made a step."""

    def __init__(self, home: Path, proxy: Proxy, fault: Service) -> None:
        self.home, self.proxy, self.fault, self.done = home, proxy, fault, False

    def __call__(self) -> None:
        if self.done or self.fault.how == "never there":
            return
        logs = list((self.home / "store" / "tmp").glob("train-*/train.jsonl"))
        if logs and logs[0].stat().st_size:
            self.done = True
            self.proxy.set(self.fault.how)


def helper(bench: Bench, fault: Helper, shared: Servers) -> Finding:
    """Kill a process that makes units, as soon as there is one or once a unit is made."""
    straight, home = bench.home("pretokenize"), bench.home("pretokenize")
    assert bench.run(straight, until="pretokenize", changes=SMALL_UNITS).code == 0
    (home / "log").mkdir()
    with in_front_of(shared.ports["Prefect"]) as proxy:
        environment = shared.environment("Prefect", proxy)
        runner = (f'runtime.task_runner="{fault.runner}"', "runtime.num_workers=2")
        words = ["pretokenize", *settings(bench, *SMALL_UNITS, *runner)]
        first = start(bench, home, words, environment, home / "log" / "first")
        killer = _Killer(home, first, fault)
        code, said = first.wait(killer)
        complaints = [f"still runs: {name}" for name in first.orphans()]
        complaints += ended_badly(code, said, (0, *fault.codes))
        complaints += [] if killer.done else ["no helper was there to be killed"]
        before = acknowledged(home)
        if code:
            age(home)
            again = start(bench, home, words, environment, home / "log" / "again")
            final, said = again.wait()
            complaints += [f"the same command ends with {final}: {said[-300:]}"] if final else []
    return concluded(bench, home, before, complaints, code, result(straight))


class _Killer:
    """Kills one process of a pool."""

    def __init__(self, home: Path, command: Command, fault: Helper) -> None:
        self.home, self.command, self.fault, self.done = home, command, fault, False

    def __call__(self) -> None:
        if self.done or (self.fault.when == "working" and not self._units()):
            return
        for each in list(self.command.children.values()):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                words = " ".join(each.cmdline())
                if "spawn_main" in words and "resource_tracker" not in words:
                    each.kill()
                    self.done = True
                    return

    def _units(self) -> bool:
        return any((self.home / "store" / "units").glob("*/*/unit.json"))
