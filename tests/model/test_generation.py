from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from model.errors import WrongSettingError
from model.generation import generate
from model.llama import Llama, LlamaSettings
from model.train import train
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES, ours, theirs

PERIOD = 7


@pytest.fixture(scope="module")
def counter() -> Llama:
    """A model that has learnt to count modulo the period."""
    settings = replace(tiny.TRAIN, num_steps=60)
    starts = np.arange(60 * 3).reshape(60, 3, 1)
    batches = (starts + np.arange(tiny.CONTEXT + 1)) % PERIOD
    state = tiny.state(settings)
    list(train(state, iter(batches), settings))
    return state.model


def drawn(
    model: Llama,
    prompt_ids: Sequence[int] = (3, 4),
    *,
    num_tokens: int = 6,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_id: int | None = None,
    context_length: int = tiny.CONTEXT,
) -> Iterator[int]:
    return generate(
        model,
        prompt_ids,
        num_tokens=num_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop_id=stop_id,
        context_length=context_length,
    )


def test_the_likeliest_continuation_is_the_learnt_one(counter: Llama) -> None:
    assert list(drawn(counter)) == [5, 6, 0, 1, 2, 3]


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_the_likeliest_continuation_is_that_of_transformers(settings: LlamaSettings) -> None:
    model = ours(settings)
    reference: Any = theirs(model)

    expected = reference.generate(
        torch.tensor([[3, 4]]),
        attention_mask=torch.ones(1, 2),
        max_new_tokens=10,
        do_sample=False,
        pad_token_id=0,
    )

    assert list(drawn(model, num_tokens=10)) == expected[0, 2:].tolist()


def test_generation_ends_before_the_stop_token(counter: Llama) -> None:
    assert list(drawn(counter, stop_id=1)) == [5, 6, 0]


def test_tokens_are_yielded_as_they_are_drawn(counter: Llama) -> None:
    assert list(islice(drawn(counter, num_tokens=10**9), 3)) == [5, 6, 0]


def test_a_window_shorter_than_the_prompt_forgets_its_beginning(counter: Llama) -> None:
    forgetful = list(drawn(counter, [60, 59, 58, 3, 4], context_length=2))

    assert forgetful == list(drawn(counter, context_length=2))


def test_a_seed_decides_every_draw() -> None:
    model = tiny.state().model
    samples = [list(drawn(model, temperature=1.0, seed=seed, num_tokens=12)) for seed in (0, 0, 1)]

    assert samples[0] == samples[1]
    assert samples[0] != samples[2]


def test_a_nucleus_of_nothing_but_the_best_is_greedy() -> None:
    model = tiny.state().model

    assert list(drawn(model, temperature=1.0, top_p=1e-9)) == list(drawn(model))


def test_a_nucleus_holds_the_fewest_tokens_that_reach_its_mass() -> None:
    model = tiny.state().model
    logits = model(torch.tensor([[3, 4]]))[0, -1].detach().double()
    best = torch.softmax(logits, -1).sort(descending=True)
    top_p = float(best.values[:3].sum()) - 1e-9

    seen = {next(drawn(model, temperature=1.0, top_p=top_p, seed=seed)) for seed in range(60)}

    assert seen == set(best.indices[:3].tolist())


def test_the_consumer_does_not_run_in_inference_mode(counter: Llama) -> None:
    for _ in drawn(counter, num_tokens=2):
        assert not torch.is_inference_mode_enabled()


def test_a_prompt_without_ids_is_refused(counter: Llama) -> None:
    with pytest.raises(WrongSettingError) as caught:
        next(drawn(counter, []))

    assert (caught.value.setting, caught.value.found) == ("prompt_ids", "empty")


def test_a_prompt_outside_the_vocabulary_is_refused(counter: Llama) -> None:
    with pytest.raises(WrongSettingError) as caught:
        next(drawn(counter, [5, 61]))

    assert (caught.value.setting, caught.value.found) == ("prompt_ids", "5 to 61")


def test_a_temperature_below_zero_is_refused(counter: Llama) -> None:
    with pytest.raises(WrongSettingError) as caught:
        next(drawn(counter, temperature=-1.0))

    assert (caught.value.setting, caught.value.found) == ("temperature", -1.0)


@pytest.mark.parametrize("top_p", [0.0, 1.1])
def test_an_impossible_nucleus_is_refused(counter: Llama, top_p: float) -> None:
    with pytest.raises(WrongSettingError) as caught:
        next(drawn(counter, top_p=top_p))

    assert (caught.value.setting, caught.value.found) == ("top_p", top_p)


def test_an_empty_window_is_refused(counter: Llama) -> None:
    with pytest.raises(WrongSettingError) as caught:
        next(drawn(counter, context_length=0))

    assert (caught.value.setting, caught.value.found) == ("context_length", 0)
