import hashlib
from pathlib import Path
from typing import Any

import pytest

from data.errors import (
    ChangedSourceError,
    EmptySourceError,
    MissingSourceError,
    UnnameableFileError,
    WrongSettingError,
)
from data.globs import matcher
from data.source import SourceFile, SourceSettings, _walk, list_files
from tests.data.corpus import source_settings, write_corpus


def test_files_are_listed_in_path_order_with_their_digests(tmp_path: Path) -> None:
    listing = write_corpus(tmp_path, {"b.py": b"b\n", "a/z.py": b"", "a.py": b"a\n", "n.txt": b"n"})
    assert listing.root == tmp_path
    assert listing.licence == "MIT"
    assert listing.files == (
        SourceFile("a.py", 2, hashlib.sha256(b"a\n").hexdigest()),
        SourceFile("a/z.py", 0, hashlib.sha256(b"").hexdigest()),
        SourceFile("b.py", 2, hashlib.sha256(b"b\n").hexdigest()),
    )


def test_the_digest_of_a_listing_is_that_of_its_sha256sum_lines(tmp_path: Path) -> None:
    listing = write_corpus(tmp_path, {"a.py": b"a\n"})
    line = f"{hashlib.sha256(b'a' + bytes([10])).hexdigest()}  a.py\n"
    assert listing.sha256 == hashlib.sha256(line.encode()).hexdigest()


def test_excluded_folders_are_not_listed(tmp_path: Path) -> None:
    texts = {"test/a.py": b"1", "x/test/deep/b.py": b"2", "x/test.py": b"3", "x/testing/c.py": b"4"}
    write_corpus(tmp_path, texts)
    listing = list_files(source_settings(tmp_path, exclude=("**/test/**",)))
    assert [file.path for file in listing.files] == ["x/test.py", "x/testing/c.py"]


def test_links_are_followed_only_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_corpus(root, {"a.py": b"a"})
    write_corpus(tmp_path / "outside", {"secret.py": b"s"})
    (root / "alias.py").symlink_to(root / "a.py")
    (root / "leaves.py").symlink_to(tmp_path / "outside" / "secret.py")
    (root / "broken.py").symlink_to(root / "nowhere.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    listing = list_files(source_settings(root))
    assert [file.path for file in listing.files] == ["a.py", "alias.py"]


def test_the_standard_library_is_where_the_interpreter_says() -> None:
    settings = SourceSettings(
        kind="python-stdlib",
        path="",
        include=("json/*.py",),
        exclude=("site-packages/**", "**/test/**"),
        licence="PSF-2.0",
    )
    listing = list_files(settings)
    assert "json/decoder.py" in [file.path for file in listing.files]
    assert (listing.root / "os.py").is_file()


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError) as caught:
        list_files(source_settings(tmp_path / "absent"))
    assert caught.value.path == tmp_path / "absent"


def test_a_directory_without_matching_files_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"a.py": b"a"})
    with pytest.raises(EmptySourceError) as caught:
        list_files(source_settings(tmp_path, exclude=("*.py",)))
    assert caught.value.path == tmp_path
    assert caught.value.include == ("**/*.py",)
    assert caught.value.exclude == ("*.py",)


def test_a_directory_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"a.py": b"a", "b/c.py": b"c"})
    walk = _walk(tmp_path, ())
    assert next(walk) == "a.py"
    (tmp_path / "b" / "c.py").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(FileNotFoundError):
        list(walk)


def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.py").write_bytes(b"x")
    with pytest.raises(UnnameableFileError) as caught:
        list_files(source_settings(tmp_path))
    assert caught.value.path == "caf\udce9.py"
    assert str(caught.value).isascii()


@pytest.mark.parametrize("change", [b"changed", None])
def test_a_file_that_changed_after_listing_is_refused(tmp_path: Path, change: bytes | None) -> None:
    listing = write_corpus(tmp_path, {"a.py": b"a"})
    (tmp_path / "a.py").unlink()
    if change:
        (tmp_path / "a.py").write_bytes(change)
    with pytest.raises(ChangedSourceError) as caught:
        listing.read(listing.files[0])
    assert caught.value.path == tmp_path / "a.py"
    assert caught.value.found_sha256 == hashlib.sha256(change or b"").hexdigest()
    assert caught.value.listed_sha256 == hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("source.kind", {"kind": "archive"}),
        ("source.path", {"kind": "python-stdlib"}),
        ("source.path", {"path": ""}),
        ("source.include", {"include": ()}),
        ("source.include", {"include": ("",)}),
        ("source.exclude", {"exclude": ("",)}),
        ("source.licence", {"licence": ""}),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting: str, changes: dict[str, Any]) -> None:
    with pytest.raises(WrongSettingError) as caught:
        source_settings(Path("somewhere"), **changes)
    assert caught.value.setting == setting
    assert caught.value.found == changes.get(setting.removeprefix("source."), "somewhere")


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
