"""What every epoch is compared with: the plan, its own steps, and the epochs before it.

Like the watch of steps, it gives the worker and whoever measures later the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.loss_statistics import LossStatistics
from model.paired_losses import improvement, line_end
from model.train_settings import TrainSettings
from tasks.step_watch import GPU_FIELDS, MFU, Row
from tasks.val_losses import ValLosses

LINE_STEPS = 50
"""Steps at an epoch's end through which the training loss is drawn as a line."""
UNSETTLED_STEPS = 10
"""First steps of a training in which a device need not be busy yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """What a training was asked for, as far as epochs show it."""

    train: TrainSettings
    uniform_nats: float
    unigram_nats: float


@dataclass(slots=True)
class _Past:
    """What the epochs so far leave to compare with."""

    num_epochs: int
    val_loss: float
    reference: ValLosses | None
    "Of the last epoch that improved."
    stale_epochs: int
    smallest_gap: float


class EpochWatch:
    """Measures epochs in their order, and says when there have been enough."""

    def __init__(self, plan: EpochPlan) -> None:
        self.plan = plan
        self._past = _Past(0, plan.uniform_nats, None, 0, math.inf)

    @property
    def ended(self) -> bool:
        """Whether so many epochs in a row brought nothing that more of them would be in vain."""
        train = self.plan.train
        return (
            self._past.num_epochs >= train.early_stop_min_epochs
            and self._past.stale_epochs >= train.early_stop_patience
        )

    def measure(self, rows: Sequence[Row], losses: ValLosses) -> dict[str, float | None]:
        """Compare an epoch with what it should follow from."""
        val = losses.statistics()
        measured: dict[str, float | None] = {
            "val_loss_growth": val.mean_nats / self._past.val_loss,
            "smallest_val_loss": val.mean_nats,
            "val_standard_error_nats": val.standard_error_nats,
            **self._improvement(losses),
            **self._gap(rows, val),
            **_device(rows),
        }
        if rows[0]["step"] > self.plan.train.warmup_steps:
            measured["val_loss_to_unigram"] = val.mean_nats / self.plan.unigram_nats
        self._past.num_epochs += 1
        self._past.val_loss = val.mean_nats
        return measured

    def _improvement(self, losses: ValLosses) -> dict[str, float | None]:
        past = self._past
        if past.reference is None:
            past.reference = losses
            return {}
        found = improvement(past.reference.nats, losses.nats, losses.tokens)
        error = found.standard_error_nats
        wanted = self.plan.train.early_stop_errors
        if error is not None and found.mean_nats > wanted * error:
            past.reference, past.stale_epochs = losses, 0
        else:
            past.stale_epochs += 1
        return {"improvement_nats": found.mean_nats, "improvement_error_nats": error}

    def _gap(self, rows: Sequence[Row], val: LossStatistics) -> dict[str, float]:
        """Compare validation with training at the epoch's end, in standard errors of both."""
        last = np.array([row["train_loss"] for row in rows[-LINE_STEPS:]])
        if len(last) < 3 or val.standard_error_nats is None:
            return {}
        train_loss, train_error = line_end(last)
        error = math.hypot(train_error, val.standard_error_nats)
        gap = val.mean_nats - train_loss
        measured = {"train_loss_at_end": train_loss, "val_below_train_errors": -gap / error}
        if self._past.num_epochs:
            measured["gap_growth_errors"] = (gap - self._past.smallest_gap) / error
        self._past.smallest_gap = min(gap, self._past.smallest_gap)
        return measured


def _device(rows: Sequence[Row]) -> dict[str, float]:
    measured = {}
    if MFU in rows[0]:
        measured["epoch_mfu_c1"] = math.fsum(row[MFU] for row in rows) / len(rows)
    settled = [row for row in rows if row["step"] > UNSETTLED_STEPS]
    if settled and rows[0].keys() >= GPU_FIELDS:
        busy = sum(row["gpu_utilization_percentage"] > 0 for row in settled)
        measured["gpu_busy_share"] = busy / len(settled)
    return measured
