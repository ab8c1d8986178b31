"""What a training worker holds from its start to its end."""

from dataclasses import dataclass, field
from pathlib import Path

from data.rows import Rows
from model.ranks import Ranks
from model.state_copy import Staging
from model.training_state import TrainingState
from tasks.pulse import Doing, Heart
from tasks.snapshot_writer import SnapshotWriter
from tasks.train_job import Job
from tasks.train_judge import TrainJudge
from tasks.validation import Validation


@dataclass(slots=True, kw_only=True)
class Session:
    """A training under way, on one rank."""

    job: Job
    ranks: Ranks
    heart: Heart | None
    state: TrainingState
    train_rows: Rows
    validation: Validation
    judge: TrainJudge | None
    "On the first rank, which alone judges and writes."
    writer: SnapshotWriter
    staging: Staging = field(default_factory=Staging)
    steps: list[tuple[float, float]] = field(default_factory=list)
    "When each step since the last epoch was reported, on the performance counter, and its seconds."
    doing: Doing = "starting"
    ended: bool = False
    "Whether training has brought all that it will; all ranks agree."

    @property
    def directory(self) -> Path:
        """Where the training is."""
        return Path(self.job.directory)

    def agree_whether_ended(self) -> None:
        """Have the first rank tell the others whether training goes on."""
        self.ended = self.ranks.gather(self.judge is not None and self.judge.ended)[0]

    def beat(self, doing: Doing | None = None, counted: tuple[int, int] | None = None) -> None:
        """Say that this rank lives, what it does, and how much of how much is done."""
        self.doing = doing or self.doing
        if self.heart is not None:
            self.heart.beat(self.state.step, doing, counted)
