"""Count validation rows among the rows that training reads."""

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data.prefetch import prefetched
from data.row_digests import row_digests
from data.rows import Rows, blocks

READ_ROWS = 4096


def num_leaked_rows(train: Rows, validation: Rows) -> int:
    """Count the training rows that are validation rows; of the former, only some are in memory."""
    leaks = LeakCount(validation)
    return sum(leaks.among(digests) for digests in _digests(train))


class LeakCount:
    """Looks at every batch on its way to the training loop."""

    def __init__(self, validation: Rows) -> None:
        self._held_out = np.unique(np.concatenate(list(_digests(validation))))
        self._counted: deque[int] = deque()

    def watching(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass batches on, each of them read and looked at while the one before is learnt from.

        Their counts wait in the same order for whoever asks `next_count`, once a batch.
        """
        counted = ((ids_BS, self.among(row_digests(ids_BS))) for ids_BS in batches)
        for ids_BS, num_rows in prefetched(counted):
            self._counted.append(num_rows)
            yield ids_BS

    def next_count(self) -> int:
        """Return how many rows of the next batch that was passed on are validation rows."""
        return self._counted.popleft()

    def among(self, digests_N: NDArray[np.uint64]) -> int:
        """Count the rows with these digests that are validation rows."""
        return int(np.isin(digests_N, self._held_out).sum())


def _digests(rows: Rows) -> Iterator[NDArray[np.uint64]]:
    return (row_digests(rows.take(chunk)) for chunk in blocks(np.arange(len(rows)), READ_ROWS))
