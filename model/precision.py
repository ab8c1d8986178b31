"""In which format a training step multiplies.

The weights that the optimizer moves are float32 in every precision: an update of bfloat16 weights
is mostly rounded away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

Precision = Literal["float32", "tfloat32", "bfloat16"]


class InBfloat16(nn.Module):
    """Run a model on bfloat16 copies of its weights; gradients reach the weights themselves.

    Precision: gradients are summed over micro-batches in the dtype of the weights. Norms and losses
        stay as wide as the model makes them.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1 (master weights).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, *inputs: Any) -> Tensor:
        """Round the weights, run the model."""
        rounded = {name: p.to(torch.bfloat16) for name, p in self.inner.named_parameters()}
        found: Tensor = functional_call(self.inner, rounded, inputs)
        return found


def in_precision(model: nn.Module, precision: Precision) -> nn.Module:
    """Return what runs the model in this precision."""
    return InBfloat16(model) if precision == "bfloat16" else model


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
