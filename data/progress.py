"""How a stage tells its caller how far it is, without knowing clock, log or screen."""

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float, int], None]
"""Called with what is being done, how much of it is done, and how much there is.

What is said after a comma may change while the same is being done.
"""


def paced(num_tokens: int, num_new: int, seconds: float) -> str:
    """Say how many tokens are done, and at what pace the new ones among them came, if any did."""
    said = f"{num_tokens:,} tokens"
    return f"{said}, {num_new / seconds:,.0f} a second" if num_new > 0 and seconds > 0 else said
