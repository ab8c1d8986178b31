"""Events as the reference implementation of OpenLineage takes and writes them."""

import datetime
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any

import pytest

from evidence.records import STAGES
from tasks.openlineage import NAMESPACE, PRODUCER, run_events
from tasks.run_record import Run, finish_run
from tests.tasks.tampering import reseal
from tests.tasks.tiny import Finished, begin


def by_job(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(event["job"]["name"], []).append(event)
    return found


def test_every_job_starts_and_completes_once(reading: Finished) -> None:
    events = run_events(reading.run)
    words = {name: [each["eventType"] for each in found] for name, found in by_job(events).items()}
    assert words == {
        name: ["START", "COMPLETE"] for name in ("test", *(f"test.{each}" for each in STAGES))
    }
    times = [datetime.datetime.fromisoformat(each["eventTime"]) for each in events]
    assert times == sorted(times)
    runs = {event["run"]["runId"] for event in events}
    assert len(runs) == 7


def test_what_one_stage_writes_the_next_reads_under_the_same_name(reading: Finished) -> None:
    jobs = by_job(run_events(reading.run))
    written = {
        stage: {each["name"] for each in jobs[f"test.{stage}"][1]["outputs"]} for stage in STAGES
    }
    read = {
        stage: {each["name"] for each in jobs[f"test.{stage}"][0]["inputs"]} for stage in STAGES
    }
    refs = reading.refs
    assert written["shard"] == {str(refs.shards)}
    assert read["shard"] == {str(refs.tokens)}
    assert read["evaluate"] == {str(refs.training), str(refs.shards), str(refs.tokens)}
    assert read["bisect"] == written["checkpoint"]
    assert {name.split(":")[0] for name in read["pretokenize"]} == {"source", "removals"}


def test_a_stage_carries_its_gates_its_measurements_and_its_parent(reading: Finished) -> None:
    jobs = by_job(run_events(reading.run))
    record = reading.run.stage_records()["shard"]
    start, end = jobs["test.shard"]
    facets = end["run"]["facets"]
    assert facets["parent"]["run"]["runId"] == jobs["test"][0]["run"]["runId"]
    assert facets["assay_record"]["record_sha256"] == record["record_sha256"]
    assert facets["assay_record"]["measurements"] == record["measurements"]
    assert facets["test"]["tests"][0] == {
        "name": "shard.disjoint",
        "status": "pass",
        "severity": "error",
        "description": "no document is in both training and validation",
        "expected": "== 0.0",
        "actual": "0.0",
    }
    rows = record["measurements"]["train_rows"] + record["measurements"]["val_rows"]
    assert end["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == rows
    keys = {each["key"] for each in start["run"]["facets"]["executionParameters"]["parameters"]}
    assert "shard.context_length" in keys


def test_exporting_again_gives_the_same_events(reading: Finished) -> None:
    assert run_events(reading.run) == run_events(reading.run)


def test_an_unfinished_run_has_no_end(copied: Finished) -> None:
    (copied.run.directory / "metadata.json").unlink()
    assert [each["eventType"] for each in by_job(run_events(copied.run))["test"]] == ["START"]


def failing(copied: Finished, outcome: str) -> Run:
    """A run whose one stage failed."""
    run = begin(copied.settings, "failing")
    path = run.directory / "shard.metadata.json"
    path.write_bytes((copied.run.directory / "shard.metadata.json").read_bytes())
    error = {"type": "LeakError", "message": "two documents are in both splits"}
    changes: dict[str, Any] = {
        "outcome": "failed",
        "error": error,
        "output": None,
        "measurements": {},
        "gates": [],
    }
    reseal(path, lambda record: record.update(changes))
    finish_run(run, outcome, error["message"])
    return run


@pytest.mark.parametrize(("outcome", "word"), [("failed", "FAIL"), ("interrupted", "ABORT")])
def test_a_failure_says_why(copied: Finished, outcome: str, word: str) -> None:
    events = run_events(failing(copied, outcome))
    assert [each["eventType"] for each in events] == ["START", "START", "FAIL", word]
    assert events[2]["outputs"] == []
    for event in events[2:]:
        said = event["run"]["facets"]["errorMessage"]["message"]
        assert said == "two documents are in both splits"


@pytest.fixture
def client() -> Any:
    return pytest.importorskip("openlineage.client", reason="openlineage-python is not installed")


def test_the_reference_implementation_writes_the_same_events(client: Any, copied: Finished) -> None:
    from openlineage.client import event_v2, facet_v2
    from openlineage.client.serde import Serde

    facet_v2.set_producer(PRODUCER)
    classes = {each.__name__: each for each in subclasses(facet_v2.BaseFacet)}
    for event in [*run_events(copied.run), *run_events(failing(copied, "failed"))]:
        theirs = event_v2.RunEvent(
            eventType=event_v2.RunState[event["eventType"]],
            eventTime=event["eventTime"],
            producer=event["producer"],
            run=event_v2.Run(event["run"]["runId"], facets(classes, event["run"])),
            job=event_v2.Job(NAMESPACE, event["job"]["name"], facets(classes, event["job"])),
            inputs=[
                event_v2.InputDataset(NAMESPACE, each["name"], facets=facets(classes, each))
                for each in event["inputs"]
            ],
            outputs=[
                event_v2.OutputDataset(
                    NAMESPACE,
                    each["name"],
                    facets=facets(classes, each),
                    outputFacets=facets(classes, each, "outputFacets"),
                )
                for each in event["outputs"]
            ],
        )
        assert without_empty(Serde.to_dict(theirs)) == without_empty(event)


def subclasses(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def facets(classes: Any, owner: dict[str, Any], key: str = "facets") -> dict[str, Any]:
    """Make facets by the classes that their schema's address names."""
    return {
        name: build(classes[facet["_schemaURL"].rpartition("/")[2]], facet)
        for name, facet in owner.get(key, {}).items()
    }


def build(kind: Any, value: dict[str, Any]) -> Any:
    """Make an instance, and those inside of it; what its class does not know is additional."""
    hints = typing.get_type_hints(kind)
    own = {name: made(hints[name], each) for name, each in value.items() if name in hints}
    fields = {name: each for name, each in own.items() if not name.startswith("_")}
    more = {name: each for name, each in value.items() if name not in hints}
    made_of = kind(**fields)
    return made_of.with_additional_properties(**more) if more else made_of


def made(hint: Any, value: Any) -> Any:
    """Make what a field's type says."""
    options = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind = next(each for each in options if each is not type(None))
    if typing.get_origin(kind) is list:
        (inner,) = typing.get_args(kind)
        return [made(inner, each) for each in value]
    return build(kind, value) if hasattr(kind, "__attrs_attrs__") else value


def without_empty(value: Any) -> Any:
    """Drop nulls and empty containers, which say nothing."""
    if isinstance(value, dict):
        kept = {name: without_empty(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each not in (None, {}, [])}
    return [without_empty(each) for each in value] if isinstance(value, list) else value
