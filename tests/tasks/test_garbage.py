"""Collecting garbage: what a record leads to stays, whatever the graph; the rest goes whole."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evidence.canonical import pretty
from evidence.errors import MalformedJsonError
from evidence.records import Recipe
from evidence.refs import CheckpointRef, EvaluationRef, Ref, ShardsRef, TokensRef, TrainingRef
from tasks import places
from tasks.garbage import Found, find_garbage, rules
from tasks.garbage_removal import Weight, remove, weigh
from tasks.references import read_mentions
from tasks.remote import Remote
from tasks.store import Store
from tasks.unit_cache import UnitCache
from tests.tasks import loopback_s3

KINDS: tuple[type[Ref], ...] = (TokensRef, ShardsRef, TrainingRef, EvaluationRef, CheckpointRef)
LONG_AGO = 10 * 86_400.0
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    directory = tmp_path / "evidence"
    directory.mkdir()
    return directory


def put(
    store: Store, kind: type[Ref], content: Mapping[str, Any], inputs: Mapping[str, str], run: str
) -> Ref:
    """Make an artefact as a stage does; without a run, as one that is cut off before the end."""
    with store.building("some") as directory:
        (directory / "data.bin").write_bytes(b"x" * 1000)
        ref = store.commit(directory, kind, content)
    if run:
        recipe = Recipe(stage=kind.kind, version=1, settings={"content": content}, inputs=inputs)
        store.remember(recipe, ref, run)
    return ref


def record(records: Path, run: str, text: str = "", name: str = "shard.metadata.json") -> None:
    directory = records / run
    directory.mkdir(exist_ok=True)
    (directory / "plan.json").write_text("{}")
    (directory / name).write_text(text)


def age(directory: Path, seconds: float = LONG_AGO) -> None:
    """Let everything have been used and written long ago."""
    then = time.time() - seconds
    for path in directory.rglob("*"):
        os.utime(path, (then, then))


def collect(store: Store, records: Path, **options: Any) -> tuple[Found, Weight]:
    rule = rules(options.pop("grace_seconds", DAY), **options)
    found = find_garbage(store, read_mentions([records], store.remote), rule)
    return found, remove(store, found.garbage, rule.cutoff)


def exists(store: Store, ref: Ref) -> bool:
    return store.directory(ref).is_dir()


@dataclass(frozen=True)
class Graph:
    """Artefacts in the order of their making: what each was made of, by whom, how old it is."""

    inputs: list[list[int]]
    "Of each, numbers of earlier ones."
    in_index: list[bool]
    "Whether the index names them, or the recipe."
    runs: list[int]
    "Who made it: 0 nobody that said so, 1 and 2 runs with records, 3 one without."
    is_old: list[bool]
    named: list[tuple[int, int, int]]
    "Run, artefact, and how many digits of it the run's record names."


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 9))
    each = range(size)
    booleans = st.lists(st.booleans(), min_size=size, max_size=size)
    return Graph(
        inputs=[draw(st.lists(st.integers(0, n - 1), max_size=2)) if n else [] for n in each],
        in_index=draw(booleans),
        runs=draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)),
        is_old=draw(booleans),
        named=draw(
            st.lists(
                st.tuples(
                    st.integers(1, 2), st.integers(0, size - 1), st.sampled_from([4, 12, 63, 64])
                ),
                max_size=3,
            )
        ),
    )


def build(graph: Graph, store: Store, records: Path) -> list[Ref]:
    refs: list[Ref] = []
    for n, inputs in enumerate(graph.inputs):
        named = {f"input_{number}": str(refs[number]) for number in inputs}
        content = {"n": n, **(named if graph.in_index[n] else {})}
        run = f"run-{graph.runs[n]}" if graph.runs[n] else ""
        refs.append(put(store, KINDS[n % 5], content, {} if graph.in_index[n] else named, run))
    for run_number in (1, 2):
        said = [
            f"{refs[n].kind}:{refs[n].digest[:long]}"
            for by, n, long in graph.named
            if by == run_number
        ]
        record(records, f"run-{run_number}", " ".join(said))
    age(store.root)
    for n, ref in enumerate(refs):
        if not graph.is_old[n]:
            os.utime(store.directory(ref))
    return refs


def must_stay(graph: Graph) -> set[int]:
    """Say the same by other means: what is named, and all that it was made of."""
    staying = {n for _, n, _ in graph.named}
    for n in reversed(range(len(graph.inputs))):
        # Without a recipe only the index says of what something was made.
        if n in staying and (graph.in_index[n] or graph.runs[n]):
            staying |= set(graph.inputs[n])
    return staying


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_what_a_record_leads_to_stays_in_any_graph_and_the_rest_goes(graph: Graph) -> None:
    with tempfile.TemporaryDirectory() as home:
        store, records = Store(Path(home) / "store"), Path(home) / "evidence"
        records.mkdir()
        refs = build(graph, store, records)
        found, _ = collect(store, records)
        staying = must_stay(graph)
        for n, ref in enumerate(refs):
            # A beginning of four digits may by chance be that of another, which then stays too.
            goes = graph.is_old[n] and graph.runs[n] != 3 and n not in staying
            meant = any(ref.kind == refs[m].kind and ref.digest[:4] == refs[m].digest[:4]
                        for _, m, _ in graph.named)  # fmt: skip
            assert exists(store, ref) == (not goes) or meant
        assert found.num_reachable >= len(staying)
        for n in staying:
            store.open(refs[n])
        assert [path.name for path in (store.root / "tmp").iterdir()] == []
        assert collect(store, records)[0].garbage == []


def test_a_dry_run_changes_nothing_and_says_what_a_run_then_frees(
    store: Store, records: Path
) -> None:
    ref = put(store, TokensRef, {}, {}, "")
    age(store.root)
    before = sorted(store.root.rglob("*"))
    rule = rules(DAY)
    found = find_garbage(store, read_mentions([records], None), rule)
    foretold = weigh(store, found.garbage)
    assert sorted(store.root.rglob("*")) == before
    assert foretold.num_bytes_here > 1000
    assert remove(store, found.garbage, rule.cutoff) == foretold
    assert not exists(store, ref)


def test_what_a_run_made_whose_records_are_elsewhere_stays_until_it_is_forgotten(
    store: Store, records: Path
) -> None:
    ref = put(store, TokensRef, {}, {}, "theirs-1")
    age(store.root)
    found, _ = collect(store, records)
    assert exists(store, ref)
    assert found.unknown_runs == {"theirs-1": 1}
    collect(store, records, forgotten=frozenset({"theirs-1"}))
    assert not exists(store, ref)
    assert list((store.root / "recipes").glob("*/*.json")) == []


def test_what_was_just_used_stays(store: Store, records: Path) -> None:
    opened, reused, again, idle = (put(store, TokensRef, {"n": n}, {}, "mine") for n in range(4))
    record(records, "mine")
    age(store.root)
    store.open(opened)
    recipe = Recipe(stage="tokens", version=1, settings={"content": {"n": 1}}, inputs={})
    assert store.find(recipe) is not None
    assert put(store, TokensRef, {"n": 2}, {}, "mine") == again
    collect(store, records)
    assert [exists(store, ref) for ref in (opened, reused, again, idle)] == [
        True,
        True,
        True,
        False,
    ]


def test_what_is_used_between_search_and_removal_stays_with_its_recipe(
    store: Store, records: Path
) -> None:
    ref = put(store, TokensRef, {}, {}, "mine")
    record(records, "mine")
    age(store.root)
    rule = rules(DAY)
    found = find_garbage(store, read_mentions([records], None), rule)
    store.open(ref)
    assert remove(store, found.garbage, rule.cutoff).num_here == 0
    store.open(ref)
    assert len(list((store.root / "recipes").glob("*/*.json"))) == 1


def test_a_request_of_a_run_that_has_only_begun_keeps_what_it_names(
    store: Store, records: Path
) -> None:
    ref = put(store, ShardsRef, {}, {}, "mine")
    record(records, "mine")
    (records / "now").mkdir()
    (records / "now" / "plan.json").write_text(f'{{"request": {{"shards": "{ref}"}}}}')
    age(store.root)
    collect(store, records)
    assert exists(store, ref)


def test_an_imported_checkpoint_belongs_to_no_run_and_stays(store: Store, records: Path) -> None:
    ref = put(store, CheckpointRef, {"imported": {"format": "gguf"}}, {}, "")
    age(store.root)
    found, _ = collect(store, records)
    assert found.num_imported == 1
    assert exists(store, ref)


def test_a_name_outside_of_what_goes_keeps_the_bytes_and_nothing_is_said_to_be_freed(
    store: Store, records: Path
) -> None:
    kept, gone = (put(store, TokensRef, {"n": n}, {}, "mine") for n in range(2))
    record(records, "mine", str(kept))
    shared = store.directory(gone) / "data.bin"
    shared.unlink()
    os.link(store.directory(kept) / "data.bin", shared)
    (store.root / "tokens" / "link").symlink_to(store.directory(kept))
    age(store.root)
    _, weight = collect(store, records)
    assert weight.num_bytes_here < 1000
    store.open(kept)


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(store: Store, records: Path) -> None:
    temporary = store.root / "tmp"
    for name in ("build-unit-ab", "damaged-ab", "train-abcd", "gc-ab/0"):
        (temporary / name).mkdir(parents=True)
        (temporary / name / "file").write_text(name)
    for name in ("fetch-ab.lock", "train-abcd.lock", "train-ef.lock"):
        (temporary / name).touch()
    unit, half = "units/ab/" + "ab" * 32, "tokens/cd/" + "cd" * 32
    for name in (unit, half):
        (store.root / name).mkdir(parents=True)
    with store.resuming("train-held") as held, store.building("unit") as building:
        age(store.root)
        collect(store, records)
        assert held.is_dir()
        assert building.is_dir()
    left = sorted(path.name for path in temporary.iterdir())
    assert left == [
        "train-abcd",
        "train-abcd.lock",
        "train-ef.lock",
        "train-held",
        "train-held.lock",
    ]
    assert not (store.root / unit).exists()
    assert not (store.root / half).exists()
    age(store.root)
    collect(store, records, trainings=True)
    assert [path.name for path in temporary.iterdir() if path.is_dir()] == []


def test_units_are_a_cache_that_goes_only_when_asked_for(store: Store, records: Path) -> None:
    cache = UnitCache(store)
    key = "ab" * 32
    directory = cache.directory(key)
    directory.mkdir(parents=True)
    (directory / "unit.json").write_bytes(pretty({"recipe": {}, "inputs": [], "files": []}))
    age(store.root)
    collect(store, records)
    assert directory.is_dir()
    collect(store, records, units=True)
    assert not directory.exists()


def test_a_recipe_that_cannot_be_read_stops_it_before_anything_goes(
    store: Store, records: Path
) -> None:
    ref = put(store, TokensRef, {}, {}, "")
    broken = store.root / "recipes" / "ab" / "broken.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    age(store.root)
    with pytest.raises(MalformedJsonError, match="cannot be read"):
        collect(store, records)
    assert exists(store, ref)


KILLED = """
import sys, shutil, os, signal, pathlib, time
from tasks import garbage_removal
from tasks.garbage import find_garbage, rules
from tasks.references import Mentions
from tasks.store import Store
left = int(sys.argv[2])
def counting(call):
    def counted(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*arguments, **options)
    return counted
pathlib.Path.rename = counting(pathlib.Path.rename)
os.unlink = counting(os.unlink)
os.rmdir = counting(os.rmdir)
shutil.rmtree = counting(shutil.rmtree)
store, rule = Store(pathlib.Path(sys.argv[1])), rules(86400.0)
found = find_garbage(store, Mentions(runs={"mine"}), rule)
garbage_removal.remove(store, found.garbage, rule.cutoff)
"""


@pytest.mark.parametrize("operations", [1, 3, 4, 6])
def test_kill_9_in_the_middle_leaves_nothing_half_removed(
    store: Store, records: Path, operations: int
) -> None:
    refs = [put(store, TokensRef, {"n": n}, {}, "mine") for n in range(2)]
    record(records, "mine")
    age(store.root)
    command = [sys.executable, "-c", KILLED, str(store.root), str(operations)]
    done = subprocess.run(command, cwd=places.PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL
    for ref in refs:
        if exists(store, ref):
            store.open(ref)
    age(store.root)
    collect(store, records)
    assert not any(exists(store, ref) for ref in refs)
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "recipes").glob("*/*.json")) == []


@pytest.fixture(scope="module")
def server() -> Iterator[loopback_s3.LoopbackS3]:
    with loopback_s3.serve() as s3:
        yield s3


@pytest.fixture
def far(
    server: loopback_s3.LoopbackS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Store]:
    """A store in a bucket, with this machine's cache of it."""
    loopback_s3.point_to(monkeypatch, server)
    bucket = boto3.resource("s3").Bucket("garbage")
    bucket.create()
    yield Store(tmp_path / "cache", Remote("s3://garbage/team"))
    bucket.objects.all().delete()


def objects() -> list[str]:
    bucket = boto3.resource("s3").Bucket("garbage")
    return sorted(each.key.removeprefix("team/") for each in bucket.objects.all())


def test_a_store_in_a_bucket_loses_the_same_and_keeps_what_other_machines_run(
    far: Store, records: Path
) -> None:
    mine, theirs, gone = (put(far, TokensRef, {"n": n}, {}, "mine") for n in range(3))
    record(records, "mine", str(mine))
    assert far.remote is not None
    far.remote.write("runs/theirs/plan.json", b"{}")
    far.remote.write("runs/theirs/shard.metadata.json", str(theirs).encode())
    # Another machine has no copies of its own.
    shutil.rmtree(far.root)
    far.root.mkdir()
    found, weight = collect(far, records, grace_seconds=-60.0)
    assert {each.what for each in found.garbage} == {"artefact", "recipe"}
    assert (weight.num_there, weight.num_here) == (2, 0)
    assert weight.num_bytes_there > 1000
    assert not any(gone.digest in name for name in objects())
    far.open(mine)
    far.open(theirs)


def test_a_removal_that_the_bucket_refuses_half_way_leaves_no_artefact_that_seems_whole(
    far: Store, records: Path, server: loopback_s3.LoopbackS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = put(far, TokensRef, {}, {}, "mine")
    record(records, "mine")
    shutil.rmtree(far.root)
    far.root.mkdir()
    asked: list[list[str]] = []
    whole = Remote.remove_all

    def once(self: Remote, names: list[str]) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(list(names))
        whole(self, names)

    monkeypatch.setattr(Remote, "remove_all", once)
    with pytest.raises(KeyboardInterrupt):
        collect(far, records, grace_seconds=-60.0)
    monkeypatch.undo()
    loopback_s3.point_to(monkeypatch, server)
    assert [name.rpartition("/")[2] for name in objects() if "tokens" in name] == ["data.bin"]
    found, _ = collect(far, records, grace_seconds=-60.0)
    assert [each.what for each in found.garbage] == ["recipe", "leftover"]
    assert objects() == []
    assert not exists(far, ref)
