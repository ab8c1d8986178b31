import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.candidates import BATCH_BYTES, CANDIDATES
from data.errors import ChangedSourceError, EmptySourceError
from data.source import open_source
from data.source_columns import column_names
from data.source_errors import CorruptSourceError, MissingColumnError
from tests.data.sources import fetching_in, rows_of, settings_of

DEFAULT = {
    "path": "",
    "repository": "",
    "revision": "",
    "blob_id": "",
    "content_id": "",
    "licences": [],
    "is_vendored": False,
    "is_generated": False,
    "encoding": "utf-8",
    "absence": "",
}


def candidates(path: Path, kind: str, **changes: Any) -> list[dict[str, Any]]:
    source = open_source(settings_of(kind, path, **changes), fetching=fetching_in(path.parent))
    return rows_of(source, path)


def contents(path: Path, kind: str, **changes: Any) -> list[bytes | None]:
    return [row["content"] for row in candidates(path, kind, **changes)]


def write_lines(path: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        text = gzip.compress(text)
    if path.suffix == ".zst":
        text = pa.compress(text, "zstd", asbytes=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


ROWS = [
    {"text": "x = 1\n", "where": "a.py", "repo": "me/one", "licence": "MIT", "n": 1},
    {"text": None, "where": None, "repo": None, "licence": None, "n": None},
    {"text": "caf\xe9\n", "where": "b.py", "repo": "me/two", "licence": "", "n": 3},
]
COLUMNS = {
    "text_column": "text",
    "path_column": "where",
    "repository_column": "repo",
    "licence_column": "licence",
    "licence": "Apache-2.0",
}
EXPECTED = [
    DEFAULT
    | {
        "row": 0,
        "path": "a.py",
        "repository": "me/one",
        "licences": ["MIT"],
        "content": b"x = 1\n",
    },
    DEFAULT | {"row": 1, "licences": ["Apache-2.0"], "content": None, "absence": "null cell"},
    DEFAULT
    | {
        "row": 2,
        "path": "b.py",
        "repository": "me/two",
        "licences": ["Apache-2.0"],
        "content": b"caf\xc3\xa9\n",
    },
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_lines_of_json_are_rows(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / name, ROWS)
    assert candidates(tmp_path / name, "jsonl", **COLUMNS) == EXPECTED


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.binary(), pa.string_view()])
def test_parquet_of_any_text_type_is_rows(tmp_path: Path, text: pa.DataType) -> None:
    table = pa.Table.from_pylist(ROWS)
    table = table.set_column(0, "text", table["text"].cast(pa.binary()).cast(text))
    pq.write_table(table, tmp_path / "a.parquet")
    assert candidates(tmp_path / "a.parquet", "parquet", **COLUMNS) == EXPECTED


def test_every_file_is_a_unit_in_path_order(tmp_path: Path) -> None:
    for name in ("b/0", "a/1", "a/0"):
        write_lines(tmp_path / f"{name}.jsonl", [{"content": name}])
    source = open_source(settings_of("jsonl", tmp_path), fetching=fetching_in(tmp_path))
    assert [unit.files[0].path for unit in source.units] == ["a/0.jsonl", "a/1.jsonl", "b/0.jsonl"]
    assert [row["content"] for row in rows_of(source, tmp_path)] == [b"a/0", b"a/1", b"b/0"]
    assert [row["row"] for row in rows_of(source, tmp_path)] == [0, 0, 0]


def test_batches_are_bounded_and_in_the_schema(tmp_path: Path) -> None:
    rows = [{"content": "x" * 1_000_000} for _ in range(30)]
    write_lines(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for kind in ("jsonl", "parquet"):
        settings = settings_of(kind, tmp_path / f"a.{kind}")
        source = open_source(settings, fetching=fetching_in(tmp_path))
        batches = list(source.read(source.units[0]))
        assert all(batch.schema.equals(CANDIDATES) for batch in batches)
        assert [n for batch in batches for n in batch["row"].to_pylist()] == list(range(30))
        assert max(batch.nbytes for batch in batches) < BATCH_BYTES + 1_100_000


def test_lists_of_structs_are_a_row_for_each_element(tmp_path: Path) -> None:
    rows = [
        {"name": "me/one", "files": [{"c": "a", "l": ["MIT", None]}, {"c": None, "l": None}]},
        {"name": "me/two", "files": []},
        {"name": "me/three", "files": [{"c": "b", "l": []}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1)
    names = {"text_column": "files.c", "licence_column": "files.l", "repository_column": "name"}
    found = candidates(tmp_path / "a.parquet", "parquet", **names)
    assert [(r["row"], r["content"], r["licences"], r["repository"]) for r in found] == [
        (0, b"a", ["MIT"], "me/one"),
        (1, None, [], "me/one"),
        (2, b"b", [], "me/three"),
    ]


def test_columns_of_different_lists_are_refused(tmp_path: Path) -> None:
    rows = [{"a": [{"x": "1"}, {"x": "2"}], "b": [{"y": "3"}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(CorruptSourceError, match=r"a\.x is of another list than b\.y"):
        candidates(tmp_path / "a.parquet", "parquet", text_column="a.x", path_column="b.y")


def test_a_name_with_a_point_of_its_own_comes_first(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a.b": ["x"], "a": [{"b": "y"}]}), tmp_path / "a.parquet")
    assert contents(tmp_path / "a.parquet", "parquet", text_column="a.b") == [b"x"]


def test_a_missing_column_is_refused_with_those_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "files": [[{"a": "b"}]]}), tmp_path / "a.parquet")
    with pytest.raises(MissingColumnError) as caught:
        candidates(tmp_path / "a.parquet", "parquet")
    path = tmp_path / "a.parquet"
    assert str(caught.value) == (
        f"{path}: no column 'content', should be one of text, files, files.a"
    )
    write_lines(tmp_path / "a.jsonl", [{"text": "x", "n": 1}])
    with pytest.raises(MissingColumnError) as caught:
        candidates(tmp_path / "a.jsonl", "jsonl")
    path = tmp_path / "a.jsonl"
    assert str(caught.value) == f"{path}:1: no column 'content', should be one of text, n"


def test_a_text_column_of_numbers_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(CorruptSourceError, match="the text column is int64, should be text"):
        candidates(tmp_path / "a.parquet", "parquet")
    write_lines(tmp_path / "a.jsonl", [{"content": "x"}, {"content": 7}])
    with pytest.raises(CorruptSourceError, match=r"a\.jsonl:2: content is int up to here"):
        candidates(tmp_path / "a.jsonl", "jsonl")


@pytest.mark.parametrize("line", ["{", '{"content": "x"} x', "[1]", "\xff"])
def test_a_line_that_is_no_object_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    text = '{"content": "x"}\n\n' + line + "\n"
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptSourceError, match=r"a\.jsonl:3: .*, should be "):
        candidates(tmp_path / "a.jsonl", "jsonl")


def test_what_other_writers_of_json_write_is_read(tmp_path: Path) -> None:
    lines = ['{"content": "x", "n": NaN}\r', '{"content": "\\ud800"}', "", '{"content": "z"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert contents(tmp_path / "a.jsonl", "jsonl") == [b"x", b"\xed\xa0\x80", b"z"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_lines_that_are_cut_off_are_refused(tmp_path: Path, name: str) -> None:
    rows = [{"content": hashlib.sha256(bytes([n])).hexdigest()} for n in range(200)]
    write_lines(tmp_path / name, rows)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptSourceError):
        candidates(tmp_path / name, "jsonl")
    (tmp_path / name).write_bytes(whole[:-1])
    with pytest.raises(CorruptSourceError):
        candidates(tmp_path / name, "jsonl")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_compressed_parts_one_after_the_other_are_all_read(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / name, [{"content": "x"}])
    first = (tmp_path / name).read_bytes()
    write_lines(tmp_path / name, [{"content": "y"}])
    (tmp_path / name).write_bytes(first + (tmp_path / name).read_bytes())
    assert contents(tmp_path / name, "jsonl") == [b"x", b"y"]


@pytest.mark.parametrize("damage", ["cut", "middle", "text"])
def test_a_corrupt_parquet_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    texts = [hashlib.sha256(bytes([n])).hexdigest() * 50 for n in range(200)]
    pq.write_table(pa.table({"content": texts}), path, compression="snappy", use_dictionary=False)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle - 2000 : middle] = bytes([0xFF]) * 2000
    damaged = {"cut": bytes(whole[:-50]), "middle": bytes(whole), "text": b"x = 1\n"}
    path.write_bytes(damaged[damage])
    with pytest.raises(CorruptSourceError, match="should be a whole parquet file"):
        candidates(path, "parquet")


def test_a_file_that_changed_after_it_was_pinned_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"content": "x"}])
    source = open_source(settings_of("jsonl", tmp_path), fetching=fetching_in(tmp_path))
    write_lines(tmp_path / "a.jsonl", [{"content": "y"}])
    with pytest.raises(ChangedSourceError, match=r"a\.jsonl: sha256 is "):
        next(source.read(source.units[0]))


def test_no_matching_file_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [])
    with pytest.raises(EmptySourceError, match=r"should hold at least one of \*\*/\*\.parquet"):
        candidates(tmp_path, "parquet", include=("**/*.parquet",))


STACK_V3 = pa.schema(
    {
        "repo_path": pa.string(),
        "repo_id": pa.int64(),
        "commit_id": pa.string(),
        "github_metadata": pa.struct({"branch": pa.string(), "stars": pa.int32()}),
        "num_files": pa.int64(),
        "files": pa.list_(
            pa.struct(
                {
                    "content_id": pa.string(),
                    "content": pa.string(),
                    "size_bytes": pa.int64(),
                    "file_path": pa.string(),
                    "file_timestamp": pa.int64(),
                    "language": pa.string(),
                    "is_vendor": pa.bool_(),
                    "license_type": pa.string(),
                    "detected_licenses": pa.list_(pa.string()),
                }
            )
        ),
    }
)


def test_the_stack_v3_gives_the_files_of_the_language_with_their_repository(tmp_path: Path) -> None:
    def file(name: str, language: str | None, **more: Any) -> dict[str, Any]:
        return {"file_path": name, "language": language, "content": f"# {name}\n", **more}

    licensed = {"detected_licenses": ["MIT"], "license_type": "permissive"}
    unlicensed = {"detected_licenses": [], "license_type": "no_license"}
    rows = [
        {
            "repo_path": "me/one",
            "commit_id": "c1",
            "files": [
                file("a.py", "Python", content_id="id1", is_vendor=True, **licensed),
                file("b.go", "Go"),
            ],
        },
        {"repo_path": "me/two", "commit_id": "c2", "files": [file("?", None)]},
        {
            "repo_path": "me/three",
            "commit_id": "c3",
            "files": [file("c.py", "Python", **unlicensed)],
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows, STACK_V3), tmp_path / "a.parquet")
    assert candidates(tmp_path, "the-stack-v3", include=("**/*.parquet",)) == [
        DEFAULT
        | {
            "row": 0,
            "path": "a.py",
            "repository": "me/one",
            "revision": "c1",
            "content_id": "id1",
            "licences": ["MIT"],
            "is_vendored": True,
            "content": b"# a.py\n",
        },
        DEFAULT
        | {
            "row": 1,
            "path": "c.py",
            "repository": "me/three",
            "revision": "c3",
            "content": b"# c.py\n",
        },
    ]
    assert "files.detected_licenses" in column_names(STACK_V3)


def test_a_table_of_another_kind_is_not_the_stack_v3(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(MissingColumnError) as caught:
        candidates(tmp_path / "a.parquet", "the-stack-v3")
    assert (caught.value.column, caught.value.found) == ("files.file_path", ("text",))


def spoilt(kind: pa.DataType, *values: object) -> pa.Array:
    """Text that says that it is UTF-8, and is not."""
    valid = pa.array(values, kind)
    contents = [
        buffer and pa.py_buffer(buffer.to_pybytes().replace(b"caf", b"ca\xff"))
        for buffer in valid.buffers()
    ]
    if pa.types.is_list(kind):
        inner = pa.Array.from_buffers(kind.value_type, len(valid.flatten()), contents[2:])
        return pa.Array.from_buffers(kind, len(valid), contents[:2], children=[inner])
    return pa.Array.from_buffers(kind, len(valid), contents)


@pytest.mark.parametrize("column", ["where", "licence", "repo"])
def test_names_that_are_no_utf8_are_read_as_far_as_they_are(tmp_path: Path, column: str) -> None:
    table = pa.Table.from_pylist(ROWS[:1])
    place = table.schema.get_field_index(column)
    pq.write_table(
        table.set_column(place, column, spoilt(pa.string(), "cafe")), tmp_path / "a.parquet"
    )
    (row,) = candidates(tmp_path / "a.parquet", "parquet", **COLUMNS)
    field = {"where": "path", "licence": "licences", "repo": "repository"}[column]
    assert row[field] == (["ca\ufffde"] if column == "licence" else "ca\ufffde")


def test_licences_in_lists_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    licences = spoilt(pa.list_(pa.string()), ["MIT", "cafe"])
    table = pa.table({"text": ["x = 1\n"], "where": ["a.py"], "repo": ["a"], "licence": licences})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorruptSourceError, match="a licence is no UTF-8"):
        candidates(tmp_path / "a.parquet", "parquet", **COLUMNS)


def test_a_column_whose_name_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, compression="none", store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"where", b"wh\xffre"))
    with pytest.raises(CorruptSourceError, match="should be a whole parquet file"):
        candidates(path, "parquet", **COLUMNS)
