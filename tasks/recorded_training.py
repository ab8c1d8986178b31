"""A training that a run recorded, finished or not: what it was asked for, and what it logged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.refs import parse_ref
from model.llama import LlamaSettings
from model.train_settings import TrainSettings
from tasks.errors import NotFoundError
from tasks.live import training_directory
from tasks.run_record import Run, find_run
from tasks.snapshots import Snapshot, complete_snapshots, stopped_snapshots
from tasks.step_watch import BACK_TO, SPIKE
from tasks.store import open_store
from tasks.train_measure import SETTINGS
from tasks.training_log import TRAIN_LOG, read_lines, read_rows
from tasks.training_start import STARTS

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTraining:
    """One training directory, read."""

    run: Run
    maker: Run
    "The run that trained it; another one where this run found it made."
    directory: Path
    llama: LlamaSettings
    train: TrainSettings
    shards: str
    starts: Sequence[Line]
    lines: Sequence[Line]
    "Steps and spikes as they were written, those that were undone later among them."
    steps: Sequence[Line]
    "Those of which the training is made."

    @classmethod
    def of(cls, name: str) -> "RecordedTraining":
        """Read the training of a run, wherever it is now.

        Raises: NotFoundError, ArtefactDamagedError.
        """
        run = find_run(name)
        directory = _directory(run)
        settings = json.loads((directory / SETTINGS).read_text())
        return cls(
            run=run,
            maker=_maker(run),
            directory=directory,
            llama=LlamaSettings(**settings["model"]),
            train=TrainSettings(**settings["train"]),
            shards=settings["shards"],
            starts=read_lines(directory / STARTS),
            lines=read_lines(directory / TRAIN_LOG),
            steps=read_rows(directory / TRAIN_LOG),
        )

    def start_of(self, line: Line) -> Line:
        """Return what was found out when the worker started that wrote a line."""
        earlier = [each for each in self.starts if each["cursor_rows"] < line["cursor_rows"]]
        return earlier[-1]

    def snapshot_before(self, step: int) -> Snapshot | None:
        """Return the last snapshot from which training came to a step; None is the start."""
        cursors = {row["step"]: row["cursor_rows"] for row in self.steps if row["step"] < step}
        found = [*complete_snapshots(self.directory), *stopped_snapshots(self.directory)]
        records = [(each.read(), each) for each in found]
        # One that a spike undid is a state of other rows, though it has the number of the step.
        usable = [
            (record["step"], each)
            for record, each in records
            if cursors.get(record["step"]) == record["cursor_rows"]
        ]
        return max(usable, key=lambda pair: int(pair[0]), default=(0, None))[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What was logged between a state and a step that it led to."""

    first_step: int
    "The state's."
    cursor_rows: int
    "With which the state went on; after a spike, past the rows that it had seen."
    num_spikes: int
    lines: Sequence[Line]
    "Up to that of the last step."


def stretch(lines: Sequence[Line], last: Line, first_step: int) -> Stretch:
    """Cut out the lines that lead from the state after one step to another step's line."""
    end = next(n for n, line in enumerate(lines) if line["cursor_rows"] == last["cursor_rows"])
    begin = max((n + 1 for n in range(end) if _reached(lines[n]) == first_step), default=0)
    return Stretch(
        first_step=first_step,
        cursor_rows=lines[begin - 1]["cursor_rows"] if begin else 0,
        num_spikes=sum(SPIKE in line for line in lines[:begin]),
        lines=lines[begin : end + 1],
    )


def _reached(line: Line) -> int | None:
    """Return the step at which a line left the state, None where it left it as it was."""
    step: int | None = line.get(BACK_TO, None if SPIKE in line else line["step"])
    return step


def _maker(run: Run) -> Run:
    made_by = run.stage_records().get("train", {}).get("reused_from")
    try:
        return find_run(made_by) if made_by else run
    except NotFoundError:
        return run


def _directory(run: Run) -> Path:
    ref = run.stage_records().get("train", {}).get("output")
    if ref is not None:
        return open_store().open(parse_ref(ref)).directory
    live = training_directory(run)
    if live is None or not (live / TRAIN_LOG).is_file():
        raise NotFoundError("training with a log", run.name)
    return live
