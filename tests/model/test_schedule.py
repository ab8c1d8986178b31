import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import WrongSettingError
from model.schedule import learning_rate


def rate(step: int, num_steps: int = 10) -> float:
    return learning_rate(step, peak=8.0, final_ratio=0.25, warmup_steps=4, num_steps=num_steps)


def test_the_rate_rises_to_the_peak_then_falls_along_half_a_cosine() -> None:
    expected = [2.0, 4.0, 6.0, 8.0, 7.598076, 6.5, 5.0, 3.5, 2.401924, 2.0]

    assert [rate(step) for step in range(1, 11)] == pytest.approx(expected)


def test_two_budgets_give_two_rates_at_one_step() -> None:
    assert rate(7, num_steps=10) != rate(7, num_steps=20)


@given(
    warmup=st.integers(0, 20),
    decay=st.integers(1, 200),
    ratio=st.floats(0.01, 1.0),
    data=st.data(),
)
def test_no_step_has_a_rate_of_zero_or_above_the_peak(
    warmup: int, decay: int, ratio: float, data: st.DataObject
) -> None:
    num_steps = warmup + decay
    step = data.draw(st.integers(1, num_steps))

    found = learning_rate(
        step, peak=1.0, final_ratio=ratio, warmup_steps=warmup, num_steps=num_steps
    )

    assert 0 < found <= 1.0 + 1e-12
    if step > warmup:
        assert found >= ratio - 1e-12


@pytest.mark.parametrize("step", [0, 11])
def test_a_step_outside_the_budget_is_refused(step: int) -> None:
    with pytest.raises(WrongSettingError) as caught:
        rate(step)

    assert caught.value.setting == "step"
    assert caught.value.found == step
    assert caught.value.expected == "from 1 to train.num_steps (10)"
