from dataclasses import replace

import pytest
import torch

from model.llama import Llama
from model.memory import (
    is_out_of_memory,
    learnt_row_bytes,
    promised_bytes,
    scored_row_bytes,
    step_bytes,
)
from tests.model import tiny


def learnt(model: Llama, length: int) -> int:
    return learnt_row_bytes(model, length, None, "float32")


def test_a_row_takes_what_its_backward_pass_keeps_and_more_with_more_positions() -> None:
    model = Llama(tiny.LLAMA)
    short, long = (learnt(model, length) for length in (8, 16))
    of_a_layer = 16 * tiny.LLAMA.intermediate_size * 4
    assert long > tiny.LLAMA.num_layers * of_a_layer
    assert 1.8 * short < long < 2.2 * short
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_row_that_is_only_scored_takes_the_scores_of_its_tokens() -> None:
    assert scored_row_bytes(Llama(tiny.LLAMA), 16, None) == 16 * tiny.LLAMA.vocab_size * 4


def test_a_deeper_model_takes_more_for_a_row() -> None:
    deeper = Llama(replace(tiny.LLAMA, num_layers=4))
    assert learnt(deeper, 16) > learnt(Llama(tiny.LLAMA), 16)


def test_products_in_half_the_width_keep_less_of_a_row_and_copy_half_the_weights() -> None:
    model = Llama(tiny.LLAMA)
    assert learnt_row_bytes(model, 16, None, "bfloat16") < learnt(model, 16)
    assert step_bytes(model, "bfloat16") < step_bytes(model, "float32")


def test_gradients_and_moments_are_three_times_the_weights() -> None:
    model = Llama(tiny.LLAMA)
    assert promised_bytes(model) == 3 * 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_torch_raises_where_the_cpu_has_too_little_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
