"""Hold a model, on its device, to a plain implementation before it is trained.

Shapes: B rows, T positions, S = T + 1 ids of a row, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.decoding import CachedLlama
from model.llama import Llama, planned_std
from model.plain_llama import Array, Weights, plain_logits
from model.ranks import is_sharded, whole
from model.slopes import Gradient, side_by_side

T = TypeVar("T")
SCORE_STD = 2.0
"""Of attention scores while a model is checked: neither all alike nor all but one negligible."""


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


@contextmanager
def attentive(model: Llama) -> Iterator[None]:
    """Widen queries and keys for the length of a block, then put back what they were to the bit.

    A new model attends to every position alike: what is wrong with positions would hardly show.
    """
    before = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if name.endswith(("q_proj.weight", "k_proj.weight"))
    }
    with torch.no_grad():
        for name, weight in before.items():
            # Of vectors of unit channels, the products then have a deviation of SCORE_STD.
            wanted = math.sqrt(SCORE_STD / model.settings.hidden_size)
            std = float(whole(weight).double().square().mean().sqrt())
            model.get_parameter(name).mul_(wanted / std)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                model.get_parameter(name).copy_(weight)


@torch.no_grad()
def forward_error(model: Llama, ids_BS: NDArray[np.int64], weights: Weights | None = None) -> float:
    """Return the relative L2 difference of the model's logits to those of the plain model.

    `weights` are the model's, where they were copied already.
    """
    weights = weights or _Widened(dict(model.named_parameters()))
    device = next(model.parameters()).device
    found_BTV = model(torch.from_numpy(ids_BS[:, :-1]).to(device)).double().cpu().numpy()
    plain_BTV = plain_logits(weights, model.settings, ids_BS[:, :-1])
    return float(np.linalg.norm(found_BTV - plain_BTV) / np.linalg.norm(plain_BTV))


@torch.no_grad()
def decoding_error(model: Llama, ids_T: NDArray[np.int64]) -> float:
    """Return the relative L2 difference of the last logits to those of a forward pass.

    The first half of the ids is read at once, as a prompt is, the rest one by one.
    """
    device = next(model.parameters()).device
    ids_1T = torch.from_numpy(ids_T)[None].to(device)
    num_read, num_ids = ids_1T.shape[1] // 2, ids_1T.shape[1]
    cached = CachedLlama(model, num_rows=1, num_positions=num_ids)
    cached.read(torch.zeros(1, dtype=torch.long, device=device), ids_1T[:, :num_read])
    for place in range(num_read, num_ids):
        place_1 = torch.tensor([place], device=device)
        logits_1V = cached.step(ids_1T[:, place], place_1, place + 1)
    expected_1V = model(ids_1T)[:, -1]
    return float((logits_1V - expected_1V).double().norm() / expected_1V.double().norm())


def read_gradients(model: Llama) -> dict[str, Gradient]:
    """Read every gradient, as wide as it is; under ranks that hold parts of them, all must ask."""
    return _of_all(
        model, lambda p: np.zeros(p.shape) if p.grad is None else whole(p.grad).cpu().numpy()
    )


def plain_weights(model: Llama) -> dict[str, Array]:
    """Copy every weight; under ranks that hold parts of them, all must ask."""
    return _of_all(model, lambda p: _float64(p.detach()))


def _of_all(model: Llama, copied: Callable[[Tensor], T]) -> dict[str, T]:
    named = dict(model.named_parameters())
    # Ranks that hold parts put each of them together in the same order.
    copies = (
        map(copied, named.values()) if is_sharded(model) else side_by_side(copied, named.values())
    )
    return dict(zip(named, copies, strict=True))


def _float64(tensor: Tensor) -> Array:
    # Widened behind the transfer, which takes half as long then.
    found = whole(tensor).cpu()
    # numpy has no bfloat16; and torch would widen with all cores in every thread that asks.
    values = found.float() if found.dtype == torch.bfloat16 else found
    return values.numpy().astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Widened(Mapping[str, Array]):
    """Weights in float64, each as it is asked for: all of them may not fit into memory."""

    parameters: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Array:
        return _float64(self.parameters[name].detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)
