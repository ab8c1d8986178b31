"""Units made by other processes and on other machines, some of which are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeAlias, TypeVar

import boto3
import psutil
import pytest

from data.errors import EmptySourceError
from data.units import Unit
from flows.exit_codes import exit_code
from tasks import places
from tasks.errors import FeatureError, SchedulerError, UnitDiedError
from tasks.runtime import RuntimeSettings
from tasks.units import make_units
from tests.tasks import dask_cluster, loopback_s3
from tests.tasks.listening import beyond_this_machine, listening
from tests.tasks.loopback_s3 import LoopbackS3
from tests.tasks.some_units import (
    INLINE,
    die,
    die_once,
    fail,
    linger,
    marked,
    of,
    said,
    unit,
)
from tests.tasks.tiny import point_to

NUM_WORKERS = 2
T = TypeVar("T")
PROCESSES = replace(INLINE, task_runner="processes", num_workers=NUM_WORKERS)


@dataclass(frozen=True)
class Machines:
    """A Prefect server, a Dask cluster and an S3 server, all of this machine."""

    dask: RuntimeSettings
    s3: LoopbackS3
    cluster: Path

    def runtime(self, name: str) -> RuntimeSettings:
        return {
            "processes": PROCESSES,
            "dask": self.dask,
            "local dask": replace(PROCESSES, task_runner="dask"),
            "local ray": replace(PROCESSES, task_runner="ray"),
        }[name]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    directory = tmp_path_factory.mktemp("cluster")
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        loopback_s3.serve() as s3,
        dask_cluster.cluster(directory, NUM_WORKERS, s3.environment()),
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings(quick),
    ):
        address = dask_cluster.address(directory, NUM_WORKERS)
        yield Machines(replace(PROCESSES, task_runner="dask", scheduler=address), s3, directory)


Told: TypeAlias = list[tuple[str, float]]


def made(runtime: RuntimeSettings, units: list[Unit], told: Told | None = None) -> list[Path]:
    """Make units within a Prefect run, as a stage does."""
    import prefect

    def count(what: str, done: float, total: int) -> None:
        if told is not None:
            told.append((what, done))

    @prefect.task(persist_result=False)
    def stage() -> list[Path]:
        return make_units(runtime, count)("write", units)

    @prefect.flow(persist_result=False)
    def run() -> list[Path]:
        return stage()

    return run()


def content(home: Path) -> dict[str, bytes]:
    """Every file of every unit."""
    root = home / "store" / "units"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")} | {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def six(marks: Path) -> list[Unit]:
    """Six units that need two others, one of which needs the other."""
    base = unit("base", marks)
    second = unit("second", marks, base)
    return [unit(text, marks, base, second) for text in "abcdef"]


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["processes", "dask", "local dask", "local ray"])
def test_every_runner_makes_the_same_bytes(
    machines: Machines, runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "ray" in runner:
        pytest.importorskip("prefect_ray")
    homes, told = {name: tmp_path / name for name in ("inline", runner)}, Told()
    for name, home in homes.items():
        point_to(monkeypatch, home)
        if name == "inline":
            make_units(INLINE)("write", six(home / "marks"))
        else:
            with listening(psutil.Process()) as addresses:
                found = made(machines.runtime(runner), six(home / "marks"), told)
    # Ray listens everywhere, and asks for a token.
    assert "ray" in runner or beyond_this_machine(addresses) == set()
    assert content(homes[runner]) == content(homes["inline"])
    assert len(content(homes[runner])) == 8 * 3
    assert [(each / "text").read_text()[0] for each in found] == list("abcdef")
    assert marked(homes[runner] / "marks") == ["a", "b", "base", "c", "d", "e", "f", "second"]
    # Between two that are done it may be told that one is on its way.
    counted = [done for done, _ in groupby(int(done) for _, done in told)]
    assert counted == [0, 1, 0, 1, 0, 1, 2, 3, 4, 5, 6]
    letters = sum(len((each / "text").read_text()) for each in found)
    assert told[-1][0].startswith(f"write, {letters} tokens")
    # The two that the six need, each being alone, were made here, but where a cluster is named.
    pids = said(homes[runner] / "marks", "pid")
    assert (os.getpid() in pids) == (runner != "dask")
    assert len(pids - {os.getpid()}) == NUM_WORKERS


@pytest.mark.slow
def test_prefect_shows_a_flow_of_the_kind_with_a_task_for_every_unit(
    machines: Machines, home: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    units = [unit(text, home / "marks") for text in ("x", "y", "z")]
    made(PROCESSES, units)
    share = str(max(1, len(os.sched_getaffinity(0)) // NUM_WORKERS))
    assert said(home / "marks", "threads") == {share}
    named = FlowRunFilter(name=FlowRunFilterName(any_=["write: 3 units"]))
    with get_client(sync_client=True) as client:
        (flow_run,) = client.read_flow_runs(flow_run_filter=named)
        deadline = time.monotonic() + 30
        names: list[str] = []
        while len(names) < 3 and time.monotonic() < deadline:
            names = [run.name for run in client.read_task_runs(flow_run_filter=named)]
            time.sleep(0.2)
    assert flow_run.state is not None
    assert flow_run.state.is_completed()
    assert sorted(names) == ["write x", "write y", "write z"]


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_a_killed_worker_costs_the_units_in_flight_and_leaves_no_task_running(
    machines: Machines, runner: str, home: Path
) -> None:
    marks = home / "marks"
    others = [of(partial(linger, text, marks), text) for text in "abcd"]
    units = [*others[:2], of(partial(die_once, "x", marks), "x"), *others[2:]]
    found = made(machines.runtime(runner), units)
    assert [(each / "text").read_text() for each in found] == list("abxcd")
    times = marked(marks)
    assert set(times) == set("abcdx")
    assert times.count("x") == 2
    assert len(times) <= 5 + NUM_WORKERS
    assert list((home / "store" / "tmp").iterdir()) == []
    assert states_of_the_last("write: 5 units") <= {"COMPLETED", "CRASHED"}


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_while_it_starts_costs_a_start(
    machines: Machines, home: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(made, machines.runtime("local dask"), six(home / "marks"))
        killed = wait_for(lambda: new_worker(before))
        assert killed is not None
        killed.kill()
        found = future.result()
    assert [(each / "text").read_text()[0] for each in found] == list("abcdef")
    assert killed.pid not in said(home / "marks", "pid")


def new_worker(before: set[psutil.Process]) -> psutil.Process | None:
    """Return a process that a pool has just started, if it has."""
    for each in set(psutil.Process().children(recursive=True)) - before:
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(each.cmdline()):
                return each
    return None


def states_of_the_last(name: str) -> set[str]:
    """Return the states of the task runs in the last flow run of a name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC)[0]
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        # What a server has been told it shows a little later.
        time.sleep(2)
        return {
            str(each.state_type.value)
            for each in client.read_task_runs(flow_run_filter=only)
            if each.state_type
        }


@pytest.mark.slow
@pytest.mark.parametrize(("runner", "num_times"), [("processes", 1), ("dask", 2)])
def test_a_unit_that_kills_every_worker_is_given_up(
    machines: Machines,
    runner: str,
    num_times: int,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.unit_flow.NUM_RETRIES", 0)
    marks = home / "marks"
    units = [of(partial(die, "x", marks), "x"), unit("a", marks)]
    with pytest.raises(UnitDiedError) as caught:
        made(machines.runtime(runner), units)
    assert vars(caught.value) == {"what": "write", "num_times": num_times}
    assert marked(marks).count("x") == num_times


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_an_error_of_a_unit_reaches_the_user_unchanged_and_stops_what_waits(
    machines: Machines, runner: str, home: Path
) -> None:
    marks = home / "marks"
    error = EmptySourceError(path=Path("x"), include=("*.py",), exclude=())
    waiting = [of(partial(linger, str(number), marks), str(number)) for number in range(12)]
    with pytest.raises(EmptySourceError) as caught:
        made(machines.runtime(runner), [of(partial(fail, error), "x"), *waiting])
    assert vars(caught.value) == vars(error)
    assert (str(caught.value), caught.value.hint) == (str(error), error.hint)
    assert exit_code(caught.value) == 3
    assert len(marked(marks)) < 12


RUN = """
import os, sys
from functools import partial
from pathlib import Path

def main():
    from tests.tasks.some_units import linger, of
    from tests.tasks.test_unit_runners import PROCESSES, made
    marks = Path(sys.argv[1])
    made(PROCESSES, [of(partial(linger, text, marks), text) for text in "abcdefgh"])

if __name__ == "__main__":
    main()
"""


def wait_for(condition: Callable[[], T], seconds: float = 40) -> T:
    """Return what a condition gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_and_the_next_one_makes_what_is_missing(
    machines: Machines, home: Path, tmp_path: Path
) -> None:
    from prefect.settings import PREFECT_API_URL

    script, marks = tmp_path / "run.py", home / "marks"
    script.write_text(RUN)
    environment = {
        **os.environ,
        "PYTHONPATH": str(places.PROJECT),
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
    }
    with subprocess.Popen(
        [sys.executable, str(script), str(marks)],
        env=environment,
        cwd=places.PROJECT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        # Two are done, and two are being made.
        wait_for(lambda: len(marked(marks)) >= 4)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(is_running, said(marks, "pid"))), seconds=5)
    begun = len(marked(marks))
    finished = len(list((home / "store" / "units").glob("*/*/unit.json")))
    assert begun - finished <= NUM_WORKERS
    units = [of(partial(linger, text, marks), text) for text in "abcdefgh"]
    found = make_units(INLINE)("write", units)
    assert [(each / "text").read_text() for each in found] == list("abcdefgh")
    assert len(marked(marks)) - 8 == begun - finished
    assert list((home / "store" / "tmp").iterdir()) == []


@pytest.mark.slow
def test_machines_that_share_nothing_but_a_bucket_make_one_result(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback_s3.point_to(monkeypatch, machines.s3)
    boto3.client("s3").create_bucket(Bucket="units")
    for home, store in (("inline", tmp_path / "inline" / "store"), ("s3", "s3://units/team")):
        monkeypatch.setenv("ASSAY_HOME", str(tmp_path / home))
        monkeypatch.setenv("ASSAY_STORE", str(store))
        marks = tmp_path / home / "marks"
        if home == "inline":
            make_units(INLINE)("write", six(marks))
        else:
            made(machines.dask, six(marks))
    # The machine that asks has what it asked for, and not what only that needs.
    six_of_them = content(tmp_path / "s3")
    assert six_of_them.items() < content(tmp_path / "inline").items()
    assert len(six_of_them) == 6 * 3
    listed = boto3.client("s3").list_objects_v2(Bucket="units")["Contents"]
    assert {each["Key"].removeprefix("team/units/") for each in listed} == set(
        content(tmp_path / "inline")
    )
    for number in range(NUM_WORKERS):
        # What each machine needed it fetched, and what it made it has.
        kept = content(machines.cluster / f"machine-{number}")
        assert len([name for name in kept if name.endswith("unit.json")]) >= 3


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.unit_runners import RUNNERS

    monkeypatch.setattr("tasks.unit_runners.CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        runtime = replace(PROCESSES, task_runner="dask", scheduler=address)
        with pytest.raises(SchedulerError) as caught, RUNNERS["dask"](runtime, "write", 2):
            pass
        assert caught.value.address == address
        assert exit_code(caught.value) == 10


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_runner_that_is_not_installed_names_its_package(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.unit_runners import RUNNERS

    monkeypatch.setitem(sys.modules, f"prefect_{name}", None)
    with pytest.raises(FeatureError) as caught, RUNNERS[name](PROCESSES, "write", 2):
        pass
    assert vars(caught.value) == {
        "setting": "runtime.task_runner",
        "found": name,
        "package": f"prefect-{name}",
    }
    assert exit_code(caught.value) == 9
    assert caught.value.hint == f"pip install prefect-{name}"


def test_without_a_prefect_run_units_are_made_here(home: Path) -> None:
    make_units(PROCESSES)("write", [unit(text, home / "marks") for text in "ab"])
    assert said(home / "marks", "pid") == {os.getpid()}
