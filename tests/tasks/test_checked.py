"""What this process has hashed it does not hash again, until something changes."""

import os
from collections import Counter
from pathlib import Path

import pytest

from evidence.canonical import file_sha256
from tasks.checked import is_checked, lasting_stamp, remember_checked
from tasks.errors import ArtefactDamagedError
from tasks.store import Store
from tasks.units import make_units
from tasks.verify import verify_ref
from tests.tasks.some_units import INLINE, unit
from tests.tasks.test_store import flip, put


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each file is hashed."""
    counts: Counter[str] = Counter()

    def counted(path: Path) -> str:
        counts[path.name] += 1
        return file_sha256(path)

    monkeypatch.setattr("tasks.directories.file_sha256", counted)
    return counts


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "store")


def test_what_was_written_is_not_hashed_to_be_opened(store: Store, hashed: Counter[str]) -> None:
    ref = put(store)
    for _ in range(3):
        store.open(ref)
    assert hashed == {"a.txt": 1, "b.bin": 1}


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know as little as another process does."""
    monkeypatch.setattr("tasks.checked._CHECKED", {})


def test_another_process_hashes_once(
    store: Store, hashed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = put(store)
    hashed.clear()
    forget(monkeypatch)
    for _ in range(3):
        store.open(ref)
    assert hashed == {"a.txt": 1, "b.bin": 1}


def test_verifying_hashes_every_time(store: Store, hashed: Counter[str]) -> None:
    ref = put(store)
    store.open(ref)
    hashed.clear()
    for _ in range(2):
        assert verify_ref(ref).failures == []
    assert hashed == {"a.txt": 2, "b.bin": 2}


def test_a_file_that_was_written_again_is_hashed_again(store: Store, hashed: Counter[str]) -> None:
    ref = put(store)
    path = store.directory(ref) / "a.txt"
    os.utime(path)
    hashed.clear()
    store.open(ref)
    assert hashed == {"a.txt": 1, "b.bin": 1}
    flip(path)
    with pytest.raises(ArtefactDamagedError):
        store.open(ref)


def test_a_file_that_was_replaced_by_one_as_old_is_hashed_again(store: Store) -> None:
    ref = put(store)
    path = store.directory(ref) / "a.txt"
    times = path.stat()
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"hellO")
    path.with_suffix(".old").unlink()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ArtefactDamagedError):
        store.open(ref)


def test_what_failed_a_check_fails_it_again(store: Store) -> None:
    ref = put(store)
    flip(store.directory(ref) / "a.txt")
    for _ in range(2):
        with pytest.raises(ArtefactDamagedError):
            store.open(ref)


def test_a_write_right_after_the_check_is_noticed(tmp_path: Path) -> None:
    for number in range(20):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "file").write_bytes(b"x")
        remember_checked(directory, lasting_stamp(directory))
        (directory / "file").write_bytes(b"y")
        assert not is_checked(directory)


def test_a_unit_is_hashed_as_it_is_made_and_not_again(
    home: Path, hashed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [unit("a", home / "marks", unit("base", home / "marks"))]
    for _ in range(3):
        make_units(INLINE)("write", wanted)
    assert hashed == {"text": 2, "bytes": 2}
    forget(monkeypatch)
    make_units(INLINE)("write", wanted)
    assert hashed == {"text": 3, "bytes": 3}
