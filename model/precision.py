"""To what precision float32 matrix products may be computed, for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

_TORCH_NAMES = {"float32": "highest", "tfloat32": "high", "bfloat16": "medium"}


@contextmanager
def matmul_precision(name: Literal["float32", "tfloat32", "bfloat16"]) -> Iterator[None]:
    """Let float32 products round their inputs to this format, and restore what was allowed before.

    Precision: sums stay in float32; hardware without fast products of that format ignores it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_TORCH_NAMES[name])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
