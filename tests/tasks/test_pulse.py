import os
import time
from pathlib import Path

from tasks.pulse import Heart, pulse_file, read_pulse


def test_a_rank_says_where_it_is_and_when(tmp_path: Path) -> None:
    before = time.monotonic()
    heart = Heart(tmp_path, 3)
    pulse = read_pulse(tmp_path, 3)
    assert pulse is not None
    assert (pulse.rank, pulse.pid, pulse.step, pulse.doing) == (3, os.getpid(), 0, "starting")
    assert before <= pulse.seconds <= time.monotonic()
    heart.beat(7, "training")
    heart.beat()
    again = read_pulse(tmp_path, 3)
    assert again is not None
    assert (again.step, again.doing) == (7, "training")
    assert again.seconds > pulse.seconds


def test_waiting_for_others_is_said_and_taken_back(tmp_path: Path) -> None:
    heart = Heart(tmp_path, 0)
    heart.beat(doing="training")
    with heart.waiting():
        pulse = read_pulse(tmp_path, 0)
        assert pulse is not None
        assert pulse.doing == "waiting for other ranks"
    pulse = read_pulse(tmp_path, 0)
    assert pulse is not None
    assert pulse.doing == "training"


def test_what_is_counted_is_said_until_something_else_begins(tmp_path: Path) -> None:
    heart = Heart(tmp_path, 0)

    def counted() -> tuple[int, int]:
        pulse = read_pulse(tmp_path, 0)
        assert pulse is not None
        return pulse.num_done, pulse.num_all

    assert counted() == (0, 0)
    heart.beat(7, "validating", (0, 10**9))
    heart.beat(counted=(10**9 - 1, 10**9))
    with heart.waiting():
        assert counted() == (10**9 - 1, 10**9)
    heart.beat()
    assert counted() == (10**9 - 1, 10**9)
    heart.beat(doing="saving")
    assert counted() == (0, 0)


def test_before_its_first_pulse_a_rank_has_none(tmp_path: Path) -> None:
    assert read_pulse(tmp_path, 0) is None
    pulse_file(tmp_path, 0).write_text('{"rank": 0, "pi')
    assert read_pulse(tmp_path, 0) is None
