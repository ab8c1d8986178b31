from pathlib import Path

import numpy as np
import pytest

from data.array_file import ArrayWriter


@pytest.mark.parametrize("num_rows", [0, 3, 100_000])
def test_pieces_make_the_bytes_of_the_whole(tmp_path: Path, num_rows: int) -> None:
    rows = np.arange(2 * num_rows, dtype=np.uint32).reshape(num_rows, 2)
    with ArrayWriter(tmp_path / "pieces.npy", (2,), np.uint32) as writer:
        for piece in np.array_split(rows, 3):
            writer.write(piece)
    np.save(tmp_path / "whole.npy", rows)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert writer.num_rows == num_rows
