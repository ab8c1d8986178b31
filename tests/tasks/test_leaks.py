from typing import Any

import numpy as np

from tasks.leaks import READ_ROWS, LeakCount, num_leaked_rows


class SomeRows:
    """Rows in memory."""

    def __init__(self, ids_NS: np.ndarray) -> None:
        self.ids_NS = ids_NS

    def __len__(self) -> int:
        return len(self.ids_NS)

    def take(self, indices: Any) -> np.ndarray:
        taken: np.ndarray = self.ids_NS[indices]
        return taken


def test_validation_rows_in_a_batch_are_counted_and_batches_pass_unchanged() -> None:
    held_out = np.arange(40).reshape(5, 8)
    others = 100 + np.arange(24).reshape(3, 8)
    count = LeakCount(SomeRows(held_out))  # type: ignore[arg-type]
    batches = [others, np.concatenate((held_out[:2], others)), others[:, ::-1]]

    found = []
    for given, passed in zip(batches, count.watching(iter(batches)), strict=True):
        assert passed is given
        found.append(count.next_count())

    assert found == [0, 2, 0]


def test_validation_rows_are_counted_among_all_training_rows() -> None:
    held_out = np.arange(40).reshape(5, 8)
    many = 100 + np.arange(8 * READ_ROWS).reshape(-1, 8)
    train = np.concatenate((held_out[3:], many, held_out[:1], held_out[:1] + 1))

    def count(train: np.ndarray) -> int:
        return num_leaked_rows(SomeRows(train), SomeRows(held_out))  # type: ignore[arg-type]

    assert (count(train), count(many)) == (3, 0)
