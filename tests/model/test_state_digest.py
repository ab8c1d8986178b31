"""The digest of a training state: equal bits, equal digest, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.ranks import Ranks
from model.state_digest import CLASSES, is_digested, state_digest
from model.train import train
from model.training_state import TrainingState
from tests.model import tiny


def trained(num_steps: int = 2) -> TrainingState:
    state = tiny.state(tiny.TRAIN)
    steps = train(state, iter(tiny.rows(10)), tiny.TRAIN)
    for _ in range(num_steps):
        next(steps)
    return state


def digest(state: TrainingState) -> str:
    return state_digest(state, Ranks())


def matrix(state: TrainingState) -> Tensor:
    return state.model.get_parameter("model.layers.0.mlp.down_proj.weight").detach()


def moment(state: TrainingState) -> Tensor:
    return state.optimizer.tensors()["model.norm.weight.exp_avg_sq"]


def flip(tensor: Tensor, bit: int) -> None:
    tensor.view(torch.int32)[-1] ^= 1 << bit


def exchange_rows(tensor: Tensor) -> None:
    tensor.copy_(tensor[[1, 0, *range(2, len(tensor))]])


def test_equal_states_have_equal_digests_and_the_next_step_another() -> None:
    assert digest(trained()) == digest(trained())
    assert digest(trained()) != digest(trained(3))
    assert len(digest(trained())) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda state: flip(matrix(state), 0),
        lambda state: flip(matrix(state), 30),
        lambda state: flip(moment(state), 0),
        lambda state: moment(state).zero_(),
        lambda state: exchange_rows(matrix(state)),
        lambda state: matrix(state).copy_(-matrix(state)),
        lambda state: matrix(state).view(-1)[:1].fill_(float("nan")),
    ],
)
def test_whatever_changes_a_bit_changes_the_digest(
    change: Callable[[TrainingState], object],
) -> None:
    state = trained()
    before = digest(state)
    change(state)
    assert digest(state) != before


@pytest.mark.parametrize("size", [1, 3, 2 * CLASSES - 1, 2 * CLASSES, 5 * CLASSES + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_element_of_a_tensor_is_left_out(size: int, dtype: torch.dtype) -> None:
    state = trained(1)
    weight = torch.nn.Parameter(torch.arange(size).to(dtype))
    state.model.register_parameter("more", weight)
    before = digest(state)
    for place in {*range(0, size, max(1, size // 50)), size - 1}:
        was = weight.data[place].clone()
        weight.data[place] += 1000
        assert digest(state) != before
        weight.data[place] = was
    assert digest(state) == before


def test_digests_are_due_every_so_many_steps_and_at_the_end_of_an_epoch() -> None:
    due = [step for step in range(1, 11) if is_digested(step, 3, tiny.TRAIN)]
    assert (tiny.TRAIN.steps_per_epoch, tiny.TRAIN.num_steps) == (4, 10)
    assert due == [3, 4, 6, 8, 9, 10]
