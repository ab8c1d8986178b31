"""File contents to texts: each with its declared encoding, strictly, without a byte order mark.

The mark tells a decoder about the file and is no part of the source: Python drops it as well.
"""

import codecs
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.filters import Objections
from data.text_buffer import TextBuffer

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


def decode(content: Any, encodings: Any) -> tuple[Any, Objections]:
    """Return the texts of a `large_binary` array, and what cannot be decoded.

    What cannot is empty in the result.
    """
    buffer = TextBuffer.of(content)
    other = pc.dictionary_encode(encodings)
    is_utf8 = np.array([_codec(name) == "utf-8" for name in other.dictionary.to_pylist()], np.bool_)
    declared_utf8 = is_utf8[other.indices.to_numpy(zero_copy_only=False)]
    changed: dict[int, bytes] = {}
    objections: dict[int, str] = {}
    for number in np.flatnonzero(~(declared_utf8 & buffer.is_ascii())).tolist():
        source = buffer.document(number)
        try:
            text = _decoded(source, encodings[number].as_py())
        except (UnicodeError, LookupError, ValueError) as error:
            objections[number] = _reason(error)
            text = b""
        if text is not source:
            changed[number] = text
    return (buffer.replaced(changed) if changed else content.view(pa.large_string())), objections


def _decoded(source: bytes, encoding: str) -> bytes:
    text = source.decode(encoding)
    if _codec(encoding) == "utf-8":
        return source.removeprefix(_BOM.encode())
    # A codec may invent halves of surrogate pairs, which no encoder takes.
    return text.removeprefix(_BOM).encode()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{error.encoding}: {error.reason} at byte {error.start:,}"
    return str(error)


@cache
def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""
