"""A model that fails a gate outside of the pipeline is an event; nothing else is."""

from pathlib import Path
from typing import Any

import pytest

from evidence.errors import GateFailedError
from tasks import gate_events
from tasks.errors import NotFoundError
from tasks.gate_events import tell_of_gate
from tasks.run_record import Run
from tasks.train_errors import WorkerFailedError

RUN = Run(Path("evidence/some-2026-01-02"))
GATE = GateFailedError("evaluate.unigram", "a sentence", 2.0, "<=", 1.0)
WORKERS = WorkerFailedError("GateFailedError", "step 7, gate train.finite", "", "DIVERGENCE")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Prefect is told, within a flow run."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(gate_events, "emit_event", lambda event, **rest: events.append(rest))
    monkeypatch.setattr("tasks.gate_events.FlowRunContext.get", object)
    return events


@pytest.mark.parametrize(
    ("flow", "error", "cause"),
    [
        ("evaluate", GATE, "evaluate.unigram"),
        ("train", WORKERS, "train: step 7, gate train.finite"),
    ],
)
def test_a_failed_gate_of_a_model_is_told_with_its_run(
    told: list[dict[str, Any]], flow: str, error: Exception, cause: str
) -> None:
    tell_of_gate(RUN, flow, error)
    assert [each["payload"] for each in told] == [{"run": RUN.name, "cause": cause}]


@pytest.mark.parametrize(
    ("flow", "error"),
    [
        ("pipeline", GATE),
        ("shard", GATE),
        ("train", NotFoundError("run", "here")),
        ("train", WorkerFailedError("StorageError", "full", "", "FAILED")),
    ],
)
def test_what_the_pipeline_looks_into_itself_or_no_gate_stopped_is_not_told(
    told: list[dict[str, Any]], flow: str, error: Exception
) -> None:
    tell_of_gate(RUN, flow, error)
    assert told == []
