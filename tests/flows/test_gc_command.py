"""`assay gc`: what it prints, and what it refuses."""

import json
import os
import time
from pathlib import Path

import pytest

from evidence.refs import TokensRef
from flows.cli import run
from tasks.store import Store


@pytest.fixture
def store(own_places: Path) -> Store:
    return Store(own_places / "home" / "store")


def old_artefact(store: Store) -> TokensRef:
    with store.building("tokens") as directory:
        (directory / "data.bin").write_bytes(b"x" * 1000)
        ref = store.commit(directory, TokensRef, {})
    then = time.time() - 2 * 86_400
    os.utime(store.directory(ref), (then, then))
    return ref


def test_it_says_what_it_would_free_and_then_frees_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = old_artefact(store)
    assert run(["gc", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert ref.digest in printed
    assert "would free" in printed
    assert store.directory(ref).is_dir()
    assert run(["gc", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["garbage"][0]["name"].endswith(ref.digest)
    assert (found["num_here"], found["num_artefacts"], found["num_reachable"]) == (1, 1, 0)
    assert found["num_bytes_here"] > 1000
    assert not store.directory(ref).exists()


def test_within_the_grace_period_nothing_goes(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = old_artefact(store)
    assert run(["gc", "--grace-hours", "72"]) == 0
    assert "1 are young" in capsys.readouterr().out
    assert store.directory(ref).is_dir()


def test_a_store_that_does_not_exist_has_no_garbage(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gc"]) == 0
    assert "0 artefacts" in capsys.readouterr().out


def test_records_that_do_not_exist_are_refused(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = old_artefact(store)
    assert run(["gc", "--evidence", "/nowhere"]) == 3
    assert "no directory of records" in capsys.readouterr().err
    assert store.directory(ref).is_dir()
