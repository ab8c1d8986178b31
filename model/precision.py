"""In which format a training step multiplies.

The weights that the optimizer moves are float32 in every precision: an update of bfloat16 weights
is mostly rounded away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "tfloat32", "bfloat16"]


def product_dtype(precision: Precision, of_weights: torch.dtype) -> torch.dtype:
    """Return the dtype of what is multiplied: that of the weights, unless it is bfloat16."""
    return torch.bfloat16 if precision == "bfloat16" else of_weights


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Let float32 products round their inputs to this format, and restore what was allowed before.

    Precision: sums stay in float32; hardware without fast products of that format ignores it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
