from hypothesis import given
from hypothesis import strategies as st

from model.spikes import RecentUpdates, Spike, find_spike

# Losses of mean 2 and deviation 1, norms of mean 1 and deviation 0.
RECENT = RecentUpdates(train_loss=[1.0, 3.0, 1.0, 3.0], grad_norm=[1.0, 1.0, 1.0, 1.0])


def found(train_loss: float, grad_norm: float = 1.0, window: int = 4) -> Spike | None:
    return find_spike(RECENT, train_loss, grad_norm, window=window, deviations=2.0)


def test_a_loss_on_the_bound_is_none_and_above_it_is_one() -> None:
    assert found(4.0) is None
    assert found(4.001) == Spike(quantity="train_loss", value=4.001, bound=4.0)


def test_a_gradient_norm_above_its_bound_is_a_spike() -> None:
    assert found(2.0, 1.001) == Spike(quantity="grad_norm", value=1.001, bound=1.0)


def test_a_low_value_is_no_spike() -> None:
    assert found(-100.0, -100.0) is None


def test_nothing_is_a_spike_before_the_window_is_full() -> None:
    assert found(100.0, 100.0, window=5) is None


@given(st.lists(st.floats(0, 10), max_size=20), st.integers(2, 6))
def test_what_no_window_reaches_is_forgotten(losses: list[float], window: int) -> None:
    recent = RecentUpdates()

    for loss in losses:
        recent.add(loss, 2 * loss, window)

    assert recent.train_loss == losses[-window:]
    assert recent.grad_norm == [2 * loss for loss in losses[-window:]]
