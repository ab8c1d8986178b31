"""A run as OpenLineage events: what each stage read and wrote, by digest, and how it was judged.

Source: OpenLineage specification 2-0-2.
"""

import datetime
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evidence.records import SEAL, flatten
from tasks.run_record import Run

NAMESPACE = "assay"
"""Of jobs and of datasets: these are named by their content, so by no machine."""
PRODUCER = "urn:assay:export"
_SPEC = "https://openlineage.io/spec"
_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_BASE_RUN_FACET = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunFacet"
_FACETS = {
    "DatasetVersionDatasetFacet": "1-0-1",
    "DocumentationJobFacet": "1-1-0",
    "ErrorMessageRunFacet": "1-0-1",
    "ExecutionParametersRunFacet": "1-0-0",
    "JobTypeJobFacet": "2-0-4",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
    "ParentRunFacet": "1-2-0",
    "ProcessingEngineRunFacet": "1-1-1",
    "TestRunFacet": "1-0-1",
}
_ENDS = {"completed": "COMPLETE", "failed": "FAIL", "interrupted": "ABORT", "crashed": "ABORT"}
_DOES = {
    "pretokenize": "Filter sources, train a tokenizer, encode documents, hold some out",
    "shard": "Lay documents out as shuffled rows, and score simple models on them",
    "train": "Train a model, validating and saving every epoch",
    "evaluate": "Score the best epoch on held-out code",
    "checkpoint": "Seal the scored model in files of several formats",
    "bisect": "Compare every operation of the sealed model with the trained one",
}
_ROWS = {
    "pretokenize": ("documents",),
    "shard": ("train_rows", "val_rows"),
    "evaluate": ("val_documents",),
    "checkpoint": ("tensors",),
    "bisect": ("sites",),
}
"""What counts as a row of a stage's output."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job's run: the whole pipeline's, or a stage's."""

    name: str
    run_id: str
    job_facets: Mapping[str, Any]


def run_events(run: Run) -> list[dict[str, Any]]:
    """List a run's events in the order of their times; what has not ended has no end.

    Raises: BrokenSealError, MalformedJsonError.
    """
    plan, record = run.plan(), run.record()
    whole = Job(str(plan["request"].get("flow", "run")), _run_id(plan), _job_type("DAG"))
    parameters = _parameters(plan["settings"])
    events = [_event("START", plan["started"], whole, {**parameters, **_engine(plan)})]
    for stage, each in run.stage_records().items():
        events += _stage_events(stage, each, plan, whole)
    if record:
        facets = _error(record["error"]) if record["error"] else {}
        events.append(_event(_ENDS[record["outcome"]], record["finished"], whole, facets))
    return events


def _stage_events(
    stage: str, record: Mapping[str, Any], plan: Mapping[str, Any], whole: Job
) -> Iterator[dict[str, Any]]:
    documentation = _facet("DocumentationJobFacet", description=_DOES[stage])
    job = Job(
        f"{whole.name}.{stage}",
        _run_id(plan, stage),
        {**_job_type("TASK"), "documentation": documentation},
    )
    inputs = [_dataset(name, text) for name, text in record["recipe"]["inputs"].items()]
    facets = {"parent": _parent(whole)}
    start = {**facets, **_parameters(record["recipe"]["settings"]), **_engine(record)}
    yield _event("START", record["started"], job, start, inputs)
    is_failed = record["outcome"] == "failed"
    end = {**facets, **_measured(record), **_tests(record)}
    if is_failed:
        end |= _error(record["error"]["message"])
    outputs = [] if is_failed else [_output(stage, record)]
    word = "FAIL" if is_failed else "COMPLETE"
    yield _event(word, _ended(record), job, end, inputs, outputs)


def _event(
    word: str,
    time: str,
    job: Job,
    run_facets: Mapping[str, Any],
    inputs: list[dict[str, Any]] | None = None,
    outputs: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "eventType": word,
        "eventTime": time,
        "run": {"runId": job.run_id, "facets": dict(run_facets)},
        "job": {"namespace": NAMESPACE, "name": job.name, "facets": dict(job.job_facets)},
        "inputs": inputs or [],
        "outputs": outputs or [],
        "producer": PRODUCER,
        "schemaURL": _EVENT,
    }


def _run_id(plan: Mapping[str, Any], stage: str = "") -> str:
    """Name a job's run by the seal of its plan: exporting again names it the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"assay:{plan[SEAL]}:{stage}"))


def _ended(record: Mapping[str, Any]) -> str:
    started = datetime.datetime.fromisoformat(record["started"])
    ended = started + datetime.timedelta(seconds=record["wall_seconds"])
    return ended.isoformat(timespec="milliseconds")


def _facet(kind: str, **fields: Any) -> dict[str, Any]:
    where = f"{_SPEC}/facets/{_FACETS[kind]}/{kind}.json#/$defs/{kind}"
    return {"_producer": PRODUCER, "_schemaURL": where, **fields}


def _job_type(kind: str) -> dict[str, Any]:
    facet = _facet("JobTypeJobFacet", processingType="BATCH", integration="ASSAY", jobType=kind)
    return {"jobType": facet}


def _parent(whole: Job) -> dict[str, Any]:
    run, job = {"runId": whole.run_id}, {"namespace": NAMESPACE, "name": whole.name}
    return _facet("ParentRunFacet", run=run, job=job)


def _parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [{"key": key, "value": str(value)} for key, value in flatten(settings).items()]
    return {"executionParameters": _facet("ExecutionParametersRunFacet", parameters=parameters)}


def _engine(record: Mapping[str, Any]) -> dict[str, Any]:
    """Say by which commit of assay; a directory without one is said to be unknown."""
    commit = record["provenance"]["git_commit"] or "unknown"
    engine = _facet("ProcessingEngineRunFacet", version=commit, name="assay")
    return {"processing_engine": engine}


def _error(message: str) -> dict[str, Any]:
    facet = _facet("ErrorMessageRunFacet", message=message, programmingLanguage="Python")
    return {"errorMessage": facet}


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    """Carry the measurements, with the record and the recipe that they belong to."""
    return {
        "assay_record": {
            "_producer": PRODUCER,
            "_schemaURL": _BASE_RUN_FACET,
            "record_sha256": record[SEAL],
            "recipe_sha256": record["recipe_sha256"],
            "outcome": record["outcome"],
            "reused_from": record.get("reused_from"),
            "measurements": dict(record["measurements"]),
        }
    }


def _tests(record: Mapping[str, Any]) -> dict[str, Any]:
    """Carry the gates: one that is not required may fail and only warns."""
    if not record["gates"]:
        return {}
    tests = [
        {
            "name": gate["id"],
            "status": "pass" if gate["verdict"] == "pass" else "fail",
            "severity": "error" if gate["required"] else "warn",
            "description": gate["sentence"],
            "expected": f"{gate['operator']} {gate['threshold_value']}",
            "actual": str(gate["value"]),
        }
        for gate in record["gates"]
    ]
    return {"test": _facet("TestRunFacet", tests=tests)}


def _dataset(name: str, text: str) -> dict[str, Any]:
    """Name a dataset by what it is and its digest, so that what one wrote another reads."""
    kind, _, digest = text.rpartition(":")
    full = text if kind != "sha256" else f"{name}:{digest}"
    version = _facet("DatasetVersionDatasetFacet", datasetVersion=digest)
    return {"namespace": NAMESPACE, "name": full, "facets": {"version": version}}


def _output(stage: str, record: Mapping[str, Any]) -> dict[str, Any]:
    measured = record["measurements"]
    counts = [measured[name] for name in _ROWS.get(stage, ()) if name in measured]
    dataset = _dataset(stage, record["output"])
    if not counts:
        return dataset
    statistics = _facet("OutputStatisticsOutputDatasetFacet", rowCount=sum(counts))
    return {**dataset, "outputFacets": {"outputStatistics": statistics}}
