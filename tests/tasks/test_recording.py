"""A run's record says how it ended: completed, failed, or interrupted from outside."""

import signal
from pathlib import Path

import pytest

from tasks import recording
from tasks.errors import NotFoundError
from tasks.recording import recording_the_end
from tasks.run_record import Run, finish_run, start_run
from tasks.train_errors import StoppedError


def end_of(run: Run) -> tuple[str, str | None]:
    record = run.record()
    assert record is not None
    return record["outcome"], record["error"]


@pytest.mark.parametrize(
    ("raised", "outcome", "said"),
    [
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(1), "interrupted", "SystemExit: 1"),
        (StoppedError(3, 9), "interrupted", str(StoppedError(3, 9))),
        (NotFoundError("run x", "there"), "failed", str(NotFoundError("run x", "there"))),
        (ValueError("nonsense"), "failed", "ValueError: nonsense"),
    ],
)
def test_what_ended_a_run_decides_its_outcome(
    home: Path, raised: BaseException, outcome: str, said: str
) -> None:
    run = start_run("some", {}, {})
    with pytest.raises(type(raised)) as caught, recording_the_end(run):
        raise raised
    assert end_of(run) == (outcome, said)
    notes = getattr(caught.value, "__notes__", [])
    assert notes == ([] if isinstance(raised, Exception) else [WHAT_STAYS.format(run.name)])


WHAT_STAYS = "{}, before a stage was finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_cost_the_record(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def finish(*told: object) -> None:
        signal.raise_signal(number)
        finish_run(*told)  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "finish_run", finish)
    run = start_run("some", {}, {})
    with pytest.raises(KeyboardInterrupt), recording_the_end(run):
        raise KeyboardInterrupt
    assert end_of(run) == ("interrupted", "KeyboardInterrupt")


def test_a_signal_that_comes_with_the_record_is_obeyed_after_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(*told: object) -> None:
        signal.raise_signal(signal.SIGINT)
        finish_run(*told)  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "finish_run", finish)
    run = start_run("some", {}, {})
    # A test that runs beside others ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), recording_the_end(run):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert end_of(run) == ("completed", None)
