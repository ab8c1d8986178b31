"""A store behind a URL: what one machine makes, another finds; a failure is a sentence."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from evidence.records import Recipe
from evidence.refs import TokensRef
from flows.exit_codes import exit_code
from tasks import places
from tasks.errors import (
    ArtefactDamagedError,
    NotFoundError,
    StoreRefusedError,
    StoreUnreachableError,
)
from tasks.remote import Remote
from tasks.store import Store, open_store
from tasks.units import make_units
from tests.tasks import loopback_s3
from tests.tasks.loopback_s3 import LoopbackS3
from tests.tasks.some_units import INLINE, marked, unit
from tests.tasks.test_store import CONTENT, flip, put, recipe

BUCKET = "shared"


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackS3]:
    with loopback_s3.serve() as s3:
        yield s3


@pytest.fixture
def s3(server: LoopbackS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackS3]:
    """The server with one empty bucket."""
    loopback_s3.point_to(monkeypatch, server)
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.create()
    yield server
    server.clear()
    bucket.objects.all().delete()


@pytest.fixture
def here(s3: LoopbackS3, tmp_path: Path) -> Store:
    return Store(tmp_path / "here", Remote(f"s3://{BUCKET}/team"))


@pytest.fixture
def there(s3: LoopbackS3, tmp_path: Path) -> Store:
    return Store(tmp_path / "there", Remote(f"s3://{BUCKET}/team"))


def objects() -> list[str]:
    return sorted(each.key for each in boto3.resource("s3").Bucket(BUCKET).objects.all())


def shared(store: Store, made_by: Recipe, rows: int = 3) -> TokensRef:
    ref = put(store, rows)
    store.remember(made_by, ref, "demo-1")
    return ref


def test_the_far_side_has_the_directories_of_the_near_one(here: Store) -> None:
    ref, made_by = shared(here, recipe()), recipe()
    name = f"team/tokens/{ref.digest[:2]}/{ref.digest}"
    assert objects() == [
        f"team/recipes/{made_by.digest[:2]}/{made_by.digest}.json",
        f"{name}/a.txt",
        f"{name}/deep/b.bin",
        f"{name}/index.json",
    ]


def test_the_index_is_sent_after_every_file_and_the_recipe_after_that(
    here: Store, s3: LoopbackS3
) -> None:
    shared(here, recipe())
    sent = [path.rpartition("/")[2] for method, path in s3.asked if method == "PUT"][1:]
    assert sorted(sent[:2]) == ["a.txt", "b.bin"]
    assert sent[2:] == ["index.json", f"{recipe().digest}.json"]


def test_another_machine_finds_resolves_and_opens_what_was_made(here: Store, there: Store) -> None:
    ref = shared(here, recipe())
    made = there.find(recipe())
    assert made is not None
    assert (made.ref, made.run, made.recipe) == (ref, "demo-1", recipe().as_record())
    assert there.resolve(f"tokens:{ref.digest[:6]}") == ref
    artefact = there.open(ref)
    assert artefact.index["content"] == CONTENT
    assert artefact.directory == there.root / "tokens" / ref.digest[:2] / ref.digest
    assert (artefact.directory / "deep/b.bin").read_bytes() == bytes(range(10))
    assert list((there.root / "tmp").iterdir()) == []


def test_what_is_here_is_not_asked_for(here: Store, s3: LoopbackS3) -> None:
    ref = shared(here, recipe())
    s3.asked.clear()
    here.open(ref)
    assert here.find(recipe()) is not None
    assert s3.asked == []


def test_what_is_nowhere_is_not_found_at_the_url(here: Store) -> None:
    assert here.find(recipe()) is None
    with pytest.raises(NotFoundError) as caught:
        here.open(TokensRef("0" * 64))
    assert caught.value.where == f"s3://{BUCKET}/team"
    with pytest.raises(NotFoundError) as caught:
        here.resolve("tokens:00")
    assert caught.value.where == f"s3://{BUCKET}/team"


def test_an_artefact_without_its_index_is_not_there(here: Store, there: Store) -> None:
    ref = shared(here, recipe())
    index = f"team/tokens/{ref.digest[:2]}/{ref.digest}/index.json"
    boto3.client("s3").delete_object(Bucket=BUCKET, Key=index)
    assert there.find(recipe()) is None
    looks: list[Any] = [lambda: there.open(ref), lambda: there.resolve(str(ref))]
    for look in looks:
        with pytest.raises(NotFoundError):
            look()
    here.share(recipe(), ref)
    assert there.open(ref).ref == ref


@pytest.mark.parametrize("name", ["a.txt", "deep/b.bin", "index.json"])
def test_what_was_changed_on_the_far_side_is_not_taken(
    here: Store, there: Store, name: str, tmp_path: Path
) -> None:
    ref = shared(here, recipe())
    key = f"team/tokens/{ref.digest[:2]}/{ref.digest}/{name}"
    file = tmp_path / "object"
    boto3.client("s3").download_file(BUCKET, key, str(file))
    if name == "index.json":
        file.write_bytes(file.read_bytes().replace(b"3", b"4", 1))
    else:
        flip(file)
    boto3.client("s3").upload_file(str(file), BUCKET, key)
    with pytest.raises(ArtefactDamagedError):
        there.open(ref)
    assert not there.directory(ref).exists()


def test_a_far_index_does_not_lead_out_of_its_directory(here: Store, there: Store) -> None:
    ref = shared(here, recipe())
    key = f"team/tokens/{ref.digest[:2]}/{ref.digest}/index.json"
    entry = b'{"path": "../../x", "bytes": 1, "sha256": "00"}'
    index = b'{"kind": "tokens", "content": {}, "files": [' + entry + b"]}"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=index)
    with pytest.raises(ArtefactDamagedError) as caught:
        there.open(ref)
    assert caught.value.found == "a path that leads out, '../../x'"


def test_a_store_that_can_be_written_is_left_as_it_was(here: Store) -> None:
    here.check_writable()
    assert objects() == []


def test_a_denied_bucket_is_refused_before_any_work(here: Store, s3: LoopbackS3) -> None:
    s3.refused = lambda method, path: True
    asks: list[Any] = [
        here.check_writable,
        lambda: here.find(recipe()),
        lambda: put_and_share(here),
    ]
    for ask in asks:
        with pytest.raises(StoreRefusedError) as caught:
            ask()
        assert caught.value.url == f"s3://{BUCKET}/team"
        assert exit_code(caught.value) == 7
        assert "\n" not in str(caught.value)


def test_credentials_that_expire_are_named_and_what_is_made_is_kept(
    here: Store, there: Store, s3: LoopbackS3
) -> None:
    s3.refusal = loopback_s3.EXPIRED
    s3.refused = lambda method, path: method == "PUT" and path.endswith("b.bin")
    with pytest.raises(StoreRefusedError) as caught:
        shared(here, recipe())
    assert exit_code(caught.value) == 7
    assert "The provided token has expired" in caught.value.reason
    assert "what is finished is kept here" in caught.value.hint
    # With new credentials.
    s3.clear()
    made = here.find(recipe())
    assert made is not None
    here.share(recipe(), made.ref)
    assert there.open(made.ref).ref == made.ref


def put_and_share(store: Store) -> None:
    shared(store, recipe())


def test_what_could_not_be_sent_is_kept_and_sent_next_time(
    here: Store, there: Store, s3: LoopbackS3
) -> None:
    s3.refused = lambda method, path: method == "PUT" and path.endswith("b.bin")
    with pytest.raises(StoreRefusedError):
        shared(here, recipe())
    assert there.find(recipe()) is None
    s3.clear()
    made = here.find(recipe())
    assert made is not None
    here.share(recipe(), made.ref)
    assert there.open(made.ref).ref == made.ref


def test_a_bucket_that_does_not_exist_is_refused(s3: LoopbackS3, tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError) as caught:
        Store(tmp_path / "x", Remote("s3://nobodys/team")).check_writable()
    assert "bucket does not exist" in caught.value.reason


def test_a_server_that_does_not_answer_is_unreachable(
    s3: LoopbackS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback_s3.point_to(monkeypatch, LoopbackS3("http://127.0.0.1:9"))
    with pytest.raises(StoreUnreachableError) as caught:
        Store(tmp_path / "x", Remote(f"s3://{BUCKET}/team")).check_writable()
    assert exit_code(caught.value) == 10


def test_an_upload_killed_midway_leaves_no_artefact_and_the_next_one_completes(
    here: Store, there: Store, s3: LoopbackS3
) -> None:
    s3.stalled = lambda method, path: method == "PUT" and path.endswith("b.bin")
    code = """if True:
        import sys
        from pathlib import Path
        from tasks.remote import Remote
        from tests.tasks.test_remote_store import Store, put_and_share
        put_and_share(Store(Path(sys.argv[1]), Remote(sys.argv[2])))
    """
    assert here.remote is not None
    command = [sys.executable, "-c", code, str(here.root), here.remote.url]
    with subprocess.Popen(command, cwd=places.PROJECT, env={**os.environ}) as process:
        assert s3.stalling.wait(30)
        process.send_signal(signal.SIGKILL)
    s3.clear()
    assert not any(name.endswith("index.json") for name in objects())
    assert there.find(recipe()) is None
    made = here.find(recipe())
    assert made is not None
    here.share(recipe(), made.ref)
    assert there.open(made.ref).index["content"] == CONTENT


def test_units_of_one_machine_are_units_of_another(
    s3: LoopbackS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_STORE", f"s3://{BUCKET}/team")
    marks, found = tmp_path / "marks", {}
    for machine in ("one", "two"):
        monkeypatch.setenv("ASSAY_HOME", str(tmp_path / machine))
        base = unit("base", marks)
        (found[machine],) = make_units(INLINE)("write", [unit("a", marks, base)])
    assert marked(marks) == ["a", "base"]
    assert found["two"] == tmp_path / "two" / "store" / "units" / "/".join(found["one"].parts[-2:])
    assert (found["two"] / "text").read_text() == "abase"


def test_a_unit_that_only_others_need_stays_where_the_store_is(
    s3: LoopbackS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_STORE", f"s3://{BUCKET}/team")
    marks = tmp_path / "marks"
    base = unit("root", marks)
    needing = [unit("x", marks, base), unit("y", marks, base)]
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "one"))
    make_units(INLINE).somewhere("write", needing)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "two"))
    make_units(INLINE).somewhere("write", needing)
    assert marked(marks) == ["root", "x", "y"]
    assert [path for path in (tmp_path / "two").rglob("*") if path.is_file()] == []
    # What is missing is made here, of what is needed for it alone.
    make_units(INLINE).somewhere("write", [*needing, unit("z", marks, needing[0])])
    assert marked(marks) == ["root", "x", "y", "z"]
    held = [path.read_text() for path in (tmp_path / "two").rglob("text")]
    assert sorted(held) == ["xroot", "zxroot"]


def test_a_unit_that_was_not_sent_is_sent_when_it_is_found(
    s3: LoopbackS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    marks = tmp_path / "marks"
    make_units(INLINE)("write", [unit("a", marks)])
    monkeypatch.setenv("ASSAY_STORE", f"s3://{BUCKET}/team")
    make_units(INLINE)("write", [unit("a", marks)])
    shutil.rmtree(tmp_path / "home")
    make_units(INLINE)("write", [unit("a", marks)])
    assert marked(marks) == ["a"]


def test_a_place_behind_any_url_of_fsspec_will_do(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ASSAY_STORE", (tmp_path / "far").as_uri())
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "one"))
    ref = shared(open_store(), recipe())
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "two"))
    assert open_store().open(ref).index["content"] == CONTENT
