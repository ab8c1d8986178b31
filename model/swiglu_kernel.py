"""The gated unit of a feed-forward block, whose gradient a GPU makes in one pass over memory.

torch's compiler makes the joined gradient of gate and up as if it were two, and reads all it needs
for each: twice the time on an H200 (decision 0010).

Shapes: B rows, T positions, F feed-forward channels; gate and up lie side by side in 2F.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.swiglu import gated

_CHANNELS = 1024
"""Channels that a program makes: sixteen bytes of bfloat16 to each of its threads."""


class OnePassGate(torch.autograd.Function):
    """Multiply the opened gate with up; on the way back read everything once."""

    @staticmethod
    def forward(context: Any, joined: Tensor) -> Tensor:
        """Open the gate. Shapes: (B, T, 2F) -> (B, T, F)."""
        context.save_for_backward(joined)
        return gated(joined)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of both. Shapes: (B, T, F) -> (B, T, 2F)."""
        (joined,) = context.saved_tensors
        gradient = gradients[0].contiguous()
        num_channels = gradient.shape[-1]
        made = torch.empty_like(joined)
        grid = (gradient.numel() // num_channels, triton.cdiv(num_channels, _CHANNELS))
        _make_gradients[grid](gradient, joined, made, num_channels, _CHANNELS)
        return made


@triton.jit  # type: ignore[untyped-decorator]
def _make_gradients(gradient, joined, made, num_channels, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Make the gradients of a block of channels at one position, in float32."""
    first = tl.program_id(0).to(tl.int64) * num_channels
    channels = tl.program_id(1) * block + tl.arange(0, block)
    inside = channels < num_channels
    above = tl.load(gradient + first + channels, mask=inside).to(tl.float32)
    gate = tl.load(joined + 2 * first + channels, mask=inside).to(tl.float32)
    up = tl.load(joined + 2 * first + num_channels + channels, mask=inside).to(tl.float32)
    opened = tl.sigmoid(gate)
    of_gate = above * up * opened * (1 + gate * (1 - opened))
    tl.store(made + 2 * first + channels, of_gate, mask=inside)
    tl.store(made + 2 * first + num_channels + channels, above * gate * opened, mask=inside)
