from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import pytest

from tasks.plain_values import NotPlainValueError, decode, encode

VALUES = [
    *(None, True, 0, -(2**100), 0.1, float("-inf"), 1 + 2j, "", "a\nb\ud800", b"\0\xff"),
    *([], [1, [2]], (1,), set(), {1, "a"}, frozenset({(1, 2)}), {}, {(1, 2): [None]}),
]


@pytest.mark.parametrize("value", VALUES, ids=map(str, range(len(VALUES))))
def test_plain_values_come_back_as_they_were(value: object) -> None:
    found = decode(encode(value))

    assert found == value
    assert type(found) is type(value)
    assert "\n" not in encode(value)


class Three(IntEnum):
    THREE = 3


class Liar(list[int]):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # as a list


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Three.THREE, 3),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (Liar([7]), [7]),
    ],
)
def test_subclasses_come_back_without_what_they_add(value: object, expected: object) -> None:
    found = decode(encode(value))

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [object(), range(3), iter([]), len, [object()]],
    ids=["object", "range", "iterator", "function", "in a list"],
)
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(NotPlainValueError):
        encode(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(RecursionError):
        encode(endless)


@pytest.mark.parametrize(
    "line",
    ["", "7", "[]", '["int", "x"]', '["only", 7]', '["str", 7]', '["eval", "1"]', '["dict", [1]]',
     '["set", [["list", []]]]', '["int", 7]', "{}"],
)  # fmt: skip
def test_lines_that_nobody_wrote_are_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(line)
