"""Choosing the next token: the likeliest one, or one drawn from the nucleus.

A sequence draws from a generator of its own, so that it does not depend on the batch it is in.
Probabilities are counted in whole units before they are summed: integers sum to the same in any
order, so a device's way of summing decides no draw.

Shapes: B rows, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.errors import WrongSettingError

_UNITS = 2**53
_SEEDS = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; at temperature zero the likeliest, of equals the lowest id."""

    temperature: float
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from.

        Raises: WrongSettingError.
        """
        if not 0 <= self.temperature < float("inf"):
            raise WrongSettingError("temperature", self.temperature, "at least 0, and finite")
        if not 0 < self.top_p <= 1:
            raise WrongSettingError("top_p", self.top_p, "above 0 and at most 1")
        if not 0 <= self.seed < _SEEDS:
            raise WrongSettingError("seed", self.seed, f"at least 0 and below {_SEEDS}")

    def generator(self, sequence: int) -> np.random.Generator:
        """Return what decides the draws of one sequence, and of no other."""
        return np.random.Generator(np.random.Philox(key=[self.seed, sequence]))


def choose(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """Choose a token for every row; waits for no device.

    Shapes: (B, V), (B,) in [0, 1) -> (B,).
    Precision: float64.
    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (top-p sampling).
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    shares_BV = torch.softmax(logits_BV.double() / sampling.temperature, -1)
    units_BV = (shares_BV * _UNITS).long()
    if sampling.top_p == 1:
        return _draw(units_BV, uniforms_B)[:, 0]
    units_BV, order_BV = units_BV.sort(descending=True, stable=True)
    # Keep a token if those before it have not reached top_p yet, so that one always remains.
    before_BV = units_BV.cumsum(-1) - units_BV
    units_BV = units_BV * (before_BV < sampling.top_p * _UNITS)
    return order_BV.gather(-1, _draw(units_BV, uniforms_B))[:, 0]


def _draw(units_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Return the place that holds the unit which a uniform number points at.

    Shapes: (B, V), (B,) -> (B, 1).
    """
    reached_BV = units_BV.cumsum(-1)
    total_B1 = reached_BV[:, -1:]
    target_B1 = torch.minimum((uniforms_B[:, None] * total_B1).long(), total_B1 - 1)
    last = units_BV.shape[-1] - 1
    return (reached_BV <= target_B1).sum(-1, keepdim=True).clamp(max=last)
