"""Count validation rows among the rows that training reads."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data.prefetch import prefetched
from data.row_digests import row_digests
from data.rows import Rows, blocks

READ_ROWS = 4096


def num_leaked_rows(train: Rows, validation: Rows) -> int:
    """Count the training rows that are validation rows; of the former, only some are in memory."""
    held_out = np.unique(np.concatenate(list(_digests(validation))))
    return sum(int(np.isin(found, held_out).sum()) for found in _digests(train))


class LeakCount:
    """Looks at every batch on its way to the training loop."""

    def __init__(self, validation: Rows) -> None:
        self._held_out = np.unique(np.concatenate(list(_digests(validation))))
        self.num_rows = 0
        "Rows of the last batch that are validation rows."

    def watching(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass batches on, each of them read and looked at while the one before is learnt from."""
        counted = ((ids_BS, self._count(ids_BS)) for ids_BS in batches)
        for ids_BS, num_rows in prefetched(counted):
            self.num_rows = num_rows
            yield ids_BS

    def _count(self, ids_BS: np.ndarray) -> int:
        return int(np.isin(row_digests(ids_BS), self._held_out).sum())


def _digests(rows: Rows) -> Iterator[NDArray[np.uint64]]:
    return (row_digests(rows.take(chunk)) for chunk in blocks(np.arange(len(rows)), READ_ROWS))
