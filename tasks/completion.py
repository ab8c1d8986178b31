"""Texts that a model continues, many at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.tokenizer import Tokenizer
from model.generation import generate
from model.llama import Llama
from model.sampling import Sampling

ROWS = 32
"""Sequences in flight; part of the code, because another number rounds otherwise."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote behind a prompt."""

    text: str
    is_cut: bool
    "Whether it ended for want of tokens, not by the model's own end of text."
    is_sound: bool
    "Whether every score was a number."


def complete_all(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    sampling: Sampling,
    chosen: Sequence[int] | None = None,
    is_finished: Callable[[str], bool] = lambda _: False,
) -> list[Completion]:
    """Continue every prompt until an end of text, enough tokens, or a finished text.

    With `chosen` only the prompts at these places, as they are continued among all.

    Raises: WrongSettingError.
    """
    places = range(len(prompts)) if chosen is None else chosen
    if not places:
        return []
    ids: list[list[int]] = [[] for _ in prompts]
    sound = [True] * len(prompts)

    for piece in generate(
        model,
        prompts,
        num_tokens=num_tokens,
        sampling=sampling,
        stop_id=tokenizer.end_of_text_id,
        context_length=model.settings.max_position_embeddings,
        num_rows=min(ROWS, len(prompts)),
        chosen=places,
        is_finished=lambda drawn: is_finished(decode(tokenizer, drawn)),
    ):
        ids[piece.sequence] += piece.ids
        sound[piece.sequence] = piece.is_sound
    return [
        Completion(decode(tokenizer, ids[place]), len(ids[place]) >= num_tokens, sound[place])
        for place in places
    ]


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode prompts."""
    return [ids.tolist() for ids in tokenizer.encode_batch(texts)]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Decode what a model wrote; bytes that are no character become one that says so."""
    return tokenizer.decode(ids).decode("utf-8", errors="replace")
