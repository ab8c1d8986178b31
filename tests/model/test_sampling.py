import math

import pytest
import torch

from model.errors import WrongSettingError
from model.sampling import Sampling, choose

HALF_QUARTER_EIGHTHS = torch.log(torch.tensor([[0.125, 0.5, 0.125, 0.25]], dtype=torch.float64))


def chosen(uniform: float, *, temperature: float = 1.0, top_p: float = 1.0) -> int:
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=0)
    return int(choose(HALF_QUARTER_EIGHTHS, torch.tensor([uniform]).double(), sampling))


def test_of_equally_likely_tokens_the_lowest_id_is_taken() -> None:
    logits_BV = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    sampling = Sampling(temperature=0.0, top_p=1.0, seed=0)

    assert choose(logits_BV, torch.zeros(2), sampling).tolist() == [1, 0]


def test_a_uniform_number_points_into_the_probabilities_in_the_order_of_ids() -> None:
    assert [chosen(u) for u in (0.0, 0.12, 0.13, 0.62, 0.63, 0.74, 0.76, 0.999)] == [
        *(0, 0, 1, 1, 2, 2, 3, 3)
    ]


def test_a_nucleus_is_drawn_from_in_the_order_of_probabilities() -> None:
    assert [chosen(u, top_p=0.7) for u in (0.0, 0.66, 0.67, 0.999)] == [1, 1, 3, 3]


def test_of_equals_at_the_edge_of_a_nucleus_the_lowest_id_is_kept() -> None:
    assert {chosen(u / 100, top_p=0.8) for u in range(100)} == {0, 1, 3}


@pytest.mark.parametrize("top_p", [1.0, 0.999999])
def test_a_temperature_sharpens_the_probabilities(top_p: float) -> None:
    assert {chosen(u / 100, temperature=0.01, top_p=top_p) for u in range(100)} == {1}


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_the_largest_uniform_number_stays_inside(top_p: float) -> None:
    logits_BV = torch.zeros(1, 10)
    sampling = Sampling(temperature=1.0, top_p=top_p, seed=0)
    largest = torch.tensor([1 - 2**-53], dtype=torch.float64)

    assert int(choose(logits_BV, largest, sampling)) == (9 if top_p == 1 else 4)


def test_a_sequence_has_numbers_of_its_own() -> None:
    sampling = Sampling(temperature=1.0, top_p=1.0, seed=7)

    drawn = [sampling.generator(number).random(3).tolist() for number in (0, 1, 0)]

    assert drawn[0] == drawn[2]
    assert not set(drawn[0]) & set(drawn[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(name: str, value: float) -> None:
    with pytest.raises(WrongSettingError) as caught:
        Sampling(**{"temperature": 1.0, "top_p": 1.0, "seed": 0, name: value})  # type: ignore[arg-type]

    assert (caught.value.setting, str(caught.value.found)) == (name, str(value))
