"""The training loop, as a generator of facts.

While it is suspended nothing changes, so whoever consumes the reports may validate, save and log.
Every reported number is measured: the tokens from the targets, the learning rate and the step from
the optimizer.

Shapes: B rows, T positions, S = T + 1 ids of a row.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from model.errors import NonFiniteError, StreamExhaustedError, WrongSettingError
from model.loss import PADDING, token_losses
from model.optimizer import read_learning_rate, set_learning_rate
from model.precision import matmul_precision
from model.schedule import learning_rate
from model.train_settings import TrainSettings
from model.training_state import TrainingState

VERSION = 2

__all__ = ["VERSION", "EpochReport", "StepReport", "TrainSettings", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One update."""

    step: int
    train_loss: float
    """Nats per token, on the batch of this step, before its update."""
    grad_norm: float
    """Over all parameters, before clipping."""
    learning_rate: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """The end of an epoch, the last of which may be short."""

    epoch: int
    step: int
    num_steps: int


def train(
    state: TrainingState, batches: Iterator[np.ndarray], settings: TrainSettings
) -> Iterator[StepReport | EpochReport]:
    """Advance the state to the step budget, reporting every step and every epoch.

    `batches` yields int64 ids, beginning with the row that the state's cursor names; `PADDING` may
    follow the last token of a row.

    Shapes: every batch (B, S).
    Raises: StreamExhaustedError, NonFiniteError, WrongSettingError; the state is then as it was
        after the last reported step.
    """
    while state.step < settings.num_steps:
        ids_BS = next(batches, None)
        if ids_BS is None:
            raise StreamExhaustedError(state.step, settings.num_steps)
        with matmul_precision(settings.matmul_precision):
            report = _step(state, ids_BS, settings)
        yield report
        first_of_epoch = (state.step - 1) // settings.steps_per_epoch * settings.steps_per_epoch
        in_epoch = state.step - first_of_epoch
        if in_epoch == settings.steps_per_epoch or state.step == settings.num_steps:
            epoch = first_of_epoch // settings.steps_per_epoch
            yield EpochReport(epoch=epoch, step=state.step, num_steps=in_epoch)


def _step(state: TrainingState, ids_BS: np.ndarray, settings: TrainSettings) -> StepReport:
    ids = _on_device(state, ids_BS, settings)
    targets_BT = ids[:, 1:]
    num_targets = int((ids_BS[:, 1:] != PADDING).sum())
    state.optimizer.zero_grad()
    # Padding is only ever followed by padding: what the model is given there reaches no target.
    losses_BT = token_losses(state.model(ids[:, :-1].clamp(min=0)), targets_BT)
    loss = losses_BT.sum() / num_targets
    train_loss = _finite("loss", state.step + 1, loss)
    torch.autograd.backward(loss)
    grad_norm = _clip(state, settings)
    rate = learning_rate(
        state.step + 1,
        peak=settings.peak_lr,
        final_ratio=settings.final_lr_ratio,
        warmup_steps=settings.warmup_steps,
        num_steps=settings.num_steps,
    )
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    _count(state, len(ids_BS), num_targets)
    return StepReport(
        step=state.step,
        train_loss=train_loss,
        grad_norm=grad_norm,
        learning_rate=read_learning_rate(state.optimizer),
        tokens=num_targets,
    )


def _on_device(state: TrainingState, ids_BS: np.ndarray, settings: TrainSettings) -> Tensor:
    if ids_BS.shape[0] != settings.batch_rows:
        expected = f"{ids_BS.shape[0]}, as in the batch"
        raise WrongSettingError("train.batch_rows", settings.batch_rows, expected)
    vocab_size = state.model.settings.vocab_size
    if not PADDING <= ids_BS.min() <= ids_BS.max() < vocab_size:
        expected = f"above every token id ({ids_BS.min()} to {ids_BS.max()})"
        raise WrongSettingError("model.vocab_size", vocab_size, expected)
    device = next(state.model.parameters()).device
    return torch.from_numpy(ids_BS).to(device)


def _clip(state: TrainingState, settings: TrainSettings) -> float:
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    grad_norm = _finite("gradient norm", state.step + 1, norm)
    clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    return grad_norm


def _finite(quantity: str, step: int, measured: Tensor) -> float:
    value = measured.item()
    if not math.isfinite(value):
        raise NonFiniteError(quantity, step, value)
    return value


def _count(state: TrainingState, num_rows: int, num_targets: int) -> None:
    state.step += 1
    assert state.optimizer.num_updates() == state.step
    state.tokens_seen += num_targets
    state.cursor_rows += num_rows
