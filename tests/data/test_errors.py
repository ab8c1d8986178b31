import inspect
import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from data import errors
from data.errors import DataError

EXAMPLES = {"str": "x", "int": 7, "float": 0.5, "Path": Path("x"), "object": 7}
CONCRETE = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, DataError) and "__str__" in vars(found)
]


def example(error: type[DataError]) -> DataError:
    names = [getattr(field.type, "__name__", str(field.type)) for field in fields(error)]  # type: ignore[arg-type]
    return error(*(EXAMPLES.get(name, ("x",)) for name in names))


@pytest.mark.parametrize("error", CONCRETE)
def test_an_error_says_what_should_be_and_survives_a_process_boundary(
    error: type[DataError],
) -> None:
    before = example(error)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is error
    assert vars(after) == vars(before)
    assert str(after) == str(before)
    assert "should" in str(before)
    assert "\n" not in str(before)


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    classes = [
        name
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, DataError)
    ]
    drawn = [line.split("+-- ")[-1].split()[0] for line in (errors.__doc__ or "").splitlines()[2:]]
    assert sorted(drawn) == classes
