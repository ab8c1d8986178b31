import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import shard as stage
from data.documents import DOCUMENT_SCHEMA
from data.errors import (
    CorpusTooSmallError,
    CorruptTokensError,
    DegenerateTokensError,
    LeakError,
    RoundTripError,
    TokenOutOfRangeError,
    WrongSettingError,
)
from data.rows import PADDING, open_rows
from data.shard import ShardsIndex, shard
from data.split import SPLITS, SplitName
from data.token_statistics import token_statistics
from data.tokenizer import Tokenizer
from data.units import Given
from tests.data.conftest import Shards, Tokens
from tests.data.corpus import TEXTS, bounds, shard_settings
from tests.data.inline import InlineUnits

# First half of the sha256 of the tiny corpus's shards, by stage version: other bytes need another.
GOLDEN: dict[int, dict[str, str]] = {
    3: {
        "tokenizer.json": "a22cb0583a040a5a1ef38216865a0605",
        "train/shard-00000.bin": "d58c0c56f7074ce0868fec176cd946a1",
        "train/shard-00000.first.bin": "420a4385a4e747a873a5af76c8c7ed16",
        "train/shard-00001.bin": "e3b0c44298fc1c149afbf4c8996fb924",
        "train/shard-00001.first.bin": "e3b0c44298fc1c149afbf4c8996fb924",
        "train/shard-00002.bin": "5b197d1350c5b0aaadcaffdd95bdbb16",
        "train/shard-00002.first.bin": "374708fff7719dd5979ec875d56cd228",
        "val/shard-00000.bin": "dec6a75eb5d9e5a94e5864614f27c62f",
        "val/shard-00000.first.bin": "58270a7df82c818b681d26dcecdaedfa",
    },
}


def half_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def cut(tokens: Tokens, root: Path, directory: Path | None = None, **changes: Any) -> ShardsIndex:
    """Cut the tiny corpus, or a changed copy of it, with changed settings."""
    (root / "out").mkdir(parents=True)
    given = Given(f"tokens in {directory}", directory or tokens.directory)
    units = InlineUnits(root / "units")
    return shard(given, tokens.index, shard_settings(**changes), bounds(), units, out=root / "out")


def documents(shards: Path, index: ShardsIndex, split: SplitName) -> list[dict[str, Any]]:
    names = [entry.name for entry in getattr(index, split).shards]
    tables = [pq.read_table(shards / f"{name}.documents.parquet") for name in names]
    return list(pa.concat_tables(tables).to_pylist())


def everything(tokens: Tokens) -> list[dict[str, Any]]:
    return list(pq.read_table(tokens.directory / "documents.parquet").to_pylist())


def test_the_bytes_written_are_those_of_this_version(shards: Shards) -> None:
    found = {
        path.relative_to(shards.directory).as_posix(): half_sha256(path)
        for path in shards.directory.rglob("*")
        if path.suffix in (".bin", ".json")
    }
    assert found == GOLDEN[stage.VERSION]


def test_the_same_tokens_give_the_same_shards(
    tokens: Tokens, shards: Shards, tmp_path: Path
) -> None:
    assert cut(tokens, tmp_path) == shards.index
    for path in shards.directory.rglob("*"):
        if path.is_file():
            again = tmp_path / "out" / path.relative_to(shards.directory)
            assert again.read_bytes() == path.read_bytes()


def test_an_index_is_plain_json(tokens: Tokens, shards: Shards) -> None:
    for index in (asdict(tokens.index), asdict(shards.index)):
        as_lists = json.loads(json.dumps(index, allow_nan=False))
        assert json.dumps(as_lists) == json.dumps(index)


def test_another_seed_gives_other_rows(tokens: Tokens, shards: Shards, tmp_path: Path) -> None:
    cut(tokens, tmp_path, seed=4)
    path = "train/shard-00000.bin"
    assert (tmp_path / "out" / path).read_bytes() != (shards.directory / path).read_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_rows_and_dropped_tokens_are_all_tokens_of_the_split(
    tokens: Tokens, shards: Shards, split: SplitName
) -> None:
    mine = [document for document in everything(tokens) if document["split"] == split]
    entry = getattr(shards.index, split)
    assert entry.num_documents == len(mine)
    assert entry.num_tokens == 8 * entry.num_rows
    num_tokens = sum(document["num_tokens"] for document in mine)
    assert entry.num_tokens + entry.dropped_tokens + 8 * entry.withheld_rows == num_tokens
    assert all(0 <= each.dropped_tokens < 8 for each in entry.shards)
    for field in ("num_rows", "num_tokens", "num_documents", "dropped_tokens", "withheld_rows"):
        assert sum(getattr(each, field) for each in entry.shards) == getattr(entry, field)
    assert len(entry.shards) == {"train": 3, "val": 1}[split]


@pytest.mark.parametrize("split", SPLITS)
def test_each_side_has_its_own_documents(tokens: Tokens, shards: Shards, split: SplitName) -> None:
    table = everything(tokens)
    found = documents(shards.directory, shards.index, split)
    mine = [document for document in table if document["split"] == split]
    assert sorted((each["sha256"], each["num_tokens"]) for each in found) == sorted(
        (each["sha256"], each["num_tokens"]) for each in mine
    )


@pytest.mark.parametrize("packing", ["concatenate", "whole"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_tokens_of_each_document_are_pieces_of_its_source(
    tokens: Tokens, tmp_path: Path, split: SplitName, packing: str
) -> None:
    index = cut(tokens, tmp_path, packing=packing)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    rows = open_rows(tmp_path / "out", index, split)
    ids_NS, documents_NS = rows.take(range(len(rows))), rows.documents_NS(range(len(rows)))
    documents_NS[ids_NS == PADDING] = -1
    table = documents(tmp_path / "out", index, split)
    path_of = {document["sha256"]: document["path"] for document in everything(tokens)}
    whole = 0
    for number, document in enumerate(table):
        source = TEXTS[path_of[document["sha256"]]]
        pieces = [
            tokenizer.decode(ids_S[documents_S == number])
            for ids_S, documents_S in zip(ids_NS, documents_NS, strict=True)
        ]
        assert all(piece in source for piece in pieces)
        assert sum(map(len, pieces)) <= len(source)
        if (documents_NS == number).sum() == document["num_tokens"]:
            assert sum(map(len, pieces)) == len(source)
            whole += 1
    # Concatenated, the last document of a shard may lose its end; whole ones lose nothing but
    # what is withheld.
    assert whole >= len(table) - {"concatenate": 3, "whole": 0}[packing] - index.train.withheld_rows
    assert set(documents_NS[documents_NS >= 0].tolist()) <= set(range(len(table)))


def test_whole_documents_drop_nothing_and_cut_none_that_fits(
    tokens: Tokens, tmp_path: Path
) -> None:
    index = cut(tokens, tmp_path, packing="whole", context_length=99)
    assert index.packing == "whole"
    for split in SPLITS:
        rows = open_rows(tmp_path / "out", index, split)
        ids_NS, documents_NS = rows.take(range(len(rows))), rows.documents_NS(range(len(rows)))
        assert getattr(index, split).dropped_tokens == 0
        for number, document in enumerate(documents(tmp_path / "out", index, split)):
            mine = (documents_NS == number) & (ids_NS != PADDING)
            assert mine.sum() == document["num_tokens"] <= 100
            assert mine.any(axis=1).sum() == 1


@pytest.mark.parametrize("packing", ["concatenate", "whole"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_statistics_are_those_of_the_written_rows(
    tokens: Tokens, tmp_path: Path, split: SplitName, packing: str
) -> None:
    index = cut(tokens, tmp_path, packing=packing)
    rows, entry = open_rows(tmp_path / "out", index, split), getattr(index, split)
    ids_NS = rows.take(range(len(rows)))
    found = token_statistics(ids_NS[ids_NS != PADDING], index.vocab_size)
    assert found.distinct_ids == entry.distinct_ids
    assert found.entropy_bits == entry.entropy_bits
    assert found.num_tokens == entry.num_tokens


@pytest.mark.parametrize(
    ("packing", "expected"), [("concatenate", [b"class Deep"]), ("whole", [b"\n", b"class Deep"])]
)
def test_training_rows_that_validation_has_too_are_withheld(
    tokens: Tokens, tmp_path: Path, packing: str, expected: list[bytes]
) -> None:
    index = cut(tokens, tmp_path, packing=packing)
    every_row = []
    for split in SPLITS:
        rows = open_rows(tmp_path / "out", index, split)
        every_row.append({row.tobytes() for row in rows.ids(range(len(rows))).astype("<u2")})
    train, val = every_row
    units = (tmp_path / "units").glob("*/rows.bin")
    gone = {row.tobytes() for unit in units for row in np.fromfile(unit, "<u2").reshape(-1, 8)}
    gone -= train
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    texts = [tokenizer.decode(np.frombuffer(row, "<u2")) for row in gone - (gone - val)]
    assert not train & val
    assert set(expected) <= set(texts)
    assert (index.train.withheld_rows, index.val.withheld_rows) == (len(expected), 0)


def test_rows_are_not_in_the_order_of_the_stream(tokens: Tokens, tmp_path: Path) -> None:
    rows = open_rows(tmp_path / "out", cut(tokens, tmp_path, train_shards=1), "train")
    first_N = rows.documents_NS(range(len(rows)))[:, 0]
    assert first_N.tolist() != sorted(first_N.tolist())


def test_documents_of_one_group_follow_each_other(tokens: Tokens, tmp_path: Path) -> None:
    directory = changed(tokens, tmp_path, lambda rows: [{**row, "group": "one"} for row in rows])
    index = cut(tokens, tmp_path, directory)
    sizes = [entry.num_documents for entry in index.train.shards]
    assert sorted(sizes) == [0, 0, index.train.num_documents]
    found = documents(tmp_path / "out", index, "train")
    expected = [row["sha256"] for row in everything(tokens) if row["split"] == "train"]
    assert [each["sha256"] for each in found] == expected


def test_a_document_that_leaves_changes_its_own_shard_and_no_other(
    tokens: Tokens, tmp_path: Path
) -> None:
    units = InlineUnits(tmp_path / "units")
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    before = shard(
        Given("all", tokens.directory),
        tokens.index,
        shard_settings(),
        bounds(),
        units,
        out=tmp_path / "before",
    )
    found = documents(tmp_path / "before", before, "train")
    gone = [row["sha256"] for row in everything(tokens)].index(found[0]["sha256"])
    directory, index = without(tokens, tmp_path, gone)
    units.made.clear()
    given = Given("fewer", directory)
    after = shard(given, index, shard_settings(), bounds(), units, out=tmp_path / "after")
    first = next(e.name for e in before.train.shards if e.num_documents)
    number = int(first.removeprefix("train/shard-"))
    assert units.made == ["plan the shards", f"train shard {number}"]
    assert after.train.num_documents == before.train.num_documents - 1
    for entry in (*before.train.shards, *before.val.shards):
        same = [
            (tmp_path / name / f"{entry.name}.bin").read_bytes() for name in ("before", "after")
        ]
        assert (same[0] == same[1]) == (entry.name != first)


def test_a_split_smaller_than_one_row_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    num_tokens = sum(d["num_tokens"] for d in everything(tokens) if d["split"] == "val")
    with pytest.raises(CorpusTooSmallError) as caught:
        cut(tokens, tmp_path, context_length=num_tokens, train_shards=1)
    assert caught.value.split in SPLITS
    assert caught.value.needed == num_tokens + 1


def changed(
    tokens: Tokens,
    tmp_path: Path,
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
) -> Path:
    """Copy the tokens with other rows in the table of documents."""
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    table = pa.Table.from_pylist(change(everything(tokens)), schema=DOCUMENT_SCHEMA)
    pq.write_table(table, directory / "documents.parquet")
    return directory


def without(tokens: Tokens, tmp_path: Path, gone: int) -> tuple[Path, Any]:
    """Copy the tokens as they would be without one document."""
    rows = everything(tokens)
    directory = changed(tokens, tmp_path, lambda rows: rows[:gone] + rows[gone + 1 :])
    path = directory / "tokens-00000.bin"
    ids = np.fromfile(path, "<u2")
    start = sum(row["num_tokens"] for row in rows[:gone])
    np.delete(ids, slice(start, start + rows[gone]["num_tokens"])).tofile(path)
    num_tokens = len(ids) - rows[gone]["num_tokens"]
    index = replace(
        tokens.index,
        num_documents=len(rows) - 1,
        num_tokens=num_tokens,
        token_files=(("tokens-00000.bin", num_tokens),),
    )
    return directory, index


def test_content_on_both_sides_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    rows = everything(tokens)
    train = next(row for row in rows if row["split"] == "train")
    copied = next(number for number, row in enumerate(rows) if row["split"] == "val")

    def leak(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[copied]["sha256"] = train["sha256"]
        return rows

    directory = changed(tokens, tmp_path, leak)
    with pytest.raises(LeakError) as caught:
        cut(tokens, tmp_path, directory)
    assert caught.value.where == directory / "documents.parquet"
    assert caught.value.num_shared == 1
    assert caught.value.sha256 == train["sha256"]


def test_documents_that_contradict_the_index_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    directory = changed(tokens, tmp_path, lambda rows: rows[:-1])
    with pytest.raises(CorruptTokensError) as caught:
        cut(tokens, tmp_path, directory)
    assert caught.value.path == directory / "documents.parquet"
    assert caught.value.expected == f"{len(TEXTS)} documents of {tokens.index.num_tokens} tokens"


def tampered(tokens: Tokens, tmp_path: Path, change: Callable[[np.ndarray], None]) -> Path:
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    ids = np.fromfile(directory / "tokens-00000.bin", dtype="<u2")
    change(ids)
    ids.tofile(directory / "tokens-00000.bin")
    return directory


def test_an_id_beyond_the_vocabulary_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    def change(ids: np.ndarray) -> None:
        ids[ids != 0] = 280

    with pytest.raises(TokenOutOfRangeError) as caught:
        cut(tokens, tmp_path, tampered(tokens, tmp_path, change))
    assert (caught.value.token, caught.value.vocab_size) == (280, 280)


def test_a_shard_of_one_id_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    def change(ids: np.ndarray) -> None:
        ids[ids != 0] = 100

    with pytest.raises(DegenerateTokensError) as caught:
        cut(tokens, tmp_path, tampered(tokens, tmp_path, change), train_shards=1)
    assert caught.value.where == "train shard 0"


def test_a_document_that_ends_in_its_middle_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    def change(ids: np.ndarray) -> None:
        ids[1] = 0

    with pytest.raises(CorruptTokensError) as caught:
        cut(tokens, tmp_path, tampered(tokens, tmp_path, change), train_shards=1)
    assert caught.value.expected == "one at the end of each document"


def test_a_shard_whose_tokens_are_not_the_text_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    def change(ids: np.ndarray) -> None:
        ids[ids > 256] = 256

    with pytest.raises(RoundTripError):
        cut(tokens, tmp_path, tampered(tokens, tmp_path, change), round_trip_share=0.999)


def test_shards_too_large_for_memory_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    large = replace(tokens, index=replace(tokens.index, num_train_tokens=10**9))
    with pytest.raises(WrongSettingError) as caught:
        cut(large, tmp_path)
    assert caught.value.setting == "shard.train_shards"
    assert caught.value.expected == "at least 4: a shard holds 512 MiB at most"


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"context_length": 0}, "shard.context_length"),
        ({"packing": "loose"}, "shard.packing"),
        ({"seed": -1}, "shard.seed"),
        ({"train_shards": 0}, "shard.train_shards"),
        ({"val_shards": 0}, "shard.val_shards"),
        ({"round_trip_share": 0.0}, "shard.round_trip_share"),
        ({"baseline_tokens": 7}, "shard.baseline_tokens"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(WrongSettingError) as caught:
        shard_settings(**changes)
    assert caught.value.setting == setting
    assert (caught.value.found,) == tuple(changes.values())
