from pathlib import Path

import numpy as np
import pytest

from data.cut import FIRST_DOCUMENTS, ROWS
from data.withholding import KnownRows, without_padding

WIDTH = np.dtype("<u2")


def unit(directory: Path, rows: list[list[int]]) -> Path:
    """Cut a shard by hand; row n is of document 10 n."""
    directory.mkdir()
    np.array(rows, WIDTH).tofile(directory / ROWS)
    (10 * np.arange(len(rows), dtype="<u4")).tofile(directory / FIRST_DOCUMENTS)
    return directory


def withhold(tmp_path: Path, known: list[Path], cut: Path) -> tuple[list, list, list]:  # type: ignore[type-arg]
    """Return the rows that stay, their documents, and the rows that go."""
    rows, first = tmp_path / "kept.bin", tmp_path / "kept.first.bin"
    gone = KnownRows(known, WIDTH, 3).withhold(cut, rows=rows, first_documents=first)
    kept = np.fromfile(rows, WIDTH).reshape(-1, 3).tolist()
    return kept, np.fromfile(first, "<u4").tolist(), gone.tolist()


def test_known_rows_go_with_their_documents_and_the_others_keep_their_order(
    tmp_path: Path,
) -> None:
    known = [unit(tmp_path / "a", [[1, 2, 3], [7, 7, 7]]), unit(tmp_path / "b", [[4, 5, 6]])]
    cut = unit(tmp_path / "c", [[9, 8, 7], [4, 5, 6], [1, 2, 3], [0, 1, 2], [4, 5, 6]])
    kept, documents, gone = withhold(tmp_path, known, cut)
    assert (kept, documents) == ([[9, 8, 7], [0, 1, 2]], [0, 30])
    assert gone == [[4, 5, 6], [1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("other", [[1, 2, 4], [2, 1, 3], [2, 3, 1], [257, 2, 3]])
def test_a_row_that_differs_in_one_token_stays(tmp_path: Path, other: list[int]) -> None:
    known = [unit(tmp_path / "a", [[1, 2, 3]])]
    assert withhold(tmp_path, known, unit(tmp_path / "b", [other])) == ([other], [0], [])


def test_a_shard_without_known_rows_is_not_copied(tmp_path: Path) -> None:
    known, cut = [unit(tmp_path / "a", [[1, 2, 3]])], unit(tmp_path / "b", [[3, 2, 1]])
    withhold(tmp_path, known, cut)
    assert (tmp_path / "kept.bin").samefile(cut / ROWS)
    assert (tmp_path / "kept.first.bin").samefile(cut / FIRST_DOCUMENTS)


def test_a_shard_may_lose_all_of_its_rows_or_have_none(tmp_path: Path) -> None:
    known = [unit(tmp_path / "a", [[1, 2, 3]]), unit(tmp_path / "none", [])]
    assert withhold(tmp_path, known, known[0]) == ([], [], [[1, 2, 3]])
    (tmp_path / "kept.bin").unlink()
    (tmp_path / "kept.first.bin").unlink()
    assert withhold(tmp_path, known, known[1]) == ([], [], [])


def test_an_end_of_text_after_another_is_no_token() -> None:
    rows_NS = np.array([[5, 0, 0, 0], [0, 6, 0, 7]])
    assert without_padding(rows_NS, 0).tolist() == [5, 0, 0, 6, 0, 7]
    assert without_padding(rows_NS[:0], 0).tolist() == []
