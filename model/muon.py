"""Muon: momentum whose matrices are made orthogonal before they move the weights.

Shapes: N matrices of R rows and C columns.

torch has one that always orthogonalises in bfloat16, which few processors multiply quickly: without
instructions for it most of a step on the CPU is spent there.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor

from model.ranks import is_part, like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
EPS = 1e-7
RMS_OF_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """Updates matrices; decay is decoupled, momentum is Nesterov's.

    Source: Jordan et al. 2024, with the update scale of Liu et al. 2025, arXiv:2502.16982, eq. 4.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            weights.sort(key=_shape)
            # Matrices of one shape are moved together: alone, few fill a GPU, and a kernel for each
            # takes longer to begin than to run.
            for _, alike in groupby(weights, key=_shape):
                _update(self.state, list(alike), group)


def _shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape)


def _update(state: Any, weights: list[Tensor], group: dict[str, Any]) -> None:
    gradients = [cast("Tensor", weight.grad) for weight in weights]
    for weight in weights:
        if not state[weight]:
            state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    buffers = [state[weight]["momentum_buffer"] for weight in weights]
    torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
    towards = torch._foreach_lerp(gradients, buffers, group["momentum"])  # noqa: SLF001
    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
    scale = RMS_OF_ADAMW * math.sqrt(max(weights[0].shape))
    torch._foreach_add_(weights, _moves(towards), alpha=-group["lr"] * scale)


def _moves(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Make matrices of one shape orthogonal; under ranks, every one of them all.

    Precision: bfloat16 on a GPU, float32 elsewhere.
    """
    one = matrices[0]
    dtype = torch.bfloat16 if one.is_cuda else torch.float32
    is_tall = one.shape[0] > one.shape[1]
    joined = torch.empty(len(matrices), *one.shape, dtype=dtype, device=one.device)
    torch._foreach_copy_(list(joined), [_gathered(each, dtype) for each in matrices])
    found = orthogonalised(joined.mT.contiguous()).mT if is_tall else orthogonalised(joined)
    if is_part(one):
        # Widened behind the transfer.
        pairs = zip(found, matrices, strict=True)
        return [like(move, matrix).to(matrix.dtype) for move, matrix in pairs]
    return list(found.to(one.dtype, memory_format=torch.contiguous_format))


def _gathered(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    # Rounded before it goes over to other ranks; else while it is copied.
    return whole(matrix.to(dtype)) if is_part(matrix) else matrix


def orthogonalised(wide_NRC: Tensor) -> Tensor:
    """Bring the singular values of matrices near one.

    Shapes: (N, R, C) with R at most C -> the same.
    Source: Jordan et al. 2024, five quintic Newton-Schulz iterations.
    """
    a, b, c = COEFFICIENTS
    found: Tensor = wide_NRC / wide_NRC.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(NUM_ITERATIONS):
        gram = found @ found.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.baddbmm(found, polynomial, found, beta=a)
    return found
