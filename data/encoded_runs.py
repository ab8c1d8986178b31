"""Runs of encoded data in source text: base64, hexadecimal bytes, escaped characters.

Almost no text has one, so almost all are acquitted by a sieve: a run of n bytes of a class covers
some whole aligned block of (n + 1) // 2 bytes, and most blocks drop out at the first or second of
their bytes. The regular expressions see what is left.

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
    """A way to write data, and a class of bytes and a length that none of its runs goes below."""

    name: str
    runs: re.Pattern[bytes]
    block: int
    members: bytes


_HEX = b"0123456789abcdefABCDEF"
ENCODINGS = (
    Encoding(
        "base64",
        re.compile(rb"[a-zA-Z0-9+/\n=]{64,}"),
        32,
        b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/\n=",
    ),
    Encoding(
        "hexadecimal",
        re.compile(rb"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}"),
        8,
        _HEX + b"x\\, \t\n\r\f\v",
    ),
    Encoding("escaped", re.compile(rb"(?:\\u[0-9a-fA-F]{4}){8,}"), 16, _HEX + b"\\u"),
)
"""Source: StarCoder2, arXiv:2402.19173, section 4."""


def encoded_data(texts: Texts, max_run: int, max_share: float) -> Objections:
    """Object to a longer run of encoded data, or to a larger share of the bytes in such runs."""
    found: dict[int, str] = {}
    for encoding in ENCODINGS:
        for number in _suspects(texts.buffer, encoding, max_run, max_share):
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


def _suspects(buffer: TextBuffer, encoding: Encoding, max_run: int, max_share: float) -> list[int]:
    """Find the documents whose blocks leave room for a longer run or a larger share."""
    width = encoding.block
    begins_B = _blocks(buffer.data, encoding.members, width)
    first_B = buffer.document_of(begins_B)
    inside = first_B == buffer.document_of(begins_B + width - 1)
    begins_B, first_B = begins_B[inside], first_B[inside]
    if not len(begins_B):
        return []
    is_new = np.diff(begins_B, prepend=-1) != width
    is_new |= np.diff(first_B, prepend=-1) != 0
    heads = np.flatnonzero(is_new)
    # The ends of a run fill no block: less than one block on either side.
    longest = (np.diff(heads, append=len(begins_B)) + 2) * width
    total_D = np.bincount(first_B[heads], longest, buffer.num_documents)
    suspect_D = total_D > max_share * buffer.lengths
    suspect_D[first_B[heads][longest > max_run]] = True
    return np.flatnonzero(suspect_D).tolist()


def _blocks(data_N: NDArray[np.uint8], members: bytes, width: int) -> NDArray[np.int64]:
    """Return the beginnings of the aligned blocks whose bytes are all of a class."""
    is_member = bytes(byte in members for byte in range(256))
    num_blocks = len(data_N) // width
    blocks = data_N[: num_blocks * width].reshape(num_blocks, width)

    def alive(column: int) -> NDArray[np.bool_]:
        return np.frombuffer(blocks[:, column].tobytes().translate(is_member), np.bool_)

    places = np.flatnonzero(alive(width // 2) & alive(0))
    table = np.frombuffer(is_member, np.bool_)
    for column in range(1, width):
        if column != width // 2:
            places = places[table[blocks[places, column]]]
    return places * width
