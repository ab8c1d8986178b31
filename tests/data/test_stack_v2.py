import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.source import open_source
from data.source_columns import codec_of
from data.source_errors import CorruptSourceError, EmptyLanguageError, MissingColumnError
from data.stack_v2 import StackV2Source, read_index
from tests.data.sources import (
    FILE_ROWS,
    Blob,
    candidate_of,
    fetching_in,
    python_of,
    repositories,
    settings_of,
    write_file_rows,
    write_repository_rows,
    write_table,
)

REPOS = repositories(400)


def opened(index: Path, **changes: Any) -> StackV2Source:
    source = open_source(settings_of("the-stack-v2", index, **changes), fetching=fetching_in(index))
    assert isinstance(source, StackV2Source)
    return source


def listed(source: StackV2Source, index: Path) -> list[dict[str, Any]]:
    return [
        row
        for r in source.ranges
        for row in read_index(index / r.file.path, "Python", r.start, r.stop).to_pylist()
    ]


def test_rows_of_files_and_rows_of_repositories_list_the_same(tmp_path: Path) -> None:
    files, repositories_ = tmp_path / "a", tmp_path / "b"
    write_file_rows(files / "x.parquet", REPOS)
    write_repository_rows(repositories_ / "x.parquet", REPOS)
    rows = listed(opened(files), files)
    assert listed(opened(repositories_), repositories_) == rows
    expected = [
        {
            **candidate_of(repository, blob),
            "content": None,
            "absence": "null cell",
            "length_bytes": len(blob.content),
        }
        for repository, blob in python_of(REPOS)
    ]
    assert rows == expected


@pytest.mark.parametrize("unit_bytes", [1, 1000, 5000, 10**9])
@pytest.mark.parametrize("write", [write_file_rows, write_repository_rows])
def test_units_hold_every_file_of_the_language_once_whatever_their_size(
    tmp_path: Path, unit_bytes: int, write: Any
) -> None:
    write(tmp_path / "0.parquet", REPOS[:30])
    write(tmp_path / "1.parquet", REPOS[30:])
    source = opened(tmp_path, unit_bytes=unit_bytes)
    assert [r["blob_id"] for r in listed(source, tmp_path)] == [
        b.blob_id for _, b in python_of(REPOS)
    ]
    assert [unit.number for unit in source.units] == list(range(len(source.units)))
    keys = [str(source.inputs(unit)[0].recipe) for unit in source.units]
    assert len(set(keys)) == len(keys)
    if unit_bytes == 5000:
        sizes = [
            sum(
                read_index(tmp_path / r.file.path, "Python", r.start, r.stop)[
                    "length_bytes"
                ].to_pylist()
            )
            for r in source.ranges
        ]
        assert max(sizes) < 5000 + 1000


def test_the_digest_of_the_source_is_that_of_its_index_files(tmp_path: Path) -> None:
    write_file_rows(tmp_path / "x.parquet", REPOS)
    digest = hashlib.sha256((tmp_path / "x.parquet").read_bytes()).hexdigest()
    expected = hashlib.sha256(f"{digest}  x.parquet\n".encode()).hexdigest()
    assert opened(tmp_path).sha256 == expected
    assert opened(tmp_path, unit_bytes=100).sha256 == expected


def test_the_cache_and_the_share_that_may_be_missing_are_no_part_of_the_recipe(
    tmp_path: Path,
) -> None:
    write_file_rows(tmp_path / "x.parquet", REPOS)
    source = opened(tmp_path, max_missing_share=0.5)
    (fetch,) = source.inputs(source.units[0])
    assert fetch.recipe == {
        "kind": "fetch",
        "version": 1,
        "language": "Python",
        "contents": "s3://softwareheritage/content",
        "max_blob_bytes": 10_000,
        "index_sha256": source.files[0].sha256,
        "start": 0,
        "stop": 399,
    }
    assert fetch.label == "x.parquet rows 0-399"


def test_a_license_type_stands_where_no_licence_was_detected(tmp_path: Path) -> None:
    base = Blob(b"x", "/a.py").row
    kinds = [("no_license", []), ("permissive", []), ("permissive", ["MIT"]), (None, None)]
    rows = [base | {"license_type": kind, "detected_licenses": found} for kind, found in kinds]
    write_table(tmp_path / "x.parquet", rows, FILE_ROWS, 10)
    found = [row["licences"] for row in listed(opened(tmp_path), tmp_path)]
    assert found == [[], ["permissive"], ["MIT"], []]


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("ISO-8859-1", "iso8859-1"),
        ("WINDOWS-1252", "cp1252"),
        ("GB18030", "gb18030"),
        ("MACCYRILLIC", "mac-cyrillic"),
        ("IBM866", "cp866"),
        ("VISCII", "VISCII"),
    ],
)
def test_declared_encodings_become_codecs_of_python(declared: str, codec: str) -> None:
    assert codec_of(declared) == codec


def test_a_language_that_the_index_does_not_have_is_refused_with_those_it_has(
    tmp_path: Path,
) -> None:
    write_file_rows(tmp_path / "x.parquet", REPOS)
    with pytest.raises(EmptyLanguageError) as caught:
        opened(tmp_path, language="python")
    assert str(caught.value) == f"{tmp_path}: no file in 'python', should be one of C, Python"


def test_an_index_without_its_columns_is_refused_with_those_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"], "language": ["Python"]}), tmp_path / "x.parquet")
    with pytest.raises(MissingColumnError) as caught:
        opened(tmp_path)
    assert caught.value.column == "path"
    assert caught.value.found == ("content", "language")


def test_an_index_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_file_rows(tmp_path / "x.parquet", REPOS)
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[:-100])
    with pytest.raises(CorruptSourceError, match="should be a whole parquet file"):
        opened(tmp_path)
