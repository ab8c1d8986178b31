"""Memory: what grows with the corpus is counted in bytes a document, and all else does not grow."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from data import duplicates, plan
from data.removals import Removals
from data.settlement import settle
from tests.data.candidates import filter_settings
from tests.data.memory_run import PIECE, make_plan, taken_in
from tests.test_architecture import PROJECT


def peak_bytes(work: Callable[[], object]) -> int:
    """Run; return how much Python and numpy allocate at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_settlement_holds_a_few_bytes_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_KEYS", PIECE)
    monkeypatch.setattr(duplicates, "_ROWS", PIECE // 10)
    for search in (duplicates.exact_duplicates, duplicates.near_duplicates):
        monkeypatch.setitem(search.__kwdefaults__, "memory_bytes", 2**22)

    def peak(num_documents: int) -> int:
        units = taken_in(num_documents, tmp_path / str(num_documents))
        arguments = (units, filter_settings(), Removals(()))
        return peak_bytes(partial(settle, *arguments, scratch=tmp_path))

    grown = peak(200_000) - peak(80_000)
    assert 10 * 120_000 < grown < 16 * 120_000


def test_a_plan_holds_a_few_bytes_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PIECE_DOCUMENTS", PIECE)

    def peak(num_documents: int) -> int:
        (tmp_path / str(num_documents)).mkdir()
        return peak_bytes(make_plan(num_documents, tmp_path / str(num_documents)))

    grown = peak(400_000) - peak(200_000)
    assert 9 * 200_000 < grown < 16 * 200_000


def test_what_is_allocated_does_not_grow_with_the_text(tmp_path: Path) -> None:
    def peak(num_bytes: int) -> int:
        directory = tmp_path / str(num_bytes)
        directory.mkdir()
        command = ("-m", "tests.data.memory_run", "both stages", str(num_bytes), str(directory))
        return int(subprocess.check_output([sys.executable, *command], cwd=PROJECT))

    assert peak(64_000_000) - peak(8_000_000) < 25_000_000
