"""Batches of rows in an order that only the seed and the cursor decide.

Every pass visits the rows in a new permutation. No batch straddles two passes: the rows of a pass
that do not fill a last batch are left out of that pass. A cursor counts the rows delivered so far,
and continuing from it gives exactly the batches that would have followed.

Legend: B rows of a batch, S tokens in a row.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data.bounds import at_least
from data.errors import CorpusTooSmallError, WrongSettingError
from data.rows import Rows


def num_batches(rows: Rows, batch_rows: int, max_passes: int) -> int:
    """Count the batches in so many passes over the rows."""
    return max_passes * (len(rows) // batch_rows)


def batches(
    rows: Rows, *, batch_rows: int, seed: int, max_passes: int, cursor: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yield batches of token ids until the passes are used up.

    Shapes: each (B, S).
    Units: the cursor counts rows delivered, hence is a multiple of `batch_rows`.
    Raises: CorpusTooSmallError, WrongSettingError.
    """
    at_least("batch_rows", batch_rows, 1)
    at_least("seed", seed, 0)
    at_least("max_passes", max_passes, 1)
    if len(rows) < batch_rows:
        num_tokens, needed = len(rows) * rows.row_tokens, batch_rows * rows.row_tokens
        raise CorpusTooSmallError(rows.split, num_tokens, needed)
    last = num_batches(rows, batch_rows, max_passes) * batch_rows
    if cursor % batch_rows or not 0 <= cursor <= last:
        expected = f"a multiple of batch_rows ({batch_rows}) from 0 to {last}"
        raise WrongSettingError("cursor", cursor, expected)
    return _batches(rows, batch_rows, seed, max_passes, cursor // batch_rows)


def _batches(
    rows: Rows, batch_rows: int, seed: int, max_passes: int, first: int
) -> Iterator[NDArray[np.int64]]:
    per_pass = len(rows) // batch_rows
    for number in range(first // per_pass, max_passes):
        order_N = np.random.default_rng([seed, number]).permutation(len(rows))
        for batch in range(max(first - number * per_pass, 0), per_pass):
            yield rows.take(order_N[batch * batch_rows : (batch + 1) * batch_rows])
