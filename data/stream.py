"""Documents in an order of their own, as one stream of tokens that is never held in memory."""

import numpy as np
from numpy.typing import NDArray

from data.token_files import TokenReader


class Stream:
    """The tokens of documents, one document after the other.

    `starts` and `lengths` say where each document lies in the token files, in stream order.
    """

    def __init__(
        self, reader: TokenReader, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> None:
        self._reader = reader
        self._starts = starts
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def document_at(self, position: int) -> int:
        """Find the document that a position of the stream lies in."""
        return int(np.searchsorted(self._ends, position, side="right"))

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read a range of the stream, across as many documents as it takes."""
        pieces, document = [], self.document_at(start)
        while start < stop:
            end = min(stop, int(self._ends[document]))
            source = int(self._starts[document]) + start - int(self._begins[document])
            pieces.append(self._reader.read(source, end - start))
            start, document = end, document + 1
        return np.concatenate(pieces).astype(np.int64)
