"""The gated unit of a feed-forward block: gate and up lie side by side.

Shapes: B rows, T positions, F feed-forward channels.
Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Gate = Callable[[Tensor], Tensor]
"""Shapes: (B, T, 2F) -> (B, T, F)."""


def gated(joined: Tensor) -> Tensor:
    """Multiply the opened gate with up."""
    gate_BTF, up_BTF = joined.chunk(2, dim=-1)
    return functional.silu(gate_BTF) * up_BTF


def gate_for(device: torch.device, *, compiled: bool) -> Gate:
    """Choose the kernel of our own where it can be compiled for a GPU."""
    if not compiled or device.type != "cuda":
        return gated
    # Where nothing can be compiled, the package that the kernel is written in may be missing.
    from model.swiglu_kernel import OnePassGate

    def gated_in_one_pass(joined: Tensor) -> Tensor:
        found: Tensor = OnePassGate.apply(joined)  # type: ignore[no-untyped-call]
        return found

    return gated_in_one_pass
