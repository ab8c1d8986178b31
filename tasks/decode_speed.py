"""How fast a model decodes alone, as people who wait for it see it."""

import time

import torch

from model.decoding import CachedLlama
from model.decoding_slots import Slots
from model.llama import Llama
from model.sampling import Sampling

_BLOCK_TOKENS = 16
_REPEATS = 3


def decode_seconds(model: Llama, first_id: int, num_tokens: int) -> list[float]:
    """Draw the likeliest tokens of one sequence again and again; return the seconds of each time.

    A block before them warms up. Reading prompts and preparing the weights are not counted.
    """
    room = max(_BLOCK_TOKENS, num_tokens) + 1
    cached = CachedLlama(model, num_rows=1, num_positions=room)
    greedy = Sampling(temperature=0.0, top_p=1.0, seed=0)
    slots = Slots(cached, greedy, block_tokens=_BLOCK_TOKENS)
    _seconds(slots, first_id, _BLOCK_TOKENS)
    return [_seconds(slots, first_id, num_tokens) for _ in range(_REPEATS)]


def _seconds(slots: Slots, first_id: int, num_tokens: int) -> float:
    slots.place({0: [first_id]})
    uniforms_CB = torch.zeros(_BLOCK_TOKENS, 1, dtype=torch.float64)
    begin = time.perf_counter()
    for first in range(0, num_tokens, _BLOCK_TOKENS):
        slots.draw(uniforms_CB[: num_tokens - first], 1 + first)
    return time.perf_counter() - begin
