"""Models in MLflow: every epoch's snapshot and the sealed checkpoint, and who is the champion.

Weights stay where they are: MLflow holds their place and their sha256.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

from evidence.gates import Verdict, verdict_record
from evidence.refs import parse_ref
from tasks.mirror_log import Point
from tasks.registry import (
    CANDIDATE,
    CHAMPION,
    evaluation_of,
    judge_candidate,
    judge_champion,
)
from tasks.run_record import Run
from tasks.snapshots import FILES, Snapshot
from tasks.store import open_store

CHECKPOINT = "checkpoint"
DIGEST_LENGTH = 36
"MLflow's limit for a dataset digest."
REF, EVALUATION = "assay.ref", "assay.evaluation"


def log_snapshot(
    client: MlflowClient,
    experiment_id: str,
    run: Run,
    run_id: str,
    snapshot: Snapshot,
    points: Sequence[Point],
) -> None:
    """Log an epoch's snapshot as a model, with its step and its metrics on the validation rows."""
    record = snapshot.read()
    weights = snapshot.weights
    model = client.create_logged_model(
        experiment_id,
        name=f"{run.name}-{snapshot.name}".replace(".", "-"),
        source_run_id=run_id,
        tags={
            "assay.run": run.name,
            "assay.snapshot": snapshot.name,
            "assay.step": str(record["step"]),
            "assay.path": str(weights),
            "assay.sha256": str(record[FILES][weights.name]),
        },
        params={"step": str(record["step"]), "epoch": str(snapshot.epoch)},
        model_type=CHECKPOINT,
    )
    model_id, shards = str(model.model_id), str(record["shards"])
    client.log_batch(run_id, metrics=_of_model(points, model_id, shards))
    client.log_outputs(run_id, [LoggedModelOutput(model_id, int(record["step"]))])
    client.finalize_logged_model(model_id, "READY")


def log_checkpoint(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    record: Mapping[str, Any],
    points: Iterable[Point],
) -> str:
    """Log the sealed checkpoint as a model, with its small files; return its id."""
    ref = parse_ref(record["output"])
    directory = open_store().peek(ref).directory
    model = client.create_logged_model(
        experiment_id,
        name=record["recipe"]["settings"]["checkpoint"]["name"],
        source_run_id=run_id,
        tags={REF: str(ref), "assay.path": str(directory)},
        model_type=CHECKPOINT,
    )
    model_id = str(model.model_id)
    for name in ("index.json", "config.json", "README.md"):
        client.log_model_artifact(model_id, str(directory / name))
    metrics = _of_model(points, model_id, record["recipe"]["inputs"]["evaluation"])
    client.log_batch(run_id, metrics=metrics)
    client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _of_model(points: Iterable[Point], model_id: str, data: str) -> list[Metric]:
    """Attach points to a model and to the data on which it was measured."""
    kind, _, digits = data.partition(":")
    return [
        Metric(
            point.key,
            point.value,
            point.time_ms,
            point.step,
            model_id=model_id,
            dataset_name=kind,
            dataset_digest=digits[:DIGEST_LENGTH],
        )
        for point in points
    ]


def register(client: MlflowClient, run: Run, model_id: str, record: Mapping[str, Any]) -> None:
    """Enter a finished run's checkpoint in the registry, and move the aliases that it earned."""
    sealed = run.stage_records()[CHECKPOINT]
    name = sealed["recipe"]["settings"]["checkpoint"]["name"]
    evaluation = evaluation_of(run)
    assert evaluation is not None
    _require_model(client, name)
    model = client.get_logged_model(model_id)
    version = _known_version(client, name, run) or str(
        client.create_model_version(
            name,
            # Not `models:/ID`: the registry looks that up where the process-wide address leads.
            source=model.artifact_location,
            run_id=model.source_run_id,
            model_id=model_id,
            tags={
                REF: sealed["output"],
                EVALUATION: evaluation,
                "assay.run": run.name,
                "assay.evidence": str(run.directory),
                "assay.record_sha256": record["record_sha256"],
            },
        ).version
    )
    is_candidate = _decide(client, name, version, CANDIDATE, judge_candidate(record))
    champion = _champion(client, name)
    if not is_candidate or (champion is not None and champion[0] == version):
        return
    verdicts = judge_champion(evaluation, champion[1]) if champion else []
    _decide(client, name, version, CHAMPION, verdicts)


def _decide(
    client: MlflowClient, name: str, version: str, alias: str, verdicts: Sequence[Verdict]
) -> bool:
    """Move an alias if every gate holds; the version says what was judged either way."""
    said = json.dumps([verdict_record(verdict) for verdict in verdicts])
    client.set_model_version_tag(name, version, f"assay.{alias}", said)
    holds = all(verdict.passed for verdict in verdicts)
    if holds:
        client.set_registered_model_alias(name, alias, version)
    return holds


def _champion(client: MlflowClient, name: str) -> tuple[str, str | None] | None:
    """Return the champion's version and evaluation."""
    try:
        found = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None
    return str(found.version), found.tags.get(EVALUATION)


def _require_model(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="Sealed checkpoints of this name")


def _known_version(client: MlflowClient, name: str, run: Run) -> str | None:
    """Return the version of this run's record: it may have been sent before."""
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("assay.run") == run.name:
            return str(version.version)
    return None
