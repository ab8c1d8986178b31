"""What happens at the end of an epoch, and where training is asked to stop: judge, copy, save.

Training is held up for the validation and for a copy in memory; the files are written beside it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.records import epoch_fields, write_record
from model.loss_statistics import LossStatistics, bits_per_byte
from model.reports import EpochReport
from model.state_copy import StateCopy
from model.training_state import OPTIMIZER_FILE, whole_model
from tasks.directories import sync_directory
from tasks.probe import Fingerprint, probe_ids
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
from tasks.train_errors import StoppedError
from tasks.train_job import Job
from tasks.training_log import TRAIN_LOG, read_rows
from tasks.val_losses import ValLosses

COMPARED = ("train_loss_at_end", "improvement_nats", "improvement_error_nats")
"What an epoch's record says of how it compares."


def end_epoch(session: Session, report: EpochReport) -> None:
    """Validate, copy the state, and have the snapshot and its record written beside training.

    Raises: GateFailedError.
    """
    state = session.state
    snapshot = Snapshot.of_epoch(session.directory / SNAPSHOTS, report.epoch)
    waited = session.writer.wait(session.beat)
    begin = time.perf_counter()
    session.beat("validating")
    model = whole_model(state.model)
    losses = ValLosses.of(session.validation.count(model, session.ranks, counting(session)))
    fingerprint = Fingerprint.of(model, probe_ids(session.validation.rows))
    measured: dict[str, Any] = {
        "cursor_rows": state.cursor_rows,
        "corpus_passes": state.cursor_rows / len(session.train_rows),
        "validation_seconds": time.perf_counter() - begin,
    }
    rows: list[dict[str, Any]] = []
    if session.judge:
        rows = _rows_of_epoch(session)
        # Judged before the record makes the epoch complete: nothing resumes from a diverged model.
        # And before it is composed: the perplexity of such a loss may be beyond any float.
        judged = session.judge.epoch(report.epoch, rows, losses)
        compared = {name: judged.get(name) for name in COMPARED}
        measured |= {name: value for name, value in compared.items() if value is not None}
    session.agree_whether_ended()
    begin = time.perf_counter()
    session.beat("saving")
    copy = session.staging.copy(state, session.ranks)
    measured["checkpoint_blocking_seconds"] = waited + time.perf_counter() - begin
    session.steps.clear()
    if copy is not None:
        epoch = EpochData(copy, fingerprint, losses, rows, measured)
        session.writer.start(lambda: _save_epoch(session, snapshot, epoch))


def counting(session: Session) -> Callable[[int], None]:
    """Return what says how many of the validation rows are scored."""
    num_rows = len(session.validation.chosen)
    return lambda scored: session.beat(counted=(scored, num_rows))


@dataclass(frozen=True, slots=True)
class EpochData:
    """All that is written of an epoch, as it was when it ended."""

    copy: StateCopy
    fingerprint: Fingerprint
    losses: ValLosses
    rows: list[dict[str, Any]]
    measured: dict[str, Any]

    def write_more(self, directory: Path) -> None:
        """Write what a snapshot holds beside what training needs to go on."""
        self.fingerprint.write(directory)
        self.losses.write(directory)


def _rows_of_epoch(session: Session) -> list[dict[str, Any]]:
    earlier = complete_snapshots(session.directory)
    first = int(earlier[-1].read()["step"]) if earlier else 0
    return [row for row in read_rows(session.directory / TRAIN_LOG) if row["step"] > first]


def _save_epoch(session: Session, snapshot: Snapshot, epoch: EpochData) -> None:
    """Write a snapshot and, last, the record that completes it; then drop what it replaces."""
    begin = time.perf_counter()
    files = _write(session, snapshot, epoch.copy, epoch.write_more)
    end = time.perf_counter()
    record = epoch_record(
        session.job,
        snapshot,
        epoch.rows,
        epoch.losses.statistics(),
        session.validation.num_bytes,
        files=files,
    )
    record |= {**epoch.measured, "checkpoint_write_seconds": end - begin}
    if during := [seconds for ended, seconds in session.steps if begin < ended <= end]:
        # Of the steps that ended meanwhile, against those of the epoch.
        usual = record["wall_seconds"] / len(epoch.rows)
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
    if latest is None or latest.read()["cursor_rows"] != state.cursor_rows:
        model = whole_model(state.model)
        fingerprint = Fingerprint.of(model, probe_ids(session.validation.rows))
        copy = session.staging.copy(state, session.ranks)
        if copy is not None:
            session.writer.start(lambda: _save_step(session, copy, fingerprint))
            session.writer.wait(session.beat)
    raise StoppedError(state.step, session.job.train.num_steps)


def _save_step(session: Session, copy: StateCopy, fingerprint: Fingerprint) -> None:
    """Write a snapshot in the middle of an epoch; then drop an earlier one."""
    state = session.state
    snapshot = Snapshot.of_step(session.directory / SNAPSHOTS, state.step)
    files = _write(session, snapshot, copy, fingerprint.write)
    reached = {"step": state.step, "cursor_rows": state.cursor_rows}
    write_record(snapshot.record, {**reached, FILES: files})
    sync_directory(snapshot.directory)
    for earlier in stopped_snapshots(session.directory):
        if earlier != snapshot:
            earlier.remove()


def _write(
    session: Session, snapshot: Snapshot, copy: StateCopy, write_more: Callable[[Path], None]
) -> dict[str, str]:
    return write_snapshot(
        snapshot,
        copy,
        session.job.model,
        tokenizer_json=session.validation.tokenizer_json,
        source=f"rows of {session.job.shards_ref}",
        write_more=write_more,
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
