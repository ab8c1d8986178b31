"""Our training beside transformers', and faults that must part the two curves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.fast_llama import FastLlama, Rotation
from model.train_settings import TrainSettings
from tests.benchmarks.canary import (
    NUM_STEPS,
    TOLERANCES,
    batches,
    difference,
    large,
    our_losses,
    small,
    their_losses,
)

ALLOWED = TOLERANCES["float64"]
FEW_STEPS = 50


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """So small a model gains nothing from more, and loses much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_our_losses_are_those_of_transformers_step_by_step() -> None:
    llama, recipe, context_length = small()

    found = our_losses(llama, recipe, context_length, "cpu")
    expected = their_losses(llama, recipe, context_length, "cpu")

    assert len(found) == len(expected) == NUM_STEPS
    assert difference(found, expected).within(ALLOWED)
    assert sum(found[-10:]) < 0.5 * sum(found[:10])


@pytest.fixture(scope="module")
def few() -> tuple[TrainSettings, list[float]]:
    """A short recipe, and what transformers' model loses under it."""
    llama, recipe, context_length = small()
    short = replace(recipe, num_steps=FEW_STEPS, steps_per_epoch=FEW_STEPS, warmup_steps=5)
    return short, their_losses(llama, short, context_length, "cpu")


Faults = dict[str, Callable[[pytest.MonkeyPatch], object]]
FAULTS: Faults = {
    "the schedule never reaches the optimizer": lambda patch: patch.setattr(
        "model.train.set_learning_rate", lambda _optimizer, _rate: None
    ),
    "another pairing of rotated channels": lambda patch: patch.setattr(
        "model.fast_llama._rotated", neighbours_rotated
    ),
    "micro-batches overwrite instead of adding up": lambda patch: patch.setattr(
        FastLlama, "forward", _with_the_last_half_alone()
    ),
}


def _with_the_last_half_alone() -> Callable[..., torch.Tensor]:
    calls, forward = iter(range(10**6)), FastLlama.forward

    def loss(*given: Any) -> torch.Tensor:
        found = forward(*given)
        return found if next(calls) % 2 else found.detach().requires_grad_() * 1.0

    return loss


def neighbours_rotated(x_BTNH: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate neighbouring channels instead of halves."""
    half = x_BTNH.shape[-1] // 2
    cos, sin = (each[..., -half:].repeat_interleave(2, -1) for each in rotation)
    even, odd = x_BTNH[..., 0::2], x_BTNH[..., 1::2]
    return x_BTNH * cos + torch.stack((-odd, even), -1).flatten(-2) * sin


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_parts_the_curves_soon(
    fault: str, few: tuple[TrainSettings, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, expected = few
    llama, _, context_length = small()
    FAULTS[fault](monkeypatch)

    found = our_losses(llama, recipe, context_length, "cpu")

    assert found[0] == pytest.approx(expected[0], abs=0.01)
    assert not difference(found, expected).within(ALLOWED)


def test_both_are_given_the_same_rows() -> None:
    one, other = batches(8, 2), batches(8, 2)

    first = next(one)

    assert first.shape == (2, 9)
    assert (first == next(other)).all()
    assert (next(one) != first).any()


def test_the_large_canary_is_the_preset() -> None:
    llama, recipe, context_length = large("bfloat16")

    assert (llama.num_layers, llama.hidden_size, context_length) == (24, 1024, 512)
    assert (recipe.precision, recipe.num_steps, recipe.optimizer) == ("bfloat16", 300, "adamw")
