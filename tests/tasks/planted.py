"""Short real trainings, and faults planted in one step of their loop."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grads_with_norm_

from data.batches import batches
from evidence.canonical import pretty
from evidence.errors import GateFailedError
from model import train
from model.schedule import learning_rate
from model.train_settings import TrainSettings
from model.training_state import TrainingState
from tasks.live import announce
from tasks.run_record import Run
from tasks.train_measure import SETTINGS
from tasks.train_worker import work
from tests.tasks.test_train_worker import job_of, lenient
from tests.tasks.tiny import Finished, begin

FAULTY = 6
LOOP: Any = train
STEPS, EPOCH = 12, 4
SO_SHORT = {"max_gap_growth_errors": 1e9, "max_val_loss_growth": 9.0, "max_loss_to_unigram": 9.0}
"Thresholds that so few steps need."
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Short:
    """A run that trained a few steps."""

    run: Run
    directory: Path


def train_short(
    finished: Finished, directory: Path, plant: Plant | None = None, **changes: Any
) -> Short:
    """Train in this process as the worker does, with a fault in the loop if one is given.

    A gate may end it: its line is logged first.
    """
    own = {
        "num_steps": STEPS,
        "steps_per_epoch": EPOCH,
        "warmup_steps": 2,
        "state_digest_steps": 1,
        "thresholds": replace(lenient(finished), **SO_SHORT),
    }
    job = job_of(finished, directory, **{**own, **changes})
    run = begin(finished.settings, "short")
    announce(run, directory)
    asked = {"model": asdict(job.model), "train": asdict(job.train), "shards": job.shards_ref}
    (directory / SETTINGS).write_bytes(pretty(asked))
    with pytest.MonkeyPatch.context() as patch:
        if plant:
            plant(patch)
        try:
            work(job)
        except GateFailedError:
            assert plant
    return Short(run, directory)


def _after_update(change: Callable[[TrainingState], object]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        real, measured = LOOP._update_or_skip, LOOP.distance

        def update(state: TrainingState, *arguments: Any, **named: Any) -> Any:
            def distance(*tensors: Any, **how: Any) -> Any:
                found = measured(*tensors, **how)
                change(state)
                return found

            with pytest.MonkeyPatch.context() as inner:
                if state.step + 1 == FAULTY:
                    inner.setattr(LOOP, "distance", distance)
                return real(state, *arguments, **named)

        patch.setattr(LOOP, "_update_or_skip", update)

    return plant


def _around_passes(
    before: Callable[[TrainingState], object], after: Callable[[TrainingState], object]
) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        real = LOOP.accumulate

        def accumulate(state: TrainingState, *arguments: Any) -> Any:
            if state.step + 1 != FAULTY:
                return real(state, *arguments)
            before(state)
            loss = real(state, *arguments)
            after(state)
            return loss

        patch.setattr(LOOP, "accumulate", accumulate)

    return plant


def _in_batches(change: Callable[[Any], Any]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def changed(*arguments: Any, **named: Any) -> Iterator[Any]:
            for number, ids_BS in enumerate(batches(*arguments, **named), start=1):
                yield change(ids_BS.copy()) if number == FAULTY else ids_BS

        patch.setattr("tasks.train_worker.batches", changed)

    return plant


def _matrix(state: TrainingState) -> torch.Tensor:
    return state.model.get_parameter("model.layers.0.mlp.down_proj.weight").detach()


def _flip(state: TrainingState, bit: int) -> None:
    _matrix(state).view(torch.int32)[3, 5] ^= 1 << bit


def _zero_moments(state: TrainingState) -> None:
    for name, tensor in state.optimizer.tensors().items():
        if name.endswith("exp_avg_sq"):
            tensor.zero_()


def _one_token(ids_BS: Any) -> Any:
    ids_BS[2, 7] = (ids_BS[2, 7] + 1) % 300
    return ids_BS


def _nudge_gradient(state: TrainingState) -> None:
    weight = state.model.get_parameter("model.layers.0.mlp.down_proj.weight")
    assert weight.grad is not None
    weight.grad[0, 0] += 1.0


def _double_rate(patch: pytest.MonkeyPatch) -> None:
    def doubled(step: int, settings: TrainSettings) -> float:
        return learning_rate(step, settings) * (1 + (step == FAULTY))

    patch.setattr("model.train.learning_rate", doubled)


def _skip_update(patch: pytest.MonkeyPatch) -> None:
    from model.optimizer import TrainOptimizer

    real = TrainOptimizer.step

    def step(self: TrainOptimizer) -> None:
        if self.num_updates() + 1 != FAULTY:
            real(self)

    patch.setattr(TrainOptimizer, "step", step)


def _clip_otherwise(patch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def clip(parameters: Any, clip_norm: float, norm: Any) -> None:
        calls.append(norm)
        clip_grads_with_norm_(parameters, clip_norm / (2 if len(calls) == FAULTY else 1), norm)

    patch.setattr("model.train.clip_grads_with_norm_", clip)


FAULTS: dict[str, Plant] = {
    "rows of the batch reordered": _in_batches(lambda ids_BS: ids_BS[::-1].copy()),
    "one token changed": _in_batches(_one_token),
    "a weight misread in one forward pass": _around_passes(
        lambda state: _flip(state, 22), lambda state: _flip(state, 22)
    ),
    "one gradient changed": _around_passes(lambda _: None, _nudge_gradient),
    "learning rate doubled": _double_rate,
    "gradients clipped otherwise": _clip_otherwise,
    "update skipped": _skip_update,
    "lowest bit of one weight": _after_update(lambda state: _flip(state, 0)),
    "exponent bit of one weight": _after_update(lambda state: _flip(state, 23)),
    "second moments zeroed": _after_update(_zero_moments),
}
