"""Withholding: training rows that validation has too, token for token, are left out.

No document is on both sides, but two of them may share what fills a row: a licence, a table. Rows
are compared by digests of their bytes on disk; training looks for leaks in its batches, by other
digests, so that neither can hide a fault of the other.

Legend: N rows, S tokens in a row, W withheld rows.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cut import FIRST_DOCUMENT_DTYPE, FIRST_DOCUMENTS, ROWS
from data.token_files import adopt

DIGEST_BYTES = 16


class KnownRows:
    """The rows of some shards that were cut; no shards, no known rows."""

    def __init__(self, units: Sequence[Path], width: np.dtype[Any], row_tokens: int) -> None:
        self.width, self.row_tokens = width, row_tokens
        self._digests = frozenset(
            digest for unit in units for digest in _digests(self._rows_of(unit))
        )

    def withhold(
        self, unit: Path, *, rows: Path, first_documents: Path
    ) -> NDArray[np.integer[Any]]:
        """Give the rows of a shard that are not known their final names; return the others.

        Shapes: -> (W, S).
        """
        rows_NS = self._rows_of(unit)
        is_known_N = np.zeros(len(rows_NS), np.bool_)
        if self._digests:
            is_known_N[:] = [each in self._digests for each in _digests(rows_NS)]
        if not is_known_N.any():
            adopt(unit / ROWS, rows)
            adopt(unit / FIRST_DOCUMENTS, first_documents)
            return rows_NS[:0]
        rows_NS[~is_known_N].tofile(rows)
        first_N = np.fromfile(unit / FIRST_DOCUMENTS, FIRST_DOCUMENT_DTYPE)
        first_N[~is_known_N].tofile(first_documents)
        return rows_NS[is_known_N]

    def _rows_of(self, unit: Path) -> NDArray[np.integer[Any]]:
        return np.fromfile(unit / ROWS, self.width).reshape(-1, self.row_tokens)


def _digests(rows_NS: NDArray[np.integer[Any]]) -> Iterator[bytes]:
    return (blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows_NS)


def without_padding(
    rows_NS: NDArray[np.integer[Any]], end_of_text_id: int
) -> NDArray[np.integer[Any]]:
    """Return the tokens of rows: an end of text after another in a row is none.

    Shapes: (N, S) -> (tokens,).
    """
    is_end_NS = rows_NS == end_of_text_id
    is_padding_NS = is_end_NS & np.pad(is_end_NS[:, :-1], ((0, 0), (1, 0)))
    return np.asarray(rows_NS[~is_padding_NS])
