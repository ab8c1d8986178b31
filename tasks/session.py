"""What a training worker holds from its start to its end."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.ranks import Ranks
from model.state_copy import Staging
from model.training_state import TrainingState
from tasks.pulse import Doing, Heart
from tasks.snapshot_writer import SnapshotWriter
from tasks.train_job import Job
from tasks.validation import Validation


@dataclass(slots=True, kw_only=True)
class Session:
    """A training under way, on one rank."""

    job: Job
    ranks: Ranks
    heart: Heart | None
    state: TrainingState
    validation: Validation
    num_train_rows: int
    writer: SnapshotWriter
    staging: Staging = field(default_factory=Staging)
    rows: list[dict[str, Any]] = field(default_factory=list)
    "Of the log, since the last epoch."
    ended: list[tuple[float, float]] = field(default_factory=list)
    "When a step ended, on the performance counter, and how long it took."

    @property
    def directory(self) -> Path:
        """Where the training is."""
        return Path(self.job.directory)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.ranks.rank == 0

    def beat(self, doing: Doing | None = None) -> None:
        """Say that this rank lives."""
        if self.heart is not None:
            self.heart.beat(self.state.step, doing)
