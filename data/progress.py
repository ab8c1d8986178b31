"""How a stage tells its caller how far it is, without knowing clock, log or screen."""

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float, int], None]
"""Called with what is being done, how much of it is done, and how much there is.

What is said after a comma may change while the same is being done.
"""


def paced(num_tokens: int, seconds: float) -> str:
    """Say how many tokens are done, and how many that makes a second."""
    return f"{num_tokens:,} tokens, {num_tokens / max(seconds, 1e-9):,.0f} a second"
