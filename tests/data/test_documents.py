from pathlib import Path

import pyarrow as pa
import pytest

from data.documents import TableWriter, join, read_pieces

SCHEMA = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("size", pa.int64(), nullable=False)]
)


def write(path: Path, *names: str) -> Path:
    with TableWriter(path, SCHEMA) as writer:
        for name in names:
            # Columns in another order and a narrower type: the schema decides.
            writer.write(pa.table({"size": pa.array([len(name)], pa.int32()), "name": [name]}))
        assert writer.num_rows == len(names)
    return path


def test_tables_are_joined_in_order_and_every_piece_is_seen(tmp_path: Path) -> None:
    seen: list[str] = []
    parts = [write(tmp_path / "1", "a", "bb"), write(tmp_path / "2"), write(tmp_path / "3", "ccc")]
    join(parts, tmp_path / "all", SCHEMA, lambda piece: seen.extend(piece["name"].to_pylist()))
    pieces = list(read_pieces(tmp_path / "all"))
    assert [row for piece in pieces for row in piece.to_pylist()] == [
        {"name": "a", "size": 1},
        {"name": "bb", "size": 2},
        {"name": "ccc", "size": 3},
    ]
    assert seen == ["a", "bb", "ccc"]


def test_a_table_without_rows_is_a_table(tmp_path: Path) -> None:
    assert list(read_pieces(write(tmp_path / "none"))) == []


def test_a_missing_column_is_not_filled_in(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "x", SCHEMA) as writer, pytest.raises(KeyError):
        writer.write(pa.table({"name": ["a"]}))
