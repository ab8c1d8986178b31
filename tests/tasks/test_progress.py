"""What a log and the Prefect UI show of work that takes long, where there is no terminal."""

from pathlib import Path
from unittest.mock import Mock
from uuid import UUID

import pytest

from tasks.progress import ARTIFACT_SECONDS, clock, progress_bars
from tasks.pulse import Pulse
from tasks.train import _Progress


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


def test_parts_of_what_is_counted_give_the_pace_and_are_not_said(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bars() as show:
        show("take in", 1, 4)
        seconds[0] += 20.0
        show("take in, 5,000 tokens, 250 a second", 1.5, 4)
    said = "  take in, 5,000 tokens, 250 a second: 1 of 4, 1:40 left\n"
    assert capsys.readouterr().err == said


Shown = list[tuple[float, str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What the artifact of a task run was given, one time after the other."""
    found: Shown = []

    def create(progress: float, key: str, description: str) -> UUID:
        assert (key, found) == ("train-progress", [])
        found.append((progress, description))
        return UUID(int=1)

    def update(artifact_id: UUID, progress: float, description: str) -> None:
        assert artifact_id == UUID(int=1)
        found.append((progress, description))

    monkeypatch.setattr("tasks.progress.create_progress_artifact", create)
    monkeypatch.setattr("tasks.progress.update_progress_artifact", update)
    monkeypatch.setattr("tasks.progress.TaskRunContext", Mock())
    return found


def test_an_artifact_is_updated_now_and_then_and_once_all_is_done(
    seconds: list[float], shown: Shown
) -> None:
    with progress_bars() as show:
        for quarter in range(81):
            show(f"train, at {quarter / 4}", min(quarter, 50), 50)
            seconds[0] += 0.25
    assert [percent for percent, _ in shown] == [40.0, 80.0, 100.0, 100.0, 100.0]
    times = [said.removeprefix("train, at ").partition(":")[0] for _, said in shown]
    assert times == ["5.0", "10.0", "12.5", "17.5", "20.0"]


def test_what_was_said_last_is_not_lost(seconds: list[float], shown: Shown) -> None:
    with progress_bars() as show:
        show("train", 0, 2)
        seconds[0] += ARTIFACT_SECONDS
        show("train, loss 3", 1, 2)
        seconds[0] += 1.0
        show("train, loss 2", 1, 2)
    assert [said for _, said in shown] == ["train, loss 3: 1 of 2", "train, loss 2: 1 of 2"]


def test_what_was_done_at_once_has_no_artifact(seconds: list[float], shown: Shown) -> None:
    with progress_bars() as show:
        show("train", 0, 1)
        seconds[0] += 0.5
        show("train", 1, 1)
        seconds[0] += 60.0
    assert shown == []


def test_rows_that_are_validated_are_said_also_after_the_last_step(
    seconds: list[float], capsys: pytest.CaptureFixture[str], shown: Shown, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"step": 48, "train_loss": 1.5, "tokens_seen": 12288, "tokens_per_second": 1000.0}\n'
    )
    with progress_bars() as show:
        watching = _Progress(tmp_path, 48, show, Mock(), Mock(), Mock())
        for num_done in range(0, 2048, 16):
            pulse = Pulse(rank=0, pid=1, step=48, doing="validating", seconds=0.0,
                          num_done=num_done, num_all=2048)  # fmt: skip
            watching.show(pulse)
            seconds[0] += 0.25
        watching.show()
    assert capsys.readouterr().err.splitlines() == [
        "  train, validating 960 of 2,048 rows: 48 of 48",
        "  train, validating 1,920 of 2,048 rows: 48 of 48",
    ]
    assert len(shown) == 7
    assert shown[-1] == (100.0, "train, validating 2,032 of 2,048 rows: 48 of 48")


@pytest.mark.parametrize(
    ("duration", "said"), [(0.4, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (90061.0, "25:01:01")]
)
def test_a_duration_reads_as_a_clock(duration: float, said: str) -> None:
    assert clock(duration) == said
