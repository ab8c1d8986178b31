import time

import pytest
import torch

from tasks.step_clock import StepClock

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_takes_from_the_end_of_the_one_before_to_its_own_whenever_it_is_asked(
    device: str,
) -> None:
    clock = StepClock(torch.device(device))
    for seconds in (0.05, 0.15):
        time.sleep(seconds)
        clock.end_step()
    time.sleep(0.3)

    assert clock.next_seconds() == pytest.approx(0.05, abs=0.04)
    assert clock.next_seconds() == pytest.approx(0.15, abs=0.04)


def test_what_passes_before_a_restart_belongs_to_no_step() -> None:
    clock = StepClock(torch.device("cpu"))
    time.sleep(0.3)
    clock.restart()
    clock.end_step()

    assert clock.next_seconds() < 0.1
