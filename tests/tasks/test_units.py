"""Units made in this process: what is made, what is found, what is refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from data.errors import EmptySourceError
from data.units import Given
from tasks.errors import UnsharedStoreError
from tasks.units import make_units
from tests.tasks.some_units import INLINE, fail, marked, of, unit


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


def units_in(home: Path) -> list[Path]:
    return sorted((home / "store" / "units").glob("*/*"))


def test_units_are_made_in_order_with_what_they_need(home: Path, marks: Path) -> None:
    base = unit("base", marks)
    found = make_units(INLINE)("write", [unit("b", marks, base), unit("a", marks, base)])
    assert [(each / "text").read_text() for each in found] == ["bbase", "abase"]
    assert marked(marks) == ["a", "b", "base"]


def test_a_unit_is_named_by_its_recipe_and_its_inputs(home: Path, marks: Path) -> None:
    base = unit("base", marks)
    (found,) = make_units(INLINE)("write", [unit("a", marks, base)])
    assert found == home / "store" / "units" / found.name[:2] / found.name
    record = json.loads((found / "unit.json").read_text())
    (other,) = (each.name for each in units_in(home) if each != found)
    assert record == {
        "schema": "assay.unit/1",
        "recipe": {"kind": "write", "version": 1, "text": "a"},
        "inputs": [other],
        "files": [
            {
                "path": "deep/bytes",
                "bytes": 1000,
                "sha256": "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3",
            },
            {
                "path": "text",
                "bytes": 5,
                "sha256": "9d874818a0c85001f29a545167daea3e8959ce61e8d18af89fbd0611a688d704",
            },
        ],
    }


def test_what_exists_is_not_made_again_by_whoever_asks(home: Path, marks: Path) -> None:
    first = make_units(INLINE)("write", [unit("a", marks), unit("b", marks)])
    again = make_units(INLINE)("other words", [unit("b", marks), unit("c", marks)])
    assert again[0] == first[1]
    assert marked(marks) == ["a", "b", "c"]


def test_the_same_unit_twice_is_made_once(home: Path, marks: Path) -> None:
    first, second = make_units(INLINE)("write", [unit("a", marks), unit("a", marks)])
    assert first == second
    assert marked(marks) == ["a"]


def test_what_a_unit_that_exists_was_made_of_is_not_needed(home: Path, marks: Path) -> None:
    top = unit("top", marks, unit("base", marks))
    (found,) = make_units(INLINE)("write", [top])
    for each in units_in(home):
        if each != found:
            shutil.rmtree(each)
    assert make_units(INLINE)("write", [top]) == [found]
    assert marked(marks) == ["base", "top"]


def test_an_error_of_a_unit_is_the_error(home: Path, marks: Path) -> None:
    error = EmptySourceError(path=Path("x"), include=("*.py",), exclude=())
    with pytest.raises(EmptySourceError) as caught:
        make_units(INLINE)("write", [unit("a", marks), of(partial(fail, error), "x")])
    assert caught.value is error
    assert len(units_in(home)) == 1
    assert list((home / "store" / "tmp").iterdir()) == []


def test_a_directory_that_is_given_goes_by_its_name(
    home: Path, marks: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(name)
    same = [unit("a", marks, Given("the same", tmp_path / name)) for name in ("one", "two")]
    first, second = make_units(INLINE)("write", same)
    assert (first / "text").read_text() == "aone"
    assert first == second
    (other,) = make_units(INLINE)("write", [unit("a", marks, Given("another", tmp_path / "two"))])
    assert (other / "text").read_text() == "atwo"


def test_what_lies_aside_is_handed_over_and_determines_nothing(home: Path, marks: Path) -> None:
    make = make_units(INLINE)
    (first,) = make("write", [unit("a", marks, aside=(unit("x", marks),))])
    (second,) = make("write", [unit("a", marks, aside=(unit("y", marks),))])
    assert first == second
    assert (first / "text").read_text() == "ax"
    assert marked(marks) == ["a", "x"]


def test_a_directory_that_is_not_there_is_named(home: Path, marks: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsharedStoreError) as caught:
        make_units(INLINE)("write", [unit("a", marks, Given("it", tmp_path / "none"))])
    assert vars(caught.value) == {"what": "directory of it", "path": tmp_path / "none"}


def test_progress_is_told_from_none_to_all(home: Path, marks: Path) -> None:
    told: list[tuple[str, float, int]] = []
    make = make_units(INLINE, lambda *each: told.append(each))
    base = unit("base", marks)
    make("write", [unit("a", marks, base), unit("b", marks, base)])
    make("write", [unit("a", marks, base)])
    counted = [(what.partition(" tokens")[0], done, all_) for what, done, all_ in told if done]
    assert list(dict.fromkeys(counted)) == [
        ("write: inputs, 4", 1, 1),
        ("write, 5", 1, 2),
        ("write, 10", 2, 2),
    ]
    assert told[0] == ("write: inputs", 0, 1)


@pytest.mark.parametrize("name", ["text", "deep/bytes", "unit.json"])
def test_a_damaged_unit_is_made_again_and_that_is_said(
    home: Path, marks: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (found,) = make_units(INLINE)("write", [unit("a", marks)])
    before = (found / name).read_bytes()
    (found / name).write_bytes(before.replace(b"a", b"b"))
    assert make_units(INLINE)("write", [unit("a", marks)]) == [found]
    assert marked(marks) == ["a", "a"]
    assert (found / name).read_bytes() == before
    assert f"damaged, will be made again: {found / name}: " in capsys.readouterr().err


def test_a_unit_that_lost_a_file_is_made_again(home: Path, marks: Path) -> None:
    (found,) = make_units(INLINE)("write", [unit("a", marks)])
    (found / "unit.json").unlink()
    make_units(INLINE)("write", [unit("a", marks)])
    assert marked(marks) == ["a", "a"]
