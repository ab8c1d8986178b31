import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import pretokenize as stage
from data.documents import read_documents
from data.errors import (
    ChangedSourceError,
    CorruptTokensError,
    DegenerateTokensError,
    NoTrainingDocumentsError,
    NoValidationDocumentsError,
    RoundTripError,
    VocabularyTooLargeError,
    WrongSettingError,
)
from data.pretokenize import check_round_trips, pretokenize
from data.split import split_of
from data.token_files import TokenReader, TokenWriter, dtype_of
from data.tokenizer import Tokenizer
from tests.data.conftest import Tokens
from tests.data.corpus import TEXTS, pretokenize_settings, quiet, write_corpus

# The sha256 of the tiny corpus's tokens, by stage version: other bytes need another version.
GOLDEN = {
    1: {
        "tokenizer.json": "a22cb0583a040a5a1ef38216865a0605498b0289a137a70e5df606320df73957",
        "tokens-00000.bin": "7cd87781b09a8fe2f8a3aa6e2d8b1cb53119d2b742107c50a5e3e8e53be1be91",
    },
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_bytes_written_are_those_of_this_version(tokens: Tokens) -> None:
    assert {name: sha256(tokens.directory / name) for name in GOLDEN[1]} == GOLDEN[stage.VERSION]
    assert len({str(digests) for digests in GOLDEN.values()}) == len(GOLDEN)


def test_nothing_but_the_four_kinds_of_files_is_written(tokens: Tokens) -> None:
    assert sorted(path.name for path in tokens.directory.iterdir()) == [
        "documents.parquet",
        "rejected.parquet",
        "tokenizer.json",
        "tokens-00000.bin",
    ]


def test_the_index_says_what_the_files_hold(tokens: Tokens) -> None:
    index, ids = tokens.index, np.fromfile(tokens.directory / "tokens-00000.bin", dtype="<u2")
    documents = read_documents(tokens.directory / "documents.parquet")
    assert index.num_documents == len(documents) == len(TEXTS)
    assert index.num_train_documents == sum(document.split == "train" for document in documents)
    assert index.num_val_documents == sum(document.split == "val" for document in documents)
    assert index.num_tokens == len(ids) == sum(document.num_tokens for document in documents)
    assert index.num_bytes == sum(len(content) for content in TEXTS.values())
    assert index.distinct_ids == len(set(ids.tolist()))
    assert index.token_files == (("tokens-00000.bin", len(ids)),)
    assert (index.num_rejected, index.rejected_by_filter) == (0, {})
    assert (index.dtype, index.vocab_size, index.end_of_text_id) == ("uint16", 280, 0)
    assert (index.unk_ratio, index.num_round_trips) == (0, len(TEXTS))
    assert index.source_sha256 == tokens.listing.sha256


def test_every_document_is_its_source_and_ends_with_the_only_end_of_text(tokens: Tokens) -> None:
    tokenizer = Tokenizer.load(tokens.directory / "tokenizer.json")
    ids = np.fromfile(tokens.directory / "tokens-00000.bin", dtype="<u2").tolist()
    for document in read_documents(tokens.directory / "documents.parquet"):
        mine, ids = ids[: document.num_tokens], ids[document.num_tokens :]
        assert tokenizer.decode(mine) == TEXTS[document.path]
        assert mine.index(0) == len(mine) - 1
    assert ids == []


def test_documents_come_in_path_order_with_their_source(tokens: Tokens) -> None:
    settings = pretokenize_settings()
    documents = read_documents(tokens.directory / "documents.parquet")
    assert [document.document for document in documents] == list(range(len(TEXTS)))
    assert [document.path for document in documents] == sorted(TEXTS)
    for document in documents:
        content = TEXTS[document.path]
        digest = hashlib.sha256(content).hexdigest()
        assert (document.sha256, document.num_bytes) == (digest, len(content))
        side = split_of(digest, settings.validation_fraction, settings.split_seed)
        assert (document.split, document.licence) == (side, "MIT")


def test_the_tokenizer_never_sees_validation_documents(tokens: Tokens, tmp_path: Path) -> None:
    sides = {d.path: d.split for d in read_documents(tokens.directory / "documents.parquet")}
    train = {path: text for path, text in TEXTS.items() if sides[path] == "train"}
    settings = pretokenize_settings()
    # Other validation documents, the same training documents: the tokenizer must not change.
    others = {f"new{number}.py": b"zqzqzq %d\n" % number * 40 for number in range(40)}
    held_out = {
        path: content
        for path, content in others.items()
        if split_of(
            hashlib.sha256(content).hexdigest(), settings.validation_fraction, settings.split_seed
        )
        == "val"
    }
    assert held_out
    listing = write_corpus(tmp_path / "source", train | held_out)
    pretokenize(listing, settings, out=tmp_path / "out", on_progress=quiet)
    expected = sha256(tokens.directory / "tokenizer.json")
    assert sha256(tmp_path / "out" / "tokenizer.json") == expected


REJECTS = {
    "0-copy.py": TEXTS["a.py"],
    "empty.py": b"",
    "large.py": b"#" * 1001,
    "latin.py": "s = '\u00e9'\n".encode("latin-1"),
    "null.py": b"a\0b",
    "utf16.py": "x = 1\n".encode("utf-16"),
}


def test_every_rejected_file_is_listed_with_filter_and_reason(tmp_path: Path) -> None:
    listing = write_corpus(tmp_path / "source", TEXTS | REJECTS)
    index = pretokenize(listing, pretokenize_settings(), out=tmp_path / "out", on_progress=quiet)
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [(row["path"], row["filter"], row["reason"]) for row in rows] == [
        # The first path in order is the document; the other one is the copy.
        ("a.py", "duplicate", "same content as 0-copy.py"),
        ("empty.py", "too_small", "0 bytes, at least 1 wanted"),
        ("large.py", "too_large", "1001 bytes, at most 1000 wanted"),
        ("latin.py", "not_utf8", "invalid continuation byte at 5"),
        ("null.py", "binary", "NUL byte at 1"),
        ("utf16.py", "binary", "NUL byte at 3"),
    ]
    assert rows[0]["sha256"] == hashlib.sha256(TEXTS["a.py"]).hexdigest()
    assert rows[0]["num_bytes"] == len(TEXTS["a.py"])
    assert index.num_documents == len(TEXTS)
    assert index.num_rejected == 6
    assert index.rejected_by_filter == {
        "binary": 2,
        "duplicate": 1,
        "not_utf8": 1,
        "too_large": 1,
        "too_small": 1,
    }


def test_progress_reaches_its_total(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def note(what: str, done: int, total: int) -> None:
        seen[what] = (done, total)

    listing = write_corpus(tmp_path / "source", TEXTS)
    pretokenize(listing, pretokenize_settings(), out=tmp_path / "out", on_progress=note)
    assert {what: done == total for what, (done, total) in seen.items()} == {
        "filter": True,
        "train the tokenizer": True,
        "encode": True,
        "check round trips": True,
    }


def test_files_encoded_in_many_batches_are_the_same(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BATCH_BYTES", 60)
    index = pretokenize(tokens.listing, pretokenize_settings(), out=tmp_path, on_progress=quiet)
    assert asdict(index) == asdict(tokens.index)
    assert sha256(tmp_path / "tokens-00000.bin") == sha256(tokens.directory / "tokens-00000.bin")


def test_only_binary_files_leave_nothing_to_train_on(tmp_path: Path) -> None:
    listing = write_corpus(tmp_path / "source", {"a.py": b"\0", "b.py": b"b\0"})
    with pytest.raises(NoTrainingDocumentsError) as caught:
        pretokenize(listing, pretokenize_settings(), out=tmp_path / "out", on_progress=quiet)
    assert (caught.value.num_documents, caught.value.num_rejected) == (0, 2)
    assert caught.value.validation_fraction == 0.3


def test_a_corpus_without_validation_documents_is_refused(tmp_path: Path) -> None:
    listing = write_corpus(tmp_path / "source", TEXTS)
    settings = pretokenize_settings(validation_fraction=1e-9)
    with pytest.raises(NoValidationDocumentsError) as caught:
        pretokenize(listing, settings, out=tmp_path / "out", on_progress=quiet)
    assert caught.value.num_documents == len(TEXTS)
    assert caught.value.validation_fraction == 1e-9


@pytest.mark.parametrize("step", ["filter", "train the tokenizer", "encode"])
def test_a_file_that_changes_after_any_step_is_refused(tmp_path: Path, step: str) -> None:
    listing = write_corpus(tmp_path / "source", TEXTS)

    def change_after_step(what: str, done: int, total: int) -> None:
        if what == step and done == total:
            for path in TEXTS:
                (tmp_path / "source" / path).write_bytes(b"changed")

    with pytest.raises(ChangedSourceError) as caught:
        pretokenize(
            listing, pretokenize_settings(), out=tmp_path / "o", on_progress=change_after_step
        )
    assert caught.value.found_sha256 == hashlib.sha256(b"changed").hexdigest()


def test_a_vocabulary_larger_than_the_corpus_is_refused(tmp_path: Path) -> None:
    listing = write_corpus(tmp_path / "source", TEXTS)
    settings = pretokenize_settings(vocab_size=5000)
    with pytest.raises(VocabularyTooLargeError) as caught:
        pretokenize(listing, settings, out=tmp_path / "out", on_progress=quiet)
    assert caught.value.requested == 5000
    assert 257 < caught.value.supported < 5000


@pytest.mark.parametrize(("min_distinct_ids", "measure"), [(3, "distinct_ids"), (1, "top_share")])
def test_a_corpus_of_one_character_is_refused(
    tmp_path: Path, min_distinct_ids: int, measure: str
) -> None:
    texts = {f"{number}.py": b"a" * number for number in range(90, 110)}
    listing = write_corpus(tmp_path / "source", texts)
    settings = pretokenize_settings(vocab_size=257, min_distinct_ids=min_distinct_ids)
    with pytest.raises(DegenerateTokensError) as caught:
        pretokenize(listing, settings, out=tmp_path / "out", on_progress=quiet)
    assert (caught.value.where, caught.value.measure) == ("tokens", measure)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"vocab_size": 256}, "pretokenize.vocab_size"),
        ({"min_merge_frequency": 0}, "pretokenize.min_merge_frequency"),
        ({"validation_fraction": 0.0}, "pretokenize.validation_fraction"),
        ({"validation_fraction": float("nan")}, "pretokenize.validation_fraction"),
        ({"split_seed": -1}, "pretokenize.split_seed"),
        ({"min_document_bytes": 0}, "pretokenize.min_document_bytes"),
        ({"max_file_bytes": 0}, "pretokenize.max_file_bytes"),
        ({"max_unk_ratio": 1.0}, "pretokenize.max_unk_ratio"),
        ({"min_distinct_ids": 281}, "pretokenize.min_distinct_ids"),
        ({"round_trip_documents": 0}, "pretokenize.round_trip_documents"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(WrongSettingError) as caught:
        pretokenize_settings(**changes)
    assert caught.value.setting == setting
    assert str(caught.value).startswith(f"{setting} is ")


def test_stored_tokens_that_are_not_the_source_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    ids = np.fromfile(directory / "tokens-00000.bin", dtype="<u2")
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    before = len(tokenizer.decode(ids[:3].tolist()))
    ids[3] = next(t for t in range(1, 257) if tokenizer.decode([t]) == b"\x01")
    ids.tofile(directory / "tokens-00000.bin")
    with pytest.raises(RoundTripError) as caught:
        check_round_trips(directory, tokens.index, tokens.listing)
    assert caught.value.path == tokens.listing.root / "a.py"
    assert caught.value.position_bytes == before


def test_a_document_without_its_end_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    directory = shutil.copytree(tokens.directory, tmp_path / "copy")
    first = read_documents(directory / "documents.parquet")[0].num_tokens
    ids = np.fromfile(directory / "tokens-00000.bin", dtype="<u2")
    ids[first - 2] = 0
    ids.tofile(directory / "tokens-00000.bin")
    with pytest.raises(RoundTripError) as caught:
        check_round_trips(directory, tokens.index, tokens.listing)
    assert 0 < caught.value.position_bytes < len(TEXTS["a.py"])


@pytest.mark.parametrize("size", [0, 5, None])
def test_a_token_file_of_another_size_is_refused(
    tokens: Tokens, tmp_path: Path, size: int | None
) -> None:
    path = shutil.copytree(tokens.directory, tmp_path / "copy") / "tokens-00000.bin"
    if size is None:
        path.unlink()
    else:
        path.write_bytes(bytes(size))
    with pytest.raises(CorruptTokensError) as caught:
        TokenReader(path.parent, tokens.index.token_files, "uint16")
    assert caught.value.path == path
    assert caught.value.found == ("is missing" if size is None else f"{size} bytes")
    assert caught.value.expected == f"{2 * tokens.index.num_tokens} bytes"


def test_a_vocabulary_beyond_sixteen_bits_gets_wider_tokens(tmp_path: Path) -> None:
    assert (dtype_of(65536), dtype_of(65537)) == ("uint16", "uint32")
    with TokenWriter(tmp_path, "uint32") as writer:
        writer.write(np.array([1, 65536]))
    assert (tmp_path / "tokens-00000.bin").read_bytes() == b"\1\0\0\0\0\0\1\0"
    assert TokenReader(tmp_path, writer.files, "uint32").read(1, 1).tolist() == [65536]


def test_a_full_file_is_followed_by_another(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, "uint16", max_file_tokens=3) as writer:
        for document in ([1, 2], [3, 4], [5], [6, 7, 8, 9]):
            writer.write(np.array(document))
    assert writer.files == (("tokens-00000.bin", 4), ("tokens-00001.bin", 5))
    assert (tmp_path / "tokens-00000.bin").read_bytes() == b"\1\0\2\0\3\0\4\0"
    reader = TokenReader(tmp_path, writer.files, "uint16")
    assert reader.read(4, 1).tolist() == [5]
    assert reader.read(5, 4).tolist() == [6, 7, 8, 9]


def test_tokens_are_never_written_over_others(tmp_path: Path) -> None:
    (tmp_path / "tokens-00000.bin").write_bytes(b"stale")
    with TokenWriter(tmp_path, "uint16") as writer, pytest.raises(FileExistsError):
        writer.write(np.array([1]))


@given(st.integers(1, 50))
def test_no_more_documents_are_checked_than_there_are(tokens: Tokens, wanted: int) -> None:
    index = replace(tokens.index, num_round_trips=min(wanted, tokens.index.num_documents))
    check_round_trips(tokens.directory, index, tokens.listing)
