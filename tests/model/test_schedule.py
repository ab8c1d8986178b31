from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import WrongSettingError
from model.schedule import learning_rate
from model.train_settings import TrainSettings
from tests.model import tiny

COSINE = replace(tiny.TRAIN, peak_lr=8.0, final_lr_ratio=0.25, warmup_steps=4, num_steps=10)
WSD = replace(COSINE, schedule="wsd", decay_steps=3)


def rate(step: int, settings: TrainSettings = COSINE) -> float:
    return learning_rate(step, settings)


def test_the_rate_rises_to_the_peak_then_falls_along_half_a_cosine() -> None:
    expected = [2.0, 4.0, 6.0, 8.0, 7.598076, 6.5, 5.0, 3.5, 2.401924, 2.0]

    assert [rate(step) for step in range(1, 11)] == pytest.approx(expected)


def test_two_budgets_give_two_rates_at_one_step() -> None:
    assert rate(7) != rate(7, replace(COSINE, num_steps=20))


def test_wsd_stays_at_the_peak_and_falls_along_a_line_at_the_end() -> None:
    found = [rate(step, WSD) for step in range(1, 11)]

    assert found == pytest.approx([2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 6.0, 4.0, 2.0])


def test_two_wsd_budgets_agree_until_one_falls() -> None:
    longer = replace(WSD, num_steps=20)

    assert [rate(step, WSD) for step in range(1, 8)] == [rate(step, longer) for step in range(1, 8)]
    assert rate(8, WSD) < rate(8, longer)


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

    settings = replace(
        COSINE, peak_lr=1.0, final_lr_ratio=ratio, warmup_steps=warmup, num_steps=num_steps
    )
    found = [rate(step, settings), rate(step, replace(settings, schedule="wsd", decay_steps=decay))]

    assert all(0 < each <= 1.0 + 1e-12 for each in found)
    if step > warmup:
        assert all(each >= ratio - 1e-12 for each in found)


@pytest.mark.parametrize("step", [0, 11])
def test_a_step_outside_the_budget_is_refused(step: int) -> None:
    with pytest.raises(WrongSettingError) as caught:
        rate(step)

    assert caught.value.setting == "step"
    assert caught.value.found == step
    assert caught.value.expected == "from 1 to train.num_steps (10)"
