import hashlib
import pickle
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data.candidates import BATCH_BYTES, CANDIDATES, SourceFile
from data.errors import (
    ChangedSourceError,
    EmptySourceError,
    MissingSourceError,
    UnnameableFileError,
    WrongSettingError,
)
from data.globs import matcher
from data.source import EMPTY, MEANT, open_source
from data.source_directory import DirectorySource
from data.source_places import LocalPlace, walk
from tests.data.sources import fetching_in, rows_of, settings_of

PYTHON = ("**/*.py",)


def write(root: Path, texts: Mapping[str, bytes]) -> None:
    for path, content in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def opened(root: Path | str, kind: str = "directory", **changes: Any) -> DirectorySource:
    settings = settings_of(kind, root, **({"include": PYTHON, "licence": "MIT"} | changes))
    source = open_source(settings, fetching=fetching_in(Path("nowhere")))
    assert isinstance(source, DirectorySource)
    return source


def paths(source: DirectorySource) -> list[str]:
    return [file.path for file in source.files]


def test_files_are_pinned_in_path_order_with_their_digests(tmp_path: Path) -> None:
    write(tmp_path, {"b.py": b"b\n", "a/z.py": b"", "a.py": b"a\n", "n.txt": b"n"})
    source = opened(tmp_path)
    assert source.place == LocalPlace(tmp_path)
    assert source.files == (
        SourceFile("a.py", 2, hashlib.sha256(b"a\n").hexdigest()),
        SourceFile("a/z.py", 0, hashlib.sha256(b"").hexdigest()),
        SourceFile("b.py", 2, hashlib.sha256(b"b\n").hexdigest()),
    )


def test_every_file_is_a_candidate_with_the_licence_of_the_source(tmp_path: Path) -> None:
    write(tmp_path, {"b.py": b"\xff\x00", "a.py": b"a\n"})
    source = opened(tmp_path)
    assert source.inputs(source.units[0]) == ()
    expected = {
        "row": 0,
        "path": "a.py",
        "repository": "",
        "revision": "",
        "blob_id": "",
        "content_id": "",
        "licences": ["MIT"],
        "is_vendored": False,
        "is_generated": False,
        "encoding": "utf-8",
        "content": b"a\n",
        "absence": "",
    }
    second = expected | {"row": 1, "path": "b.py", "content": b"\xff\x00"}
    assert rows_of(source, tmp_path) == [expected, second]
    assert rows_of(opened(tmp_path, licence=""), tmp_path)[0]["licences"] == []


def test_a_unit_is_full_when_it_has_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, {f"{n}.py": b"x" * size for n, size in enumerate([4, 6, 1, 0, 30, 2])})
    groups = [[f.path for f in unit.files] for unit in opened(tmp_path, unit_bytes=10).units]
    assert groups == [["0.py", "1.py"], ["2.py", "3.py", "4.py"], ["5.py"]]
    one = opened(tmp_path, unit_bytes=1000)
    assert [unit.number for unit in one.units] == [0]
    assert one.units[0].files == one.files
    assert one.sha256 == opened(tmp_path, unit_bytes=10).sha256


def test_rows_go_on_from_batch_to_batch(tmp_path: Path) -> None:
    half = BATCH_BYTES // 2
    write(tmp_path, {f"{n}.py": bytes([n]) * half for n in range(5)})
    source = opened(tmp_path, unit_bytes=100 * half)
    batches = list(pickle.loads(pickle.dumps(source)).read(source.units[0]))
    assert [batch["row"].to_pylist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert all(batch.schema.equals(CANDIDATES) for batch in batches)
    assert batches[2]["content"][0].as_py() == bytes([4]) * half


def test_the_digest_of_a_source_is_that_of_its_sha256sum_lines(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": b"a\n"})
    line = f"{hashlib.sha256(b'a' + bytes([10])).hexdigest()}  a.py\n"
    assert opened(tmp_path).sha256 == hashlib.sha256(line.encode()).hexdigest()


def test_excluded_folders_are_not_listed(tmp_path: Path) -> None:
    texts = {"test/a.py": b"1", "x/test/deep/b.py": b"2", "x/test.py": b"3", "x/testing/c.py": b"4"}
    write(tmp_path, texts)
    source = opened(tmp_path, exclude=("**/test/**",))
    assert paths(source) == ["x/test.py", "x/testing/c.py"]


def test_links_are_followed_only_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, {"a.py": b"a"})
    write(tmp_path / "outside", {"secret.py": b"s"})
    (root / "alias.py").symlink_to(root / "a.py")
    (root / "leaves.py").symlink_to(tmp_path / "outside" / "secret.py")
    (root / "broken.py").symlink_to(root / "nowhere.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    assert paths(opened(root)) == ["a.py", "alias.py"]


def test_the_standard_library_is_where_the_interpreter_says() -> None:
    exclude = ("site-packages/**", "**/test/**")
    source = opened("", "python-stdlib", include=("json/*.py",), exclude=exclude)
    assert "json/decoder.py" in paths(source)
    assert source.place == LocalPlace(Path(sysconfig.get_path("stdlib")))


def test_a_missing_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError) as caught:
        opened(tmp_path / "absent")
    assert caught.value.path == tmp_path / "absent"
    settings = settings_of("parquet", tmp_path / "absent")
    with pytest.raises(MissingSourceError):
        open_source(settings, fetching=fetching_in(tmp_path))


def test_a_directory_without_matching_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": b"a"})
    with pytest.raises(EmptySourceError) as caught:
        opened(tmp_path, exclude=("*.py",))
    assert caught.value.path == str(tmp_path)
    assert caught.value.include == ("**/*.py",)
    assert caught.value.exclude == ("*.py",)


def test_a_directory_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": b"a", "b/c.py": b"c"})
    found = walk(tmp_path, ())
    assert next(found) == "a.py"
    (tmp_path / "b" / "c.py").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(FileNotFoundError):
        list(found)


def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.py").write_bytes(b"x")
    with pytest.raises(UnnameableFileError) as caught:
        opened(tmp_path)
    assert caught.value.path == "caf\udce9.py"
    assert str(caught.value).isascii()


@pytest.mark.parametrize("change", [b"changed", None])
def test_a_file_that_changed_after_it_was_pinned_is_refused(
    tmp_path: Path, change: bytes | None
) -> None:
    write(tmp_path, {"a.py": b"a"})
    source = opened(tmp_path)
    (tmp_path / "a.py").unlink()
    if change:
        (tmp_path / "a.py").write_bytes(change)
    with pytest.raises(ChangedSourceError) as caught:
        next(source.read(source.units[0]))
    assert caught.value.path == tmp_path / "a.py"
    assert caught.value.found_sha256 == hashlib.sha256(change or b"").hexdigest()
    assert caught.value.listed_sha256 == hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize(
    ("kind", "setting", "found"),
    [
        ("archive", "kind", "archive"),
        ("python-stdlib", "path", "somewhere"),
        ("python-packages", "path", "somewhere"),
        ("directory", "path", ""),
        ("directory", "path", "s3://bucket/x"),
        ("directory", "include", ()),
        ("directory", "include", ("",)),
        ("directory", "exclude", ("",)),
        ("directory", "unit_bytes", 0),
        ("directory", "language", "Python"),
        ("directory", "anonymous", True),
        ("parquet", "text_column", ""),
        ("parquet", "path", "https://x/y.parquet"),
        ("parquet", "path", "s3://"),
        ("parquet", "path", "hf://a/b"),
        ("parquet", "revision", "0" * 40),
        ("parquet", "anonymous", True),
        ("parquet", "unit_bytes", 1),
        ("jsonl", "contents", "s3://bucket/x"),
        ("the-stack-v2", "language", ""),
        ("the-stack-v2", "contents", ""),
        ("the-stack-v2", "contents", "/content"),
        ("the-stack-v2", "unit_bytes", -1),
        ("the-stack-v2", "max_blob_bytes", 0),
        ("the-stack-v2", "max_missing_share", 1.5),
        ("the-stack-v2", "licence", "MIT"),
        ("the-stack-v3", "language", ""),
        ("the-stack-v3", "text_column", "content"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(kind: str, setting: str, found: object) -> None:
    with pytest.raises(WrongSettingError) as caught:
        settings_of(**({"kind": kind, "path": "somewhere"} | {setting: found}))  # type: ignore[arg-type]
    assert caught.value.setting == f"source.{setting}"
    assert caught.value.found == found


@pytest.mark.parametrize("revision", ["", "main", "0123456"])
def test_a_dataset_of_the_hub_needs_a_full_commit(revision: str) -> None:
    with pytest.raises(
        WrongSettingError, match=r"source\.revision is .*, should be the full commit"
    ):
        settings_of("parquet", "hf://datasets/a/b/data", revision=revision)


@pytest.mark.parametrize("kind", MEANT)
def test_a_setting_means_something_for_a_kind_or_is_refused(kind: str) -> None:
    path = "" if kind.startswith("python-") else "s3://x/y"
    for name in set(EMPTY) - MEANT[kind] - {"path"}:
        value: Any = {"anonymous": True, "max_missing_share": 0.5}.get(name, "x")
        value = 7 if name in ("unit_bytes", "max_blob_bytes") else value
        with pytest.raises(WrongSettingError, match=f"should be {EMPTY[name]} for {kind}"):
            settings_of(kind, path, **{name: value})


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**/*.py", "a.py", True),
        ("**/*.py", "x/y/a.py", True),
        ("*.py", "x/a.py", False),
        ("x/*/a.py", "x/y/a.py", True),
        ("x/*/a.py", "x/y/z/a.py", False),
        ("**/test/**", "test/a.py", True),
        ("**/test/**", "x/test/y/a.py", True),
        ("**/test/**", "contest/a.py", False),
        ("site-packages/**", "x/site-packages/a.py", False),
        ("a?.py", "ab.py", True),
        ("a?.py", "a/.py", False),
        ("a.py", "axpy", False),
        ("a[0].py", "a[0].py", True),
    ],
)
def test_patterns_match_whole_paths(pattern: str, path: str, expected: bool) -> None:
    assert matcher([pattern])(path) is expected


def test_no_pattern_matches_nothing() -> None:
    assert not matcher([])("")
    assert not matcher([])("a.py")
