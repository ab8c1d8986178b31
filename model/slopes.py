"""Compare gradients with slopes of the plain loss: both along the same random directions.

Legend: B rows, S = T + 1 ids of a row.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.llama import LlamaSettings
from model.plain_llama import Array, Weights, plain_loss

T = TypeVar("T")
A = TypeVar("A")
NUDGE = 1e-4
"""Relative step of the finite difference: its own error is below that of float32 by far."""
Gradient = NDArray[np.floating[Any]]
"""As wide as the model's."""
Gradients = Mapping[str, Gradient]
PIECE = 1 << 20
"""Numbers that are moved at a time: few enough to stay in a cache, and enough for Python's lock."""
SIGNS: Array = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * np.float64(2) - 1
"""Those that the bits of a byte stand for. Shapes: (256, 8)."""


def slope_error(
    settings: LlamaSettings, weights: Weights, gradients: Gradients, ids_BS: NDArray[np.int64]
) -> float:
    """Compare gradients with the slope of the plain loss along random directions.

    Every kind of weight (the same one of all layers) is given a like part in the slope, as far as
    it can be with a small step, so that none can be missing, doubled or out of date unseen. The
    difference is relative to what such a slope usually is; the larger of two directions' counts.
    The weights, in float64, are moved in place and back, which leaves them as exact as that is.
    """
    widths = _widths(weights, gradients, settings)
    usual = math.hypot(*(widths[name] * _norm(gradients[name]) for name in weights))
    errors = []
    for direction in range(2):
        pieces = list(_pieces(weights, gradients, widths, direction))
        slope = sum(side_by_side(_Piece.climb, pieces))
        ahead = plain_loss(weights, settings, ids_BS)
        _move(pieces, -2)
        true_slope = (ahead - plain_loss(weights, settings, ids_BS)) / 2
        _move(pieces, 1)
        errors.append(abs(true_slope - slope) / max(usual, abs(true_slope)))
    return max(errors)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a weight, of its gradient, and the seed of the direction in which it is moved."""

    weight_N: Array
    gradient_N: Gradient
    width: float
    seed: tuple[int, int]

    def climb(self) -> float:
        """Move by one width, and return how far the loss climbs, to go by the gradient."""
        step_N = self._steps(1)
        np.add(self.weight_N, step_N, out=self.weight_N)
        step_N *= self.gradient_N
        return float(step_N.sum())

    def move(self, times: int) -> None:
        """Move by some widths."""
        np.add(self.weight_N, self._steps(times), out=self.weight_N)

    def _steps(self, times: int) -> Array:
        """Draw the direction, a random sign for each number."""
        size = len(self.weight_N)
        bytes_ = np.frombuffer(np.random.default_rng(self.seed).bytes(-(-size // 8)), np.uint8)
        return (times * self.width * SIGNS).take(bytes_, axis=0).reshape(-1)[:size]


def _pieces(
    weights: Weights, gradients: Gradients, widths: dict[str, float], direction: int
) -> Iterator[_Piece]:
    number = 0
    for name, weight in weights.items():
        flat, gradient = weight.reshape(-1), gradients[name].reshape(-1)
        for own in _places(weight.size):
            yield _Piece(flat[own], gradient[own], widths[name], (direction, number))
            number += 1


def _move(pieces: list[_Piece], times: int) -> None:
    side_by_side(lambda piece: piece.move(times), pieces)


def side_by_side(work: Callable[[A], T], items: Iterable[A]) -> list[T]:
    """Do what takes long for a large model for all its parts, some at a time."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(work, items))


def _widths(weights: Weights, gradients: Gradients, settings: LlamaSettings) -> dict[str, float]:
    """Choose how far each weight is moved: a like change of the loss, at most a relative nudge."""
    kinds: dict[str, list[str]] = {}
    for name in weights:
        kinds.setdefault(re.sub(r"\.\d+\.", ".", name), []).append(name)
    norms = {
        kind: math.hypot(*(_norm(gradients[n]) for n in names)) for kind, names in kinds.items()
    }
    # A new bias is zero everywhere, which is no width.
    widest = {
        kind: NUDGE * (_root_mean_square(weights[names[0]]) or settings.initializer_std)
        for kind, names in kinds.items()
    }
    like = statistics.median(norms[kind] * widest[kind] for kind in kinds)
    return {
        name: min(widest[kind], like / norms[kind]) if norms[kind] else widest[kind]
        for kind, names in kinds.items()
        for name in names
    }


def _norm(values: Gradient) -> float:
    # In pieces: numpy adds up float32 numbers in float32.
    flat_N = values.reshape(-1)
    return math.hypot(*(np.linalg.norm(flat_N[own]) for own in _places(values.size)))


def _places(size: int) -> Iterator[slice]:
    return (slice(first, first + PIECE) for first in range(0, size, PIECE))


def _root_mean_square(values: Array) -> float:
    return _norm(values) / math.sqrt(values.size)
