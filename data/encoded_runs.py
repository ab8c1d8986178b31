"""Runs of encoded data in source text: base64, hexadecimal bytes, escaped characters.

Almost no text has one, so almost all are acquitted by a sieve: a run of n bytes of a class covers
some whole aligned block of (n + 1) // 2 bytes, and most blocks drop out at the first or second of
their bytes. All classes go through it together, as the bits of a byte. The regular expressions see
what is left.

Shape letters: N bytes, B blocks that are all of a class, D documents.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.filters import Objections, Texts
from data.text_buffer import TextBuffer


@dataclass(frozen=True)
class Encoding:
    """A way to write data, and the class of bytes that its runs are made of."""

    name: str
    runs: re.Pattern[bytes]
    members: bytes


_HEX = b"0123456789abcdefABCDEF"
ENCODINGS = (
    Encoding(
        "base64",
        re.compile(rb"[a-zA-Z0-9+/\n=]{64,}"),
        b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/\n=",
    ),
    Encoding(
        "hexadecimal",
        re.compile(rb"(?:(?:\\x|\b0x|\b)[0-9a-fA-F]{2}(?:,|\b\s*)){16,}"),
        _HEX + b"x\\, \t\n\r\f\v",
    ),
    Encoding("escaped", re.compile(rb"(?:\\u[0-9a-fA-F]{4}){8,}"), _HEX + b"\\u"),
)
"""Source: StarCoder2, arXiv:2402.19173, section 4; there a hexadecimal run has 8 bytes or more,
and the first escape of one is not part of it."""
_WIDTH = 24
"""Of a block: half the length of the shortest run, which is hexadecimal and has 47 characters."""
_CLASSES = bytes(
    sum(1 << bit for bit, encoding in enumerate(ENCODINGS) if byte in encoding.members)
    for byte in range(256)
)
_CLASSES_256 = np.frombuffer(_CLASSES, np.uint8)


def encoded_data(texts: Texts, max_run: int, max_share: float) -> Objections:
    """Object to a longer run of encoded data, or to a larger share of the bytes in such runs."""
    found: dict[int, str] = {}
    begins_B, classes_B = _blocks(texts.buffer.data)
    for bit, encoding in enumerate(ENCODINGS):
        of_class = begins_B[classes_B & (1 << bit) != 0]
        for number in _suspects(texts.buffer, of_class, max_run, max_share):
            text = texts.buffer.document(number)
            lengths = [len(match[0]) for match in encoding.runs.finditer(text)]
            share = sum(lengths) / len(text)
            if max(lengths, default=0) > max_run:
                detail = f"{encoding.name} run of {max(lengths):,} characters, at most {max_run:,}"
                found.setdefault(number, detail)
            elif share > max_share:
                detail = f"{share:.3f} of it {encoding.name}, at most {max_share:g}"
                found.setdefault(number, detail)
    return found


def _suspects(
    buffer: TextBuffer, begins_B: NDArray[np.int64], max_run: int, max_share: float
) -> list[int]:
    """Find the documents whose blocks leave room for a longer run or a larger share.

    Indentation of many blocks in a row suspects too much, and never too little.
    """
    first_B = buffer.document_of(begins_B)
    inside = begins_B + _WIDTH <= buffer.offsets[first_B + 1]
    begins_B, first_B = begins_B[inside], first_B[inside]
    if not len(begins_B):
        return []
    is_new = np.diff(begins_B, prepend=-1) != _WIDTH
    is_new |= np.diff(first_B, prepend=-1) != 0
    heads = np.flatnonzero(is_new)
    # The ends of a run fill no block: less than one block on either side.
    longest = (np.diff(heads, append=len(begins_B)) + 2) * _WIDTH
    total_D = np.bincount(first_B[heads], longest, buffer.num_documents)
    suspect_D = total_D > max_share * buffer.lengths
    suspect_D[first_B[heads][longest > max_run]] = True
    return np.flatnonzero(suspect_D).tolist()


def _blocks(data_N: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return beginnings and classes of the aligned blocks that are all of a class.

    Shapes: (B,), (B,).
    """
    num_blocks = len(data_N) // _WIDTH
    blocks = data_N[: num_blocks * _WIDTH].reshape(num_blocks, _WIDTH)

    def classes(column: int) -> NDArray[np.uint8]:
        return np.frombuffer(blocks[:, column].tobytes().translate(_CLASSES), np.uint8)

    common = classes(0)
    for column in range(4, _WIDTH, 4):
        common = common & classes(column)
    places = np.flatnonzero(common)
    common = common[places]
    for column in range(2, _WIDTH, 4):
        common &= _CLASSES_256.take(data_N.take(places * _WIDTH + column))
        places, common = places[common != 0], common[common != 0]
    common &= np.bitwise_and.reduce(_CLASSES_256.take(blocks[places]), axis=1)
    return places[common != 0] * _WIDTH, common[common != 0]
