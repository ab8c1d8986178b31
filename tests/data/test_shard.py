import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import shard as stage
from data.documents import read_documents, write_documents
from data.errors import (
    CorpusTooSmallError,
    CorruptTokensError,
    LeakError,
    TokenOutOfRangeError,
    WrongSettingError,
)
from data.rows import open_rows
from data.shard import shard
from data.split import SplitName
from data.stream import Stream
from data.token_files import TokenReader, TokenWriter
from data.token_statistics import token_statistics
from data.tokenizer import Tokenizer
from tests.data.conftest import Shards, Tokens
from tests.data.corpus import quiet, shard_settings

# First half of the sha256 of the tiny corpus's shards, by stage version: other bytes need another.
GOLDEN: dict[int, dict[str, str]] = {
    1: {
        "tokenizer.json": "a22cb0583a040a5a1ef38216865a0605",
        "train/row-documents.bin": "3b1dec986723ba6b6e1ab3e91a5859d9",
        "train/shard-00000.bin": "811d9dca0f6fd4b09cf3320b27c22719",
        "train/shard-00001.bin": "e9bf6f56ec196fa8bd58ff92eb831d99",
        "train/shard-00002.bin": "de09702225320bf0fa54cb47b9d7aecb",
        "train/shard-00003.bin": "18fc71882763723ff85e10b21d464dc8",
        "train/shard-00004.bin": "04df10d042768da8cee70603bc417adc",
        "val/row-documents.bin": "65cf199336aa4e3464ee8ffbfde48e99",
        "val/shard-00000.bin": "18322f5dda0d063780540345f49f73a0",
        "val/shard-00001.bin": "20095a2b04a8f231c53c9c0ee5664c89",
        "val/shard-00002.bin": "7fc2021100764f7bec11249045edc355",
    },
}
SPLITS: tuple[SplitName, ...] = ("train", "val")


def half_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def test_the_bytes_written_are_those_of_this_version(shards: Shards) -> None:
    found = {
        path.relative_to(shards.directory).as_posix(): half_sha256(path)
        for path in shards.directory.rglob("*")
        if path.suffix in (".bin", ".json")
    }
    assert found == GOLDEN[stage.VERSION]
    assert len({str(sorted(digests.items())) for digests in GOLDEN.values()}) == len(GOLDEN)


def test_the_same_tokens_give_the_same_shards(
    tokens: Tokens, shards: Shards, tmp_path: Path
) -> None:
    index = shard(
        tokens.directory, tokens.index, shard_settings(), out=tmp_path / "out", on_progress=quiet
    )
    assert index == shards.index
    for path in shards.directory.rglob("*"):
        if path.is_file():
            again = tmp_path / "out" / path.relative_to(shards.directory)
            assert again.read_bytes() == path.read_bytes()


def test_rows_written_in_many_blocks_are_the_same(
    tokens: Tokens, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BLOCK_TOKENS", 1)
    index = shard(
        tokens.directory, tokens.index, shard_settings(), out=tmp_path / "out", on_progress=quiet
    )
    assert index == shards.index
    for path, _ in index.train.shards:
        assert half_sha256(tmp_path / "out" / path) == half_sha256(shards.directory / path)


def test_an_index_is_plain_json(tokens: Tokens, shards: Shards) -> None:
    for index in (asdict(tokens.index), asdict(shards.index)):
        as_lists = json.loads(json.dumps(index, allow_nan=False))
        assert json.dumps(as_lists) == json.dumps(index)


def test_another_seed_gives_other_rows(tokens: Tokens, shards: Shards, tmp_path: Path) -> None:
    settings = shard_settings(seed=4)
    shard(tokens.directory, tokens.index, settings, out=tmp_path / "out", on_progress=quiet)
    path = "train/shard-00000.bin"
    assert (tmp_path / "out" / path).read_bytes() != (shards.directory / path).read_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_rows_and_dropped_tokens_are_all_tokens_of_the_split(
    tokens: Tokens, shards: Shards, split: SplitName
) -> None:
    documents = read_documents(tokens.directory / "documents.parquet")
    mine = [document for document in documents if document.split == split]
    entry = getattr(shards.index, split)
    assert entry.num_documents == len(mine)
    assert entry.num_tokens == 8 * entry.num_rows
    assert entry.num_tokens + entry.dropped_tokens == sum(d.num_tokens for d in mine)
    assert 0 <= entry.dropped_tokens < 8
    assert sum(num_rows for _, num_rows in entry.shards) == entry.num_rows
    assert all(num_rows == 4 for _, num_rows in entry.shards[:-1])


@pytest.mark.parametrize("split", SPLITS)
def test_each_side_has_its_own_documents_in_the_order_of_its_stream(
    tokens: Tokens, shards: Shards, split: SplitName
) -> None:
    everything = read_documents(tokens.directory / "documents.parquet")
    documents = read_documents(shards.directory / split / "documents.parquet")
    assert all(everything[document.document] == document for document in documents)
    assert sorted(d.document for d in documents) == [
        document.document for document in everything if document.split == split
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_rows_put_back_in_order_are_the_documents(
    tokens: Tokens, shards: Shards, split: SplitName
) -> None:
    tokenizer = Tokenizer.load(shards.directory / "tokenizer.json")
    rows = open_rows(shards.directory, shards.index, split)
    ids_NS, documents_NS = rows.take(range(len(rows))), rows.documents_NS(range(len(rows)))
    table = read_documents(shards.directory / split / "documents.parquet")
    for number, document in enumerate(table):
        source = (tokens.listing.root / document.path).read_bytes()
        pieces = [
            tokenizer.decode(ids_S[documents_S == number].tolist())
            for ids_S, documents_S in zip(ids_NS, documents_NS, strict=True)
        ]
        assert all(piece in source for piece in pieces)
        assert sum(map(len, pieces)) <= len(source)
        if (documents_NS == number).sum() == document.num_tokens:
            assert sum(map(len, pieces)) == len(source)
    # What is dropped is shorter than a row, and every document here is longer.
    assert set(documents_NS.reshape(-1).tolist()) == set(range(len(table)))


@pytest.mark.parametrize("split", SPLITS)
def test_the_statistics_are_those_of_the_written_rows(shards: Shards, split: SplitName) -> None:
    rows, entry = open_rows(shards.directory, shards.index, split), getattr(shards.index, split)
    found = token_statistics(rows.take(range(len(rows))), shards.index.vocab_size)
    assert found.distinct_ids == entry.distinct_ids
    assert found.entropy_bits == entry.entropy_bits
    assert found.num_tokens == entry.num_tokens


def test_rows_are_not_in_the_order_of_the_stream(shards: Shards) -> None:
    rows = open_rows(shards.directory, shards.index, "train")
    first_N = rows.documents_NS(range(len(rows)))[:, 0]
    assert first_N.tolist() != sorted(first_N.tolist())


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.integers(1, 12),
)
def test_a_stream_is_its_documents_in_the_given_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], random: Any, limit: int
) -> None:
    directory = tmp_path_factory.mktemp("stream")
    documents = [[*text, 0] for text in texts]
    with TokenWriter(directory, "uint16", max_file_tokens=limit) as writer:
        for document in documents:
            writer.write(np.array(document))
    order = list(range(len(documents)))
    random.shuffle(order)
    lengths = np.array([len(document) for document in documents])
    reader = TokenReader(directory, writer.files, "uint16")
    stream = Stream(reader, (np.cumsum(lengths) - lengths)[order], lengths[order])
    expected = [token for number in order for token in documents[number]]
    assert len(stream) == len(expected)
    for start in range(len(expected)):
        assert stream.read(start, len(expected)).tolist() == expected[start:]
        assert stream.document_at(start) == expected[:start].count(0)


def test_a_split_smaller_than_one_row_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    documents = read_documents(tokens.directory / "documents.parquet")
    num_tokens = sum(document.num_tokens for document in documents if document.split == "val")
    settings = shard_settings(context_length=num_tokens)
    with pytest.raises(CorpusTooSmallError) as caught:
        shard(tokens.directory, tokens.index, settings, out=tmp_path / "out", on_progress=quiet)
    assert caught.value.split == "val"
    assert caught.value.num_tokens == num_tokens
    assert caught.value.needed == num_tokens + 1


def test_content_on_both_sides_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    documents = list(read_documents(directory / "documents.parquet"))
    train = next(document for document in documents if document.split == "train")
    val = next(document for document in documents if document.split == "val")
    documents[val.document] = replace(val, sha256=train.sha256)
    write_documents(directory / "documents.parquet", documents)
    with pytest.raises(LeakError) as caught:
        shard(directory, tokens.index, shard_settings(), out=tmp_path / "out", on_progress=quiet)
    assert caught.value.where == directory / "documents.parquet"
    assert caught.value.num_shared == 1
    assert caught.value.sha256 == train.sha256


def test_documents_that_contradict_the_index_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    documents = read_documents(directory / "documents.parquet")
    write_documents(directory / "documents.parquet", documents[:-1])
    with pytest.raises(CorruptTokensError) as caught:
        shard(directory, tokens.index, shard_settings(), out=tmp_path / "out", on_progress=quiet)
    assert caught.value.path == directory / "documents.parquet"
    assert caught.value.found.startswith(f"{len(documents) - 1} documents of ")
    assert (
        caught.value.expected == f"{len(documents)} documents of {tokens.index.num_tokens} tokens"
    )


def test_an_id_beyond_the_vocabulary_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    ids = np.fromfile(directory / "tokens-00000.bin", dtype="<u2")
    ids[:] = 280
    ids.tofile(directory / "tokens-00000.bin")
    with pytest.raises(TokenOutOfRangeError) as caught:
        shard(directory, tokens.index, shard_settings(), out=tmp_path / "out", on_progress=quiet)
    assert (caught.value.where, caught.value.token) == ("train rows", 280)
    assert caught.value.vocab_size == 280


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"context_length": 0}, "shard.context_length"),
        ({"seed": -1}, "shard.seed"),
        ({"shard_rows": 0}, "shard.shard_rows"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, int], setting: str) -> None:
    with pytest.raises(WrongSettingError) as caught:
        shard_settings(**changes)
    assert caught.value.setting == setting
    assert (caught.value.found,) == tuple(changes.values())
