"""What a log shows of work that takes long, where there is no terminal."""

import pytest

from tasks.progress import clock, progress_bars


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list that a test moves on."""
    now = [100.0]
    monkeypatch.setattr("tasks.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_comes_every_so_often_with_the_time_that_is_left(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bars() as show:
        for done in range(101):
            show(f"train, loss {5 - done / 100:.3f}", done, 100)
            seconds[0] += 1.0
    assert capsys.readouterr().err.splitlines() == [
        "  train, loss 4.850: 15 of 100, 1:25 left",
        "  train, loss 4.700: 30 of 100, 1:10 left",
        "  train, loss 4.550: 45 of 100, 0:55 left",
        "  train, loss 4.400: 60 of 100, 0:40 left",
        "  train, loss 4.250: 75 of 100, 0:25 left",
        "  train, loss 4.100: 90 of 100, 0:10 left",
    ]


def test_what_is_done_soon_says_nothing(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bars() as show:
        show("units", 0, 2)
        seconds[0] += 14.0
        show("units", 1, 2)
        show("units", 2, 2)
    assert capsys.readouterr().err == ""


def test_work_that_goes_on_counts_its_own_pace_alone(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bars() as show:
        show("train", 900, 1000)
        seconds[0] += 20.0
        show("train", 910, 1000)
    assert capsys.readouterr().err == "  train: 910 of 1,000, 3:00 left\n"


@pytest.mark.parametrize(
    ("duration", "said"), [(0.4, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (90061.0, "25:01:01")]
)
def test_a_duration_reads_as_a_clock(duration: float, said: str) -> None:
    assert clock(duration) == said
