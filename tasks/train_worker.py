"""The process that trains, one a rank: appends every fact to the training directory.

It imports neither Prefect nor MLflow, so that neither can slow or stop a training. It goes on from
the last complete snapshot that it finds. The first rank alone writes; all of them read, compute and
decide the same.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from data.batches import batches
from data.prefetch import prefetched
from data.rows import open_rows
from data.shard import ShardsIndex
from model.apr_model import read_model
from model.errors import ModelFormatError
from model.memory import is_out_of_memory
from model.ranks import Ranks
from model.reports import SpikeReport, StepReport, StopReport
from model.train import train
from model.training_state import (
    TrainingState,
    load_training_state,
    new_state,
)
from tasks.epoch_end import end_epoch, stop
from tasks.errors import storage_error
from tasks.known_errors import KNOWN_ERRORS
from tasks.memory import memory_error
from tasks.processes import die_with_owner
from tasks.pulse import Heart
from tasks.rank import asked_to_stop, group_facts, joined, own_device, own_rank, say
from tasks.session import Session
from tasks.snapshot_writer import SnapshotWriter
from tasks.snapshots import (
    SNAPSHOTS,
    Snapshot,
    complete_snapshots,
    drop_incomplete,
    latest_snapshot,
)
from tasks.step_clock import StepClock
from tasks.train_errors import StoppedError
from tasks.train_job import Job, read_job
from tasks.train_judge import TrainJudge, is_finished
from tasks.training_log import TRAIN_LOG, truncate
from tasks.training_start import Surroundings, digest_facts, look_around
from tasks.validation import Validation

FAILED = 5
"The exit status of a failure that the worker explained."


def main() -> int:
    """Do the job in the directory that is named; say why, if it cannot be done."""
    control = Path(sys.argv[1])
    die_with_owner(control)
    is_asked_to_stop = asked_to_stop()
    heart = Heart(control, own_rank())
    job = read_job(control)
    try:
        with joined(job, control, heart, is_asked_to_stop) as ranks:
            work(job, ranks, heart)
    except StoppedError as stopped:
        say(control, "stopped", stopped.step)
        return 0
    except Exception as error:
        # A full disk comes in as many classes as there are libraries that write.
        cause = error if isinstance(error, KNOWN_ERRORS) else storage_error(error)
        say(control, "failed" if cause else "crashed", heart.step, cause or error)
        if cause is None:
            raise
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
    found = (latest_snapshot(directory), is_finished(directory, job.train))
    latest, finished = ranks.gather(found)[0]
    if finished:
        return
    state = _restore(job, latest, ranks)
    with SnapshotWriter() as writer:
        session = _begin(job, ranks, heart, state, writer)
        stream = _stream(session)
        while not session.ended and session.state.step < job.train.num_steps:
            _follow_in_memory(session, stream)
        writer.wait(session.beat)


def _begin(
    job: Job, ranks: Ranks, heart: Heart | None, state: TrainingState, writer: SnapshotWriter
) -> Session:
    """Open everything, cut the log to where training goes on, and look whether all is well.

    Raises: GateFailedError.
    """
    directory, shards = Path(job.directory), Path(job.shards)
    index = TypeAdapter(ShardsIndex).validate_python(job.shards_index)
    validation = Validation.open(
        shards,
        index,
        device=own_device(job),
        document_end=job.train.document_end(index.end_of_text_id),
    )
    places = Surroundings(
        directory=directory,
        shards=shards,
        index=index,
        validation=validation.rows,
        device=torch.device(own_device(job)),
        ranks=ranks,
        compiled=job.compiled,
    )
    start = {
        **look_around(state, job.train, places),
        **group_facts(job, ranks),
        **digest_facts(state, job.state_digest_steps, places),
    }
    judge = None
    if ranks.rank == 0:
        truncate(directory / TRAIN_LOG, state.cursor_rows)
        judge = TrainJudge(start, job.train, job.thresholds, places)
    session = Session(
        job=job,
        ranks=ranks,
        heart=heart,
        state=state,
        train_rows=open_rows(shards, index, "train"),
        validation=validation,
        judge=judge,
        writer=writer,
    )
    session.agree_whether_ended()
    return session


def _stream(session: Session) -> Iterator[np.ndarray[Any, Any]]:
    """Read batches from where training has come to."""
    train = session.job.train
    stream = batches(
        session.train_rows,
        batch_rows=train.batch_rows,
        seed=train.seed,
        max_passes=train.max_passes,
        cursor=session.state.cursor_rows,
    )
    return session.judge.leaks.watching(stream) if session.judge else prefetched(stream)


def _follow_in_memory(session: Session, stream: Iterator[np.ndarray[Any, Any]]) -> None:
    """Follow; where memory runs out, say what would have fitted.

    Raises: MemoryFullError.
    """
    try:
        return _follow(session, stream)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # Its frames hold what the failed step had allocated.
        error.__traceback__ = None
        del error
    raise memory_error(session)


def _follow(session: Session, stream: Iterator[np.ndarray[Any, Any]]) -> None:
    """Consume the training's facts: log every step, validate and save every epoch.

    Returns at the end, or with an earlier state to go on from where a spike undid steps.
    Raises: StoppedError after the snapshot is written, where a rank was asked to stop.
    """
    state, judge = session.state, session.judge
    clock = StepClock(torch.device(own_device(session.job)))
    # What came before may have taken long, and so may what is compiled in the first step.
    session.beat()
    with (session.directory / TRAIN_LOG if judge else Path(os.devnull)).open("a") as log:
        facts = train(
            state,
            stream,
            session.job.train,
            session.ranks,
            document_end=session.validation.document_end,
            compiled=session.job.compiled,
            digest_steps=session.job.state_digest_steps,
            ahead=is_ahead(session.job),
            step_queued=clock.end_step,
        )
        for report in facts:
            session.beat("training")
            session.writer.check()
            if isinstance(report, StepReport):
                seconds = clock.next_seconds()
                session.steps.append((time.perf_counter(), seconds))
                if judge:
                    judge.step(log, report, state, seconds)
            elif isinstance(report, SpikeReport):
                earlier = _earlier(session, report)
                if judge:
                    judge.spike(log, report, back_to=earlier)
                if earlier is not None:
                    session.state = earlier
                    return
                clock.restart()
            elif isinstance(report, StopReport):
                stop(session)
            else:
                end_epoch(session, report)
                if session.ended:
                    return
                session.beat()
                clock.restart()


def is_ahead(job: Job) -> bool:
    """Tell whether the next step is begun before a step is judged: on a CPU both take its cores."""
    return own_device(job) != "cpu"


def _earlier(session: Session, report: SpikeReport) -> TrainingState | None:
    """Return the last epoch's state, past the data that spiked, where that is the answer.

    Not that of a snapshot within an epoch: it would not be there had nobody asked to stop.
    """
    job = session.job
    if job.train.spike_response != "rollback":
        return None
    session.writer.wait(session.beat)
    epochs = session.ranks.gather(complete_snapshots(session.directory))[0]
    earlier = _restore(job, epochs[-1] if epochs else None, session.ranks)
    earlier.cursor_rows, earlier.num_spikes = report.cursor_rows, session.state.num_spikes
    return earlier


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
