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
from evidence.records import epoch_fields, write_record
from model.apr_model import read_model, write_model
from model.llama import LlamaSettings
from model.loss_statistics import LossStatistics, bits_per_byte
from model.ranks import Ranks
from model.train import EpochReport, SpikeReport, StepReport, TrainSettings, train
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
from tasks.thresholds import Thresholds
from tasks.train_judge import TrainJudge, is_finished
from tasks.train_outcome import failure
from tasks.training_log import TRAIN_LOG, read_rows, truncate
from tasks.training_start import Surroundings
from tasks.val_losses import ValLosses
from tasks.validation import Validation

COMPARED = ("train_loss_at_end", "improvement_nats", "improvement_error_nats")
"What an epoch's record says of how it compares."
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
    thresholds: Thresholds
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
        said = {
            "error": type(cause).__name__,
            "message": str(cause),
            "hint": cause.hint,
            "outcome": failure(cause),
        }
        sys.stdout.write(json.dumps(said) + "\n")
        return FAILED
    return 0


def work(job: Job) -> None:
    """Train from the last complete snapshot to the end of the budget."""
    torch.set_num_threads(job.num_threads)
    directory = Path(job.directory)
    (directory / SNAPSHOTS).mkdir(exist_ok=True)
    drop_incomplete(directory)
    if is_finished(directory, job.train):
        return
    state = _restore(job, directory)
    truncate(directory / TRAIN_LOG, state.cursor_rows)
    index = TypeAdapter(ShardsIndex).validate_python(job.shards_index)
    rows = open_rows(Path(job.shards), index, "train")
    validation = Validation.open(
        Path(job.shards), index, batch_rows=job.evaluate_batch_rows, device=job.device
    )
    places = Surroundings(
        directory=directory,
        shards=Path(job.shards),
        index=index,
        validation=validation.rows,
        device=torch.device(job.device),
        ranks=Ranks(),
    )
    judge = TrainJudge(state, job.train, job.thresholds, places)
    stream = judge.leaks.watching(
        batches(
            rows,
            batch_rows=job.train.batch_rows,
            seed=job.train.seed,
            max_passes=job.train.max_passes,
            cursor=state.cursor_rows,
        )
    )
    earlier: TrainingState | None = state
    while earlier is not None and not judge.ended:
        earlier = _follow(job, earlier, stream, judge, validation, num_train_rows=len(rows))


def _follow(
    job: Job,
    state: TrainingState,
    stream: Iterator[np.ndarray[Any, Any]],
    judge: TrainJudge,
    validation: Validation,
    *,
    num_train_rows: int,
) -> TrainingState | None:
    """Consume the training's facts: log every step, validate and save every epoch.

    Return the state from which to go on where a spike undid steps, else nothing.
    """
    directory = Path(job.directory)
    last = time.perf_counter()
    with (directory / TRAIN_LOG).open("a") as log:
        for report in train(state, stream, job.train):
            now = time.perf_counter()
            if isinstance(report, StepReport):
                judge.step(log, report, state, now - last)
            elif isinstance(report, SpikeReport):
                earlier = _earlier(job, report, state)
                judge.spike(log, report, back_to=earlier)
                if earlier is not None:
                    return earlier
            else:
                passes = state.cursor_rows / num_train_rows
                _end_epoch(job, directory, state, report, validation, judge, passes=passes)
                if judge.ended:
                    return None
                now = time.perf_counter()
            last = now
    return None


def _earlier(job: Job, report: SpikeReport, state: TrainingState) -> TrainingState | None:
    """Return the last snapshot's state, past the data that spiked, where that is the answer."""
    if job.train.spike_response != "rollback":
        return None
    earlier = _restore(job, Path(job.directory))
    earlier.cursor_rows, earlier.num_spikes = report.cursor_rows, state.num_spikes
    return earlier


def _end_epoch(
    job: Job,
    directory: Path,
    state: TrainingState,
    report: EpochReport,
    validation: Validation,
    judge: TrainJudge,
    *,
    passes: float,
) -> None:
    """Validate, save weights and state, and write the epoch's record last.

    Raises: GateFailedError.
    """
    begin = time.perf_counter()
    snapshot = Snapshot(directory / SNAPSHOTS, report.epoch)
    losses = ValLosses.of(validation.count(state.model))
    write_model(
        snapshot.weights,
        job.model,
        weights(state),
        tokenizer_json=validation.tokenizer_json,
        provenance={"name": f"step-{state.step}", "source": f"rows of {job.shards_ref}"},
    )
    snapshot.state.mkdir()
    save_training_state(state, snapshot.state)
    losses.write(snapshot.state)
    write_fingerprint(state.model, probe_ids(validation.rows), snapshot.state)
    sync(snapshot.state)
    rows = [
        row for row in read_rows(directory / TRAIN_LOG) if row["step"] > _previous_step(snapshot)
    ]
    validation_seconds = time.perf_counter() - begin
    # Judged before the record makes the epoch complete: nothing resumes from a diverged model.
    # And before it is composed: the perplexity of such a loss may be beyond any float.
    judged = judge.epoch(report.epoch, rows, losses)
    record = epoch_record(
        job, snapshot, rows, losses.statistics(), validation.num_bytes, passes=passes
    )
    record |= {name: judged[name] for name in COMPARED if judged.get(name) is not None}
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
