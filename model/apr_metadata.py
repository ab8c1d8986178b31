"""The metadata of an .apr file: one JSON object, encoded in one way and decoded strictly."""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from model.errors import ModelFormatError

MAX_METADATA_BYTES = 16 << 20
MAX_PARSED_BYTES = 92 << 20
"What the parsed values may take: text of a few bytes can stand for objects of megabytes."
ITEM_BYTES = 88
"A little more than Python takes for each bracket, comma and colon of the worst text."
COPIES_OF_TEXT = 3


def encode_metadata(path: Path, metadata: Mapping[str, object]) -> bytes:
    """Encode metadata in the order of its keys; `path` only names the file in a refusal.

    Raises: ModelFormatError if JSON would not give the same value back.
    """
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        encoded = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFormatError(path, f"JSON with {error}", "plain JSON values") from error
    if decode_metadata(path, encoded) != metadata:
        found = "JSON with tuples or keys that are not strings"
        raise ModelFormatError(path, found, "plain JSON values")
    return encoded


def decode_metadata(path: Path, encoded: bytes) -> dict[str, object]:
    """Decode metadata strictly: UTF-8, one object, no key twice, no number that is not finite.

    Raises: ModelFormatError.
    """
    require_metadata_size(path, len(encoded))
    try:
        text = encoded.decode()
        _require_frugal(text)
        metadata = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
        # A lone surrogate can be escaped in JSON but not stored in UTF-8.
        if "\\u" in text:
            json.dumps(metadata, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(path, f"JSON with {error}", "one plain JSON object") from error
    if not isinstance(metadata, dict):
        found = f"JSON of type {type(metadata).__name__}"
        raise ModelFormatError(path, found, "one plain JSON object")
    return metadata


def require_metadata_size(path: Path, size_bytes: int) -> None:
    """Refuse metadata that is too long before anything is allocated for it.

    Raises: ModelFormatError.
    """
    if size_bytes > MAX_METADATA_BYTES:
        found = f"JSON of {size_bytes} bytes"
        raise ModelFormatError(path, found, f"at most {MAX_METADATA_BYTES}")


def _require_frugal(text: str) -> None:
    num_items = sum(map(text.count, "{[,:"))
    needed_bytes = COPIES_OF_TEXT * sys.getsizeof(text) + ITEM_BYTES * num_items
    if needed_bytes > MAX_PARSED_BYTES:
        most = MAX_PARSED_BYTES >> 20
        raise ValueError(
            f"{num_items} items, some {needed_bytes >> 20} MiB when parsed, over {most}"
        )


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key!a} twice")
    return members


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"number {constant}")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"number {digits[:40]} out of range")
    return value
