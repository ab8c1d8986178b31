"""Continuing a sequence, one token at a time.

Every token recomputes the whole window: plain, and exact by construction.

Shapes: T positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.errors import WrongSettingError
from model.llama import Llama


def generate(
    model: Llama,
    prompt_ids: Sequence[int],
    *,
    num_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    stop_id: int | None,
    context_length: int,
) -> Iterator[int]:
    """Check the request, then yield up to `num_tokens` ids as they are drawn.

    At temperature zero they are the likeliest ones. Stops before `stop_id`. Beyond
    `context_length` only the latest ids are seen.

    Raises: WrongSettingError.
    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (top-p sampling).
    """
    _refuse_wrong(prompt_ids, temperature, top_p, context_length, model.settings.vocab_size)
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Iterator[int]:
        ids = list(prompt_ids)
        for _ in range(num_tokens):
            logits_V = _next_logits(model, ids[-context_length:])
            token = _choose(logits_V, temperature, top_p, generator)
            if token == stop_id:
                return
            ids.append(token)
            yield token

    return draw()


def _refuse_wrong(
    prompt_ids: Sequence[int],
    temperature: float,
    top_p: float,
    context_length: int,
    vocab_size: int,
) -> None:
    if not prompt_ids:
        raise WrongSettingError("prompt_ids", "empty", "at least one id")
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
        found = f"{min(prompt_ids)} to {max(prompt_ids)}"
        expected = f"ids from 0 to below model.vocab_size ({vocab_size})"
        raise WrongSettingError("prompt_ids", found, expected)
    if temperature < 0:
        raise WrongSettingError("temperature", temperature, "at least 0")
    if not 0 < top_p <= 1:
        raise WrongSettingError("top_p", top_p, "above 0 and at most 1")
    if context_length < 1:
        raise WrongSettingError("context_length", context_length, "at least 1")


# Inference mode must not be held across a yield: the consumer would run under it.
@torch.inference_mode()
def _next_logits(model: Llama, ids: Sequence[int]) -> Tensor:
    device = next(model.parameters()).device
    ids_BT = torch.tensor([ids], device=device)
    logits_V: Tensor = model(ids_BT)[0, -1].to("cpu", torch.float64)
    return logits_V


def _choose(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    sorted_V, order_V = torch.softmax(logits_V / temperature, -1).sort(descending=True, stable=True)
    # Keep a token if those before it have not reached top_p yet, so that one always remains.
    kept_V = sorted_V * (sorted_V.cumsum(-1) - sorted_V < top_p)
    return int(order_V[torch.multinomial(kept_V, 1, generator=generator)])
