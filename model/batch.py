"""A global batch of ids, as a training loop takes and names it.

Shapes: B rows, S tokens of a row, of which all but the first are predicted.
"""

import hashlib

import numpy as np

from model.errors import WrongSettingError
from model.loss import PADDING


def batch_digest(ids_BS: np.ndarray) -> str:
    """Digest a batch's ids, in their order."""
    return hashlib.sha256(np.ascontiguousarray(ids_BS, "<i8").tobytes()).hexdigest()[:16]


def count_targets(ids_BS: np.ndarray) -> int:
    """Count the tokens that are predicted."""
    return int((ids_BS[:, 1:] != PADDING).sum())


def check_batch(ids_BS: np.ndarray, batch_rows: int, vocab_size: int) -> None:
    """Hold a batch to the settings that it is to be learnt with.

    Raises: WrongSettingError.
    """
    if ids_BS.shape[0] != batch_rows:
        expected = f"{ids_BS.shape[0]}, as in the batch"
        raise WrongSettingError("train.batch_rows", batch_rows, expected)
    if not PADDING <= ids_BS.min() <= ids_BS.max() < vocab_size:
        expected = f"above every token id ({ids_BS.min()} to {ids_BS.max()})"
        raise WrongSettingError("model.vocab_size", vocab_size, expected)
