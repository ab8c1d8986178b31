import math

import numpy as np
import pytest

from model.loss_statistics import loss_statistics
from model.paired_losses import improvement, line_end

TOKENS = np.array([10, 10, 10, 10])
BEFORE = np.array([50.0, 20.0, 40.0, 10.0])


def test_an_improvement_is_the_difference_of_the_means() -> None:
    found = improvement(BEFORE, BEFORE - [1.0, 2.0, 1.0, 2.0], TOKENS)

    assert found.mean_nats == pytest.approx(6 / 40)
    # Residuals of half a nat around the mean of one and a half.
    assert found.standard_error_nats == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25) / 40)


def test_the_error_of_a_difference_is_far_below_that_of_either_loss() -> None:
    found = improvement(BEFORE, BEFORE - [1.0, 2.0, 1.0, 2.0], TOKENS).standard_error_nats
    alone = loss_statistics(BEFORE, TOKENS).standard_error_nats

    assert found is not None
    assert alone is not None
    assert found < alone / 10


def test_a_loss_that_rose_has_a_negative_improvement() -> None:
    assert improvement(BEFORE, BEFORE + 1.0, TOKENS).mean_nats == pytest.approx(-0.1)


def test_a_line_ends_where_it_leads_without_error() -> None:
    assert line_end(np.array([5.0, 4.0, 3.0, 2.0])) == pytest.approx((2.0, 0.0))


def test_the_end_of_a_noisy_line_has_the_textbook_error() -> None:
    losses = np.array([1.0, 2.0, 1.0, 2.0])
    steps = np.arange(4)
    slope, start = np.polyfit(steps, losses, 1)
    residuals = losses - start - slope * steps
    variance = residuals @ residuals / 2

    end, error = line_end(losses)

    assert end == pytest.approx(start + slope * 3)
    assert error == pytest.approx(math.sqrt(variance * (1 / 4 + 1.5**2 / 5)))


def test_a_line_through_two_losses_is_refused() -> None:
    with pytest.raises(ValueError, match="2 losses, should be 3 at least"):
        line_end(np.array([1.0, 2.0]))
