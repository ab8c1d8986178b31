from pathlib import Path

import pytest

from data import plan
from tests.data.anonymous_memory import Peaks
from tests.data.memory_run import PIECE, make_plan


def test_a_plan_that_is_sorted_in_pieces_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for pieces in (1, 7):
        directory = tmp_path / str(pieces)
        directory.mkdir()
        run = make_plan(PIECE, directory)
        monkeypatch.setattr(plan, "PIECE_DOCUMENTS", PIECE // pieces)
        run(Peaks())
        files[pieces] = {path.name: path.read_bytes() for path in (directory / "out").iterdir()}
    assert files[1] == files[7]
    assert len(files[1]) == 7
