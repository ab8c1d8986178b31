"""Where the losses of a recorded training turned for the worse, to the step.

The largest spike is read off the log. A validation loss that rose between two snapshots is found by
training from the first of them again, and halving the steps between.
"""

import copy
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from model.training_state import TrainingState
from tasks.recorded_training import Line, RecordedTraining, stretch
from tasks.replay import Rerun
from tasks.snapshots import Snapshot, complete_snapshots
from tasks.val_losses import ValLosses
from tasks.validation import Validation

QUANTITIES = ("train_loss", "grad_norm")
MIN_BEFORE = 8
"""Steps before one is compared with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestSpike:
    """The step whose loss or gradient norm stands farthest above those before it."""

    line: Line
    quantity: str
    value: float
    mean: float
    deviations: float
    num_before: int
    bound: float
    """Deviations from which on the training itself calls it a spike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """The step at which the validation loss passed the middle between two snapshots."""

    begun: str
    first_step: int
    last_step: int
    val_loss_before: float
    val_loss_after: float
    step: int
    """The first one after which the loss was above the middle, and had not been a step before."""
    val_losses: Mapping[str, float]
    """By the step after which they were measured."""
    recorded_after: float | None
    """What the log's snapshot says of the last step; None where there is none."""


def largest_spike(training: RecordedTraining) -> LargestSpike | None:
    """Find the step that stands out most; None where the log is too short to tell."""
    before: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    found: list[LargestSpike] = []
    for line in training.lines:
        for name in QUANTITIES:
            window = before[name][-training.train.spike_window :]
            if spike := _stands_out(line, name, window, training.train.spike_deviations):
                found.append(spike)
            before[name].append(line[name])
    return max(found, key=lambda spike: spike.deviations, default=None)


def _stands_out(
    line: Line, name: str, window: Sequence[float], bound: float
) -> LargestSpike | None:
    if len(window) < MIN_BEFORE or not (deviation := statistics.pstdev(window)):
        return None
    mean = statistics.fmean(window)
    return LargestSpike(
        line=line,
        quantity=name,
        value=line[name],
        mean=mean,
        deviations=(line[name] - mean) / deviation,
        num_before=len(window),
        bound=bound,
    )


def find_regression(training: RecordedTraining) -> Regression | None:
    """Find the largest rise of the validation loss from snapshot to snapshot, to its step.

    Steps after the last snapshot count as one stretch more: a failed training leaves them.
    """
    snapshots = complete_snapshots(training.directory)
    records = [snapshot.read() for snapshot in snapshots]
    rises = [
        (float(after["val_loss"]) - float(before["val_loss"]), number)
        for number, (before, after) in enumerate(itertools.pairwise(records))
    ]
    last = int(training.steps[-1]["step"]) if training.steps else 0
    if (
        records
        and last > records[-1]["step"]
        and (found := _halve(training, snapshots[-1], last, None))
    ):
        return found
    rise, number = max(rises, default=(0.0, 0))
    if rise <= 0:
        return None
    after = records[number + 1]
    return _halve(training, snapshots[number], int(after["step"]), float(after["val_loss"]))


def _halve(
    training: RecordedTraining, snapshot: Snapshot, last_step: int, recorded: float | None
) -> Regression | None:
    """Train on from a snapshot as often as it takes; None if the loss did not rise."""
    first_step = int(snapshot.read()["step"])
    line = next(row for row in training.steps if row["step"] == last_step)
    rerun = Rerun(training, line)
    state = rerun.state(snapshot, stretch(training.lines, line, first_step))
    score = _scorer(rerun)
    losses = {first_step: score(state)}
    low, high = first_step, last_step
    losses[high] = score(_advanced(rerun, state, high))
    before, after = losses[low], losses[high]
    if after <= before:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        reached = _advanced(rerun, state, middle)
        losses[middle] = score(reached)
        if losses[middle] > (before + after) / 2:
            high = middle
        else:
            low, state = middle, reached
    return Regression(
        begun=snapshot.name,
        first_step=first_step,
        last_step=last_step,
        val_loss_before=before,
        val_loss_after=after,
        step=high,
        val_losses={str(each): losses[each] for each in sorted(losses)},
        recorded_after=recorded,
    )


def _advanced(rerun: Rerun, state: TrainingState, step: int) -> TrainingState:
    """Train a copy of a state up to a step."""
    reached = copy.deepcopy(state)
    steps = rerun.steps(reached)
    while reached.step < step:
        next(steps)
    return reached


def _scorer(rerun: Rerun) -> Callable[[TrainingState], float]:
    """Open the validation rows, which score a state as an epoch's end does."""
    validation = Validation.open(
        rerun.shards,
        rerun.index,
        device=rerun.device,
        document_end=rerun.training.train.document_end(rerun.index.end_of_text_id),
    )

    def score(state: TrainingState) -> float:
        return ValLosses.of(validation.count(state.model)).statistics().mean_nats

    return score
