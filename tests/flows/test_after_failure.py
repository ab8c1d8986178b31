"""Which failures start a bisection, and that none of it hides the failure."""

import json
from pathlib import Path

import pytest

from evidence.errors import GateFailedError
from flows import after_failure
from flows.after_failure import bisected_after
from tasks.errors import NotFoundError
from tasks.failure_bisection import Explained
from tasks.gate_events import failed_gate
from tasks.run_record import Run, start_run
from tasks.train_errors import WorkerFailedError
from tests.tasks.tiny import tiny_settings

pytestmark = pytest.mark.usefixtures("home")
GATE = GateFailedError("evaluate.unigram", "the model predicts better", 9.0, "<=", 1.0)
WORKER = WorkerFailedError("GateFailedError", "gate train.stable: told", "look", "DIVERGED")


def fail(run: Run, error: Exception) -> None:
    with bisected_after(run, tiny_settings(Path("/")).runtime):
        raise error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (GATE, "evaluate.unigram"),
        (GateFailedError("train.finished", "told", 1.0, "==", 2.0), "train.finished"),
        (WORKER, "train: gate train.stable: told"),
        (GateFailedError("shard.leaks", "told", 1.0, "==", 0.0), None),
        (WorkerFailedError("StreamExhaustedError", "told", "", "FAILED"), None),
        (NotFoundError("run", "here"), None),
        (KeyError("x"), None),
    ],
)
def test_gates_of_training_and_evaluation_are_looked_into(
    error: Exception, cause: str | None
) -> None:
    assert failed_gate(error) == cause


def test_the_failure_stays_what_it_was_and_says_where_its_bisection_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, report = start_run("failed", {}, {}), start_run("report", {}, {})
    explained = Explained(report, "no fault: epoch-002 against transformers")
    asked = []

    def bisect(*arguments: str) -> Explained:
        asked.append(arguments)
        return explained

    monkeypatch.setattr(after_failure, "bisect_failure_flow", bisect)
    with pytest.raises(GateFailedError) as caught:
        fail(run, GATE)

    assert caught.value is GATE
    assert asked == [(run.name, "evaluate.unigram", "cpu")]
    assert GATE.__notes__ == [
        f"bisect: no fault: epoch-002 against transformers\n        {report.directory}",
        f"which step?  assay bisect --run {run.name}",
    ]
    told = json.loads((run.directory / "after-failure.json").read_text())
    assert (told["cause"], told["run"]) == ("evaluate.unigram", report.name)


def test_a_bisection_that_fails_itself_is_recorded_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bisect(*_: str) -> Explained:
        raise OSError(28, "No space left on device")

    run = start_run("failed", {}, {})
    monkeypatch.setattr(after_failure, "bisect_failure_flow", bisect)
    with pytest.raises(WorkerFailedError) as caught:
        fail(run, WORKER)

    assert caught.value is WORKER
    sentence = "OSError: [Errno 28] No space left on device"
    assert WORKER.__notes__ == [f"bisect: failed itself: {sentence}"]
    told = json.loads((run.directory / "after-failure.json").read_text())
    assert told["error"] == sentence
    assert "verdict" not in told


def test_other_failures_and_success_start_nothing() -> None:
    run = start_run("failed", {}, {})
    with pytest.raises(NotFoundError):
        fail(run, NotFoundError("run", "here"))
    with bisected_after(run, tiny_settings(Path("/")).runtime):
        pass
    assert not (run.directory / "after-failure.json").exists()
