"""Cross-entropy of a head's scores, whose gradient is made while they are at hand.

Scores are made for some positions at a time and overwritten by their gradient: what is kept for the
backward pass is the gradient of the hidden states and of the head, not a matrix of all scores.

Shapes: P positions, D hidden channels, V vocabulary.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.loss import PADDING

SCORES_AT_A_TIME = {"cuda": 2**29, "cpu": 2**22}
"""On a GPU enough to fill it, and less than 32-bit indices reach; on the CPU what caches hold."""
COMPARED_AT_ONCE = 3
"""Matrices of wide scores that exist at a time where the comparison is not compiled."""


def positions_at_a_time(vocab_size: int, device: torch.device) -> int:
    """Return how many positions are scored at a time: a power of two, which fills whole tiles."""
    return 1 << max(0, (SCORES_AT_A_TIME[device.type] // vocab_size).bit_length() - 1)


class HeadLoss(torch.autograd.Function):
    """Return the scaled sum of the losses of all positions; padding costs nothing."""

    @staticmethod
    def forward(
        context: Any,
        x_PD: Tensor,
        head_VD: Tensor,
        targets_P: Tensor,
        scale: float,
        compiled: bool,  # noqa: FBT001
    ) -> Tensor:
        """Score, compare, and make both gradients.

        Precision: scores in the dtype of the head; softmax, loss and sums in float32 at least.
        """
        at_a_time = positions_at_a_time(len(head_VD), x_PD.device)
        compare = _compare_compiled() if compiled else _compare
        wide = torch.promote_types(head_VD.dtype, torch.float32)
        loss = x_PD.new_zeros((), dtype=wide)
        # A tensor: compiled code would be made anew for every number.
        factor = x_PD.new_full((), scale, dtype=wide)
        x_gradient_PD = torch.empty_like(x_PD)
        head_gradient_VD = None
        for x_CD, targets_C, gradient_CD in zip(
            torch.split(x_PD, at_a_time),
            torch.split(targets_P, at_a_time),
            torch.split(x_gradient_PD, at_a_time),
            strict=True,
        ):
            losses_C, scores_CV = compare(x_CD @ head_VD.T, targets_C, factor)
            loss += losses_C.sum()
            torch.mm(scores_CV, head_VD, out=gradient_CD)
            part_VD = scores_CV.T @ x_CD
            if head_gradient_VD is None:
                head_gradient_VD = part_VD.to(wide)
            else:
                head_gradient_VD += part_VD
        context.save_for_backward(x_gradient_PD, head_gradient_VD)
        return loss

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Hand out the gradients that were made."""
        (of_loss,) = gradients
        x_gradient_PD, head_gradient_VD = context.saved_tensors
        return x_gradient_PD * of_loss, head_gradient_VD * of_loss, None, None, None


def _compare(scores_CV: Tensor, targets_C: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scaled losses, and their gradient in place of the scores."""
    wide_CV = scores_CV.to(torch.promote_types(scores_CV.dtype, torch.float32))
    known_C1 = targets_C.clamp(min=0)[:, None]
    scale_C1 = torch.where(targets_C[:, None] == PADDING, 0.0, scale)
    log_sum_C1 = wide_CV.logsumexp(-1, keepdim=True)
    losses_C1 = (log_sum_C1 - wide_CV.gather(-1, known_C1)) * scale_C1
    is_target_CV = torch.arange(wide_CV.shape[-1], device=wide_CV.device) == known_C1
    gradient_CV = ((wide_CV - log_sum_C1).exp() - is_target_CV.to(wide_CV.dtype)) * scale_C1
    return losses_C1, scores_CV.copy_(gradient_CV)


@cache
def _compare_compiled() -> Any:
    return torch.compile(_compare, fullgraph=True, dynamic=False)
