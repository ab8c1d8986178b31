"""Turns the training loop's reports into log lines and verdicts, and stops at the first failure.

Everything that is compared is written down first, so that the verdict can be recomputed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from evidence.gates import Gate, require
from model.flops import training_flops_per_token
from model.reports import SpikeReport, StepReport
from model.train import TrainSettings
from model.training_state import TrainingState
from tasks.epoch_watch import EpochPlan, EpochWatch
from tasks.errors import ArtefactDamagedError
from tasks.gpu import gpu_meter
from tasks.leaks import LeakCount
from tasks.snapshots import Snapshot, complete_snapshots
from tasks.stage import judge_all
from tasks.step_watch import BACK_TO, MFU, SPIKE, STATE_DIGEST, Row, StepPlan, StepWatch
from tasks.thresholds import Thresholds
from tasks.train_gates import EPOCH_GATES, START_GATES, STEP_GATES
from tasks.training_log import TRAIN_LOG, append_row, read_lines, read_rows
from tasks.training_start import STARTS, Surroundings
from tasks.val_losses import ValLosses


def watch_steps(
    directory: Path, settings: TrainSettings, context_length: int
) -> tuple[StepWatch, list[dict[str, float]]]:
    """Measure every line of a training directory, and return what has seen them all too."""
    starts = read_lines(directory / STARTS)
    plan = StepPlan(
        train=settings, context_length=context_length, uniform_nats=starts[-1]["uniform_nats"]
    )
    watch = StepWatch(plan, starts)
    return watch, [watch.measure(line) for line in read_lines(directory / TRAIN_LOG)]


def watch_epochs(
    directory: Path, settings: TrainSettings
) -> tuple[EpochWatch, list[dict[str, float | None]]]:
    """Measure every epoch of a training directory, and return what has seen them all too."""
    start = read_lines(directory / STARTS)[-1]
    nats = {name: start[name] for name in ("uniform_nats", "unigram_nats")}
    watch, rows = EpochWatch(EpochPlan(train=settings, **nats)), read_rows(directory / TRAIN_LOG)
    return watch, [
        watch.measure(rows_of(snapshot, rows), ValLosses.read(snapshot.state))
        for snapshot in complete_snapshots(directory)
    ]


def is_finished(directory: Path, settings: TrainSettings) -> bool:
    """Tell whether nothing is left to train, because the budget is used up or would be in vain."""
    snapshots = complete_snapshots(directory)
    if not snapshots:
        return False
    return snapshots[-1].read()["step"] == settings.num_steps or (
        watch_epochs(directory, settings)[0].ended
    )


def rows_of(snapshot: Snapshot, rows: Sequence[Row]) -> list[Row]:
    """Return the steps of a complete snapshot's epoch.

    Raises: ArtefactDamagedError if the log has none of them.
    """
    earlier = [
        each.read()["step"]
        for each in complete_snapshots(snapshot.directory.parent)
        if each.epoch < snapshot.epoch
    ]
    first, last = max(earlier, default=0), snapshot.read()["step"]
    found = [row for row in rows if first < row["step"] <= last]
    if not found:
        log = snapshot.directory.parent / TRAIN_LOG
        raise ArtefactDamagedError(log, f"no step of epoch {snapshot.epoch}", f"{last - first}")
    return found


class TrainJudge:
    """Judges one training as it happens."""

    def __init__(
        self,
        start: Mapping[str, Any],
        settings: TrainSettings,
        thresholds: Thresholds,
        places: Surroundings,
    ) -> None:
        self.settings = settings
        self.thresholds = asdict(thresholds)
        self.places = places
        self.leaks = LeakCount(places.validation)
        self._sample_gpu = gpu_meter(places.device)
        with (places.directory / STARTS).open("a") as file:
            append_row(file, dict(start))
        self._require(START_GATES, start, f"before step {start['step'] + 1}")
        self._peak = start.get("peak_flops_per_second")
        self._steps, _ = watch_steps(places.directory, settings, places.index.context_length)
        self._epochs, _ = watch_epochs(places.directory, settings)

    @property
    def ended(self) -> bool:
        """Whether training has brought all that it will."""
        return self._epochs.ended

    def step(self, log: IO[str], report: StepReport, state: TrainingState, seconds: float) -> None:
        """Log a step, and stop if something is wrong with it.

        Raises: GateFailedError.
        """
        row = {**self._row(report, state, seconds), **self._device(report, state, seconds)}
        measured = self._steps.measure(row)
        if not measured["flawed_fields"]:
            append_row(log, row)
        self._require(STEP_GATES, measured, f"step {report.step}")

    def spike(self, log: IO[str], report: SpikeReport, *, back_to: TrainingState | None) -> None:
        """Log a batch that was not learnt from, and how that was answered.

        Raises: GateFailedError.
        """
        row: dict[str, Any] = {
            **asdict(report),
            SPIKE: report.quantity,
            "response": self.settings.spike_response,
            "time": time.time(),
        }
        del row["quantity"]
        # It was not learnt from.
        self.leaks.next_count()
        if back_to is not None:
            row |= {BACK_TO: back_to.step, "tokens_seen": back_to.tokens_seen}
        append_row(log, row)
        gates = [gate for gate in STEP_GATES if gate.measured == "cursor_error"]
        self._require(gates, self._steps.measure(row), f"step {report.step}")

    def epoch(self, epoch: int, rows: Sequence[Row], losses: ValLosses) -> dict[str, float | None]:
        """Compare an epoch with those before, and stop if something is wrong with it.

        Raises: GateFailedError.
        """
        measured = self._epochs.measure(rows, losses)
        self._require(EPOCH_GATES, measured, f"epoch {epoch}")
        return measured

    def _require(self, gates: Sequence[Gate], measured: Mapping[str, Any], where: str) -> None:
        require(judge_all(gates, measured, self.thresholds), where)

    def _row(self, report: StepReport, state: TrainingState, seconds: float) -> dict[str, Any]:
        row = {
            **asdict(report),
            "tokens_seen": state.tokens_seen,
            "leaked_rows": self.leaks.next_count(),
            "tokens_per_second": report.tokens / seconds,
            "wall_seconds": seconds,
            "time": time.time(),
        }
        if report.state_digest is None:
            del row[STATE_DIGEST]
        return row

    def _device(self, report: StepReport, state: TrainingState, seconds: float) -> dict[str, float]:
        """Measure what not every device tells."""
        measured = self._sample_gpu()
        if self._peak:
            flops = training_flops_per_token(state.model.settings, self.places.index.context_length)
            peak = self._peak * self.places.ranks.size
            measured[MFU] = report.tokens * flops / seconds / peak
        return measured
