"""Every error of ours reaches the user unchanged, whichever process raises it."""

import pickle
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from data.errors import DataError
from evidence.errors import EvidenceError
from model.errors import ModelError
from tasks.errors import TaskError
from tasks.known_errors import KNOWN_ERRORS
from tasks.unit_worker import portable

VALUES = {"Path": Path("x"), "int": 7, "float": 0.5, "float | None": 0.5, "str": "x", "object": 7}


def subclasses(base: type[Exception]) -> list[type[Exception]]:
    return [each for found in base.__subclasses__() for each in (found, *subclasses(found))]


CONCRETE = sorted(
    (kind for base in KNOWN_ERRORS for kind in subclasses(base) if is_dataclass(kind)),
    key=lambda kind: (kind.__module__, kind.__name__),
)


def example(kind: type[Exception]) -> Exception:
    names = {each.name: getattr(each.type, "__name__", str(each.type)) for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: VALUES.get(text, ("x", "y")) for name, text in names.items()})


def test_the_examples_are_of_all_packages() -> None:
    assert {kind.__module__.partition(".")[0] for kind in CONCRETE} == {
        "data",
        "evidence",
        "model",
        "tasks",
    }
    assert len(CONCRETE) >= 40


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_given_its_fields_by_name_survives_pickling(kind: type[Exception]) -> None:
    error = example(kind)
    error.add_note("evidence: here")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)
    assert getattr(back, "hint", None) == getattr(error, "hint", None)


@pytest.mark.parametrize("base", [DataError, EvidenceError, ModelError, TaskError])
def test_an_error_of_words_alone_survives_pickling(base: type[Exception]) -> None:
    back = pickle.loads(pickle.dumps(base("some words")))
    assert (type(back), back.args) == (base, ("some words",))


class StubbornError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_an_exception_that_cannot_be_handed_on_is_told_in_words() -> None:
    from tasks.errors import UnitFailedError

    with pytest.raises(UnitFailedError) as caught, portable("file 7"):
        raise StubbornError("a", "b")
    assert vars(caught.value) == {"unit": "file 7", "error": "StubbornError", "message": "ab"}


def test_an_exception_that_is_a_surprise_says_where_it_came_from() -> None:
    with pytest.raises(ZeroDivisionError) as caught, portable("file 7"):
        _ = 1 // 0
    back = pickle.loads(pickle.dumps(caught.value))
    assert "in unit file 7:" in back.__notes__[0]
    assert "test_pickled_errors.py" in back.__notes__[0]


def test_an_error_that_is_known_is_handed_on_as_it_is() -> None:
    error = TaskError("x")
    with pytest.raises(TaskError) as caught, portable("file 7"):
        raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
