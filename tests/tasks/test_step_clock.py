import time

import pytest
import torch

from tasks.step_clock import StepClock


def test_a_step_takes_from_the_end_of_the_one_before_to_its_own_whenever_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([10.0, 13.0, 18.0])
    monkeypatch.setattr("tasks.step_clock.time.perf_counter", lambda: next(times))
    clock = StepClock(torch.device("cpu"))
    clock.end_step()
    clock.end_step()

    assert [clock.next_seconds(), clock.next_seconds()] == [3.0, 5.0]


def test_what_passes_before_a_restart_belongs_to_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 13.0, 18.0])
    monkeypatch.setattr("tasks.step_clock.time.perf_counter", lambda: next(times))
    clock = StepClock(torch.device("cpu"))
    clock.restart()
    clock.end_step()

    assert clock.next_seconds() == 5.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_is_timed_by_when_that_was_done() -> None:
    clock = StepClock(torch.device("cuda"))
    for seconds in (0.1, 0.3):
        time.sleep(seconds)
        clock.end_step()
    time.sleep(0.5)

    assert clock.next_seconds() == pytest.approx(0.1, abs=0.08)
    assert clock.next_seconds() == pytest.approx(0.3, abs=0.08)
