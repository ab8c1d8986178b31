"""The training loop, as a generator of facts.

While it is suspended nothing changes, so whoever consumes the reports may validate, save and log.
Every reported number is measured: the tokens from the targets, the learning rate and the number of
updates from the optimizer, the update's norm from the weights before and after.

Shapes: B rows, T positions, S = T + 1 ids of a row.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from model.errors import LossSpikeError, NonFiniteError, StreamExhaustedError, WrongSettingError
from model.loss import PADDING
from model.optimizer import read_learning_rate, set_learning_rate
from model.passes import Passes, passes_of
from model.precision import matmul_precision
from model.ranks import Ranks, own_part, whole
from model.schedule import learning_rate
from model.spikes import Spike, find_spike
from model.state_digest import is_digested, state_digest
from model.train_settings import TrainSettings
from model.training_state import TrainingState

VERSION = 5

__all__ = [
    "VERSION",
    "EpochReport",
    "Report",
    "SpikeReport",
    "StepReport",
    "TrainSettings",
    "accumulate",
    "batch_digest",
    "count_targets",
    "train",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One update."""

    step: int
    updates: int
    """As the optimizer counts them."""
    train_loss: float
    """Nats per token, on the batch of this step, before its update."""
    grad_norm: float
    """Over all parameters, before clipping."""
    update_norm: float
    """Of the difference that the update made to all parameters."""
    learning_rate: float
    tokens: int
    cursor_rows: int
    """Rows consumed so far, those of this step included."""
    batch_digest: str
    state_digest: str | None
    """After the update; None where it was not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpikeReport:
    """A batch that was read and not learnt from."""

    step: int
    """The step that it would have been; the next batch has that number."""
    train_loss: float
    grad_norm: float
    quantity: str
    bound: float
    tokens: int
    cursor_rows: int
    batch_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """The end of an epoch, the last of which may be short."""

    epoch: int
    step: int
    num_steps: int


Report = StepReport | SpikeReport | EpochReport


def train(
    state: TrainingState,
    batches: Iterator[np.ndarray],
    settings: TrainSettings,
    ranks: Ranks | None = None,
    *,
    document_end: int | None = None,
    compiled: bool = False,
    digest_steps: int = 1,
) -> Iterator[Report]:
    """Advance the state to the step budget, reporting every step and every epoch.

    `batches` yields int64 ids of all ranks, beginning with the row that the state's cursor names;
    `PADDING` may follow the last token of a row. After a spike that is answered with `rollback` the
    caller returns to an earlier state, keeping the cursor and the number of spikes. `document_end`
    is the id behind which a token sees nothing of its row, None where documents are not masked.
    `compiled` says whether kernels are made for the model, which takes a while at first.
    The state is digested every `digest_steps` steps and at the end of an epoch.

    Shapes: every batch (B, S).
    Raises: StreamExhaustedError, NonFiniteError, LossSpikeError, WrongSettingError; weights and
        optimizer are then as they were after the last reported step, unless it is the update itself
        that is not finite.
    """
    ranks = ranks or Ranks()
    passes = passes_of(state.model, settings.precision, compiled=compiled)
    while state.step < settings.num_steps:
        ids_BS = next(batches, None)
        if ids_BS is None:
            raise StreamExhaustedError(state.step, settings.num_steps)
        with matmul_precision(settings.precision):
            report = _step(state, ids_BS, settings, passes, ranks, document_end, digest_steps)
        yield report
        if isinstance(report, StepReport):
            yield from _epoch_end(state.step, settings)


def _epoch_end(step: int, settings: TrainSettings) -> Iterator[EpochReport]:
    epoch = (step - 1) // settings.steps_per_epoch
    in_epoch = step - epoch * settings.steps_per_epoch
    if in_epoch == settings.steps_per_epoch or step == settings.num_steps:
        yield EpochReport(epoch=epoch, step=step, num_steps=in_epoch)


def _step(
    state: TrainingState,
    ids_BS: np.ndarray,
    settings: TrainSettings,
    passes: Passes,
    ranks: Ranks,
    document_end: int | None,
    digest_steps: int,
) -> StepReport | SpikeReport:
    _check(ids_BS, state, settings)
    num_targets = count_targets(ids_BS)
    loss = accumulate(state, ids_BS, settings, passes, ranks, document_end)
    # All of this while the device computes: after the transfer below it would wait for the host.
    weights = [own_part(parameter.detach()) for parameter in state.model.parameters()]
    before = [part.clone() for part in weights]
    digest = batch_digest(ids_BS)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
    with ranks.waiting():
        # One transfer for both: each would wait for the device.
        train_loss, grad_norm = torch.stack((loss, norm.to(loss.dtype))).tolist()
    _require_finite("loss", state.step + 1, train_loss)
    _require_finite("gradient norm", state.step + 1, grad_norm)
    state.cursor_rows += len(ids_BS)
    if spike := _spike(state, train_loss, grad_norm, settings):
        return _answer(state, spike, train_loss, grad_norm, ids_BS, digest, settings)
    clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    update_norm = _update(state, settings, ranks, weights, before)
    _require_finite("update norm", state.step + 1, update_norm)
    state.step += 1
    state.tokens_seen += num_targets
    state.recent.add(train_loss, grad_norm, settings.spike_window)
    return StepReport(
        step=state.step,
        updates=state.optimizer.num_updates(),
        train_loss=train_loss,
        grad_norm=grad_norm,
        update_norm=update_norm,
        learning_rate=read_learning_rate(state.optimizer),
        tokens=num_targets,
        cursor_rows=state.cursor_rows,
        batch_digest=digest,
        state_digest=(
            state_digest(state, ranks) if is_digested(state.step, digest_steps, settings) else None
        ),
    )


def batch_digest(ids_BS: np.ndarray) -> str:
    """Digest a batch's ids, in their order."""
    return hashlib.sha256(np.ascontiguousarray(ids_BS, "<i8").tobytes()).hexdigest()[:16]


def count_targets(ids_BS: np.ndarray) -> int:
    """Count the tokens that are predicted."""
    return int((ids_BS[:, 1:] != PADDING).sum())


def _check(ids_BS: np.ndarray, state: TrainingState, settings: TrainSettings) -> None:
    if ids_BS.shape[0] != settings.batch_rows:
        expected = f"{ids_BS.shape[0]}, as in the batch"
        raise WrongSettingError("train.batch_rows", settings.batch_rows, expected)
    vocab_size = state.model.settings.vocab_size
    if not PADDING <= ids_BS.min() <= ids_BS.max() < vocab_size:
        expected = f"above every token id ({ids_BS.min()} to {ids_BS.max()})"
        raise WrongSettingError("model.vocab_size", vocab_size, expected)


def accumulate(
    state: TrainingState,
    ids_BS: np.ndarray,
    settings: TrainSettings,
    passes: Passes,
    ranks: Ranks,
    document_end: int | None = None,
) -> Tensor:
    """Leave the gradients of the mean loss over all targets of the batch, and return that loss."""
    scale = ranks.loss_scale / count_targets(ids_BS)
    state.optimizer.zero_grad()
    passes.refresh()
    device = next(state.model.parameters()).device
    own_BS = torch.from_numpy(ranks.own(ids_BS)).to(device)
    micros = torch.split(own_BS, settings.micro_batch_rows)
    losses: list[Tensor] = []
    for number, micro_BS in enumerate(micros, start=1):
        with ranks.exchanging(passes, last=number == len(micros)):
            loss = passes(micro_BS, document_end, scale)
            torch.autograd.backward(loss)
            losses.append(loss.detach())
    return ranks.sum(torch.stack(losses).sum(0, keepdim=True) / ranks.loss_scale).squeeze(0)


def _require_finite(quantity: str, step: int, value: float) -> None:
    if not math.isfinite(value):
        raise NonFiniteError(quantity, step, value)


def _spike(
    state: TrainingState, train_loss: float, grad_norm: float, settings: TrainSettings
) -> Spike | None:
    return find_spike(
        state.recent,
        train_loss,
        grad_norm,
        window=settings.spike_window,
        deviations=settings.spike_deviations,
    )


def _answer(
    state: TrainingState,
    spike: Spike,
    train_loss: float,
    grad_norm: float,
    ids_BS: np.ndarray,
    digest: str,
    settings: TrainSettings,
) -> SpikeReport:
    """Report the spike, unless it ends the training.

    Raises: LossSpikeError.
    """
    if settings.spike_response == "stop" or state.num_spikes == settings.max_spikes:
        raise LossSpikeError(
            state.step + 1, spike.quantity, spike.value, spike.bound, state.num_spikes
        )
    state.num_spikes += 1
    return SpikeReport(
        step=state.step + 1,
        train_loss=train_loss,
        grad_norm=grad_norm,
        quantity=spike.quantity,
        bound=spike.bound,
        tokens=count_targets(ids_BS),
        cursor_rows=state.cursor_rows,
        batch_digest=digest,
    )


@torch.no_grad()
def _update(
    state: TrainingState,
    settings: TrainSettings,
    ranks: Ranks,
    weights: list[Tensor],
    before: list[Tensor],
) -> float:
    """Let the optimizer move the weights, and measure how far it did from what was before."""
    set_learning_rate(state.optimizer, learning_rate(state.step + 1, settings))
    state.optimizer.step()
    torch._foreach_sub_(before, weights)
    return float(ranks.norm(get_total_norm(before)))
