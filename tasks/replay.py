"""Make a stretch of a recorded training again, from the snapshot before it, and compare.

Without Prefect, and in this process: what is replayed is the loop, on what the log says it ran on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from data.batches import batches
from data.rows import open_rows
from data.shard import ShardsIndex
from evidence.refs import parse_ref
from model.apr_model import read_model
from model.errors import ModelError, WrongSettingError
from model.ranks import Ranks
from model.reports import EpochReport, SpikeReport
from model.state_digest import state_digest
from model.train import train
from model.train_settings import TrainSettings
from model.training_state import TrainingState, load_training_state, new_state
from tasks.determinism import repeat_every_bit
from tasks.device import available_device
from tasks.gpu import device_name
from tasks.parting import MEMORY, START, Parting, find_parting
from tasks.provenance import provenance
from tasks.recorded_training import Line, RecordedTraining, Stretch, stretch
from tasks.snapshots import Snapshot
from tasks.step_watch import DIGEST_STEPS, SPIKE, STATE_DIGEST
from tasks.store import open_store

REPRODUCES = "reproduces bit for bit"
WITHIN_NOISE = "reproduces within the noise of two replays"
DEPARTS = "does not reproduce"
INCOMPARABLE = "cannot be compared"
NOISY = ("train_loss", "grad_norm", "update_norm")
"""What rounding may change where a device adds in no fixed order."""
FLOORS = 10.0
"""Differences of so many noise floors are explained by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What was recorded, what came of doing it again, and what that says."""

    run: str
    step: int
    begun: str
    """The snapshot that it began from, or the start."""
    first_step: int
    num_lines: int
    """Of the log, steps and spikes, that were made again."""
    recorded: Line
    replayed: Line | None
    """The last line of both; None if the replay ended before it."""
    parting: Parting | None
    """The first difference of the stretch, the recorded value left."""
    is_exact: bool
    """Whether all agrees that rounding cannot change."""
    error: str | None
    """What ended the replay before its last step."""
    surroundings: dict[str, tuple[Any, Any]]
    """What the training ran on, and this replay, where that is not the same."""
    floor: dict[str, float] | None
    """The largest relative differences between two replays; None if the first one agreed."""
    distance: dict[str, float]
    """Those between the record and the replay."""

    @property
    def verdict(self) -> str:
        """Judge: two replays that differ from each other excuse a record that differs as much."""
        if self.parting is None and self.error is None:
            return REPRODUCES
        floor = self.floor or {}
        is_noise = any(floor.values()) and all(
            self.distance[name] <= FLOORS * floor[name] for name in NOISY
        )
        if self.error is None and self.is_exact and is_noise:
            return WITHIN_NOISE
        return INCOMPARABLE if self.surroundings else DEPARTS


class Rerun:
    """The surroundings of a recorded training, set up once and good for several replays."""

    def __init__(self, training: RecordedTraining, last: Line) -> None:
        self.training = training
        self.start = training.start_of(last)
        self.device = available_device(str(self.start["device"]))
        self.surroundings = _surroundings(training, self.start, self.device)
        shards = open_store().open(parse_ref(training.shards))
        self.index = shards.read_index(ShardsIndex)
        self.shards = shards.directory
        self.rows = open_rows(self.shards, self.index, "train")
        torch.set_num_threads(int(self.start["num_threads"]))
        if self.start["deterministic"]:
            repeat_every_bit()

    def state(self, snapshot: Snapshot | None, part: Stretch) -> TrainingState:
        """Rebuild the state with which a stretch began.

        Raises: SnapshotDamagedError.
        """
        llama, settings = self.training.llama, self.training.train
        if snapshot is None:
            state = new_state(llama, settings, self.device)
        else:
            snapshot.require_whole()
            tensors = read_model(snapshot.weights)[1]
            state = load_training_state(llama, settings, tensors, snapshot.state, self.device)
        state.cursor_rows, state.num_spikes = part.cursor_rows, part.num_spikes
        return state

    def steps(
        self, state: TrainingState, settings: TrainSettings | None = None
    ) -> Iterator[dict[str, Any]]:
        """Train on from a state, and yield what the log would say."""
        train_settings = settings or self.training.train
        stream = batches(
            self.rows,
            batch_rows=train_settings.batch_rows,
            seed=train_settings.seed,
            max_passes=train_settings.max_passes,
            cursor=state.cursor_rows,
        )
        reports = train(
            state,
            stream,
            train_settings,
            document_end=train_settings.document_end(self.index.end_of_text_id),
            compiled=bool(self.start["compiled"]),
            digest_steps=int(self.start.get(DIGEST_STEPS, 1)),
        )
        for report in reports:
            if not isinstance(report, EpochReport):
                yield _line(asdict(report), is_spike=isinstance(report, SpikeReport))


def replay_line(training: RecordedTraining, recorded: Line) -> Replay:
    """Make the step of a line again, and all those since the snapshot before it.

    Raises: DeviceUnavailableError, SnapshotDamagedError, and those of `Store.open`.
    """
    step = int(recorded["step"])
    snapshot = training.snapshot_before(step)
    first = int(snapshot.read()["step"]) if snapshot else 0
    part = stretch(training.lines, recorded, first)
    rerun = Rerun(training, recorded)
    state = rerun.state(snapshot, part)
    changed, same_state = _compare_states(rerun, state)
    lines, error = _collect(rerun.steps(state), len(part.lines))
    parting = changed or find_parting(part.lines, lines, same_state)
    floor = None
    if parting or error:
        again, _ = _collect(rerun.steps(rerun.state(snapshot, part), _resplit(rerun)), len(lines))
        floor = _distance(lines, again)
    return Replay(
        run=training.run.name,
        step=step,
        begun=snapshot.name if snapshot else "the start",
        first_step=first,
        num_lines=len(part.lines),
        recorded=recorded,
        replayed=lines[-1] if len(lines) == len(part.lines) else None,
        parting=parting,
        is_exact=not find_parting(_exact(part.lines), _exact(lines)),
        error=error,
        surroundings=rerun.surroundings,
        floor=floor,
        distance=_distance(part.lines, lines),
    )


def require_step(training: RecordedTraining, step: int) -> Line:
    """Return the line of a step.

    Raises: WrongSettingError if the log has none.
    """
    found = next((row for row in training.steps if row["step"] == step), None)
    if found is None:
        last = training.steps[-1]["step"] if training.steps else 0
        raise WrongSettingError("--step", step, f"from 1 to {last}, as {training.run.name} logged")
    return found


def _line(report: dict[str, Any], *, is_spike: bool) -> dict[str, Any]:
    """Write a report as the log has it."""
    if is_spike:
        report[SPIKE] = report.pop("quantity")
    return {name: value for name, value in report.items() if value is not None}


def _collect(
    steps: Iterator[dict[str, Any]], num_lines: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Take so many lines, or as many as there are before an error, and that."""
    lines: list[dict[str, Any]] = []
    try:
        while len(lines) < num_lines:
            lines.append(next(steps))
    except ModelError as error:
        return lines, str(error)
    return lines, None


def _resplit(rerun: Rerun) -> TrainSettings:
    """Add up in another order where the recorded one cannot be had: rounding shows then."""
    settings = rerun.training.train
    if not rerun.surroundings:
        return settings
    return replace(settings, micro_batch_rows=max(1, settings.micro_batch_rows // 2))


def _exact(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Leave out what rounding may change."""
    noisy = (*NOISY, STATE_DIGEST)
    return [{name: line[name] for name in line if name not in noisy} for line in lines]


def _compare_states(rerun: Rerun, state: TrainingState) -> tuple[Parting | None, int | None]:
    """Compare a state with the log: say how it differs, or the step of which it is the state."""
    logged = _digest_at(rerun.training, state.step)
    if logged is None or "num_ranks" in rerun.surroundings:
        return None, None
    found = state_digest(state, Ranks())
    if found == logged:
        return None, state.step
    look = "the snapshot is not the state that was logged" if state.step else "the first weights"
    differing = Parting(
        step=state.step,
        fact=STATE_DIGEST,
        left=logged,
        right=found,
        kind=MEMORY if state.step else START,
        look=look,
        same_state=None,
    )
    return differing, None


def _distance(left: Sequence[Line], right: Sequence[Line]) -> dict[str, float]:
    """Return the largest relative difference of every noisy number."""
    return {
        name: max(
            (_relative(a[name], b[name]) for a, b in zip(left, right, strict=False) if name in a),
            default=0.0,
        )
        for name in NOISY
    }


def _relative(left: float, right: float) -> float:
    return 0.0 if left == right else abs(left - right) / max(abs(left), abs(right))


def _digest_at(training: RecordedTraining, step: int) -> str | None:
    """Return what the log says of the state after a step; 0 is the start."""
    lines = training.steps if step else training.starts[:1]
    found = (line.get(STATE_DIGEST) for line in lines if line["step"] == step)
    return next(found, None)


def _surroundings(
    training: RecordedTraining, start: Line, device: str
) -> dict[str, tuple[Any, Any]]:
    """List what may change a bit and is not as it was."""
    recorded = training.maker.plan()["provenance"]
    before = {
        "device": start["device_name"],
        "cpu": recorded["cpu"],
        "torch": start["torch"],
        "num_ranks": start["num_ranks"],
    }
    now = {
        "device": device_name(torch.device(device)),
        "cpu": provenance()["cpu"],
        "torch": torch.__version__,
        "num_ranks": 1,
    }
    if device != "cpu":
        del before["cpu"]
    return {name: (was, now[name]) for name, was in before.items() if now[name] != was}
