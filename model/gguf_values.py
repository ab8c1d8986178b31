"""The metadata of a GGUF file: typed values under unique keys.

Arrays of numbers stay arrays, since a hostile file can hold many. A value is read only after it is
known to lie inside the file, and everything that could be read in two ways is refused.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CorruptFileError, ModelFormatError

MAX_METADATA_BYTES = 16 << 20
MAX_STRINGS = 1 << 20
"""In all arrays together: an object each, where a number costs its bytes alone."""
MAX_KEYS = 1 << 12
MAX_KEY_BYTES = (1 << 16) - 1


class ValueKind(Enum):
    """A type of metadata: its code, and how a number of it is laid out."""

    U8 = (0, "<u1")
    I8 = (1, "<i1")
    U16 = (2, "<u2")
    I16 = (3, "<i2")
    U32 = (4, "<u4")
    I32 = (5, "<i4")
    F32 = (6, "<f4")
    BOOL = (7, "|u1")
    STRING = (8, None)
    U64 = (10, "<u8")
    I64 = (11, "<i8")
    F64 = (12, "<f8")

    def __init__(self, code: int, layout: str | None) -> None:
        self.code = code
        self.layout = layout


ARRAY_CODE = 9
LENGTH = struct.Struct("<Q")
KINDS = {kind.code: kind for kind in ValueKind}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value with its type."""

    kind: ValueKind
    value: bool | int | float | str


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """Values of one type: texts, or numbers in an array of numpy's."""

    kind: ValueKind
    values: Sequence[str] | NDArray[np.generic]


Value = Scalar | Array
Metadata = Mapping[str, Value]


class Cursor:
    """A place in bytes that are read from the front, section by section, none beyond its bound."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self.position = 0
        self._view = view
        self.enter("header", len(view))

    def enter(self, section: str, max_bytes: int) -> None:
        """Begin a section of so many bytes at most; nothing larger is decoded to be refused."""
        self._section = section
        self._max_bytes = max_bytes
        self._limit = min(len(self._view), self.position + max_bytes)

    @property
    def remaining(self) -> int:
        """Bytes that are left in the file."""
        return len(self._view) - self.position

    def take(self, num_bytes: int, what: str) -> memoryview:
        """Read so many bytes.

        Raises: CorruptFileError if there are not as many, ModelFormatError if that is too many.
        """
        start, end = self.position, self.position + num_bytes
        if end > self._limit:
            raise self._beyond(what, end)
        self.position = end
        return self._view[start:end]

    def number(self, layout: str, what: str) -> int:
        """Read one whole number laid out as struct says."""
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout), what))
        return int(value)

    def text(self, what: str) -> str:
        """Read one text.

        Raises: CorruptFileError, ModelFormatError.
        """
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> tuple[str, ...]:
        """Read so many texts, in one loop because vocabularies are long.

        Raises: CorruptFileError, ModelFormatError if one is not UTF-8, or all are too long.
        """
        view, position, limit = self._view, self.position, self._limit
        found = []
        for _ in range(count):
            start = position + LENGTH.size
            if start > limit:
                raise self._beyond(what, start)
            position = start + LENGTH.unpack_from(view, position)[0]
            if position > limit:
                raise self._beyond(what, position)
            try:
                found.append(str(view[start:position], "utf-8"))
            except UnicodeDecodeError:
                raw = bytes(view[start : min(position, start + 40)])
                raise self.refusal(f"{what} {raw!r}", "UTF-8") from None
        self.position = position
        return tuple(found)

    def _beyond(self, what: str, end: int) -> ModelFormatError:
        if end <= len(self._view):
            found = f"{self._section} of more than {self._max_bytes} bytes"
            return ModelFormatError(self.path, found, "that at most")
        found = f"{what} that ends at {end} of {len(self._view)} bytes"
        return CorruptFileError(self.path, found, f"a whole {self._section}")

    def refusal(self, found: str, expected: str) -> ModelFormatError:
        """Give the error for something that is here and must not be."""
        return ModelFormatError(self.path, found, expected)


def encode_metadata(path: Path, metadata: Metadata) -> bytes:
    """Lay metadata out, in the order of its keys.

    Raises: ModelFormatError if a reader would refuse it.
    """
    parts = []
    for key, value in metadata.items():
        parts.append(_encode_text(key))
        if isinstance(value, Array):
            parts.append(struct.pack("<IIQ", ARRAY_CODE, value.kind.code, len(value.values)))
            parts.append(_encode_array(value))
        else:
            parts.append(struct.pack("<I", value.kind.code))
            parts.append(_encode_scalar(path, key, value))
    encoded = b"".join(parts)
    decode_metadata(Cursor(path, memoryview(encoded)), len(metadata))
    return encoded


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _encode_scalar(path: Path, key: str, scalar: Scalar) -> bytes:
    if isinstance(scalar.value, str):
        return _encode_text(scalar.value)
    with np.errstate(over="ignore"):
        stored = np.array([scalar.value]).astype(scalar.kind.layout)
    if scalar.kind is not ValueKind.F32 and stored[0] != scalar.value:
        raise ModelFormatError(path, f"{key} is {scalar.value!r:.60}", f"a {scalar.kind.name}")
    return stored.tobytes()


def _encode_array(array: Array) -> bytes:
    if isinstance(array.values, np.ndarray):
        return array.values.astype(array.kind.layout).tobytes()
    return b"".join(map(_encode_text, array.values))


def decode_metadata(cursor: Cursor, num_keys: int) -> dict[str, Value]:
    """Read so many keys and their values.

    Raises: CorruptFileError, ModelFormatError.
    """
    if num_keys > MAX_KEYS:
        raise cursor.refusal(f"{num_keys} metadata keys", f"at most {MAX_KEYS}")
    metadata: dict[str, Value] = {}
    num_strings = 0
    cursor.enter("metadata", MAX_METADATA_BYTES)
    for _ in range(num_keys):
        key = cursor.text("key")
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES or not key.isprintable():
            raise cursor.refusal(f"key {key[:40]!r}", f"1 to {MAX_KEY_BYTES} printable bytes")
        if key in metadata:
            raise cursor.refusal(f"key {key!r:.60} twice", "each key once")
        value = _decode_value(cursor, key, MAX_STRINGS - num_strings)
        if isinstance(value, Array) and value.kind is ValueKind.STRING:
            num_strings += len(value.values)
        metadata[key] = value
    return metadata


def _decode_value(cursor: Cursor, key: str, max_strings: int) -> Value:
    code = cursor.number("<I", f"type of {key!r:.60}")
    if code == ARRAY_CODE:
        return _decode_array(cursor, key, max_strings)
    kind = _kind(cursor, key, code)
    if kind is ValueKind.STRING:
        return Scalar(kind, cursor.text(f"text of {key!r:.60}"))
    numbers = _decode_numbers(cursor, key, kind, 1)
    if kind is ValueKind.F32:
        return Scalar(kind, shortest(numbers[0].item()))
    value = numbers[0].item()
    return Scalar(kind, bool(value) if kind is ValueKind.BOOL else value)


def shortest(value: float) -> float:
    """Give the number of fewest digits that rounds to the same in single precision."""
    return float(str(np.float32(value)))


def _decode_array(cursor: Cursor, key: str, max_strings: int) -> Array:
    code = cursor.number("<I", f"type of {key!r:.60}")
    if code == ARRAY_CODE:
        raise cursor.refusal(f"{key!r:.60} is an array of arrays", "one array")
    kind = _kind(cursor, key, code)
    count = cursor.number("<Q", f"length of {key!r:.60}")
    if kind is not ValueKind.STRING:
        return Array(kind, _decode_numbers(cursor, key, kind, count))
    if count > max_strings:
        raise cursor.refusal(f"{key!r:.60} has {count} texts", f"at most {max_strings} here")
    return Array(kind, cursor.texts(count, f"text of {key!r:.60}"))


def _kind(cursor: Cursor, key: str, code: int) -> ValueKind:
    if code not in KINDS:
        raise cursor.refusal(
            f"{key!r:.60} is of type {code}", f"one of {', '.join(map(str, KINDS))}"
        )
    return KINDS[code]


def _decode_numbers(cursor: Cursor, key: str, kind: ValueKind, count: int) -> NDArray[np.generic]:
    assert kind.layout is not None
    layout = np.dtype(kind.layout)
    what = f"{key!r:.60}"
    numbers = np.frombuffer(bytes(cursor.take(count * layout.itemsize, what)), layout)
    if kind is ValueKind.BOOL and count and numbers.max() > 1:
        raise cursor.refusal(f"{what} is {numbers.max()}", "0 or 1, being true or false")
    if layout.kind == "f" and not np.isfinite(numbers).all():
        wrong = next(value for value in numbers.tolist() if not isfinite(value))
        raise cursor.refusal(f"{what} is {wrong}", "finite")
    return numbers
