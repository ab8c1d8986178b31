"""Muon: momentum whose matrices are made orthogonal before they move the weights.

torch has one that always orthogonalises in bfloat16, which few processors multiply quickly: without
instructions for it most of a step on the CPU is spent there.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

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
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[weight], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"]
        buffer.lerp_(grad, 1 - momentum)
        direction = orthogonalised(grad.lerp(buffer, momentum))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        scale = RMS_OF_ADAMW * math.sqrt(max(weight.shape))
        weight.add_(direction, alpha=-group["lr"] * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near one.

    Precision: bfloat16 on a GPU, float32 elsewhere.
    Source: Jordan et al. 2024, five quintic Newton-Schulz iterations.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    found = wide.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    found = found / found.norm().clamp(min=EPS)
    for _ in range(NUM_ITERATIONS):
        gram = found @ found.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.addmm(found, polynomial, found, beta=a)
    return found.T if matrix.shape[0] > matrix.shape[1] else found
