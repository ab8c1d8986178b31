"""Digests of rows, to see whether a row of one split is read in another.

Legend: N rows, S tokens in a row.
"""

import numpy as np
from numpy.typing import NDArray

_SEED = 2026


def row_digests(ids_NS: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Digest every row: equal rows have equal digests, others differ but for one chance in 2**63.

    Shapes: (N, S) -> (N,).
    Source: Dietzfelbinger 1996, multiply-add hashing modulo a power of two, odd multipliers.
    """
    generator = np.random.default_rng(_SEED)
    factors_S = generator.integers(0, 2**64, ids_NS.shape[1], dtype=np.uint64) | np.uint64(1)
    digests: NDArray[np.uint64] = ids_NS.view(np.uint64) @ factors_S
    return digests
