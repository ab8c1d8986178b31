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

from data.compiled import compiled
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
_CLASSES = np.array(
    [
        sum(1 << bit for bit, encoding in enumerate(ENCODINGS) if byte in encoding.members)
        for byte in range(256)
    ],
    np.uint8,
)


def encoded_data(texts: Texts, max_run: int, max_share: float) -> Objections:
    """Object to a longer run of encoded data, or to a larger share of the bytes in such runs."""
    found: dict[int, str] = {}
    begins_B, classes_B = _blocks(texts.buffer.data)
    for bit, encoding in enumerate(ENCODINGS):
        stretches = _stretches(texts.buffer, begins_B[classes_B & (1 << bit) != 0])
        for number in stretches.suspects(max_run, max_share):
            lengths = stretches.runs(number, encoding)
            share = sum(lengths) / int(texts.buffer.lengths[number])
            if max(lengths, default=0) > max_run:
                detail = f"{encoding.name} run of {max(lengths):,} characters, at most {max_run:,}"
                found.setdefault(number, detail)
            elif share > max_share:
                detail = f"{share:.3f} of it {encoding.name}, at most {max_share:g}"
                found.setdefault(number, detail)
    return found


@dataclass(frozen=True)
class _Stretches:
    """Blocks of a class in a row within a document, with the blocks around them that are not.

    Every run of the class that is long enough to count is inside exactly one of them, since it
    covers a block and its ends cover none.
    """

    buffer: TextBuffer
    begins_S: NDArray[np.int64]
    ends_S: NDArray[np.int64]
    documents_S: NDArray[np.int64]

    def suspects(self, max_run: int, max_share: float) -> list[int]:
        """List the documents that have room for a longer run or a larger share.

        Indentation suspects too much, and nothing suspects too little.
        """
        lengths_S = self.ends_S - self.begins_S
        total_D = np.bincount(self.documents_S, lengths_S, self.buffer.num_documents)
        suspect_D = total_D > max_share * self.buffer.lengths
        suspect_D[self.documents_S[lengths_S > max_run]] = True
        return np.flatnonzero(suspect_D).tolist()

    def runs(self, number: int, encoding: Encoding) -> list[int]:
        """Measure the runs of a document."""
        text, first = self.buffer.document(number), int(self.buffer.offsets[number])
        mine_S = self.documents_S == number
        begins, ends = (each[mine_S] - first for each in (self.begins_S, self.ends_S))
        return [
            len(match[0])
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
            for match in encoding.runs.finditer(text, max(begin, 0), end)
        ]


def _stretches(buffer: TextBuffer, begins_B: NDArray[np.int64]) -> _Stretches:
    """Put blocks in a row together, leaving out those that straddle two documents."""
    documents_B = buffer.document_of(begins_B)
    inside_B = begins_B + _WIDTH <= buffer.offsets[documents_B + 1]
    begins_B, documents_B = begins_B[inside_B], documents_B[inside_B]
    is_new_B = np.diff(begins_B, prepend=-1) != _WIDTH
    is_new_B |= np.diff(documents_B, prepend=-1) != 0
    heads_S = np.flatnonzero(is_new_B)
    lasts_S = np.append(heads_S[1:], [len(begins_B)]) - 1 if len(heads_S) else heads_S
    return _Stretches(
        buffer,
        begins_B[heads_S] - _WIDTH,
        begins_B[lasts_S] + 2 * _WIDTH,
        documents_B[heads_S],
    )


def _blocks(data_N: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return beginnings and classes of the aligned blocks that are all of a class.

    Shapes: (B,), (B,).
    """
    begins_B = np.empty(len(data_N) // _WIDTH, np.int64)
    classes_B = np.empty(len(data_N) // _WIDTH, np.uint8)
    num_found = _sieve(data_N, _CLASSES, begins_B, classes_B)
    return begins_B[:num_found], classes_B[:num_found]


@compiled
def _sieve(
    data_N: NDArray[np.uint8],
    class_of: NDArray[np.uint8],
    begins_B: NDArray[np.int64],
    classes_B: NDArray[np.uint8],
) -> int:
    """Write down the blocks that are all of a class; return how many there are."""
    num_found = 0
    for begin in range(0, len(data_N) - _WIDTH + 1, _WIDTH):
        # Bytes far from each other first: neighbours are mostly of the same class.
        common = class_of[data_N[begin]] & class_of[data_N[begin + _WIDTH // 2]]
        common &= class_of[data_N[begin + _WIDTH - 1]] & class_of[data_N[begin + _WIDTH // 4]]
        place = begin + 1
        while common and place < begin + _WIDTH - 1:
            common &= class_of[data_N[place]]
            place += 1
        if common:
            begins_B[num_found], classes_B[num_found] = begin, common
            num_found += 1
    return num_found
