"""The rows of one split, read from its shards without loading them.

Legend: N rows, S tokens in a row (the context and one more).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.cut import FIRST_DOCUMENT_DTYPE, FIRST_DOCUMENTS, ROWS
from data.errors import CorruptShardError
from data.shard import SUFFIXES, ShardsIndex, SplitIndex
from data.split import SplitName
from data.token_files import LITTLE_ENDIAN

PADDING = -1
"""Stands where a row holds no token: neither an input to learn from nor a target to count."""


class Rows:
    """Random access to rows of token ids."""

    def __init__(self, directory: Path, index: ShardsIndex, split: SplitName) -> None:
        entry: SplitIndex = getattr(index, split)
        self.split = split
        self.row_tokens = index.context_length + 1
        self._end_of_text_id = index.end_of_text_id
        self._padded = index.packing == "whole"
        width = LITTLE_ENDIAN[index.dtype]
        self._shards = [
            _open(
                directory / f"{shard.name}{SUFFIXES[ROWS]}",
                width,
                (shard.num_rows, self.row_tokens),
            )
            for shard in entry.shards
        ]
        self._starts = np.cumsum([0] + [shard.num_rows for shard in entry.shards])
        # Shards number their own documents; the split's are those of its shards, in order.
        base = np.cumsum([0] + [shard.num_documents for shard in entry.shards])
        first = [
            _open(
                directory / f"{shard.name}{SUFFIXES[FIRST_DOCUMENTS]}",
                FIRST_DOCUMENT_DTYPE,
                (shard.num_rows,),
            )
            for shard in entry.shards
        ]
        self._firsts = list(zip(base.tolist(), first, strict=False))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Read rows in the given order, with `PADDING` where no token is.

        Shapes: (N,) -> (N, S).
        Raises: IndexError.
        """
        ids_NS = self.ids(indices)
        if self._padded:
            is_end_NS = ids_NS == self._end_of_text_id
            ids_NS[:, 1:][is_end_NS[:, 1:] & is_end_NS[:, :-1]] = PADDING
        return ids_NS

    def ids(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Read rows as they are stored: an end of text after another is padding.

        Shapes: (N,) -> (N, S).
        Raises: IndexError.
        """
        indices_N = self._checked(indices)
        ids_NS = np.empty((len(indices_N), self.row_tokens), dtype=np.int64)
        shard_N = np.searchsorted(self._starts, indices_N, side="right") - 1
        for number in np.unique(shard_N):
            here_N = shard_N == number
            ids_NS[here_N] = self._shards[number][indices_N[here_N] - self._starts[number]]
        return ids_NS

    def documents_NS(self, indices: ArrayLike) -> NDArray[np.int64]:  # noqa: N802 (shape letters)
        """Name the document of every token, as its place in the split's documents.

        Shapes: (N,) -> (N, S).
        Raises: IndexError.
        """
        # Padding ends nothing; what it is said to belong to means nothing.
        is_end_NS = self.take(indices) == self._end_of_text_id
        # An end of text still belongs to the document that it ends.
        before_NS = np.pad(np.cumsum(is_end_NS, axis=1)[:, :-1], ((0, 0), (1, 0)))
        return np.asarray(self._first_documents(indices)[:, None] + before_NS, dtype=np.int64)

    def _first_documents(self, indices: ArrayLike) -> NDArray[np.int64]:
        indices_N = self._checked(indices)
        first_N = np.empty(len(indices_N), dtype=np.int64)
        shard_N = np.searchsorted(self._starts, indices_N, side="right") - 1
        for number in np.unique(shard_N):
            here_N, (base, first) = shard_N == number, self._firsts[number]
            first_N[here_N] = base + first[indices_N[here_N] - self._starts[number]].astype(
                np.int64
            )
        return first_N

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        indices_N = np.asarray(indices, dtype=np.int64)
        if indices_N.size and not 0 <= indices_N.min() <= indices_N.max() < len(self):
            message = f"row {indices_N.min()} or {indices_N.max()} is not one of {len(self)} rows"
            raise IndexError(message)
        return indices_N


def blocks(indices: NDArray[np.int64], num_rows: int) -> Iterator[NDArray[np.int64]]:
    """Yield indices so many at a time, the last of them perhaps fewer."""
    step = max(num_rows, 1)
    return (indices[first : first + step] for first in range(0, len(indices), step))


def spread(num_rows: int, num_chosen: int) -> NDArray[np.int64]:
    """Choose so many rows, spread evenly over all of them; all, if there are not as many.

    Shapes: -> (N,).
    """
    num_chosen = min(num_chosen, num_rows)
    return np.arange(num_chosen) * num_rows // num_chosen


def open_rows(directory: Path, index: ShardsIndex, split: SplitName) -> Rows:
    """Open the rows of one split of a shards directory.

    Raises: CorruptShardError if a file is absent or has another size than the index says.
    """
    return Rows(directory, index, split)


def _open(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    expected = dtype.itemsize * int(np.prod(shape))
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        is_now = "is missing" if found is None else f"{found} bytes"
        raise CorruptShardError(path, is_now, f"{expected} bytes")
    if not expected:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
