"""Canonical JSON: one value, one sequence of bytes, one digest.

Sorted keys, no spaces, UTF-8, no NaN, and an error for anything that is not a plain value: a
lenient `str()` would let two processes give one thing two names.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from evidence.errors import MalformedJsonError, NotPlainError


def dumps(value: object) -> bytes:
    """Encode a plain value as canonical JSON.

    Raises: NotPlainError.
    """
    text = json.dumps(
        _whole(value),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode()


def pretty(value: object) -> bytes:
    """Encode a plain value for readers: two-space indent, keys in the order given.

    Raises: NotPlainError.
    """
    return (json.dumps(_whole(value), indent=2, ensure_ascii=False) + "\n").encode()


def loads(text: bytes, where: str) -> object:
    """Decode one strict JSON document.

    Raises: MalformedJsonError on duplicate keys, NaN, infinities, bad UTF-8 or trailing text.
    """

    def refuse(token: str) -> NoReturn:
        raise MalformedJsonError(where, f"holds {token}")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise MalformedJsonError(where, "holds a duplicate key")
        return value

    def finite(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse(text)

    try:
        value: object = json.loads(
            text.decode(), parse_constant=refuse, parse_float=finite, object_pairs_hook=unique
        )
    except (ValueError, RecursionError) as error:
        # Bad UTF-8, bad JSON and an integer of too many digits are all ValueErrors.
        raise MalformedJsonError(where, f"cannot be read ({error})") from None
    return value


def read_object(path: Path) -> dict[str, object]:
    """Read a file that holds one JSON object.

    Raises: MalformedJsonError.
    """
    value = loads(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise MalformedJsonError(str(path), f"holds a {type(value).__name__}, not an object")
    return value


def finite(value: Any) -> Any:  # plain values of any shape
    """Replace NaN and infinities, which JSON has not, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def digest(value: object) -> str:
    """Return the sha256 of a plain value's canonical JSON, as hex."""
    return hashlib.sha256(dumps(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole(value: object) -> object:
    """Return a whole document's plain value, or refuse it."""
    try:
        return _plain(value, "")
    except RecursionError:
        raise NotPlainError("", "nested too deeply") from None


def _plain(value: object, where: str) -> object:
    """Return value with tuples as lists, or refuse it."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _encodable(value, where)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise NotPlainError(where.lstrip("."), repr(value)[:80])


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotPlainError(where.lstrip("."), "text that is not Unicode") from None
    return text


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise NotPlainError(where.lstrip("."), f"a mapping with the key {key!r}")
    return _encodable(key, where)
