"""One rank; several of them are processes, in `tests/tasks/test_ranks.py`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.errors import WrongSettingError
from model.llama import Llama
from model.ranks import Ranks, is_sharded, like, own_part, whole
from model.reports import StepReport
from model.train import train
from tests.model import tiny


class OneOf(Ranks):
    """A rank whose others are only counted."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


def test_ranks_take_all_rows_of_a_batch_once_and_in_order() -> None:
    ids_BS = tiny.rows(1, batch_rows=6)[0]
    for size in (1, 2, 3, 6):
        taken = [OneOf(rank, size).own(ids_BS) for rank in range(size)]
        assert {len(each) for each in taken} == {6 // size}
        assert np.array_equal(np.concatenate(taken), ids_BS)


def test_rows_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(WrongSettingError) as caught:
        OneOf(0, 4).own(tiny.rows(1, batch_rows=6)[0])
    assert vars(caught.value) == {
        "setting": "train.batch_rows",
        "found": 6,
        "expected": "a multiple of the 4 ranks",
    }


def test_a_single_rank_changes_nothing_on_the_way() -> None:
    ranks, model, values = Ranks(), Llama(tiny.LLAMA), torch.tensor([1.0, 2.0])
    assert torch.equal(ranks.sum(values), values)
    assert ranks.gather("x") == ["x"]
    assert ranks.loss_scale == 1
    assert not is_sharded(model)
    assert whole(values) is values
    assert own_part(values) is values


def test_values_are_copied_to_a_parameter_not_shared_with_it() -> None:
    values = torch.ones(3)
    copied = like(values, torch.zeros(3))
    copied += 1
    assert torch.equal(values, torch.ones(3))


def test_whoever_is_asked_to_stop_is_heard_in_the_next_step() -> None:
    asked: list[bool] = []
    ranks = Ranks(lambda: bool(asked))
    reports = train(tiny.state(), iter(tiny.rows(10)), tiny.TRAIN, ranks)
    next(reports)
    assert not ranks.stopping
    asked.append(True)
    next(reports)
    assert ranks.stopping


def test_a_half_of_every_batch_on_two_ranks_gives_the_gradients_of_the_whole() -> None:
    """What averaging over two ranks makes of their gradients, without the processes."""
    settings = replace(tiny.TRAIN, batch_rows=6, micro_batch_rows=6, num_steps=1, warmup_steps=0)
    batches = tiny.rows(1, batch_rows=6)
    # Padding weighs the ranks unequally: a mean of their means would be another loss.
    batches[0, :2, 5:] = -1
    alone = tiny.state(settings)
    (expected, *_) = train(alone, iter(batches), settings)
    halves = [tiny.state(settings) for _ in range(2)]
    reports = [
        next(train(state, iter(batches), settings, OneOf(rank, 2)))
        for rank, state in enumerate(halves)
    ]
    found = [report.train_loss for report in reports if isinstance(report, StepReport)]
    assert isinstance(expected, StepReport)
    assert sum(found) == pytest.approx(expected.train_loss, rel=1e-6)
