import math

import pytest
import torch

from model.local_error import logits_distance, site_error

REFERENCE = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]])


def found(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([rows])


def test_every_position_is_measured_by_its_own_norm() -> None:
    error = site_error("q", REFERENCE, found((3, 4.5), (0, 1.5), (0, 0)), bar=0.2)

    assert error.max_relative_l2 == 0.5
    assert error.median_relative_l2 == pytest.approx(0.1)
    assert error.worst_position == (0, 1)
    assert error.max_abs_diff == 0.5
    assert (error.num_positions, error.num_positions_beyond, error.num_not_finite) == (3, 1, 0)


def test_leaving_zero_is_infinitely_far_and_staying_there_is_not() -> None:
    error = site_error("q", REFERENCE, found((3, 4), (0, 1), (1e-30, 0)), bar=1e9)

    assert error.max_relative_l2 == math.inf
    assert (error.worst_position, error.num_positions_beyond) == ((0, 2), 1)


def test_what_is_not_finite_is_beyond_any_bar() -> None:
    error = site_error("q", REFERENCE, found((3, math.nan), (0, 1), (0, 0)), bar=math.inf)

    assert (error.num_not_finite, error.num_positions_beyond) == (1, 1)
    assert math.isnan(error.max_relative_l2)


def test_a_scaled_site_says_by_how_much() -> None:
    error = site_error("q", REFERENCE, 1.05 * REFERENCE, bar=0.0)

    assert error.scale == pytest.approx(1.05)
    assert error.min_cosine == pytest.approx(0.0), "of two zeros"


def test_predictions_are_compared_by_their_divergence() -> None:
    left = torch.tensor([[[0.0, math.log(3.0)], [2.0, 2.0]]])
    right = torch.tensor([[[0.0, 0.0], [2.0, 2.0]]])

    apart = logits_distance(left, right)

    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert apart.max_kl_nats == pytest.approx(expected)
    assert apart.mean_kl_nats == pytest.approx(expected / 2)
    assert apart.top1_agreement == 0.5
    assert apart.max_abs_diff == pytest.approx(math.log(3.0))
    assert apart.max_relative_l2 == pytest.approx(1.0)
