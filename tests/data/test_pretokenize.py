import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import pretokenize as stage
from data.errors import (
    ChangedSourceError,
    CorruptTokensError,
    DegenerateTokensError,
    MissingFileError,
    NoTrainingDocumentsError,
    NoValidationDocumentsError,
    RoundTripError,
    VocabularyTooLargeError,
    WrongSettingError,
    WrongTokenizerError,
)
from data.intake import check_round_trips
from data.pretokenize import TokensIndex, pretokenize
from data.token_files import TokenReader, adopt, dtype_of
from data.tokenizer import Tokenizer
from tests.data.conftest import Tokens
from tests.data.corpus import TEXTS, corpus_of, pretokenize_settings, write_texts
from tests.data.inline import InlineUnits

# The sha256 of the tiny corpus's tokens, by stage version: other bytes need another version.
GOLDEN = {
    2: {
        "tokenizer.json": "a22cb0583a040a5a1ef38216865a0605498b0289a137a70e5df606320df73957",
        "tokens-00000.bin": "7cd87781b09a8fe2f8a3aa6e2d8b1cb53119d2b742107c50a5e3e8e53be1be91",
    },
}
BODY = "".join(f"    total += weigh({number}, {number * 7})\n" for number in range(200))
ALIKE = f"def first(total):\n{BODY}    return total\n"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def make(
    root: Path, texts: dict[str, bytes], **changes: Any
) -> tuple[TokensIndex, Path, InlineUnits]:
    """Pretokenize texts; the units of one root are shared."""
    number = len(list(root.glob("out*")))
    source, out = root / f"source{number}", root / f"out{number}"
    out.mkdir(parents=True)
    units = InlineUnits(root / "units")
    return pretokenize(corpus_of(write_texts(source, texts), **changes), units, out=out), out, units


def test_the_bytes_written_are_those_of_this_version(tokens: Tokens) -> None:
    assert {name: sha256(tokens.directory / name) for name in GOLDEN[2]} == GOLDEN[stage.VERSION]


def test_nothing_but_the_four_kinds_of_files_is_written(tokens: Tokens) -> None:
    assert sorted(path.name for path in tokens.directory.iterdir()) == [
        "documents.parquet",
        "rejected.parquet",
        "tokenizer.json",
        "tokens-00000.bin",
    ]


def test_the_index_says_what_the_files_hold(tokens: Tokens) -> None:
    index, ids = tokens.index, np.fromfile(tokens.directory / "tokens-00000.bin", dtype="<u2")
    documents = rows(tokens.directory / "documents.parquet")
    train = [document for document in documents if document["split"] == "train"]
    assert index.num_documents == len(documents) == len(TEXTS)
    assert index.num_train_documents == len(train)
    assert index.num_val_documents == len(TEXTS) - len(train)
    assert index.num_tokens == len(ids) == sum(each["num_tokens"] for each in documents)
    assert index.num_train_tokens == sum(each["num_tokens"] for each in train)
    assert index.num_bytes == sum(len(content) for content in TEXTS.values())
    assert index.documents_by_licence == {"MIT": len(TEXTS)}
    assert index.bytes_by_licence == {"MIT": index.num_bytes}
    assert index.distinct_ids == len(set(ids.tolist()))
    assert index.token_files == (("tokens-00000.bin", len(ids)),)
    assert (index.num_rejected, index.rejected_by_filter) == (0, {})
    assert (index.dtype, index.vocab_size, index.end_of_text_id) == ("uint16", 280, 0)
    assert index.unk_ratio == 0
    assert index.source_sha256 == tokens.corpus.source.sha256


def test_every_document_is_its_source_and_ends_with_the_only_end_of_text(tokens: Tokens) -> None:
    tokenizer = Tokenizer.load(tokens.directory / "tokenizer.json")
    ids = np.fromfile(tokens.directory / "tokens-00000.bin", dtype="<u2").tolist()
    for document in rows(tokens.directory / "documents.parquet"):
        mine, ids = ids[: document["num_tokens"]], ids[document["num_tokens"] :]
        assert tokenizer.decode(mine) == TEXTS[document["path"]]
        assert mine.index(0) == len(mine) - 1
    assert ids == []


def test_documents_come_in_path_order_with_their_source(tokens: Tokens) -> None:
    holdout = pretokenize_settings().holdout
    documents = rows(tokens.directory / "documents.parquet")
    assert [document["path"] for document in documents] == sorted(TEXTS)
    for number, document in enumerate(documents):
        content = TEXTS[document["path"]]
        digest = hashlib.sha256(content).hexdigest()
        assert (document["unit"], document["row"]) == (0, number)
        assert (document["sha256"], document["num_bytes"]) == (digest, len(content))
        assert (document["group"], document["split"]) == (digest, holdout.side(digest))
        assert document["licences"] == ["MIT"]


@pytest.mark.parametrize("engine", ["gigatoken", "fastokens"])
def test_another_engine_writes_the_same_tokens(tokens: Tokens, tmp_path: Path, engine: str) -> None:
    index, out, _ = make(tmp_path, TEXTS, tokenizer={"engine": engine})
    assert index == tokens.index
    assert sha256(out / "tokens-00000.bin") == GOLDEN[2]["tokens-00000.bin"]


def test_many_units_hold_the_documents_of_one(tokens: Tokens, tmp_path: Path) -> None:
    index, out, _ = make(tmp_path, TEXTS, source={"unit_bytes": 60})
    assert len(index.token_files) > 3
    joined = b"".join((out / name).read_bytes() for name, _ in index.token_files)
    assert joined == (tokens.directory / "tokens-00000.bin").read_bytes()
    documents, expected = (
        rows(directory / "documents.parquet") for directory in (out, tokens.directory)
    )
    for document in (*documents, *expected):
        del document["unit"], document["row"]
    assert documents == expected


def test_the_tokenizer_never_sees_validation_documents(tokens: Tokens, tmp_path: Path) -> None:
    sides = {each["path"]: each["split"] for each in rows(tokens.directory / "documents.parquet")}
    train = {path: text for path, text in TEXTS.items() if sides[path] == "train"}
    holdout = pretokenize_settings().holdout
    # Other validation documents, the same training documents: the tokenizer must not change.
    others = {f"new{number}.py": b"zqzqzq %d\n" % number * 40 for number in range(40)}
    held_out = {
        path: content
        for path, content in others.items()
        if holdout.side(hashlib.sha256(content).hexdigest()) == "val"
    }
    assert held_out
    _, out, _ = make(tmp_path, train | held_out, filters={"near_duplicates": "off"})
    assert sha256(out / "tokenizer.json") == GOLDEN[2]["tokenizer.json"]


REJECTS = {
    "0-copy.py": TEXTS["a.py"],
    "empty.py": b"",
    "key.py": b'key = "AKIAIOSFODNN7EXAMPLE"\n',
    "large.py": b"#" * 1001,
    "latin.py": "s = '\u00e9'\n".encode("latin-1"),
    "null.py": b"a\0b",
}


def test_a_unit_may_be_left_without_any_document(tmp_path: Path) -> None:
    texts = {"0.py": b"\0" * 60, **TEXTS}
    index, out, _ = make(tmp_path, texts, source={"unit_bytes": 60})
    assert index.rejected_by_filter == {"binary": 1}
    assert index.num_documents == len(TEXTS)
    assert not (out / "tokens-00000.bin").exists()
    assert index.token_files[0][0] == "tokens-00001.bin"


def test_every_rejected_file_is_listed_with_filter_and_detail(tmp_path: Path) -> None:
    index, out, _ = make(tmp_path, TEXTS | REJECTS)
    found = {row["path"]: (row["filter"], row["detail"]) for row in rows(out / "rejected.parquet")}
    # The first path in order is the document; the other one is the copy.
    copied = hashlib.sha256(TEXTS["a.py"]).hexdigest()
    assert found["a.py"] == ("duplicate", f"same text as {copied}")
    assert {path: name for path, (name, _) in found.items()} == {
        "a.py": "duplicate",
        "empty.py": "empty",
        "key.py": "secret",
        "large.py": "too_large",
        "latin.py": "undecodable",
        "null.py": "binary",
    }
    assert all(detail for _, detail in found.values())
    assert index.num_documents == len(TEXTS)
    assert index.num_rejected == 6
    assert index.rejected_by_filter == dict.fromkeys(
        ["binary", "duplicate", "empty", "secret", "too_large", "undecodable"], 1
    )


def test_no_token_of_a_planted_secret_is_written(tmp_path: Path) -> None:
    _, out, _ = make(tmp_path, TEXTS | REJECTS)
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    text = tokenizer.decode(np.fromfile(out / "tokens-00000.bin", dtype="<u2"))
    assert text == b"".join(
        content
        for path, content in sorted((TEXTS | REJECTS).items())
        if (path in TEXTS and path != "a.py") or path == "0-copy.py"
    )
    assert b"AKIA" not in text


def alike(number: int) -> bytes:
    return ALIKE.replace("weigh(30, 210)", f"weigh(30, {number})").encode()


def test_near_duplicates_leave_the_first_whatever_the_units(tmp_path: Path) -> None:
    texts = TEXTS | {f"near{number}.py": alike(number) for number in range(4)}
    large = {"max_file_bytes": 10_000}
    for unit_bytes in (2**20, 100):
        index, out, _ = make(tmp_path, texts, filters=large, source={"unit_bytes": unit_bytes})
        assert index.rejected_by_filter == {"near_duplicate": 3}
        rejected = rows(out / "rejected.parquet")
        assert [row["path"] for row in rejected] == ["near1.py", "near2.py", "near3.py"]
        leader = hashlib.sha256(texts["near0.py"]).hexdigest()
        assert all(row["detail"].endswith(f" with {leader}") for row in rejected)
        assert all(row["detail"] >= "Jaccard 0.85" for row in rejected)


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_that_stay_are_on_one_side(tmp_path: Path, seed: int) -> None:
    texts = TEXTS | {f"near{number}.py": alike(number) for number in range(8)}
    filters = {"max_file_bytes": 10_000, "near_duplicates": "together"}
    index, out, _ = make(tmp_path, texts, filters=filters, split_seed=seed + 4)
    assert index.num_documents == len(texts)
    near = [row for row in rows(out / "documents.parquet") if row["path"].startswith("near")]
    assert {row["group"] for row in near} == {near[0]["sha256"]}
    assert len({row["split"] for row in near}) == 1


def test_opting_out_makes_the_units_it_touches_anew_and_no_other(tmp_path: Path) -> None:
    source = {"unit_bytes": 60}
    before, _, units = make(tmp_path, TEXTS, source=source)
    gone = hashlib.sha256(TEXTS["deep/c.py"]).hexdigest()
    (tmp_path / "opt-out.txt").write_text(f"{gone}\n")
    units.made.clear()
    after, out, units = make(
        tmp_path, TEXTS, source=source, removal_list=str(tmp_path / "opt-out.txt")
    )
    number = next(
        row["unit"] for row in rows(out / "rejected.parquet") if row["filter"] == "opted_out"
    )
    assert units.made == ["settle copies", f"compact unit {number}"]
    assert after.num_documents == before.num_documents - 1
    assert after.rejected_by_filter == {"opted_out": 1}
    assert gone not in {row["sha256"] for row in rows(out / "documents.parquet")}


def test_the_copy_of_what_was_opted_out_stays_unless_it_is_named_too(tmp_path: Path) -> None:
    texts = pa.table(
        {
            "text": [
                *(text.decode() for text in TEXTS.values()),
                "x = 1\ny = 2\n",
                "x = 1\ny = 2\n",
            ],
            "repo": [*([""] * len(TEXTS)), "gone/away", "still/here"],
        }
    )
    (tmp_path / "tables").mkdir()
    pq.write_table(texts, tmp_path / "tables" / "part.parquet")
    (tmp_path / "opt-out.txt").write_text("gone/away\n")
    table = {
        "kind": "parquet",
        "include": ("*.parquet",),
        "text_column": "text",
        "repository_column": "repo",
        "unit_bytes": 0,
    }
    corpus = corpus_of(
        tmp_path / "tables", source=table, removal_list=str(tmp_path / "opt-out.txt")
    )
    (tmp_path / "out").mkdir()
    pretokenize(corpus, InlineUnits(tmp_path / "units"), out=tmp_path / "out")
    assert [row["repository"] for row in rows(tmp_path / "out" / "documents.parquet")][-1] == (
        "still/here"
    )
    assert [row["filter"] for row in rows(tmp_path / "out" / "rejected.parquet")] == ["opted_out"]


def test_a_tokenizer_that_exists_is_taken_over_byte_for_byte(
    tokens: Tokens, tmp_path: Path
) -> None:
    imported = {
        "kind": "import",
        "path": str(tokens.directory / "tokenizer.json"),
        "min_merge_frequency": 0,
        "sample_bytes": 0,
    }
    index, out, _ = make(tmp_path, TEXTS, tokenizer=imported)
    assert index == tokens.index
    assert sha256(out / "tokenizer.json") == GOLDEN[2]["tokenizer.json"]
    with pytest.raises(WrongTokenizerError) as caught:
        make(tmp_path, TEXTS, tokenizer=imported | {"vocab_size": 281})
    assert caught.value.expected == "281 as in tokenizer.vocab_size"
    with pytest.raises(MissingFileError):
        make(tmp_path, TEXTS, tokenizer=imported | {"path": str(tmp_path / "none.json")})


def test_a_tokenizer_with_another_model_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    definition = json.loads((tokens.directory / "tokenizer.json").read_text())
    definition["model"]["type"] = "Unigram"
    (tmp_path / "other.json").write_text(json.dumps(definition))
    imported = {
        "kind": "import",
        "path": str(tmp_path / "other.json"),
        "min_merge_frequency": 0,
        "sample_bytes": 0,
    }
    with pytest.raises(WrongTokenizerError):
        make(tmp_path, TEXTS, tokenizer=imported)


def test_only_binary_files_leave_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(NoTrainingDocumentsError) as caught:
        make(tmp_path, {"a.py": b"\0", "b.py": b"b\0"})
    assert caught.value.num_documents == 0
    assert caught.value.validation_fraction == 0.3


def test_a_corpus_without_validation_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoValidationDocumentsError) as caught:
        make(tmp_path, TEXTS, validation_fraction=1e-9)
    assert caught.value.num_documents == len(TEXTS)
    assert caught.value.validation_fraction == 1e-9


def test_a_file_that_changes_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    corpus = corpus_of(write_texts(tmp_path / "source", TEXTS))
    for path in TEXTS:
        (tmp_path / "source" / path).write_bytes(b"changed")
    (tmp_path / "out").mkdir()
    with pytest.raises(ChangedSourceError) as caught:
        pretokenize(corpus, InlineUnits(tmp_path / "units"), out=tmp_path / "out")
    assert caught.value.found_sha256 == hashlib.sha256(b"changed").hexdigest()


def test_a_vocabulary_larger_than_the_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyTooLargeError) as caught:
        make(tmp_path, TEXTS, tokenizer={"vocab_size": 5000})
    assert caught.value.requested == 5000
    assert 257 < caught.value.supported < 5000


@pytest.mark.parametrize(("min_distinct_ids", "measure"), [(3, "distinct_ids"), (1, "top_share")])
def test_a_unit_of_one_character_is_refused(
    tmp_path: Path, min_distinct_ids: int, measure: str
) -> None:
    texts = {f"{number}.py": b"a" * number for number in range(90, 110)}
    tokenizer = {"vocab_size": 257}
    with pytest.raises(DegenerateTokensError) as caught:
        make(tmp_path, texts, tokenizer=tokenizer, min_distinct_ids=min_distinct_ids)
    assert (caught.value.where, caught.value.measure) == ("unit 0 (100.py)", measure)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"validation_fraction": 0.0}, "pretokenize.validation_fraction"),
        ({"validation_fraction": float("nan")}, "pretokenize.validation_fraction"),
        ({"split_seed": -1}, "pretokenize.split_seed"),
        ({"group_by": "folder"}, "pretokenize.group_by"),
        ({"round_trip_share": 0.0}, "pretokenize.round_trip_share"),
        ({"max_unk_ratio": 1.0}, "pretokenize.max_unk_ratio"),
        ({"min_distinct_ids": 0}, "pretokenize.min_distinct_ids"),
        ({"max_top_share": 1.0}, "pretokenize.max_top_share"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(WrongSettingError) as caught:
        pretokenize_settings(**changes)
    assert caught.value.setting == setting
    assert str(caught.value).startswith(f"{setting} is ")


def test_repositories_and_near_duplicates_cannot_both_decide_what_stays_together(
    tmp_path: Path,
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        corpus_of(
            write_texts(tmp_path, TEXTS),
            group_by="repository",
            filters={"near_duplicates": "together"},
        )
    assert caught.value.setting == "filters.near_duplicates"


def unit_directory(tokens: Tokens) -> Path:
    """The one unit that the tiny corpus was taken in as."""
    found = tokens.directory.parent.glob("units/*/digests.npy")
    return next(path.parent for path in found)


def test_stored_tokens_that_are_not_the_text_are_refused(tokens: Tokens, tmp_path: Path) -> None:
    made, tokenizer = unit_directory(tokens), Tokenizer.load(tokens.directory / "tokenizer.json")
    assert check_round_trips(made, tokenizer, 0.999) == len(TEXTS)
    ids = np.fromfile(made / "tokens.bin", dtype="<u2")
    ids[3] = next(t for t in range(1, 257) if tokenizer.decode([t]) == b"\x01")
    ids.tofile(tmp_path / "tokens.bin")
    adopt(made / "documents.parquet", tmp_path / "documents.parquet")
    with pytest.raises(RoundTripError) as caught:
        check_round_trips(tmp_path, tokenizer, 1e-9)
    assert caught.value.where == "a.py"
    assert caught.value.document_sha256 == hashlib.sha256(TEXTS["a.py"]).hexdigest()


@pytest.mark.parametrize("size", [0, 5, None])
def test_a_token_file_of_another_size_is_refused(
    tokens: Tokens, tmp_path: Path, size: int | None
) -> None:
    path = tmp_path / "tokens-00000.bin"
    if size is not None:
        path.write_bytes(bytes(size))
    with pytest.raises(CorruptTokensError) as caught:
        TokenReader(path.parent, tokens.index.token_files, "uint16")
    assert caught.value.path == path
    assert caught.value.found == ("is missing" if size is None else f"{size} bytes")
    assert caught.value.expected == f"{2 * tokens.index.num_tokens} bytes"


def test_a_vocabulary_beyond_sixteen_bits_gets_wider_tokens(tmp_path: Path) -> None:
    assert (dtype_of(65536), dtype_of(65537)) == ("uint16", "uint32")
    (tmp_path / "tokens-00000.bin").write_bytes(b"\1\0\0\0\0\0\1\0")
    reader = TokenReader(tmp_path, (("tokens-00000.bin", 2),), "uint32")
    assert reader.read(1, 1).tolist() == [65536]


def test_tokens_are_read_across_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\1\0\2\0\3\0\4\0")
    (tmp_path / "b").write_bytes(b"\5\0\6\0")
    reader = TokenReader(tmp_path, (("a", 4), ("b", 2)), "uint16")
    assert reader.read(2, 2).tolist() == [3, 4]
    assert reader.read(4, 2).tolist() == [5, 6]


def test_tokens_are_never_written_over_others(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).write_bytes(name.encode())
    adopt(tmp_path / "new", tmp_path / "linked")
    assert (tmp_path / "linked").read_bytes() == b"new"
    with pytest.raises(FileExistsError):
        adopt(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"old"
