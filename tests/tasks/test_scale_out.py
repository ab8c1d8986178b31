"""The first two stages as on a cluster: The Stack v2 in small, and whatever can go wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flows.settings import PipelineSettings
from tasks import places
from tasks.store import Artefact, Store
from tests.data.stack_server import StackServer
from tests.tasks import dask_cluster
from tests.tasks.scale_run import (
    Refs,
    copy_units,
    in_prefect,
    inline,
    kinds_of,
    made_at,
    units_of,
)
from tests.tasks.some_units import INLINE
from tests.tasks.stack_corpus import OPTED_OUT, put_stack, stack_settings
from tests.tasks.test_opting_out import opting_out
from tests.tasks.test_unit_runners import is_running
from tests.tasks.tiny import point_to

pytestmark = pytest.mark.slow
NUM_WORKERS = 2
PROCESSES = replace(INLINE, task_runner="processes", num_workers=NUM_WORKERS)
OF_THE_TOKENIZER = ("draw sample", "name sample", "train vocabulary")
STORE = "s3://store/team"


@dataclass(frozen=True)
class Stack:
    """A served corpus, and what an uninterrupted process makes of it."""

    server: StackServer
    index: Path
    num_listed: int
    home: Path
    refs: Refs

    @property
    def settings(self) -> PipelineSettings:
        return stack_settings(self.index)

    @property
    def tokens(self) -> Artefact:
        return Store(self.home / "store").open(self.refs.tokens)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with StackServer() as server, pytest.MonkeyPatch.context() as patch:
        server.point_to(patch)
        num_listed = put_stack(directory / "index", server)
        point_to(patch, directory / "home")
        refs = inline(stack_settings(directory / "index"))
        yield Stack(server, directory / "index", num_listed, directory / "home", refs)


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with prefect_test_harness(server_startup_timeout=180), temporary_settings(quick):
        yield


@pytest.fixture
def cluster(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """A Dask cluster whose workers have nothing in common but a bucket."""
    with dask_cluster.cluster(tmp_path, NUM_WORKERS, {}):
        yield dask_cluster.address(tmp_path, NUM_WORKERS)


def test_every_candidate_is_a_document_or_has_its_reason(stack: Stack) -> None:
    index = stack.tokens.index["content"]
    assert index["num_documents"] + index["num_rejected"] == stack.num_listed == 2079
    assert index["rejected_by_filter"] == {
        "binary": 21,
        "duplicate": 21,
        "licence": 42,
        "near_duplicate": 21,
        "no_content": 4,
        "secret": 21,
        "undecodable": 21,
        "vendored": 21,
    }
    assert kinds_of(stack.home) == {
        "draw sample": 1,
        "name sample": 1,
        "train vocabulary": 1,
        "engine": 1,
        "fetch": 20,
        "take in": 20,
        "settle": 1,
        "compact": 20,
        "plan": 1,
        "cut": 12,
    }


def test_processes_make_what_one_process_makes(
    stack: Stack, prefect_server: None, home: Path
) -> None:
    copy_units(stack.home, home, ["fetch", *OF_THE_TOKENIZER])
    assert in_prefect(stack.settings, PROCESSES) == stack.refs
    assert units_of(home) == units_of(stack.home)


def test_machines_of_which_some_are_killed_make_it_in_a_bucket_and_others_make_nothing_again(
    stack: Stack,
    prefect_server: None,
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = stack.server
    server.put("index", {f"stack/{p.name}": p.read_bytes() for p in stack.index.glob("*.parquet")})
    settings = stack_settings("s3://index/stack", ["source.anonymous=true"])
    at_bucket(monkeypatch, server, tmp_path / "one")
    dask = replace(PROCESSES, task_runner="dask", scheduler=cluster)
    with workers_killed(cluster, server, num_blobs=1000) as killed:
        assert in_prefect(settings, dask) == stack.refs
    assert len(killed) == 2
    assert not any(map(is_running, killed))
    assert len(keys_in_bucket()) == sum(kinds_of(stack.home).values()) + 2
    # Those of another machine come from the bucket, and so does what it can build on.
    at_bucket(monkeypatch, server, tmp_path / "two")
    server.reset()
    assert inline(settings) == stack.refs
    before = keys_in_bucket()
    inline(opting_out(settings, tmp_path, OPTED_OUT))
    assert [path for path in server.requests if path.startswith("/archive/")] == []
    assert kinds_of(tmp_path / "two")["take in"] == 20
    assert len(keys_in_bucket() - before) < 2 + 20 + 12


def at_bucket(patch: pytest.MonkeyPatch, server: StackServer, home: Path) -> None:
    """Be a machine with nothing of its own, whose store is a bucket."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    server.put("store", {})
    point_to(patch, home)
    patch.setenv("ASSAY_STORE", STORE)


def keys_in_bucket() -> set[str]:
    import boto3

    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="store")
    names = [each["Key"] for page in pages for each in page["Contents"]]
    return {name.split("/")[-2] for name in names if name.endswith("/unit.json")}


@contextmanager
def workers_killed(address: str, server: StackServer, num_blobs: int) -> Iterator[list[int]]:
    """Kill a worker when so many blobs were fetched, and another when some units were taken in."""
    killed = list[int]()
    seen, lock = Counter[str](), threading.Lock()

    def fault(key: str, _number: int) -> None:
        with lock:
            seen["blobs"] += key.startswith("/archive/")
            seen["sent"] += key.startswith("/store/") and key.endswith("/tokens.bin")
            due = (seen["blobs"] >= num_blobs) + (seen["sent"] >= 8)
            if len(killed) < due:
                killed.append(kill_one(address, killed))

    server.fault = fault
    try:
        yield killed
    finally:
        server.fault = lambda key, number: None


def kill_one(address: str, but: list[int]) -> int:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        pids = [pid for pid in client.run(os.getpid).values() if pid not in but]
    os.kill(pids[0], signal.SIGKILL)
    return int(pids[0])


def test_a_killed_process_is_gone_on_with(stack: Stack, home: Path) -> None:
    copy_units(stack.home, home, ["fetch", *OF_THE_TOKENIZER, "engine"])
    command = [sys.executable, "-m", "tests.tasks.scale_run", str(stack.index)]
    with subprocess.Popen(command, cwd=places.PROJECT) as process:
        wait_for(lambda: kinds_of(home)["take in"] >= 5)
        process.send_signal(signal.SIGKILL)
    finished = made_at(home)
    assert 22 + 5 <= len(finished) < 22 + 20
    stack.server.reset()
    assert inline(stack.settings) == stack.refs
    assert finished.items() <= made_at(home).items()
    assert units_of(home) == units_of(stack.home)
    assert list((home / "store" / "tmp").iterdir()) == []
    assert stack.server.requests == {}


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
