"""What happens at the end of an epoch, and where training is asked to stop: judge, copy, save.

Training is held up for the validation and for a copy in memory; the files are written beside it.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from evidence.gates import Gate, judge, require
from evidence.records import epoch_fields, write_record
from model.loss_statistics import LossStatistics, bits_per_byte
from model.state_copy import StateCopy
from model.train import EpochReport
from model.training_state import OPTIMIZER_FILE, whole_model
from tasks.directories import sync_directory
from tasks.errors import StoppedError
from tasks.probe import fingerprint, probe_ids
from tasks.session import Session
from tasks.snapshots import (
    FILES,
    SNAPSHOTS,
    Snapshot,
    complete_snapshots,
    latest_snapshot,
    stopped_snapshots,
    write_snapshot,
)
from tasks.train_job import Job


def end_epoch(session: Session, report: EpochReport) -> None:
    """Validate, copy the state, and have the snapshot and its record written beside training.

    Raises: GateFailedError when the validation loss grew beyond the threshold.
    """
    job, state, ranks = session.job, session.state, session.ranks
    snapshot = Snapshot.of_epoch(session.directory / SNAPSHOTS, report.epoch)
    waited = session.writer.wait(session.beat)
    begin = time.perf_counter()
    session.beat("validating")
    model = whole_model(state.model)
    statistics = session.validation.count(model, ranks, session.beat).statistics()
    digests = fingerprint(model, probe_ids(session.validation.rows))
    validation_seconds = time.perf_counter() - begin
    if session.is_first:
        # Judged before the record makes the epoch complete: nothing resumes from a diverged model.
        # And before it is composed: the perplexity of such a loss may be beyond any float.
        _require_stable(job, snapshot, statistics.mean_nats)
    begin = time.perf_counter()
    session.beat("saving")
    copy = session.staging.copy(state, ranks)
    if copy is None:
        return
    measured = {
        "corpus_passes": state.cursor_rows / session.num_train_rows,
        "validation_seconds": validation_seconds,
        "checkpoint_blocking_seconds": waited + time.perf_counter() - begin,
    }
    rows, session.rows = session.rows, []
    session.writer.start(
        lambda: _save_epoch(session, snapshot, copy, digests, rows, statistics, measured)
    )


def _save_epoch(
    session: Session,
    snapshot: Snapshot,
    copy: StateCopy,
    digests: dict[str, str],
    rows: list[dict[str, Any]],
    statistics: LossStatistics,
    measured: dict[str, float],
) -> None:
    """Write a snapshot and, last, the record that completes it; then drop what it replaces."""
    begin = time.perf_counter()
    files = _write(session, snapshot, copy, digests)
    end = time.perf_counter()
    record = epoch_record(
        session.job, snapshot, rows, statistics, session.validation.num_bytes, files=files
    )
    record |= {**measured, "checkpoint_write_seconds": end - begin}
    if during := [seconds for ended, seconds in session.ended if begin < ended <= end]:
        # Of the steps that ended meanwhile, against those of the epoch.
        usual = record["wall_seconds"] / len(rows)
        record["checkpoint_slowdown"] = sum(during) / len(during) / usual
    write_record(snapshot.record, record)
    sync_directory(snapshot.directory)
    for stopped in stopped_snapshots(session.directory):
        stopped.remove()


def stop(session: Session) -> None:
    """Leave a snapshot of this step, unless an epoch has just ended with one.

    Raises: StoppedError.
    """
    state = session.state
    session.writer.wait(session.beat)
    session.beat("saving")
    latest = session.ranks.gather(latest_snapshot(session.directory))[0]
    if latest is None or latest.read()["step"] != state.step:
        digests = fingerprint(whole_model(state.model), probe_ids(session.validation.rows))
        copy = session.staging.copy(state, session.ranks)
        if copy is not None:
            snapshot = Snapshot.of_step(session.directory / SNAPSHOTS, state.step)
            files = _write(session, snapshot, copy, digests)
            write_record(snapshot.record, {"step": state.step, FILES: files})
            sync_directory(snapshot.directory)
    raise StoppedError(state.step, session.job.train.num_steps)


def _write(
    session: Session, snapshot: Snapshot, copy: StateCopy, digests: dict[str, str]
) -> dict[str, str]:
    return write_snapshot(
        snapshot,
        copy,
        session.job.model,
        tokenizer_json=session.validation.tokenizer_json,
        source=f"rows of {session.job.shards_ref}",
        fingerprint=digests,
    )


def epoch_record(
    job: Job,
    snapshot: Snapshot,
    rows: list[dict[str, Any]],
    statistics: LossStatistics,
    val_bytes: int,
    *,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Compose an epoch's record: the reference's nine fields, then what it lacked."""
    seconds = sum(row["wall_seconds"] for row in rows)
    fields = epoch_fields(
        epoch=snapshot.epoch,
        train_losses=[row["train_loss"] for row in rows],
        val_loss=statistics.mean_nats,
        optimizer_state_sha=files[f"{snapshot.state.name}/{OPTIMIZER_FILE}"],
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
        FILES: dict(files),
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
