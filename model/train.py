"""The training loop, as a generator of facts.

While it is suspended neither weights nor optimizer change, so whoever consumes the reports may
validate, save and log. Every reported number is measured: the tokens from the targets, the learning
rate and the number of updates from the optimizer, the update's norm from the weights before and
after.

Shapes: B rows, T positions, S = T + 1 ids of a row.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from model.accumulate import accumulate
from model.batch import batch_digest, check_batch, count_targets
from model.distance import distance
from model.errors import LossSpikeError, NonFiniteError, StreamExhaustedError
from model.optimizer import read_learning_rate, set_learning_rate
from model.passes import Passes, passes_of
from model.precision import matmul_precision
from model.ranks import Ranks, own_part, whole
from model.reports import EpochReport, Report, SpikeReport, StepReport, StopReport
from model.schedule import learning_rate
from model.spikes import Spike, find_spike
from model.state_digest import begin_digest, is_digested
from model.train_settings import TrainSettings
from model.training_state import TrainingState
from model.transfers import coming

VERSION = 5

__all__ = ["VERSION", "TrainSettings", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    """A batch whose gradients are made, or still being made by the device."""

    ids_BS: np.ndarray
    num_targets: int
    batch_digest: str
    parameters: list[nn.Parameter]
    norm: Tensor
    "Of the gradients."
    measured: Callable[[], Tensor]
    "Waits for the loss and that norm."
    weights: list[Tensor]
    before: list[Tensor]
    "Copies of them."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Updated:
    """An update that is made, or still being made by the device."""

    train_loss: float
    grad_norm: float
    learning_rate: float
    num_targets: int
    batch_digest: str
    measured: Callable[[], Tensor]
    "Waits for the norm of the update and the fewest and the most updates of a parameter."
    digest: Callable[[], str] | None
    "Waits for that of the state, where one is due."


def train(
    state: TrainingState,
    batches: Iterator[np.ndarray],
    settings: TrainSettings,
    ranks: Ranks | None = None,
    *,
    document_end: int | None = None,
    compiled: bool = False,
    digest_steps: int = 1,
    ahead: bool = False,
    step_queued: Callable[[], object] = lambda: None,
) -> Iterator[Report]:
    """Advance the state to the step budget, reporting every step and every epoch.

    `batches` yields int64 ids (B, S) of all ranks, beginning with the row that the state's cursor
    names; `PADDING` may follow the last token of a row. After a spike that is answered with
    `rollback` the caller returns to an earlier state, keeping the cursor and the number of spikes.
    `document_end` is the id behind which a token sees nothing of its row, None without a mask.
    `compiled` says whether kernels are made for the model. The state is digested every
    `digest_steps` steps and at the end of an epoch. With `ahead` the next step's passes are begun
    before a step is reported, except at the end of an epoch, so that a GPU never waits for whoever
    consumes the reports. `step_queued` is called when all that belongs to a step is begun.

    Raises: StreamExhaustedError, NonFiniteError, LossSpikeError, WrongSettingError; weights and
        optimizer are then as they were after the last reported step, unless it is the update itself
        that is not finite.
    """
    ranks = ranks or Ranks()
    passes = passes_of(state.model, settings.precision, compiled=compiled)
    passing = partial(_pass, state, settings, passes, ranks, document_end, batches)
    updating = partial(
        _update_or_skip, state, settings, ranks, compiled=compiled, digest_steps=digest_steps
    )
    passed: _Passed | Exception | None = None
    while state.step < settings.num_steps:
        if ranks.stopping:
            yield StopReport(step=state.step)
        if isinstance(passed, Exception):
            raise passed
        passed = passed or passing()
        made, passed = updating(passed), None
        if isinstance(made, SpikeReport):
            yield made
        else:
            step_queued()
            if ahead and not settings.ends_epoch(state.step):
                passed = _attempt(passing)
            yield _report(state, made, ranks)
            if settings.ends_epoch(state.step):
                yield _epoch(state.step, settings)


def _attempt(passing: Callable[[], _Passed]) -> _Passed | Exception:
    """Begin a step; what is wrong with it waits until the one before is reported."""
    try:
        return passing()
    except Exception as error:  # noqa: BLE001
        return error


def _epoch(step: int, settings: TrainSettings) -> EpochReport:
    epoch = (step - 1) // settings.steps_per_epoch
    return EpochReport(epoch=epoch, step=step, num_steps=step - epoch * settings.steps_per_epoch)


def _pass(
    state: TrainingState,
    settings: TrainSettings,
    passes: Passes,
    ranks: Ranks,
    document_end: int | None,
    batches: Iterator[np.ndarray],
) -> _Passed:
    """Begin what can be done of a step before its loss is known; a GPU is still at it then."""
    ids_BS = next(batches, None)
    if ids_BS is None:
        raise StreamExhaustedError(state.step, settings.num_steps)
    check_batch(ids_BS, settings.batch_rows, state.model.settings.vocab_size)
    with matmul_precision(settings.precision):
        loss = accumulate(state, ids_BS, settings, passes, ranks, document_end)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
    # One transfer for both, ahead of the copies: these are made while the host judges.
    measured = coming(torch.stack((loss, norm.to(loss.dtype))))
    weights = [own_part(parameter.detach()) for parameter in state.model.parameters()]
    return _Passed(
        ids_BS=ids_BS,
        num_targets=count_targets(ids_BS),
        batch_digest=batch_digest(ids_BS),
        parameters=parameters,
        norm=norm,
        measured=measured,
        weights=weights,
        before=[weight.clone() for weight in weights],
    )


def _update_or_skip(
    state: TrainingState,
    settings: TrainSettings,
    ranks: Ranks,
    passed: _Passed,
    *,
    compiled: bool,
    digest_steps: int,
) -> _Updated | SpikeReport:
    """Wait for the loss, and begin the update unless the loss or the gradient is a spike."""
    with ranks.waiting():
        train_loss, grad_norm = passed.measured().tolist()
    _require_finite("loss", state.step + 1, train_loss)
    _require_finite("gradient norm", state.step + 1, grad_norm)
    state.cursor_rows += len(passed.ids_BS)
    if spike := _spike(state, train_loss, grad_norm, settings):
        return _answer(state, spike, train_loss, grad_norm, passed, settings)
    clip_grads_with_norm_(passed.parameters, settings.clip_norm, passed.norm)
    with matmul_precision(settings.precision):
        _update(state, settings)
        norm = ranks.norm(distance(passed.before, passed.weights, compiled=compiled))
    state.step += 1
    state.tokens_seen += passed.num_targets
    state.recent.add(train_loss, grad_norm, settings.spike_window)
    counts = state.optimizer.update_counts()
    measured = coming(torch.cat((norm.reshape(1), counts.to(norm))))
    is_due = is_digested(state.step, digest_steps, settings)
    return _Updated(
        train_loss=train_loss,
        grad_norm=grad_norm,
        learning_rate=read_learning_rate(state.optimizer),
        num_targets=passed.num_targets,
        batch_digest=passed.batch_digest,
        measured=measured,
        digest=begin_digest(state, ranks, compiled=compiled) if is_due else None,
    )


def _report(state: TrainingState, made: _Updated, ranks: Ranks) -> StepReport:
    """Wait for the update, and say what it was.

    The passes of the next step may be under way: they change neither weights nor optimizer.
    """
    with ranks.waiting():
        update_norm, fewest, most = made.measured().tolist()
        digest = made.digest() if made.digest else None
    _require_finite("update norm", state.step, update_norm)
    assert fewest == most
    return StepReport(
        step=state.step,
        updates=int(fewest),
        train_loss=made.train_loss,
        grad_norm=made.grad_norm,
        update_norm=update_norm,
        learning_rate=made.learning_rate,
        tokens=made.num_targets,
        cursor_rows=state.cursor_rows,
        batch_digest=made.batch_digest,
        state_digest=digest,
    )


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
    passed: _Passed,
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
        tokens=passed.num_targets,
        cursor_rows=state.cursor_rows,
        batch_digest=passed.batch_digest,
    )


def _update(state: TrainingState, settings: TrainSettings) -> None:
    """Let the optimizer move the weights."""
    set_learning_rate(state.optimizer, learning_rate(state.step + 1, settings))
    state.optimizer.step()
