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

from model.ranks import like, whole

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
            weights.sort(key=_wide_shape)
            # Matrices of one shape are made orthogonal together: alone, few fill a GPU.
            for _, alike in groupby(weights, key=_wide_shape):
                _update(self.state, list(alike), group)


def _update(state: Any, weights: list[Tensor], group: dict[str, Any]) -> None:
    gradients = [cast("Tensor", weight.grad) for weight in weights]
    for weight in weights:
        if not state[weight]:
            state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    buffers = [state[weight]["momentum_buffer"] for weight in weights]
    torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
    pairs = zip(gradients, buffers, strict=True)
    towards = [gradient.lerp(buffer, group["momentum"]) for gradient, buffer in pairs]
    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
    scale = RMS_OF_ADAMW * math.sqrt(max(weights[0].shape))
    torch._foreach_add_(weights, _orthogonalised(towards), alpha=-group["lr"] * scale)


def _wide_shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(sorted(weight.shape))


def _orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Make matrices of one shape, or its transpose, orthogonal; under ranks, every one of them all.

    Precision: bfloat16 on a GPU, float32 elsewhere.
    """
    dtype = torch.bfloat16 if matrices[0].is_cuda else torch.float32
    found = orthogonalised(torch.stack([_wide(whole(each.to(dtype))) for each in matrices]))
    return [
        like(wide.T if _is_tall(matrix) else wide, matrix).to(matrix.dtype)
        for wide, matrix in zip(found, matrices, strict=True)
    ]


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if _is_tall(matrix) else matrix


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
