import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evidence.canonical import digest
from evidence.errors import MalformedJsonError, WrongRefError
from evidence.records import Recipe
from evidence.refs import ShardsRef, TokensRef
from tasks import places
from tasks.errors import (
    AmbiguousError,
    ArtefactDamagedError,
    BusyError,
    NotFoundError,
    StorageError,
    UnsupportedStoreError,
)
from tasks.store import Artefact, Store, damages, locked, open_store
from tests.data.corpus import source_settings

CONTENT = {"rows": 3}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, rows: int = 3, name: str = "deep/b.bin") -> TokensRef:
    with store.building("tokens") as directory:
        (directory / "a.txt").write_bytes(b"hello")
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(bytes(range(10)))
        return store.commit(directory, TokensRef, {"rows": rows})


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "stage": "pretokenize",
        "version": 1,
        "settings": {"seed": 1},
        "inputs": {"source": "sha256:00"},
    }
    return Recipe(**(values | changes))


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run code in another process up to its first printed line; kill it at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=places.PROJECT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL


def test_an_artefact_is_named_by_the_digest_of_its_index(store: Store) -> None:
    ref = put(store)
    directory = store.root / "tokens" / ref.digest[:2] / ref.digest
    assert names(directory) == ["a.txt", "deep", "deep/b.bin", "index.json"]
    index = json.loads((directory / "index.json").read_text())
    assert index == {
        "kind": "tokens",
        "content": {"rows": 3},
        "files": [
            {
                "path": "a.txt",
                "bytes": 5,
                "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            },
            {
                "path": "deep/b.bin",
                "bytes": 10,
                "sha256": "1f825aa2f0020ef7cf91dfa30da4668d791c5d4824fc8e41354b89ec05795ab3",
            },
        ],
    }
    assert ref.digest == digest(index)


def test_a_dataclass_is_an_index_too(store: Store) -> None:
    with store.building("x") as directory:
        ref = store.commit(directory, TokensRef, source_settings(Path("/x")))
    assert store.open(ref).index["content"]["licence"] == "MIT"
    assert store.open(ref).read_index(type(source_settings(Path("/x")))) == source_settings(
        Path("/x")
    )


def test_the_same_content_is_one_artefact(store: Store) -> None:
    first, second = put(store), put(store)
    assert first == second
    assert len(list((store.root / "tokens").rglob("index.json"))) == 1
    assert names(store.root / "tmp") == []


@pytest.mark.parametrize("changes", [{"rows": 4}, {"name": "deep/c.bin"}])
def test_other_content_or_another_name_is_another_artefact(
    store: Store, changes: dict[str, Any]
) -> None:
    assert put(store) != put(store, **changes)


def test_the_same_content_of_another_kind_is_another_artefact(store: Store) -> None:
    with store.building("x") as directory:
        tokens = store.commit(directory, TokensRef, CONTENT)
    with store.building("x") as directory:
        shards = store.commit(directory, ShardsRef, CONTENT)
    assert tokens.digest != shards.digest


def test_an_artefact_is_opened_as_it_was_built(store: Store) -> None:
    ref = put(store)
    artefact = store.open(ref)
    assert (artefact.ref, artefact.directory) == (ref, store.directory(ref))
    assert artefact.index["content"] == CONTENT
    assert store.peek(ref) == artefact


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("name", "damage", "found", "expected"),
    [
        ("deep/b.bin", flip, "sha256 0252ac9d6f2f", "1f825aa2f002"),
        ("deep/b.bin", truncate, "9 bytes", "10 bytes"),
        ("deep/b.bin", lengthen, "11 bytes", "10 bytes"),
        ("a.txt", Path.unlink, "no file", "5 bytes"),
        ("extra", Path.touch, "a file", "absent: the index does not list it"),
        ("deep/.hidden", Path.touch, "a file", "absent: the index does not list it"),
    ],
)
def test_a_damaged_artefact_is_not_opened(
    store: Store, name: str, damage: Any, found: str, expected: str
) -> None:
    ref = put(store)
    path = store.directory(ref) / name
    damage(path)
    with pytest.raises(ArtefactDamagedError) as caught:
        store.open(ref)
    assert vars(caught.value) == {"path": path, "found": found, "expected": expected}


@pytest.mark.parametrize(
    "edit",
    [
        {"content": {"rows": 4}},
        {"kind": "shards"},
        {"files": []},
        {"added": 1},
    ],
)
def test_an_edited_index_is_not_opened(store: Store, edit: dict[str, Any]) -> None:
    ref = put(store)
    path = store.directory(ref) / "index.json"
    edited = {**json.loads(path.read_text()), **edit}
    path.write_text(json.dumps(edited))
    with pytest.raises(ArtefactDamagedError) as caught:
        store.open(ref)
    assert vars(caught.value) == {
        "path": path,
        "found": f"digest {digest(edited)[:12]}",
        "expected": ref.digest[:12],
    }


@pytest.mark.parametrize(
    "files",
    [None, 7, [7], [{"path": "a.txt", "bytes": 5}], [{"path": 1, "bytes": 1, "sha256": ""}]],
)
def test_an_index_that_lists_no_files_is_not_opened_whatever_its_name(
    store: Store, files: object
) -> None:
    old = store.directory(put(store))
    document = {**json.loads((old / "index.json").read_text()), "files": files}
    ref = TokensRef(digest(document))
    store.directory(ref).parent.mkdir(parents=True, exist_ok=True)
    old.rename(store.directory(ref))
    path = store.directory(ref) / "index.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ArtefactDamagedError) as caught:
        store.open(ref)
    assert (caught.value.path, caught.value.found) == (path, "no list of files")


def test_an_index_that_is_no_json_is_not_opened(store: Store) -> None:
    ref = put(store)
    path = store.directory(ref) / "index.json"
    truncate(path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(MalformedJsonError) as caught:
        store.open(ref)
    assert caught.value.where == str(path)


def test_every_damage_is_listed(store: Store) -> None:
    ref = put(store)
    artefact: Artefact = store.open(ref)
    (artefact.directory / "a.txt").unlink()
    (artefact.directory / "new").touch()
    flip(artefact.directory / "deep/b.bin")
    found = [each.path.name for each in damages(artefact.directory, ref, artefact.index)]
    assert found == ["new", "a.txt", "b.bin"]


def test_an_artefact_that_does_not_exist_is_not_found(store: Store) -> None:
    ref = TokensRef("0" * 64)
    with pytest.raises(NotFoundError) as caught:
        store.open(ref)
    assert caught.value.what == "artefact tokens:000000000000"
    assert caught.value.where == str(store.root)


def fail_after_writing(path: Path) -> None:
    path.write_bytes(b"x")
    raise ZeroDivisionError


def test_an_exception_while_building_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.building("half") as directory:
        fail_after_writing(directory / "a")
    assert names(store.root) == ["tmp"]


def test_a_killed_build_leaves_no_artefact_and_the_next_one_succeeds(store: Store) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from tasks.store import Store
        with Store(Path(sys.argv[1])).building("tokens") as directory:
            (directory / "a.txt").write_bytes(b"hel")
            print("ready", flush=True)
            time.sleep(60)
    """
    with child(code, store.root):
        pass
    assert [path.name for path in store.root.iterdir()] == ["tmp"]
    assert store.find(recipe()) is None
    ref = put(store)
    assert store.open(ref).index["content"] == CONTENT


def test_an_exception_while_resuming_keeps_the_work(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.resuming("train-1") as directory:
        fail_after_writing(directory / "a")
    with store.resuming("train-1") as directory:
        assert names(directory) == ["a"]


def test_an_index_left_by_a_killed_process_is_no_part_of_the_artefact(store: Store) -> None:
    with store.resuming("train-1") as directory:
        (directory / "a").write_bytes(b"x")
        (directory / "index.json").write_bytes(b"{}")
    with store.resuming("train-1") as directory:
        ref = store.commit(directory, TokensRef, CONTENT)
    assert [each["path"] for each in store.open(ref).index["files"]] == ["a"]


def test_two_processes_do_not_resume_the_same_work(store: Store) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from tasks.store import Store
        with Store(Path(sys.argv[1])).resuming("train-1"):
            print("ready", flush=True)
            time.sleep(60)
    """
    with child(code, store.root):
        with pytest.raises(BusyError) as caught, store.resuming("train-1"):
            pass
        assert vars(caught.value) == {
            "what": "this recipe",
            "path": store.root / "tmp" / "train-1.lock",
        }
        with store.resuming("train-2"):
            pass
    with store.resuming("train-1"):
        pass


def test_a_lock_is_refused_to_a_second_holder_of_this_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, what="it"):
        with pytest.raises(BusyError) as caught, locked(path, what="it"):
            pass
        assert str(caught.value) == f"{path}: it is held by another process, should be free"
    with locked(path, what="it"):
        pass


@pytest.mark.parametrize("length", [2, 5, 12, 63, 64])
def test_a_unique_beginning_names_an_artefact(store: Store, length: int) -> None:
    ref = put(store)
    assert store.resolve(f"tokens:{ref.digest[:length]}") == ref


def test_a_beginning_that_fits_two_artefacts_is_ambiguous(store: Store) -> None:
    digests = ["ab" + digit * 62 for digit in "21"]
    for each in digests:
        directory = store.directory(TokensRef(each))
        directory.mkdir(parents=True)
        (directory / "index.json").write_text("{}")
    with pytest.raises(AmbiguousError) as caught:
        store.resolve("tokens:ab")
    assert vars(caught.value) == {
        "text": "tokens:ab",
        "matches": ("tokens:ab11111111111111", "tokens:ab22222222222222"),
    }
    assert store.resolve("tokens:ab2") == TokensRef(digests[0])


def test_a_beginning_that_fits_nothing_is_not_found(store: Store) -> None:
    put(store)
    with pytest.raises(NotFoundError) as caught:
        store.resolve("shards:ab")
    assert (caught.value.what, caught.value.where) == ("artefact shards:ab", str(store.root))


def test_a_directory_without_an_index_is_no_artefact(store: Store) -> None:
    store.directory(TokensRef("ab" * 32)).mkdir(parents=True)
    with pytest.raises(NotFoundError):
        store.resolve("tokens:ab")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tokens",
        "tokens:",
        "tokens:a",
        "tokens:xy",
        "tokens:AB",
        "corpus:ab",
        "tokens:ab*",
        "tokens:../ab",
        "tokens:" + "a" * 65,
        "tokens:ab\n",
    ],
)
def test_a_malformed_name_is_refused(store: Store, text: str) -> None:
    with pytest.raises(WrongRefError) as caught:
        store.resolve(text)
    assert caught.value.text == text


def test_a_recipe_that_was_made_is_found_with_its_run(store: Store) -> None:
    assert store.find(recipe()) is None
    ref = put(store)
    store.remember(recipe(), ref, "demo-1")
    made = store.find(recipe())
    assert made is not None
    assert (made.ref, made.run) == (ref, "demo-1")
    assert made.recipe == recipe().as_record()


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"seed": 2}},
        {"inputs": {"source": "sha256:01"}},
        {"version": 2},
        {"stage": "shard"},
    ],
)
def test_another_recipe_is_not_found(store: Store, changes: dict[str, Any]) -> None:
    store.remember(recipe(), put(store), "demo-1")
    assert store.find(recipe(**changes)) is None


def test_a_recipe_whose_artefact_was_deleted_is_not_found(store: Store) -> None:
    ref = put(store)
    store.remember(recipe(), ref, "demo-1")
    shutil.rmtree(store.directory(ref))
    assert store.find(recipe()) is None


def test_a_writable_store_is_left_as_it_was(store: Store) -> None:
    store.check_writable()
    assert names(store.root) == ["tmp"]


@pytest.mark.parametrize("root", ["/proc/assay-store", "/sys/assay-store", "/dev/null/store"])
def test_a_store_that_cannot_be_written_is_refused(root: str) -> None:
    with pytest.raises(StorageError) as caught:
        Store(Path(root)).check_writable()
    assert caught.value.path == root
    assert caught.value.reason in {
        os.strerror(number) for number in (1, 2, 13, 20, 30)
    }  # not permitted, no such directory, denied, not a directory, read-only


@pytest.mark.parametrize("url", ["odd://bucket/store", "odd://"])
def test_a_store_of_a_kind_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ASSAY_STORE", url)
    with pytest.raises(UnsupportedStoreError) as caught:
        open_store()
    assert caught.value.url == url
    assert "Protocol not known" in caught.value.reason
