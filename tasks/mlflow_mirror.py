"""Mirror a run's evidence into MLflow: the one module that imports it, in a process of its own.

A run is complete without MLflow. This process follows the evidence while the run goes on, and
sends what is new in batches; when MLflow is slow, down or full, the run does not notice, and
`assay mirror RUN` sends the rest later. What has been sent is remembered beside the database, so
that every pass sends only what is missing.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from evidence.chain import read_chain
from evidence.records import RUN_RECORD
from tasks import places
from tasks.ledger import LOCK
from tasks.live import training_directory
from tasks.logins import without_login
from tasks.mirror_log import (
    Point,
    epoch_points,
    milliseconds,
    params,
    result_metrics,
    step_points,
    system_points,
    trend_points,
)
from tasks.mirror_state import Sent
from tasks.mlflow_experiment import open_client, require_experiment
from tasks.mlflow_models import DIGEST_LENGTH, log_checkpoint, log_snapshot, register
from tasks.run_record import Run, find_run
from tasks.run_report import write_report
from tasks.saying import say
from tasks.store import locked

LOOK_SECONDS = 2.0
BATCH_METRICS = 900
"A REST batch holds at most a thousand entities of all kinds."
TRAIN = "train"
RUN_FILES = ("plan.json", RUN_RECORD, "bisection.*", "replay.*", "*failure.json")
"What a run shows that belongs to no stage."
STATUS = {"completed": "FINISHED", "failed": "FAILED"}
"What MLflow calls the end of a run; any other is KILLED."


class Mirror:
    """Sends one run's evidence, pass by pass."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.client, uri = open_client()
        self.sent = Sent.load(run, uri)
        if self.sent.run_id and not self._still_there():
            self.sent = Sent(run.name, uri)

    def pass_once(self) -> bool:
        """Send what is new; return whether all of a finished run has been sent."""
        try:
            self._ensure_run()
            self._send_training()
            for stage, record in self.run.stage_records().items():
                if stage not in self.sent.finished_stages:
                    self._send_stage(stage, record)
            if ended := self.run.record():
                self._finish(ended)
        finally:
            self.sent.save()
        return self.sent.complete

    def _still_there(self) -> bool:
        try:
            return bool(self.client.get_run(self.sent.run_id).info.lifecycle_stage == "active")
        except MlflowException:
            return False

    def _ensure_run(self) -> None:
        plan = self.run.plan()
        if not self.sent.run_id:
            self._create_run(plan)
        if not self.sent.has_params:
            self._log(self.sent.run_id, params=params(plan["settings"]))
            self.sent.has_params = True

    def _create_run(self, plan: Mapping[str, Any]) -> None:
        self.sent.experiment_id = require_experiment(self.client)
        tags = {
            "assay.run": self.run.name,
            "assay.evidence": str(self.run.directory),
            "assay.settings_sha256": plan["settings_sha256"],
            "mlflow.source.name": f"assay {plan['request'].get('flow', '')}".strip(),
            "mlflow.source.git.commit": plan["provenance"]["git_commit"] or "",
        }
        self.sent.run_id = self._create(self.run.name, milliseconds(plan["started"]), tags)

    def _create(self, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        created = self.client.create_run(
            self.sent.experiment_id, start_time=start_ms, tags=dict(tags), run_name=name
        )
        return str(created.info.run_id)

    def _stage_run(self, stage: str, started: str) -> str:
        if stage not in self.sent.stage_run_ids:
            tags = {"mlflow.parentRunId": self.sent.run_id, "assay.stage": stage}
            name = f"{self.run.name}: {stage}"
            self.sent.stage_run_ids[stage] = self._create(name, milliseconds(started), tags)
        return self.sent.stage_run_ids[stage]

    def _send_training(self) -> None:
        """Send steps, epochs and machine samples as they come."""
        training = training_directory(self.run)
        if training is None or not training.is_dir() or TRAIN in self.sent.finished_stages:
            return
        run_id = self._stage_run(TRAIN, self.run.plan()["started"])
        for batch in _batched(step_points(training, self.sent.last_step)):
            self._log(run_id, points=batch)
            self.sent.last_step = batch[-1].step
        for snapshot, points in epoch_points(training, self.sent.last_epoch):
            log_snapshot(self.client, self.sent.experiment_id, self.run, run_id, snapshot, points)
            self.sent.last_epoch = snapshot.epoch
        for batch in _batched(system_points(training, self.sent.last_sample)):
            self._log(run_id, points=batch)
            self.sent.last_sample = batch[-1].step

    def _send_stage(self, stage: str, record: Mapping[str, Any]) -> None:
        run_id = self._stage_run(stage, record["started"])
        start_ms = milliseconds(record["started"])
        end_ms = start_ms + int(record["wall_seconds"] * 1000)
        results = result_metrics(record)
        tags = {
            "assay.recipe_sha256": record["recipe_sha256"],
            "assay.outcome": record["outcome"],
            "assay.reused_from": record.get("reused_from") or "",
            "assay.output": record["output"] or "",
            **{f"assay.{key}": value or "" for key, value in record["tracking"].items()},
        }
        self._log(run_id, params=params(record["recipe"]["settings"]), tags=tags)
        points = [Point(key, value, end_ms, 0) for key, value in results.items()]
        self._log(run_id, points=points)
        self._log(self.sent.run_id, points=points)
        if trend := self.run.plan()["request"].get("trend"):
            self._send_trend(trend, record)
        for owner in (run_id, self.sent.run_id):
            self.client.log_inputs(owner, _datasets(record["recipe"]["inputs"]))
        for path in self._stage_files(stage):
            self.client.log_artifact(run_id, str(path))
        if stage == "checkpoint" and record["output"] and not self.sent.model_id:
            measured = self.run.stage_records().get("evaluate")
            results = result_metrics(measured) if measured else {}
            self.sent.model_id = log_checkpoint(
                self.client,
                self.sent.experiment_id,
                run_id,
                record,
                [Point(key, value, end_ms, 0) for key, value in results.items()],
            )
        status = "FAILED" if record["outcome"] == "failed" else "FINISHED"
        self.client.set_terminated(run_id, status, end_ms)
        self.sent.finished_stages.append(stage)

    def _send_trend(self, trend: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Add an epoch's evaluation to the one run that shows those of all epochs."""
        tag, name = "assay.trend", str(trend["run"])
        experiment = self.sent.experiment_id
        with locked(places.mlflow_lock(), what="the MLflow database", wait=True):
            found = self.client.search_runs([experiment], f"tags.`{tag}` = '{name}'", max_results=1)
            start_ms = milliseconds(record["started"])
            run_id = (
                str(found[0].info.run_id)
                if found
                else self._create(f"{name}: epochs", start_ms, {tag: name})
            )
        self._log(run_id, points=trend_points(record, trend["epoch"]))
        # It has no end of its own, and should not look as if it ran.
        self.client.set_terminated(run_id, "FINISHED")

    def _stage_files(self, stage: str) -> list[Path]:
        extras = {
            "pretokenize": ("pretokenize-*.png",),
            "train": ("epoch-*", "train-*.png"),
            "evaluate": ("evaluate-*",),
            "bisect": ("trace.txt", "bisect-*.png"),
        }
        names = [f"{stage}.metadata.json", *extras.get(stage, ())]
        return sorted(path for name in names for path in self.run.directory.glob(name))

    def _finish(self, record: Mapping[str, Any]) -> None:
        tags = {"assay.outcome": record["outcome"], "assay.record_sha256": record["record_sha256"]}
        # A head noted elsewhere is what shows that the whole chain was written anew.
        directory = self.run.directory.parent
        # Whoever ends a run holds the lock from its record to its line.
        with locked(directory / LOCK, what="the chain", wait=True):
            line = read_chain(directory).line_of(record["record_sha256"])
        tags |= {"assay.chain_head": str(line.head)} if line else {}
        self._log(self.sent.run_id, tags=tags)
        for pattern in RUN_FILES:
            for path in sorted(self.run.directory.glob(pattern)):
                self.client.log_artifact(self.sent.run_id, str(path))
        self._send_report()
        if self.sent.model_id:
            with locked(places.mlflow_lock(), what="the MLflow registry", wait=True):
                register(self.client, self.run, self.sent.model_id, record)
        status, end_ms = STATUS.get(record["outcome"], "KILLED"), milliseconds(record["finished"])
        for stage, run_id in self.sent.stage_run_ids.items():
            # A stage that was cut off has no record of its own.
            if stage not in self.sent.finished_stages:
                self.client.set_terminated(run_id, status, end_ms)
        self.client.set_terminated(self.sent.run_id, status, end_ms)
        self.sent.complete = True

    def _send_report(self) -> None:
        """Attach the run's page, made from the same records as any other time."""
        try:
            path = write_report(self.run)
        except Exception as error:  # noqa: BLE001  # a page that fails must not keep back a run
            say(f"{self.run.name}: no report: {type(error).__name__}: {error}")
            return
        self.client.log_artifact(self.sent.run_id, str(path))

    def _log(
        self,
        run_id: str,
        *,
        points: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.client.log_batch(
            run_id,
            metrics=[Metric(p.key, p.value, p.time_ms, p.step) for p in points],
            params=[Param(key, value) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )


def _datasets(inputs: Mapping[str, str]) -> list[DatasetInput]:
    return [
        DatasetInput(
            Dataset(name, ref.partition(":")[2][:DIGEST_LENGTH], "assay", json.dumps({"ref": ref})),
            [InputTag("mlflow.data.context", name)],
        )
        for name, ref in inputs.items()
    ]


def _batched(points: Iterable[Point]) -> Iterable[list[Point]]:
    """Cut points into batches; the points of one step stay together."""
    batch: list[Point] = []
    for point in points:
        if len(batch) >= BATCH_METRICS and point.step != batch[-1].step:
            yield batch
            batch = []
        batch.append(point)
    if batch:
        yield batch


def mirror(run: Run) -> Sent:
    """Send all that a run has, once."""
    sender = Mirror(run)
    sender.pass_once()
    return sender.sent


def follow(run: Run, parent: int) -> bool:
    """Send what comes until the run ends or its process is gone; survive MLflow's troubles."""
    sender: Mirror | None = None
    while True:
        alive = _is_alive(parent)
        try:
            sender = sender or Mirror(run)
            if sender.pass_once():
                return True
        except Exception as error:  # noqa: BLE001  # a mirror must outlive whatever MLflow raises
            said = without_login(f"{type(error).__name__}: {error}")
            say(f"{run.name}: MLflow: {said}")
        if not alive:
            return False
        time.sleep(LOOK_SECONDS)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Mirror one run from the command line."""
    parser = argparse.ArgumentParser(description="Mirror a run's evidence into MLflow.")
    parser.add_argument("run")
    parser.add_argument("--follow", type=int, metavar="PID", help="go on while this process lives")
    arguments = parser.parse_args()
    run = find_run(arguments.run)
    if arguments.follow:
        return 0 if follow(run, arguments.follow) else 1
    sent = mirror(run)
    sys.stdout.write(json.dumps(asdict(sent)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
