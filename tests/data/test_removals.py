from pathlib import Path

import pyarrow as pa
import pytest

from data.errors import MissingFileError
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
