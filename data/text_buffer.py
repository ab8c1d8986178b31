"""The texts of a batch as one run of bytes, with where each of them begins.

Shape letters: D documents, N bytes, P positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.compiled import compiled

_NOT_ASCII = 0x80


@dataclass(frozen=True)
class TextBuffer:
    """UTF-8 bytes of documents, one after the other."""

    data: NDArray[np.uint8]
    """The bytes of all."""
    offsets: NDArray[np.int64]
    """Document d is `data[offsets[d] : offsets[d + 1]]`."""

    @classmethod
    def of(cls, texts: Any) -> "TextBuffer":
        """View a `large_string` or `large_binary` array; null counts as empty."""
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        _, ends, held = texts.buffers()
        if len(texts) == 0 or ends is None:
            return cls(np.empty(0, np.uint8), np.zeros(1, np.int64))
        offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        data = np.empty(0, np.uint8) if held is None else np.frombuffer(held, np.uint8)
        return cls(data[offsets[0] : offsets[-1]], offsets - offsets[0])

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each document."""
        return np.diff(self.offsets)

    def document(self, number: int) -> bytes:
        """Return the bytes of one document."""
        first, end = self.offsets[number : number + 2].tolist()
        return self.data[first:end].tobytes()

    def document_of(self, positions_P: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tell in which document each byte stands."""
        return np.searchsorted(self.offsets, positions_P, side="right") - 1

    def is_ascii(self) -> NDArray[np.bool_]:
        """Tell of each document whether all its bytes are ASCII."""
        bits = np.empty(self.num_documents, np.uint8)
        _unite(self.data, self.offsets, bits)
        return bits < _NOT_ASCII

    def replaced(self, texts: Mapping[int, bytes]) -> Any:
        """Return all documents as a `large_string` array, some of them with other texts."""
        pieces: list[bytes] = []
        lengths = self.lengths.copy()
        done = 0
        for number in sorted(texts):
            pieces += (self.data[done : self.offsets[number]].tobytes(), texts[number])
            lengths[number] = len(texts[number])
            done = int(self.offsets[number + 1])
        pieces.append(self.data[done:].tobytes())
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces))]
        return pa.Array.from_buffers(pa.large_string(), self.num_documents, buffers)


@compiled
def _unite(
    data_N: NDArray[np.uint8], offsets: NDArray[np.int64], bits_D: NDArray[np.uint8]
) -> None:
    """Unite the bits of all bytes of each document."""
    for number in range(len(bits_D)):
        bits = np.uint8(0)
        for byte in data_N[offsets[number] : offsets[number + 1]]:
            bits |= byte
        bits_D[number] = bits
