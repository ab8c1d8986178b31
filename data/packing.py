"""Whole documents in rows: as many to a row as fit, none cut that fits into one.

A document longer than a row fills rows of its own, and what is left of it begins another. What a
row has left over is filled with ends of text, which no loss counts: an end of text after an end of
text is never text.

Legend: M documents, N rows, S tokens in a row.

Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3 (best-fit).
"""

import bisect
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class _Row:
    """An open row: the documents in it, the first of which may have filled rows before."""

    documents: list[int] = field(default_factory=list)
    space: int = 0


def best_fit(length_M: NDArray[np.int64], row_tokens: int) -> list[list[int]]:
    """Choose which documents share rows, each list in the order of its rows.

    The first of a list may be longer than a row: it fills whole rows, then shares its last one.
    """
    open_rows: dict[int, list[_Row]] = {}
    spaces: list[int] = []
    rows: list[_Row] = []

    def put(row: _Row) -> None:
        if row.space not in open_rows:
            bisect.insort(spaces, row.space)
            open_rows[row.space] = []
        open_rows[row.space].append(row)

    def take(space: int) -> _Row:
        row = open_rows[space].pop()
        if not open_rows[space]:
            del open_rows[space]
            spaces.remove(space)
        return row

    # The longest first; a stable order keeps the result the same everywhere.
    for document in np.argsort(-length_M, kind="stable").tolist():
        length = int(length_M[document])
        place = bisect.bisect_left(spaces, length)
        if length < row_tokens and place < len(spaces):
            row = take(spaces[place])
        else:
            row = _Row(space=-(-length // row_tokens) * row_tokens)
            rows.append(row)
        row.documents.append(document)
        row.space -= length
        if row.space:
            put(row)
    return [row.documents for row in rows]


def lay_out(
    stream: NDArray[np.integer], length_M: NDArray[np.int64], row_tokens: int, padding: int
) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
    """Lay documents out in rows.

    Returns the rows, the documents in the order in which they appear, and for each row the place
    in that order of its first document.

    Shapes: (all tokens,), (M,) -> (N, S), (M,), (N,).
    """
    start_M = np.cumsum(length_M) - length_M
    shared = best_fit(length_M, row_tokens)
    row_counts = [_num_rows(length_M[documents].sum(), row_tokens) for documents in shared]
    rows_NS = np.full((sum(row_counts), row_tokens), padding, stream.dtype)
    first_N = np.zeros(len(rows_NS), np.int64)
    row, place = 0, 0
    for documents, num_rows in zip(shared, row_counts, strict=True):
        pieces = [stream[start_M[each] : start_M[each] + length_M[each]] for each in documents]
        content = np.concatenate(pieces)
        rows_NS[row : row + num_rows].reshape(-1)[: len(content)] = content
        first_N[row : row + num_rows] = place
        row, place = row + num_rows, place + len(documents)
    order_M = np.array([each for documents in shared for each in documents], np.int64)
    return rows_NS, order_M, first_N


def _num_rows(num_tokens: int, row_tokens: int) -> int:
    return -(-int(num_tokens) // row_tokens)
