"""Continuing sequences: many at once, each as if it were alone.

A window holds what a token is chosen from. Where a sequence outgrows it, the older half of the
window is let go and the rest is read anew, at positions from zero.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.decoding import CachedLlama
from model.decoding_slots import Slots
from model.errors import InferenceFailedError, WrongSettingError
from model.llama import Llama
from model.sampling import Sampling

_BLOCK_TOKENS = 16
"""Tokens that are drawn before it is looked at which sequences have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a sequence gained in a block."""

    sequence: int
    ids: list[int]
    is_last: bool
    is_sound: bool
    """Whether all logits so far were finite; nothing is gained from others."""


def window_start(num_ids: int, context_length: int) -> int:
    """Return the first place of a sequence that its next token is chosen from.

    >>> [window_start(length, 8) for length in (1, 8, 9, 12, 13)]
    [0, 0, 4, 4, 8]
    """
    half = max(1, context_length // 2)
    return -(-max(0, num_ids - context_length) // half) * half


def stream(
    model: Llama,
    prompt_ids: Sequence[int],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_id: int | None,
    context_length: int,
) -> Iterator[int]:
    """Check the request, then yield up to `num_tokens` ids, as they are drawn, before `stop_id`.

    Raises: WrongSettingError; InferenceFailedError where logits are not finite.
    """
    pieces = generate(
        model,
        [prompt_ids],
        num_tokens=num_tokens,
        sampling=sampling,
        stop_id=stop_id,
        context_length=context_length,
        num_rows=1,
        # On a CPU nothing is gained by waiting, and a person watches.
        block_tokens=1 if model.model.embed_tokens.weight.device.type == "cpu" else _BLOCK_TOKENS,
    )

    def ids() -> Iterator[int]:
        num_drawn = 0
        for piece in pieces:
            yield from piece.ids
            num_drawn += len(piece.ids)
            if not piece.is_sound:
                raise InferenceFailedError(num_drawn)

    return ids()


def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_id: int | None,
    context_length: int,
    num_rows: int,
    chosen: Sequence[int] | None = None,
    block_tokens: int = _BLOCK_TOKENS,
    compiled: bool = False,
    is_finished: Callable[[Sequence[int]], bool] = lambda _: False,
) -> Iterator[Piece]:
    """Check the requests, then continue all prompts, `num_rows` at a time; yield block by block.

    A sequence ends before `stop_id`, with `num_tokens` ids, or with the block after which its ids
    are finished. What it draws depends on the seed and on its place in `prompts`, not on others;
    so some may be `chosen` by their places, and continue as among all.

    Raises: WrongSettingError.
    """
    for prompt_ids in prompts:
        _refuse_wrong(prompt_ids, context_length, model.settings.vocab_size)
    longest = max(map(len, prompts), default=1)
    cached = CachedLlama(
        model, num_rows=num_rows, num_positions=min(context_length, longest + num_tokens)
    )
    slots = Slots(cached, sampling, block_tokens=block_tokens, compiled=compiled)
    places = range(len(prompts)) if chosen is None else chosen
    asked = [(place, prompts[place]) for place in places]
    return _Batch(slots, num_tokens, stop_id, is_finished).run(asked)


def _refuse_wrong(prompt_ids: Sequence[int], context_length: int, vocab_size: int) -> None:
    if not prompt_ids:
        raise WrongSettingError("prompt_ids", "empty", "at least one id")
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
        found = f"{min(prompt_ids)} to {max(prompt_ids)}"
        expected = f"ids from 0 to below model.vocab_size ({vocab_size})"
        raise WrongSettingError("prompt_ids", found, expected)
    if context_length < 1:
        raise WrongSettingError("context_length", context_length, "at least 1")


@dataclass(slots=True)
class _Sequence:
    """A sequence in a slot."""

    number: int
    ids: list[int]
    num_prompt: int
    generator: np.random.Generator
    start: int = -1
    """Of the window that the slot has read; none yet."""

    @property
    def drawn(self) -> list[int]:
        return self.ids[self.num_prompt :]


class _Batch:
    def __init__(
        self,
        slots: Slots,
        num_tokens: int,
        stop_id: int | None,
        is_finished: Callable[[Sequence[int]], bool],
    ) -> None:
        self.slots = slots
        self.num_tokens = num_tokens
        self.stop_id = stop_id
        self.is_finished = is_finished
        self.active: dict[int, _Sequence] = {}

    def run(self, prompts: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Piece]:
        """Give every free slot the next prompt, each with its place, draw a block, and again."""
        waiting = deque(prompts) if self.num_tokens > 0 else deque()
        while waiting or self.active:
            for row in range(self.slots.num_rows):
                if row not in self.active and waiting:
                    number, ids = waiting.popleft()
                    generator = self.slots.sampling.generator(number)
                    self.active[row] = _Sequence(number, list(ids), len(ids), generator)
            self._move_windows()
            yield from self._block()

    def _move_windows(self) -> None:
        """Read in the window of every sequence whose slot has not read it."""
        context = self.slots.cached.num_positions
        windows = {}
        for row, sequence in self.active.items():
            start = window_start(len(sequence.ids), context)
            if start != sequence.start:
                sequence.start = start
                windows[row] = sequence.ids[start:]
        self.slots.place(windows)
        self.slots.park([row for row in range(self.slots.num_rows) if row not in self.active])

    def _block(self) -> list[Piece]:
        """Draw a block, as long as no window and no sequence ends within it for all."""
        lengths = [len(each.ids) - each.start for each in self.active.values()]
        remaining = max(self.num_tokens - len(each.drawn) for each in self.active.values())
        room = self.slots.cached.num_positions - max(lengths) + 1
        num_drawn = min(self.slots.block_tokens, room, remaining)
        drawn_CB, is_sound_B = self.slots.draw(self._uniforms(num_drawn), max(lengths))
        columns, sound = drawn_CB.T.tolist(), is_sound_B.tolist()
        return [self._take(row, columns[row], is_sound=sound[row]) for row in list(self.active)]

    def _uniforms(self, num_drawn: int) -> Tensor:
        uniforms_CB = np.zeros((num_drawn, self.slots.num_rows))
        if self.slots.sampling.temperature > 0:
            for row, sequence in self.active.items():
                uniforms_CB[:, row] = sequence.generator.random(num_drawn)
        return torch.from_numpy(uniforms_CB)

    def _take(self, row: int, drawn: list[int], *, is_sound: bool) -> Piece:
        sequence = self.active[row]
        ids = drawn[: self.num_tokens - len(sequence.drawn)] if is_sound else []
        is_stopped = self.stop_id in ids
        if is_stopped:
            ids = ids[: ids.index(self.stop_id)]  # type: ignore[arg-type]  # it is among them
        sequence.ids += ids
        is_last = (
            is_stopped
            or not is_sound
            or len(sequence.drawn) >= self.num_tokens
            or self.is_finished(sequence.drawn)
        )
        if is_last:
            del self.active[row]
        return Piece(sequence=sequence.number, ids=ids, is_last=is_last, is_sound=is_sound)
