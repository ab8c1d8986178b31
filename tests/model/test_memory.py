from dataclasses import replace

import pytest
import torch

from model.llama import Llama
from model.memory import is_out_of_memory, promised_bytes, row_bytes
from tests.model import tiny


def bytes_of(model: Llama, length: int, *, learning: bool) -> int:
    return row_bytes(model, length, learning=learning, document_end=None)


def test_a_row_takes_what_its_backward_pass_keeps_and_more_with_more_positions() -> None:
    model = Llama(tiny.LLAMA)
    short, long = (bytes_of(model, length, learning=True) for length in (8, 16))
    logits = 16 * tiny.LLAMA.vocab_size * 4
    assert long > 2 * logits
    assert 1.8 * short < long < 2.2 * short
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_row_that_is_only_scored_takes_less() -> None:
    model = Llama(tiny.LLAMA)
    scored, learnt = (bytes_of(model, 16, learning=learning) for learning in (False, True))
    assert 0 < scored < learnt


def test_a_deeper_model_takes_more_for_a_row() -> None:
    deeper = Llama(replace(tiny.LLAMA, num_layers=4))
    assert bytes_of(deeper, 16, learning=True) > bytes_of(Llama(tiny.LLAMA), 16, learning=True)


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
