"""Where a plot's numbers fall: ranges, ticks, and fewer points that look like all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Point = tuple[float, float]
NUM_SPANS = 600
"""A curve has at most two points for each: about as many as a screen has columns."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of numbers laid on 0 to 1, evenly or by powers of ten."""

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return where a value falls."""
        low, high, value = (self._even(each) for each in (self.low, self.high, value))
        return (value - low) / (high - low)

    def _even(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.is_log else value

    def ticks(self) -> list[float]:
        """List round numbers inside the range."""
        if not self.is_log:
            return even_ticks(self.low, self.high)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        if last - first < 1:
            return even_ticks(self.low, self.high)
        every = 1 + (last - first) // 6
        return [10.0**power for power in range(first, last + 1, every)]


def scale_of(values: Sequence[float], *, is_log: bool = False, margin: float = 0.04) -> Scale:
    """Choose a range with some room around the values."""
    low, high = min(values), max(values)
    if is_log:
        low = min((value for value in values if value > 0), default=1.0)
        high = max(high, low)
        room = (high / low) ** margin if high > low else 2.0
        return Scale(low / room, high * room, is_log=True)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room)


def even_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """List multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(each for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def thin(points: Sequence[Point], num_spans: int = NUM_SPANS) -> list[Point]:
    """Keep the least and the greatest value of every span, and both ends.

    Of a noisy curve these are what a screen shows anyway; a single spike stays.
    """
    if len(points) <= 2 * num_spans:
        return list(points)
    values = np.array([value for _, value in points])
    bounds = np.linspace(0, len(points), num_spans + 1).astype(int)
    kept = {0, len(points) - 1}
    for begin, end in pairwise(bounds.tolist()):
        inside = values[begin:end]
        kept |= {begin + int(inside.argmin()), begin + int(inside.argmax())}
    return [points[number] for number in sorted(kept)]
