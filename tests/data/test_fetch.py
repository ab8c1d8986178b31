import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.candidates import CANDIDATES, Source
from data.errors import DataError, MissingSourceError, WrongSettingError
from data.fetch import ACCOUNT, CONTENTS, MISSING, git_sha1, inflated, is_sha1
from data.fetch_cache import FetchCache
from data.pretokenize import pretokenize
from data.source import open_source
from data.source_errors import (
    BucketRefusedError,
    FetchIncompleteError,
    UnreachableSourceError,
)
from tests.data.corpus import corpus_of
from tests.data.inline import InlineUnits
from tests.data.sources import (
    Blob,
    candidate_of,
    damaged,
    fetching_in,
    make,
    python_of,
    repositories,
    rows_of,
    settings_of,
    unit_rows,
    write_file_rows,
)
from tests.data.stack_server import StackServer

NUM_FILES = 2_200
NUM_PYTHON = 2_000
UNIT_BYTES = 8_000


@dataclass(frozen=True)
class Stack:
    server: StackServer
    index: Path
    python: list[tuple[int, Blob]]
    reasons: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    repos = repositories(NUM_FILES)
    blobs, reasons = damaged([blob for blobs in repos for blob in blobs])
    index = tmp_path_factory.mktemp("index")
    write_file_rows(index / "data" / "Python" / "train-00000-of-00001.parquet", repos)
    with StackServer() as server:
        objects = {f"content/{blob.blob_id}": blob.object for blob in blobs}
        server.put("softwareheritage", {k: v for k, v in objects.items() if v is not None})
        yield Stack(server, index, list(python_of(repos)), reasons)


@pytest.fixture
def stack(served: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    served.server.reset()
    served.server.point_to(monkeypatch)
    return served


def opened(
    stack: Stack, directory: Path, fetch: dict[str, Any] | None = None, **changes: Any
) -> Source:
    settings = settings_of("the-stack-v2", stack.index, **({"max_missing_share": 0.2} | changes))
    return open_source(settings, fetching=fetching_in(directory, **fetch or {}))


def fetched(source: Source, number: int, directory: Path) -> Path:
    (unit,) = source.inputs(source.units[number])
    return make(unit, directory)


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_every_listed_file_is_fetched_or_accounted_for(stack: Stack, tmp_path: Path) -> None:
    source = opened(stack, tmp_path)
    assert len(source.units) == 1
    rows = rows_of(source, tmp_path)
    assert len(rows) == NUM_PYTHON
    assert [row["row"] for row in rows] == list(range(NUM_PYTHON))
    for row, (repository, blob) in zip(rows, stack.python, strict=True):
        reason = stack.reasons.get(blob.blob_id, "")
        assert row == {
            "row": row["row"],
            **candidate_of(repository, blob),
            "content": None if reason else blob.content,
            "absence": reason,
        }
    directory = tmp_path / "0" / "out"
    account = json.loads((directory / ACCOUNT).read_text())
    missing = {"bad gzip": 2, "missing key": 2, "sha1 mismatch": 1, "too large": 1}
    lost = sum(len(blob.content) for _, blob in stack.python if blob.blob_id in stack.reasons)
    total = sum(len(blob.content) for _, blob in stack.python)
    assert account == {"num_rows": NUM_PYTHON, "num_bytes": total - lost, "missing": missing}
    listed = pq.read_table(directory / MISSING).to_pylist()
    assert {row["blob_id"]: row["reason"] for row in listed} == stack.reasons
    assert [row["path"] for row in listed] == [r["path"] for r in rows if r["absence"]]
    assert list((tmp_path / "cache").iterdir()) == []


def test_units_are_cut_by_listed_length_and_hold_every_file_once(
    stack: Stack, tmp_path: Path
) -> None:
    source = opened(stack, tmp_path, unit_bytes=20_000)
    total = sum(len(blob.content) for _, blob in stack.python)
    assert len(source.units) == -(-total // 20_000)
    recipes = [source.inputs(unit)[0].recipe for unit in source.units]
    assert all(recipe["index_sha256"] == source.units[0].files[0].sha256 for recipe in recipes)
    assert [r["start"] for r in recipes[1:]] == [r["stop"] for r in recipes[:-1]]
    assert (recipes[0]["start"], recipes[-1]["stop"]) == (0, NUM_FILES)
    assert pickle.loads(pickle.dumps(source)).sha256 == source.sha256


def test_what_is_fetched_does_not_depend_on_connections_or_throttling(
    stack: Stack, tmp_path: Path
) -> None:
    one = fetched(
        opened(stack, tmp_path / "a", {"max_in_flight": 1}, unit_bytes=UNIT_BYTES),
        3,
        tmp_path / "a",
    )
    stack.server.reset()
    answers = ("503 Slow Down", "500 Internal Server Error", "429 Too Many Requests")
    stack.server.fault = lambda key, number: (
        answers[number] if number < 3 and key[-1] in "07" else None
    )
    source = opened(stack, tmp_path / "b", {"max_in_flight": 16}, unit_bytes=UNIT_BYTES)
    many = fetched(source, 3, tmp_path / "b")
    assert stack.server.requests.total() > len(stack.server.requests)
    assert sorted(files_of(one)) == [ACCOUNT, CONTENTS, MISSING]
    assert files_of(one) == files_of(many)
    assert pq.read_schema(many / CONTENTS).equals(CANDIDATES)


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_bucket_that_denies_stops_the_fetch_with_nothing_lost(
    stack: Stack, tmp_path: Path, anonymous: bool
) -> None:
    source = opened(
        stack, tmp_path, {"max_in_flight": 2}, unit_bytes=UNIT_BYTES, anonymous=anonymous
    )
    stack.server.fault = lambda *_: "403 Forbidden" if stack.server.requests.total() > 50 else None
    with pytest.raises(BucketRefusedError, match="403 Forbidden") as caught:
        fetched(source, 0, tmp_path / "denied")
    assert "source.anonymous" in caught.value.hint
    before = set(stack.server.requests)
    stack.server.reset()
    rows = unit_rows(source, 0, tmp_path)
    assert len(before & set(stack.server.requests)) <= len(before) - 40
    assert {row["absence"] for row in rows} == {"", *stack.reasons.values()}


def test_without_credentials_nothing_is_asked(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    source = opened(stack, tmp_path, anonymous=False)
    with pytest.raises(BucketRefusedError, match="no AWS credentials found"):
        fetched(source, 0, tmp_path)
    assert not stack.server.requests


def test_a_bucket_that_does_not_exist_is_no_missing_key(stack: Stack, tmp_path: Path) -> None:
    source = opened(stack, tmp_path, contents="s3://nobodys-bucket/content", anonymous=False)
    with pytest.raises(MissingSourceError, match="s3://nobodys-bucket/content: does not exist"):
        fetched(source, 0, tmp_path)


def test_a_server_that_does_not_answer_is_named_after_the_retries(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    source = opened(stack, tmp_path, {"max_retries": 1, "patience_seconds": 2.0})
    with pytest.raises(UnreachableSourceError, match="no answer"):
        fetched(source, 0, tmp_path)


def test_more_than_the_allowed_share_is_refused_when_fetched_and_when_read(
    stack: Stack, tmp_path: Path
) -> None:
    source = opened(stack, tmp_path, unit_bytes=UNIT_BYTES, max_missing_share=0.01)
    with pytest.raises(FetchIncompleteError) as caught:
        fetched(source, 0, tmp_path / "a")
    assert caught.value.num_missing == 6
    assert caught.value.reasons == "2 bad gzip, 2 missing key, 1 sha1 mismatch, 1 too large"
    asked = stack.server.requests.total()
    lenient = opened(stack, tmp_path, unit_bytes=UNIT_BYTES, max_missing_share=0.2)
    directory = fetched(lenient, 0, tmp_path / "b")
    # Only what is missing or damaged is asked for again.
    assert stack.server.requests.total() - asked == 6
    with pytest.raises(FetchIncompleteError):
        next(source.read(source.units[0], directory))


def test_another_allowed_share_takes_in_nothing_again_and_is_held_to(
    stack: Stack, tmp_path: Path
) -> None:
    def made(share: float) -> list[str]:
        units.made.clear()
        settings = settings_of("the-stack-v2", stack.index, max_missing_share=share)
        corpus = corpus_of(stack.index, source=asdict(settings), filters={"near_duplicates": "off"})
        with TemporaryDirectory(dir=tmp_path) as out:
            pretokenize(corpus, units, out=Path(out))
        return units.made.copy()

    units = InlineUnits(tmp_path / "units")
    assert "settle copies" in made(0.2)
    assert made(0.3) == []
    with pytest.raises(FetchIncompleteError) as caught:
        made(0.001)
    assert (caught.value.num_missing, caught.value.num_rows) == (6, NUM_PYTHON)
    assert caught.value.reasons == "2 bad gzip, 2 missing key, 1 sha1 mismatch, 1 too large"


CHILD = """
import sys
from pathlib import Path
from tests.data.corpus import corpus_of
from tests.data.inline import InlineUnits
from tests.data.sources import fetching_in, make, settings_of
from data.source import open_source
index, directory = map(Path, sys.argv[1:])
settings = settings_of("the-stack-v2", index, max_missing_share=0.2, unit_bytes=30_000)
source = open_source(settings, fetching=fetching_in(directory, max_in_flight=4))
make(source.inputs(source.units[0])[0], directory / "killed")
"""


def test_a_killed_fetch_goes_on_where_it_was(stack: Stack, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(stack.index), str(tmp_path)])
    while stack.server.requests.total() < 100:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed" / "out" / ACCOUNT).exists()
    asked = set(stack.server.requests)
    stack.server.reset()
    source = opened(stack, tmp_path, unit_bytes=30_000)
    resumed = fetched(source, 0, tmp_path / "resumed")
    again = asked & set(stack.server.requests)
    # Those in flight, and those that are not to be had.
    assert len(again) <= 4 + len(stack.reasons)
    whole = opened(stack, tmp_path / "other", unit_bytes=30_000)
    assert files_of(resumed) == files_of(fetched(whole, 0, tmp_path / "whole"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_blob_in_the_cache_is_downloaded_again(stack: Stack, tmp_path: Path) -> None:
    source = opened(stack, tmp_path, unit_bytes=UNIT_BYTES, max_missing_share=0.0)
    with pytest.raises(FetchIncompleteError):
        fetched(source, 0, tmp_path / "a")
    (pack,) = (tmp_path / "cache").rglob("*.pack")
    damaged_pack = bytearray(pack.read_bytes())
    damaged_pack[48 + 30] ^= 0xFF
    pack.write_bytes(damaged_pack[:-3])
    stack.server.reset()
    lenient = opened(stack, tmp_path, unit_bytes=UNIT_BYTES)
    again = fetched(lenient, 0, tmp_path / "b")
    assert stack.server.requests.total() == 8
    clean = opened(stack, tmp_path / "other", unit_bytes=UNIT_BYTES)
    assert files_of(again) == files_of(fetched(clean, 0, tmp_path / "c"))


def test_a_pack_with_a_torn_end_gives_what_is_whole(tmp_path: Path) -> None:
    names = ["a" * 40, "b" * 40]
    with FetchCache(tmp_path) as cache:
        for name in names:
            cache.put(name, name.encode() * 3)
    (pack,) = tmp_path.glob("*.pack")
    os.truncate(pack, pack.stat().st_size - 1)
    again = FetchCache(tmp_path)
    assert again.get(names[0]) == b"a" * 120
    assert again.get(names[1]) is None
    assert again.get("c" * 40) is None
    again.drop()
    assert not tmp_path.exists()


@pytest.mark.parametrize(
    "blob", [b"", b"plain", gzip.compress(b"x = 1")[:-1]], ids=["nothing", "plain", "truncated"]
)
def test_what_is_no_whole_gzip_says_so(blob: bytes) -> None:
    assert inflated(blob, 100) == (None, "bad gzip")


def test_gzip_of_several_members_is_one_content() -> None:
    both = gzip.compress(b"x = 1\n") + gzip.compress(b"y = 2\n")
    assert inflated(both, 12) == (b"x = 1\ny = 2\n", "")
    assert inflated(both, 11) == (None, "too large")
    assert inflated(gzip.compress(b""), 1) == (b"", "")


def test_ids_are_those_of_git_and_of_sha1() -> None:
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert is_sha1("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
    assert not is_sha1("e69de29bb2d1d6434b8b29ae775ad8c2e48c539")
    assert not is_sha1("../../../../../../../../../../etc/passwd")


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("runtime.fetch_cache", {"cache": ""}),
        ("runtime.fetch_in_flight", {"max_in_flight": 0}),
        ("runtime.fetch_retries", {"max_retries": -1}),
        ("runtime.fetch_patience_seconds", {"patience_seconds": 0.0}),
    ],
)
def test_a_way_to_fetch_that_fetches_nothing_is_refused(
    tmp_path: Path, setting: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        fetching_in(tmp_path, **changes)
    assert caught.value.setting == setting
    assert isinstance(caught.value, DataError)
