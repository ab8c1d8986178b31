"""Hold a model, on its device, to a plain implementation before it is trained.

Shapes: B rows, T positions, S = T + 1 ids of a row, V vocabulary.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.llama import Llama, planned_std
from model.plain_llama import Array, plain_logits, plain_loss
from model.ranks import whole

NUDGE = 1e-4
"""Relative step of the finite difference: its own error is below that of float32 by far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far the matrices of a new model are from what the architecture plans."""

    spread_error: float
    """Largest relative difference of a standard deviation to the planned one."""
    kurtosis_error: float
    """Largest difference of a kurtosis to that of a normal distribution."""


def measure_spread(model: Llama) -> Spread:
    """Compare every matrix of a new model with a normal distribution of the planned width."""
    spreads, tails = [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            values = whole(parameter.detach()).double()
            std = float(values.square().mean().sqrt())
            spreads.append(abs(std / planned_std(name, model.settings) - 1))
            tails.append(abs(float((values / std).pow(4).mean()) - 3))
    return Spread(spread_error=max(spreads), kurtosis_error=max(tails))


@torch.no_grad()
def forward_error(model: Llama, ids_BS: NDArray[np.int64]) -> float:
    """Return the relative L2 difference of the model's logits to those of the plain model."""
    weights = _float64(model)
    device = next(model.parameters()).device
    found_BTV = model(torch.from_numpy(ids_BS[:, :-1]).to(device)).double().cpu().numpy()
    plain_BTV = np.stack([plain_logits(weights, model.settings, ids[:-1]) for ids in ids_BS])
    return float(np.linalg.norm(found_BTV - plain_BTV) / np.linalg.norm(plain_BTV))


def gradient_error(
    model: Llama, ids_BS: NDArray[np.int64], accumulate: Callable[[NDArray[np.int64]], object]
) -> float:
    """Compare the gradient that `accumulate` leaves with the slope of the plain loss.

    Every kind of weight (the same one of all layers) is moved by itself along a random direction,
    so that none can be missing, doubled or out of date; the largest relative difference counts.
    `accumulate` is called twice: a gradient that was not dropped shows as twice its size.
    """
    accumulate(ids_BS)
    accumulate(ids_BS)
    weights = _float64(model)
    generator = np.random.default_rng(0)
    kinds: dict[str, list[str]] = {}
    for name in weights:
        kinds.setdefault(re.sub(r"\.\d+\.", ".", name), []).append(name)

    def error(names: list[str]) -> float:
        slope = scale = 0.0
        ahead, behind = dict(weights), dict(weights)
        for name in names:
            # A new bias is zero everywhere, which is no width.
            size = float(np.sqrt((weights[name] ** 2).mean())) or model.settings.initializer_std
            width = size * NUDGE
            nudge = generator.normal(0.0, width, weights[name].shape)
            ahead[name], behind[name] = weights[name] + nudge, weights[name] - nudge
            gradient = _gradient(model.get_parameter(name))
            slope += float((gradient * nudge).sum())
            scale += float((gradient**2).sum()) * width**2
        losses = [plain_loss(each, model.settings, ids_BS) for each in (ahead, behind)]
        true_slope = (losses[0] - losses[1]) / 2
        return abs(true_slope - slope) / max(math.sqrt(scale), abs(true_slope))

    return max(error(names) for names in kinds.values())


def _float64(model: Llama) -> dict[str, Array]:
    return {name: whole(p.detach()).double().cpu().numpy() for name, p in model.named_parameters()}


def _gradient(parameter: Tensor) -> Array:
    if parameter.grad is None:
        return np.zeros(parameter.shape)
    found: Array = whole(parameter.grad).double().cpu().numpy()
    return found
