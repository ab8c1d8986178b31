"""The process that trains, one a rank: appends every fact to the training directory.

It imports neither Prefect nor MLflow, so that neither can slow or stop a training. It goes on from
the last complete snapshot that it finds. The first rank alone writes; all of them read, compute and
decide the same.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from pydantic import TypeAdapter

from data.batches import batches
from data.rows import open_rows
from data.shard import ShardsIndex
from model.apr_model import read_model
from model.errors import ModelFormatError
from model.ranks import Ranks
from model.train import EpochReport, StepReport, train
from model.training_state import (
    TrainingState,
    load_training_state,
    new_state,
)
from tasks.epoch_end import end_epoch, stop
from tasks.errors import StoppedError, storage_error
from tasks.known_errors import KNOWN_ERRORS
from tasks.processes import die_with_parent
from tasks.pulse import Heart
from tasks.rank import asked_to_stop, joined, own_device, own_rank, say, start_facts
from tasks.session import Session
from tasks.snapshot_writer import SnapshotWriter
from tasks.snapshots import (
    SNAPSHOTS,
    Snapshot,
    complete_snapshots,
    drop_incomplete,
    latest_snapshot,
)
from tasks.train_job import Job, read_job
from tasks.training_log import TRAIN_LOG, append_row, read_rows, truncate
from tasks.validation import Validation

STARTS = "starts.jsonl"
"One line a start: from which step, on which ranks."
FAILED = 5
"The exit status of a failure that the worker explained."


def main() -> int:
    """Do the job in the directory that is named; say why, if it cannot be done."""
    die_with_parent(signal.SIGKILL)
    is_asked_to_stop = asked_to_stop()
    control = Path(sys.argv[1])
    heart = Heart(control, own_rank())
    job = read_job(control)
    try:
        with joined(job, heart, is_asked_to_stop) as ranks:
            work(job, ranks, heart)
    except StoppedError as stopped:
        say(control, "stopped", stopped.step)
        return 0
    except Exception as error:
        # A full disk comes in as many classes as there are libraries that write.
        cause = error if isinstance(error, KNOWN_ERRORS) else storage_error(error)
        if cause is None:
            say(control, "crashed", heart.step, type(error).__name__, traceback.format_exc())
            raise
        say(control, "failed", heart.step, type(cause).__name__, str(cause), cause.hint)
        return FAILED
    say(control, "done", heart.step)
    return 0


def work(job: Job, ranks: Ranks | None = None, heart: Heart | None = None) -> None:
    """Train from the last complete snapshot to the end of the budget.

    Raises: StoppedError once a snapshot says where it was asked to stop.
    """
    ranks = ranks or Ranks()
    directory = Path(job.directory)
    if ranks.rank == 0:
        (directory / SNAPSHOTS).mkdir(exist_ok=True)
        drop_incomplete(directory)
    # The first rank's choice: what the others find may be what it is about to drop.
    latest = ranks.gather(latest_snapshot(directory))[0]
    state = _restore(job, latest, ranks)
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
        Path(job.shards), index, batch_rows=job.evaluate_batch_rows, device=own_device(job)
    )
    with SnapshotWriter() as writer:
        session = Session(
            job=job,
            ranks=ranks,
            heart=heart,
            state=state,
            validation=validation,
            num_train_rows=len(rows),
            writer=writer,
        )
        _begin(session)
        _follow(session, stream)


def _begin(session: Session) -> None:
    """Cut the log to where training goes on, and say on what it does, if it does."""
    facts = start_facts(session.job, session.ranks, session.state.step)
    if not session.is_first or session.state.step == session.job.train.num_steps:
        return
    log = session.directory / TRAIN_LOG
    truncate(log, session.state.step)
    session.rows = [
        row for row in read_rows(log) if row["step"] > _last_epoch_step(session.directory)
    ]
    with (session.directory / STARTS).open("a") as file:
        file.write(json.dumps(facts) + "\n")


def _follow(session: Session, stream: Iterator[np.ndarray[Any, Any]]) -> None:
    """Consume the training's facts: log every step, validate and save every epoch."""
    state, last = session.state, time.perf_counter()
    fed = _until_stopped(session, stream)
    with (session.directory / TRAIN_LOG if session.is_first else Path(os.devnull)).open("a") as log:
        for report in train(state, fed, session.job.train, session.ranks):
            seconds = time.perf_counter() - last
            session.beat("training")
            session.writer.check()
            if isinstance(report, StepReport):
                if session.is_first:
                    _log_step(session, log, _step_row(report, state, seconds))
            elif isinstance(report, EpochReport):
                end_epoch(session, report)
            last = time.perf_counter()
    session.writer.wait(session.beat)


def _until_stopped(
    session: Session, stream: Iterator[np.ndarray[Any, Any]]
) -> Iterator[np.ndarray[Any, Any]]:
    """Hand on batches; between two steps, stop where a rank was asked to.

    Raises: StoppedError after the snapshot is written.
    """
    for ids_BS in stream:
        if session.ranks.stopping:
            stop(session)
        session.beat()
        yield ids_BS


def _log_step(session: Session, log: IO[str], row: dict[str, Any]) -> None:
    append_row(log, row)
    session.rows.append(row)
    session.ended.append((time.perf_counter(), row["wall_seconds"]))


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


def _last_epoch_step(directory: Path) -> int:
    earlier = complete_snapshots(directory)
    return int(earlier[-1].read()["step"]) if earlier else 0


def _restore(job: Job, latest: Snapshot | None, ranks: Ranks) -> TrainingState:
    """Load the latest snapshot, every byte of it checked, or begin anew.

    Raises: SnapshotDamagedError, and ModelFormatError or WrongTensorsError of another model.
    """
    device = torch.device(own_device(job))
    if latest is None:
        return new_state(job.model, job.train, device, ranks)
    latest.require_whole()
    found, tensors = read_model(latest.weights)
    if found != job.model:
        raise ModelFormatError(latest.weights, f"weights of {found}", f"of {job.model}")
    return load_training_state(job.model, job.train, tensors, latest.state, device, ranks)


if __name__ == "__main__":
    sys.exit(main())
