"""The process that trains: reads a job from stdin, appends every fact to the training directory.

It imports neither Prefect nor MLflow, so that neither can slow or stop a training. It goes on from
the last complete snapshot that it finds. A failure on purpose is one JSON line on stdout.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from data.batches import batches
from data.rows import open_rows
from data.shard import ShardsIndex
from evidence.canonical import file_sha256
from evidence.gates import Gate, judge, require
from evidence.records import epoch_fields, write_record
from model.apr_model import read_model, write_model
from model.llama import LlamaSettings
from model.loss_statistics import LossStatistics, bits_per_byte
from model.train import EpochReport, StepReport, TrainSettings, train
from model.training_state import (
    TrainingState,
    load_training_state,
    new_state,
    save_training_state,
    weights,
)
from tasks.directories import sync
from tasks.errors import storage_error
from tasks.known_errors import KNOWN_ERRORS
from tasks.probe import probe_ids, write_fingerprint
from tasks.processes import die_with_parent
from tasks.snapshots import SNAPSHOTS, Snapshot, complete_snapshots, drop_incomplete
from tasks.training_log import TRAIN_LOG, append_row, read_rows, truncate
from tasks.validation import Validation

FAILED = 5
"The exit status of a failure that the worker explained."


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that the worker needs to know; plain values, so that it crosses a pipe."""

    directory: str
    shards: str
    shards_ref: str
    shards_index: dict[str, Any]
    model: LlamaSettings
    train: TrainSettings
    evaluate_batch_rows: int
    max_val_loss_growth: float
    num_threads: int
    device: str


def main() -> int:
    """Do the job on stdin; say in one JSON line why, if it cannot be done."""
    die_with_parent()
    job = TypeAdapter(Job).validate_json(sys.stdin.buffer.read())
    try:
        work(job)
    except Exception as error:
        # A full disk comes in as many classes as there are libraries that write.
        cause = error if isinstance(error, KNOWN_ERRORS) else storage_error(error)
        if cause is None:
            raise
        said = {"error": type(cause).__name__, "message": str(cause), "hint": cause.hint}
        sys.stdout.write(json.dumps(said) + "\n")
        return FAILED
    return 0


def work(job: Job) -> None:
    """Train from the last complete snapshot to the end of the budget."""
    torch.set_num_threads(job.num_threads)
    directory = Path(job.directory)
    (directory / SNAPSHOTS).mkdir(exist_ok=True)
    drop_incomplete(directory)
    state = _restore(job, directory)
    truncate(directory / TRAIN_LOG, state.step)
    index = TypeAdapter(ShardsIndex).validate_python(job.shards_index)
    rows = open_rows(Path(job.shards), index, "train")
    stream = batches(
        rows,
        batch_rows=job.train.batch_rows,
        seed=job.train.seed,
        max_passes=job.train.max_passes,
        cursor=state.cursor_rows,
    )
    validation = Validation.open(
        Path(job.shards), index, batch_rows=job.evaluate_batch_rows, device=job.device
    )
    _follow(job, directory, state, stream, validation, num_train_rows=len(rows))


def _follow(
    job: Job,
    directory: Path,
    state: TrainingState,
    stream: Iterator[np.ndarray[Any, Any]],
    validation: Validation,
    *,
    num_train_rows: int,
) -> None:
    """Consume the training's facts: log every step, validate and save every epoch."""
    last = time.perf_counter()
    with (directory / TRAIN_LOG).open("a") as log:
        for report in train(state, stream, job.train):
            seconds = time.perf_counter() - last
            if isinstance(report, StepReport):
                append_row(log, _step_row(report, state, seconds))
            else:
                passes = state.cursor_rows / num_train_rows
                _end_epoch(job, directory, state, report, validation, passes=passes)
            last = time.perf_counter()


def _step_row(report: StepReport, state: TrainingState, seconds: float) -> dict[str, Any]:
    return {
        "step": report.step,
        "train_loss": report.train_loss,
        "grad_norm": report.grad_norm,
        "learning_rate": report.learning_rate,
        "tokens": report.tokens,
        "tokens_seen": state.tokens_seen,
        "tokens_per_second": report.tokens / seconds,
        "wall_seconds": seconds,
        "time": time.time(),
    }


def _end_epoch(
    job: Job,
    directory: Path,
    state: TrainingState,
    report: EpochReport,
    validation: Validation,
    *,
    passes: float,
) -> None:
    """Validate, save weights and state, and write the epoch's record last.

    Raises: GateFailedError when the validation loss grew beyond the threshold.
    """
    begin = time.perf_counter()
    snapshot = Snapshot(directory / SNAPSHOTS, report.epoch)
    statistics = validation.count(state.model).statistics()
    write_model(
        snapshot.weights,
        job.model,
        weights(state),
        tokenizer_json=validation.tokenizer_json,
        provenance={"name": f"step-{state.step}", "source": f"rows of {job.shards_ref}"},
    )
    snapshot.state.mkdir()
    save_training_state(state, snapshot.state)
    write_fingerprint(state.model, probe_ids(validation.rows), snapshot.state)
    sync(snapshot.state)
    rows = [
        row for row in read_rows(directory / TRAIN_LOG) if row["step"] > _previous_step(snapshot)
    ]
    validation_seconds = time.perf_counter() - begin
    # Judged before the record makes the epoch complete: nothing resumes from a diverged model.
    # And before it is composed: the perplexity of such a loss may be beyond any float.
    _require_stable(job, snapshot, statistics.mean_nats)
    record = epoch_record(job, snapshot, rows, statistics, validation.num_bytes, passes=passes)
    record["validation_seconds"] = validation_seconds
    write_record(snapshot.record, record)


def epoch_record(
    job: Job,
    snapshot: Snapshot,
    rows: list[dict[str, Any]],
    statistics: LossStatistics,
    val_bytes: int,
    *,
    passes: float,
) -> dict[str, Any]:
    """Compose an epoch's record: the reference's nine fields, then what it lacked."""
    seconds = sum(row["wall_seconds"] for row in rows)
    fields = epoch_fields(
        epoch=snapshot.epoch,
        train_losses=[row["train_loss"] for row in rows],
        val_loss=statistics.mean_nats,
        optimizer_state_sha=file_sha256(snapshot.state / "optimizer.safetensors"),
        wall_seconds=seconds,
        tokens_seen=rows[-1]["tokens_seen"],
        grad_norms=[row["grad_norm"] for row in rows],
    )
    return {
        **fields,
        "step": rows[-1]["step"],
        "val_loss_standard_error": statistics.standard_error_nats,
        "val_tokens": statistics.num_tokens,
        "val_documents": statistics.num_documents,
        "val_bits_per_byte": bits_per_byte(statistics.mean_nats, statistics.num_tokens, val_bytes),
        "learning_rate": rows[-1]["learning_rate"],
        "tokens_per_second": sum(row["tokens"] for row in rows) / seconds,
        "corpus_passes": passes,
        "weights_sha256": file_sha256(snapshot.weights),
        "shards": job.shards_ref,
    }


def stability_gate(epoch: int) -> Gate:
    """Say what a validation loss must keep to after an epoch."""
    return Gate(
        id="train.stable",
        sentence=f"validation loss after epoch {epoch} stays near the epoch before",
        measured="val_loss",
        operator="<=",
        threshold="limit",
    )


def _require_stable(job: Job, snapshot: Snapshot, val_loss: float) -> None:
    earlier = complete_snapshots(snapshot.directory.parent)
    before = (
        float(earlier[-1].read()["val_loss"]) if earlier else float(np.log(job.model.vocab_size))
    )
    limit = before * job.max_val_loss_growth
    require([judge(stability_gate(snapshot.epoch), {"val_loss": val_loss, "limit": limit})])


def _previous_step(snapshot: Snapshot) -> int:
    earlier = complete_snapshots(snapshot.directory.parent)
    return int(earlier[-1].read()["step"]) if earlier else 0


def _restore(job: Job, directory: Path) -> TrainingState:
    device = torch.device(job.device)
    snapshots = complete_snapshots(directory)
    if not snapshots:
        return new_state(job.model, job.train, device)
    _, tensors = read_model(snapshots[-1].weights)
    return load_training_state(job.model, job.train, tensors, snapshots[-1].state, device)


if __name__ == "__main__":
    sys.exit(main())
