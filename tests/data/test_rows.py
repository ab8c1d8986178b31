from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import CorruptShardError
from data.rows import Rows, open_rows
from data.shard import ShardsIndex
from tests.data.corpus import write_shards

SHARDS = [[[1, 2, 0], [3, 0, 4]], [[0, 0, 5]]]


def by_hand(directory: Path) -> ShardsIndex:
    index = write_shards(directory, SHARDS, [[[6, 7, 8]]], vocab_size=9, num_documents=300)
    (directory / "train" / "shard-00000.first.bin").write_bytes(b"\0\0\0\0\4\0\0\0")
    (directory / "train" / "shard-00001.first.bin").write_bytes(b"\1\1\0\0")
    return index


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return open_rows(tmp_path, by_hand(tmp_path), "train")


def test_rows_come_in_the_order_asked_for_across_shards(rows: Rows) -> None:
    assert len(rows) == 3
    assert rows.take([2, 0, 2, 1]).tolist() == [[0, 0, 5], [1, 2, 0], [0, 0, 5], [3, 0, 4]]
    assert rows.take([2]).dtype == np.int64
    assert rows.take([]).shape == (0, 3)


def test_an_end_of_text_belongs_to_the_document_that_it_ends(rows: Rows) -> None:
    documents_NS = rows.documents_NS([0, 1, 2])
    assert documents_NS.tolist() == [[0, 0, 0], [4, 4, 5], [557, 558, 559]]
    assert documents_NS.dtype == np.int64


def test_an_end_of_text_after_another_is_padding_where_documents_are_whole(tmp_path: Path) -> None:
    index = write_shards(tmp_path, [[[1, 0, 2, 0, 0, 0], [0, 3, 0, 0, 0, 0]]], SHARDS, vocab_size=9)
    rows = open_rows(tmp_path, replace(index, packing="whole"), "train")
    assert rows.take([0, 1]).tolist() == [[1, 0, 2, 0, -1, -1], [0, 3, 0, -1, -1, -1]]
    assert rows.ids([1]).tolist() == [[0, 3, 0, 0, 0, 0]]
    assert rows.documents_NS([0]).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_ids_beyond_sixteen_bits_are_read_as_written(tmp_path: Path) -> None:
    index = replace(by_hand(tmp_path), dtype="uint32", vocab_size=70001)
    (tmp_path / "val" / "shard-00000.bin").write_bytes(np.array([1, 70000, 0], "<u4").tobytes())
    assert open_rows(tmp_path, index, "val").take([0]).tolist() == [[1, 70000, 0]]


def test_the_splits_are_apart(tmp_path: Path) -> None:
    rows = open_rows(tmp_path, by_hand(tmp_path), "val")
    assert (rows.split, rows.take([0]).tolist()) == ("val", [[6, 7, 8]])


@pytest.mark.parametrize("index", [-1, 3])
def test_a_row_that_does_not_exist_is_refused(rows: Rows, index: int) -> None:
    with pytest.raises(IndexError, match="is not one of 3 rows"):
        rows.take([0, index])


@pytest.mark.parametrize(
    ("name", "expected"), [("shard-00001.bin", 6), ("shard-00000.first.bin", 8)]
)
@pytest.mark.parametrize("change", [-1, 1, None])
def test_a_file_of_another_size_is_refused(
    tmp_path: Path, name: str, expected: int, change: int | None
) -> None:
    index, path = by_hand(tmp_path), tmp_path / "train" / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(bytes(expected + change))
    with pytest.raises(CorruptShardError) as caught:
        open_rows(tmp_path, index, "train")
    assert caught.value.path == path
    assert caught.value.found == ("is missing" if change is None else f"{expected + change} bytes")
    assert caught.value.expected == f"{expected} bytes"
