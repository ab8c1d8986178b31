from pathlib import Path

import pyarrow as pa
import pytest

from data.errors import MissingFileError, WrongSettingError
from data.removals import Removals, read_removals

DOCUMENTS = pa.table(
    {
        "repository": ["a/b", "c/d", "c/d", ""],
        "blob_id": ["1" * 40, "2" * 40, "3" * 40, ""],
        "content_id": ["4" * 40, "5" * 40, "6" * 40, ""],
        "sha256": ["7" * 64, "8" * 64, "9" * 64, "0" * 64],
    }
)


def test_a_document_is_removed_by_any_of_its_names(tmp_path: Path) -> None:
    names = tmp_path / "opt-out.txt"
    names.write_text(
        f"# asked for\na/b\n\nswh:1:cnt:{'5' * 40}\n{'0' * 64}\nswh:1:cnt:{'5' * 40}\n"
    )
    removals = read_removals(str(names))
    assert removals.names == ("0" * 64, "5" * 40, "a/b")
    assert removals.details(DOCUMENTS) == [
        "repository a/b is on the removal list",
        f"content_id {'5' * 40} is on the removal list",
        "",
        f"sha256 {'0' * 64} is on the removal list",
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("https://github.com/C/D", "c/d"),
        ("http://www.github.com/c/d.git", "c/d"),
        ("github.com/c/d/", "c/d"),
        (f"swh:1:cnt:{'5' * 40};origin=https://github.com/c/d", "5" * 40),
        ("ABCDEF" + "0" * 58, "abcdef" + "0" * 58),
        ("group/sub/project", "group/sub/project"),
    ],
)
def test_a_name_is_known_however_it_is_written(tmp_path: Path, line: str, name: str) -> None:
    (tmp_path / "list").write_text(line)
    assert read_removals(str(tmp_path / "list")).names == (name,)


def test_a_name_on_the_list_counts_in_whatever_case_the_source_has_it() -> None:
    table = DOCUMENTS.set_column(0, "repository", pa.array(["A/b", "c/D", "", ""]))
    found = Removals(("a/b", "c/d")).details(table)
    assert [bool(detail) for detail in found] == [True, True, False, False]


@pytest.mark.parametrize(
    "line", ["swh:1:cnt:;origin=https://x", "https://gitlab.com/a/b", "github.com/", "swh:1:rev:1"]
)
def test_a_line_that_can_name_nothing_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"a/b\n{line}\n")
    with pytest.raises(WrongSettingError, match="should be lines of owner/name"):
        read_removals(str(tmp_path / "list"))


def test_no_list_removes_nothing() -> None:
    assert read_removals("") == Removals(())
    assert Removals(()).details(DOCUMENTS) == [""] * 4


def test_an_empty_name_on_the_list_removes_nobody(tmp_path: Path) -> None:
    names = tmp_path / "opt-out.txt"
    names.write_text("\n \n#\n")
    assert read_removals(str(names)).details(DOCUMENTS) == [""] * 4


def test_the_order_of_the_list_does_not_matter(tmp_path: Path) -> None:
    digests = []
    for text in ("x/y\na/b\n", "a/b\nx/y\na/b\n"):
        (tmp_path / "list").write_text(text)
        digests.append(read_removals(str(tmp_path / "list")).sha256)
    assert digests[0] == digests[1]


def test_a_list_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        read_removals(str(tmp_path / "none.txt"))
    assert str(caught.value) == (
        f"pretokenize.removal_list: {tmp_path}/none.txt does not exist, should be a file"
    )
