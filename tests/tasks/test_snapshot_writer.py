import threading
import time

import pytest

from tasks.snapshot_writer import SnapshotWriter


def test_whoever_starts_a_write_goes_on_at_once() -> None:
    may_end = threading.Event()
    with SnapshotWriter() as writer:
        writer.start(lambda: may_end.wait(10))  # type: ignore[arg-type]
        writer.check()
        may_end.set()
        assert writer.wait(lambda: None) < 5


def test_waiting_for_a_write_is_measured_and_gives_signs_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.snapshot_writer.LOOK_SECONDS", 0.01)
    beats: list[float] = []
    with SnapshotWriter() as writer:
        writer.start(lambda: time.sleep(0.1))
        assert writer.wait(lambda: beats.append(time.monotonic())) >= 0.08
        assert len(beats) > 2
        assert writer.wait(lambda: None) < 0.05


def test_what_fails_in_a_write_is_raised_at_the_next_look() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with SnapshotWriter() as writer:
        writer.start(fail)
        with pytest.raises(OSError, match="No space left"):
            writer.wait(lambda: None)
        with pytest.raises(OSError, match="No space left"):
            writer.check()


def test_there_is_one_write_at_a_time() -> None:
    with SnapshotWriter() as writer:
        writer.start(lambda: None)
        with pytest.raises(AssertionError):
            writer.start(lambda: None)


def test_leaving_lets_a_write_end() -> None:
    ended: list[bool] = []

    def write() -> None:
        time.sleep(0.05)
        ended.append(True)

    with SnapshotWriter() as writer:
        writer.start(write)
    assert ended == [True]
