"""One recorded number beside the same number computed anew."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechecked:
    """A check that was done over."""

    check: str
    recorded: float | int | str
    measured: float | int | str
    bar: float
    "The largest difference that is no contradiction; text must be equal."
    relative: bool = False
    "Whether the bar is a part of what was recorded."
    n: int
    "How many tokens, rows, documents or taps both are of."

    @property
    def holds(self) -> bool:
        """Whether both agree within the bar."""
        if isinstance(self.recorded, str) or isinstance(self.measured, str):
            return self.recorded == self.measured
        allowed = self.bar * abs(self.recorded) if self.relative else self.bar
        difference = abs(self.measured - self.recorded)
        return math.isfinite(difference) and difference <= allowed

    @property
    def verdict(self) -> Literal["holds", "FAILS"]:
        """Say it as people read it."""
        return "holds" if self.holds else "FAILS"
