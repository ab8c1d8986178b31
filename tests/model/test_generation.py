from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from model.errors import InferenceFailedError, WrongSettingError
from model.generation import generate, stream, window_start
from model.llama import Llama, LlamaSettings
from model.sampling import Sampling
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
    return stream(
        model,
        prompt_ids,
        num_tokens=num_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed),
        stop_id=stop_id,
        context_length=context_length,
    )


def without_cache(model: Llama, prompt_ids: Sequence[int], num_tokens: int) -> list[int]:
    """Choose the likeliest token, each by a forward pass of the model over the whole window."""
    ids = list(prompt_ids)
    for _ in range(num_tokens):
        window = ids[window_start(len(ids), tiny.CONTEXT) :]
        with torch.no_grad():
            ids.append(int(model(torch.tensor([window]))[0, -1].argmax()))
    return ids[len(prompt_ids) :]


PROMPTS = ([3, 4], [5, 6, 7, 8, 9], [1], [2, 7] * 10, [9, 8, 7])


def together(
    model: Llama,
    num_rows: int,
    *,
    num_tokens: int = 12,
    temperature: float = 0.0,
    stop_id: int | None = None,
    block_tokens: int = 5,
    chosen: Sequence[int] | None = None,
    is_finished: Callable[[Sequence[int]], bool] = lambda ids: False,
) -> list[list[int]]:
    """Continue all prompts, so many at a time."""
    found: list[list[int]] = [[] for _ in PROMPTS]
    for piece in generate(
        model,
        PROMPTS,
        num_tokens=num_tokens,
        sampling=Sampling(temperature=temperature, top_p=0.9, seed=3),
        stop_id=stop_id,
        context_length=tiny.CONTEXT,
        num_rows=num_rows,
        block_tokens=block_tokens,
        chosen=chosen,
        is_finished=is_finished,
    ):
        found[piece.sequence] += piece.ids
    return found


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


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_a_cache_chooses_what_a_forward_pass_over_everything_chooses(
    settings: LlamaSettings,
) -> None:
    model = ours(settings)

    expected = [without_cache(model, prompt, 24) for prompt in PROMPTS]

    assert together(model, 3, num_tokens=24) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("block_tokens", [1, 4])
def test_a_sequence_does_not_depend_on_its_batch(temperature: float, block_tokens: int) -> None:
    model = ours(tiny.LLAMA)

    alone = together(model, 1, temperature=temperature)

    assert together(model, 4, temperature=temperature, block_tokens=block_tokens) == alone
    assert [len(ids) for ids in alone] == [12] * 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chosen_sequences_continue_as_among_all(temperature: float) -> None:
    model = ours(tiny.LLAMA)

    everything = together(model, 2, temperature=temperature)

    some = together(model, 2, temperature=temperature, chosen=[4, 1])
    assert some == [[], everything[1], [], [], everything[4]]


def test_the_first_of_a_batch_draws_what_it_draws_alone() -> None:
    model = ours(tiny.LLAMA)

    alone = list(drawn(model, PROMPTS[0], num_tokens=12, temperature=1.0, top_p=0.9, seed=3))

    assert together(model, 5, temperature=1.0)[0] == alone


def test_sequences_end_by_themselves_and_the_next_take_their_slots(counter: Llama) -> None:
    found = together(counter, 2, stop_id=0, num_tokens=9)

    assert found[:3] == [[5, 6], [1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6]]


def test_finished_sequences_are_looked_at_once_a_block(counter: Llama) -> None:
    found = together(counter, 5, block_tokens=4, is_finished=lambda ids: 5 in ids)

    assert found[0] == [5, 6, 0, 1]
    assert found[2] == [2, 3, 4, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_captured_step_chooses_what_a_cpu_chooses(temperature: float) -> None:
    model = ours(tiny.LLAMA)
    expected = together(model, 3, temperature=temperature, num_tokens=24)

    assert together(model.cuda(), 3, temperature=temperature, num_tokens=24) == expected


def test_scores_that_are_no_numbers_end_a_sequence_loudly() -> None:
    model = ours(tiny.LLAMA)
    with torch.no_grad():
        model.model.embed_tokens.weight[4] = float("nan")

    with pytest.raises(InferenceFailedError) as caught:
        list(drawn(model, [3, 4]))

    assert caught.value.num_tokens == 0
    found = together(model, 3)
    assert [found[0], len(found[1])] == [[], 12]


def test_what_is_no_number_ends_with_its_row() -> None:
    model = ours(tiny.LLAMA)
    with torch.no_grad():
        model.model.embed_tokens.weight[4] = float("nan")

    assert together(model, 2, num_tokens=3) == together(model, 1, num_tokens=3)
    assert [len(ids) for ids in together(model, 2, num_tokens=3)] == [0, 3, 3, 3, 3]


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
    top_p = float(best.values[:3].sum()) - 1e-6

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
