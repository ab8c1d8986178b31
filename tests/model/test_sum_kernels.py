"""The kernels that add up many tensors at once, beside what they replace."""

import pytest
import torch

from model.distance import distance
from model.ranks import Ranks
from model.state_digest import state_digest
from model.train import TrainSettings, train
from model.training_state import new_state
from tests.model import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SIZES = [1, 3, 8191, 8192, 8193, 5_000_011]


def test_a_distance_is_the_norm_of_all_differences() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    ones, others = (
        [torch.randn(size, device="cuda", generator=generator) for size in SIZES] for _ in "ab"
    )
    exact = torch.cat(ones).double().sub(torch.cat(others).double()).norm().item()

    for compiled in (True, False):
        found = distance([one.clone() for one in ones], others, compiled=compiled)
        assert found.item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (2, 8190), (3, 0), (4, 8192), (5, 5_000_010)])
def test_no_number_is_left_out(place: tuple[int, int]) -> None:
    ones = [torch.zeros(size, device="cuda") for size in SIZES]
    others = [torch.zeros(size, device="cuda") for size in SIZES]
    others[place[0]][place[1]] = 3.0

    assert distance(ones, others, compiled=True).item() == 3.0


@pytest.mark.parametrize("settings", [tiny.TRAIN, tiny.MUON], ids=["adamw", "muon"])
def test_a_digest_is_the_same_by_a_kernel_and_without(settings: TrainSettings) -> None:
    state = new_state(tiny.LLAMA, settings, torch.device("cuda"))
    steps = train(state, iter(tiny.rows(10)), settings)
    next(steps)

    for _ in range(2):
        plain = state_digest(state, Ranks(), compiled=False)
        assert state_digest(state, Ranks(), compiled=True) == plain
        state.model.get_parameter("model.norm.weight").data[3] += 1
    assert state_digest(state, Ranks(), compiled=True) != plain
