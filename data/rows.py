"""The rows of one split, read from its shards without loading them.

Legend: N rows, S tokens in a row (the context and one more).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import CorruptShardError
from data.shard import ROW_DOCUMENT_DTYPE, ROW_DOCUMENTS, ShardsIndex, SplitIndex
from data.split import SplitName
from data.token_files import LITTLE_ENDIAN


class Rows:
    """Random access to rows of token ids."""

    def __init__(self, directory: Path, index: ShardsIndex, split: SplitName) -> None:
        entry: SplitIndex = getattr(index, split)
        self.split = split
        self.row_tokens = index.context_length + 1
        self._end_of_text_id = index.end_of_text_id
        width = LITTLE_ENDIAN[index.dtype]
        self._shards = [
            _open(directory / path, width, (num_rows, self.row_tokens))
            for path, num_rows in entry.shards
        ]
        self._starts = np.cumsum([0] + [num_rows for _, num_rows in entry.shards])
        path = directory / split / ROW_DOCUMENTS
        self._first_document_N = _open(path, ROW_DOCUMENT_DTYPE, (len(self),))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Read rows in the given order.

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

    def all(self, batch: int) -> Iterator[NDArray[np.int64]]:
        """Read every row once, in order, so many at a time; the last batch may be smaller."""
        for first in range(0, len(self), batch):
            yield self.take(np.arange(first, min(first + batch, len(self))))

    def documents_NS(self, indices: ArrayLike) -> NDArray[np.int64]:  # noqa: N802 (shape letters)
        """Name the document of every position, as its place in the split's document table.

        Shapes: (N,) -> (N, S).
        Raises: IndexError.
        """
        ended_NS = np.cumsum(self.take(indices) == self._end_of_text_id, axis=1)
        first_N = self._first_document_N[self._checked(indices)].astype(np.int64)
        # An end of text still belongs to the document that it ends.
        before_NS = np.pad(ended_NS[:, :-1], ((0, 0), (1, 0)))
        return np.asarray(first_N[:, None] + before_NS, dtype=np.int64)

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        indices_N = np.asarray(indices, dtype=np.int64)
        if indices_N.size and not 0 <= indices_N.min() <= indices_N.max() < len(self):
            message = f"row {indices_N.min()} or {indices_N.max()} is not one of {len(self)} rows"
            raise IndexError(message)
        return indices_N


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
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
