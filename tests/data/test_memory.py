"""Memory: what grows with the corpus is counted in bytes a document, and all else does not grow."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from data import duplicates, plan, settlement
from data.duplicates import exact_duplicates, near_duplicates
from data.removals import Removals
from data.settlement import settle
from tests.data.anonymous_memory import Peaks
from tests.data.candidates import filter_settings
from tests.data.memory_run import PIECE, make_plan, taken_in
from tests.test_architecture import PROJECT

GIVES_BACK = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Makes allocators return what is freed at once: what they keep for later is not the same twice."""


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
    for search in (exact_duplicates, near_duplicates):
        monkeypatch.setattr(settlement, search.__name__, partial(search, memory_bytes=2**22))

    def peak(num_documents: int) -> int:
        units = taken_in(num_documents, tmp_path / str(num_documents))
        arguments = (units, filter_settings(), Removals(()))
        return peak_bytes(partial(settle, *arguments, scratch=tmp_path))

    peak(40_000)  # compiles what is compiled at its first use
    grown = peak(200_000) - peak(80_000)
    assert 10 * 120_000 <= grown < 16 * 120_000


def test_a_plan_holds_a_few_bytes_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PIECE_DOCUMENTS", PIECE)

    def peak(num_documents: int) -> int:
        (tmp_path / str(num_documents)).mkdir()
        work = make_plan(num_documents, tmp_path / str(num_documents))
        return peak_bytes(partial(work, Peaks()))

    peak(100_000)  # loads what is loaded at its first use
    grown = peak(400_000) - peak(200_000)
    # To a hundredth: what else is allocated differs by some hundred bytes each time.
    assert 9 <= round(grown / 200_000, 2) < 16


def test_what_is_allocated_does_not_grow_with_the_text(tmp_path: Path) -> None:
    def peaks(num_bytes: int) -> dict[str, int]:
        directory = tmp_path / str(num_bytes)
        directory.mkdir()
        command = ("-m", "tests.data.memory_run", "both stages", str(num_bytes), str(directory))
        environment = {**os.environ, **GIVES_BACK}
        said = subprocess.check_output([sys.executable, *command], cwd=PROJECT, env=environment)
        found: dict[str, int] = json.loads(said)
        return found

    small, large = peaks(8_000_000), peaks(32_000_000)
    # Proving an engine and a tokenizer has nothing to do with the corpus.
    seen = small.keys() - {"vocabulary", "engine"}
    grown = {name: large[name] - small[name] for name in seen}
    # The text is 24 MB larger, the tokens 48 MB.
    assert {name: most for name, most in grown.items() if most > 10_000_000} == {}
