from pathlib import Path

import numpy as np

from model.loss_statistics import LossCounter
from tasks.val_losses import VAL_LOSSES, ValLosses


def counted() -> ValLosses:
    counter = LossCounter(3, 4)
    losses_BT = np.array([[1.0, 2.0, 4.0, 8.0]], dtype=np.float32)
    counter.add(losses_BT, np.array([[0, 0, 2, 2]]), np.array([[True, True, True, False]]))
    return ValLosses.of(counter)


def test_the_losses_of_documents_come_back_as_they_were_written(tmp_path: Path) -> None:
    counted().write(tmp_path)

    found = ValLosses.read(tmp_path)

    assert found.nats.tolist() == [3.0, 0.0, 4.0]
    assert found.tokens.tolist() == [2, 0, 1]
    assert found.statistics() == counted().statistics()
    assert found.statistics().mean_nats == 7 / 3


def test_equal_losses_are_equal_bytes(tmp_path: Path) -> None:
    counted().write(tmp_path)
    first = (tmp_path / VAL_LOSSES).read_bytes()
    counted().write(tmp_path)

    assert (tmp_path / VAL_LOSSES).read_bytes() == first
