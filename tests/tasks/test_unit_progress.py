"""How far units are, by what lies in the store."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from data.pretokenize import pretokenize
from data.shard import shard
from data.token_files import TOKENS, tokens_written
from data.units import Given, Unit
from tasks.pretokenize import open_corpus
from tasks.store import Store
from tasks.unit_cache import Keys, UnitCache, UnitJob
from tasks.unit_progress import UnitProgress
from tasks.units import make_units
from tests.tasks.some_units import INLINE
from tests.tasks.tiny import tiny_settings, write_corpus

COUNT = partial(tokens_written, dtype="uint16")


def write_tokens(num_tokens: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / TOKENS).write_bytes(b"id" * num_tokens)


def job_of(name: str) -> UnitJob:
    make = partial(write_tokens, 0)
    return Keys().job(Unit(recipe={"name": name}, label=name, make=make, count_tokens=COUNT))


@dataclass
class Watching:
    """Three units to be made, a clock, and what was told."""

    root: Path
    now: float = 0.0
    told: list[tuple[str, float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = [job_of(name) for name in "abc"]
        cache, waiting = UnitCache(Store(self.root)), {job.key[:16]: job for job in self.jobs}
        tell, clock = (lambda *each: self.told.append(each)), (lambda: self.now)
        self.progress = UnitProgress("take in", tell, cache, waiting, clock)

    def build(self, number: int, num_tokens: int, maker: str = "x") -> Path:
        name = f"build-unit-{self.jobs[number].key[:16]}-{maker}"
        write_tokens(num_tokens, self.root / "tmp" / name)
        return self.root / "tmp" / name

    def commit(self, number: int) -> None:
        key = self.jobs[number].key
        place = self.root / "units" / key[:2] / key
        place.parent.mkdir(parents=True, exist_ok=True)
        self.build(number, 4000).rename(place)

    def look(self) -> tuple[str, float, int]:
        self.progress.look()
        return self.told[-1]


@pytest.fixture
def watching(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def test_what_is_being_made_is_told_with_its_tokens_and_their_pace(watching: Watching) -> None:
    assert watching.told == [("take in", 0, 3)]
    watching.now = 90.0
    assert watching.look() == ("take in", 0, 3)
    watching.now = 100.0
    watching.build(0, 1000)
    assert watching.look() == ("take in, 1,000 tokens", 0, 3)
    watching.now = 110.0
    watching.build(0, 2000)
    watching.build(1, 500)
    # Made by somebody else too, of another stage, and no directory.
    watching.build(1, 300, "y")
    write_tokens(9, watching.root / "tmp" / "build-unit-0123456789abcdef-x")
    (watching.root / "tmp" / "build-unit-0123.lock").touch()
    assert watching.look() == ("take in, 2,500 tokens, 150 a second", 0, 3)


def test_a_unit_under_way_is_a_part_of_those_that_are_done(watching: Watching) -> None:
    watching.build(1, 1000)
    watching.look()
    watching.now = 10.0
    watching.progress.count(watching.jobs[0].key, 4000)
    assert watching.told[-1] == ("take in, 5,000 tokens, 400 a second", 1.25, 3)
    # Larger than usual, and not done.
    watching.build(1, 6000)
    assert watching.look() == ("take in, 10,000 tokens, 900 a second", 1.99, 3)


def test_once_all_are_done_there_is_nothing_to_look_at(watching: Watching) -> None:
    for job in watching.jobs:
        watching.now += 10.0
        watching.progress.count(job.key, 4000)
    watching.now += 10.0
    assert watching.look() == ("take in, 12,000 tokens, 400 a second", 3, 3)


def test_a_unit_that_is_made_and_not_heard_of_is_not_lost(watching: Watching) -> None:
    watching.build(0, 3000)
    watching.look()
    watching.now = 1.0
    watching.commit(0)
    assert watching.look() == ("take in, 4,000 tokens, 1,000 a second", 0, 3)
    watching.progress.count(watching.jobs[0].key, 4000)
    assert watching.look() == ("take in, 4,000 tokens, 1,000 a second", 1, 3)


def test_what_a_killed_worker_left_is_no_longer_told(watching: Watching) -> None:
    watching.now = 10.0
    left = watching.build(0, 1000)
    watching.look()
    left.rename(watching.root / "elsewhere")
    assert watching.look() == ("take in", 0, 3)


def test_units_are_looked_at_while_they_are_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.unit_progress.LOOK_SECONDS", 0.01)
    told: list[tuple[str, float]] = []

    def make(out: Path) -> None:
        write_tokens(500, out)
        end = time.monotonic() + 30
        while told[-1][0] != "write, 500 tokens" and time.monotonic() < end:
            time.sleep(0.01)
        assert told[-1][1] == 0

    unit = Unit(recipe={}, label="write", make=make, count_tokens=COUNT)
    make_units(INLINE, lambda what, done, _: told.append((what, done)))("write", [unit])
    assert set(told) == {("write", 0), ("write, 500 tokens", 0), ("write, 500 tokens", 1)}


def test_the_tokens_that_are_told_are_those_of_the_files(home: Path, tmp_path: Path) -> None:
    write_corpus(home / "corpus")
    settings = tiny_settings(home, ['shard.packing="whole"'])
    last: dict[str, int] = {}

    def tell(what: str, done: float, total: int) -> None:
        name, _, said = what.partition(", ")
        last[name] = int(said.partition(" tokens")[0].replace(",", "") or 0)

    units = make_units(INLINE, tell)
    corpus = open_corpus(
        settings.source, settings.filters, settings.tokenizer, settings.pretokenize, INLINE
    )
    (tmp_path / "tokens").mkdir()
    (tmp_path / "shards").mkdir()
    index = pretokenize(corpus, units, out=tmp_path / "tokens")
    given = Given("tokens:0", tmp_path / "tokens")
    bounds = settings.pretokenize.bounds
    rows = shard(given, index, settings.shard, bounds, units, out=tmp_path / "shards")
    assert last["take in"] >= last["compact"] == index.num_tokens
    # Rows that validation has too are cut, and then withheld.
    withheld = last["train shards"] - rows.train.num_tokens
    row_tokens = settings.shard.context_length + 1
    assert rows.train.withheld_rows <= withheld <= rows.train.withheld_rows * row_tokens
    assert last["val shards"] == rows.val.num_tokens
    assert last["vocabulary"] == 0
