import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.canonical import digest, dumps, file_sha256, finite, loads, pretty, read_object
from evidence.errors import MalformedJsonError, NotPlainError

# Surrogates are not Unicode text; JSON has no other limit.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def test_canonical_json_is_these_bytes() -> None:
    value = {
        "b": [1, 1.0, -0.0, 1e-8, True, None],
        "a": {"\u00e9": "\u00df\n", "e": ""},
        "B": (2**70, "\u6587"),
    }
    assert dumps(value) == (
        b'{"B":[1180591620717411303424,"\xe6\x96\x87"],'
        b'"a":{"e":"","\xc3\xa9":"\xc3\x9f\\n"},'
        b'"b":[1,1.0,-0.0,1e-08,true,null]}'
    )


def test_a_digest_is_the_sha256_of_the_canonical_bytes() -> None:
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


def test_an_integer_and_a_float_of_the_same_value_are_different() -> None:
    assert digest(1) != digest(1.0)


def test_pretty_json_keeps_the_order_of_the_keys() -> None:
    assert pretty({"b": 1, "a": [2]}) == b'{\n  "b": 1,\n  "a": [\n    2\n  ]\n}\n'


@given(PLAIN)
def test_every_plain_value_survives_a_round_trip(value: object) -> None:
    for write in (dumps, pretty):
        back = loads(write(value), "here")
        assert back == value
        assert dumps(back) == dumps(value)


@given(st.dictionaries(TEXTS, PLAIN, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_change_the_bytes(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert dumps(dict(items)) == dumps(value)


@pytest.mark.parametrize(
    ("value", "where", "found"),
    [
        (float("nan"), "", "nan"),
        ({"a": [1, float("inf")]}, "a[1]", "inf"),
        ({"a": {"b": {1, 2}}}, "a.b", "{1, 2}"),
        ({"a": b"x"}, "a", "b'x'"),
        ({1: 2}, "", "a mapping with the key 1"),
        ({"a": {None: 2}}, "a", "a mapping with the key None"),
        ({"a": "\ud800"}, "a", "text that is not Unicode"),
        ({"a": {"\udfff": 1}}, "a", "text that is not Unicode"),
        (Path("x"), "", f"{Path('x')!r}"),
    ],
)
def test_what_is_not_plain_is_refused(value: object, where: str, found: str) -> None:
    for write in (dumps, pretty, digest):
        with pytest.raises(NotPlainError) as caught:
            write(value)
        assert (caught.value.where, caught.value.found) == (where, found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":NaN}', "holds NaN"),
        (b"[Infinity]", "holds Infinity"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e400]", "holds 1e400"),
        (b"[-1e400]", "holds -1e400"),
        (b'{"a":1,"a":1}', "holds a duplicate key"),
        (b'[{"b":{"a":1,"a":2}}]', "holds a duplicate key"),
        (b'"\xff"', "cannot be read ('utf-8' codec can't decode byte 0xff"),
        (b"{} {}", "cannot be read (Extra data"),
        (b"{}x", "cannot be read (Extra data"),
        (b"", "cannot be read (Expecting value"),
        (b"{'a':1}", "cannot be read (Expecting property name"),
        (b"\xef\xbb\xbf{}", "cannot be read ("),
        (b"[" * 100_000, "cannot be read (maximum recursion depth"),
        (b"1" * 5000, "cannot be read (Exceeds the limit"),
    ],
)
def test_what_is_not_one_strict_json_document_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(MalformedJsonError) as caught:
        loads(text, "here")
    assert caught.value.where == "here"
    assert caught.value.reason.startswith(reason)


def test_a_number_too_small_for_a_float_is_zero() -> None:
    assert loads(b"1e-400", "here") == 0.0


def test_a_file_must_hold_an_object(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b"[1]")
    with pytest.raises(MalformedJsonError) as caught:
        read_object(path)
    assert caught.value.where == str(path)
    assert caught.value.reason == "holds a list, not an object"


def test_an_object_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "object.json"
    path.write_bytes(b' {"b": [1, {"a": null}]} ')
    assert read_object(path) == {"b": [1, {"a": None}]}


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: object = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotPlainError) as caught:
        dumps(value)
    assert caught.value.found == "nested too deeply"


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_canonical_json_reads_as_ordinary_json() -> None:
    assert json.loads(dumps({"a": (1, 2)})) == {"a": [1, 2]}


def test_numbers_that_json_has_not_become_null_wherever_they_are() -> None:
    value = {"a": float("nan"), "b": [1.5, float("-inf"), (2, float("inf"))], "c": "nan"}

    assert finite(value) == {"a": None, "b": [1.5, None, [2, None]], "c": "nan"}
