"""Hold a model, on its device, to a plain implementation before it is trained.

Shapes: B rows, T positions, S = T + 1 ids of a row, V vocabulary.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.decoding import CachedLlama
from model.llama import Llama, LlamaSettings, planned_std
from model.plain_llama import Array, Weights, plain_logits, plain_loss
from model.ranks import whole

T = TypeVar("T")
SCORE_STD = 2.0
"""Of attention scores while a model is checked: neither all alike nor all but one negligible."""
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


def slope_error(
    settings: LlamaSettings, weights: Weights, gradients: Weights, ids_BS: NDArray[np.int64]
) -> float:
    """Compare gradients with the slope of the plain loss along random directions.

    Every kind of weight (the same one of all layers) is given a like part in the slope, as far as
    it can be with a small step, so that none can be missing, doubled or out of date unseen. The
    difference is relative to what such a slope usually is; the larger of the directions' counts.
    """
    widths = _widths(weights, gradients, settings)
    slopes = _Slopes(settings, weights, gradients, widths, ids_BS)
    return max(slopes.error(each) for each in np.random.default_rng(0).spawn(2))


def read_gradients(model: Llama) -> dict[str, Array]:
    """Copy every gradient; under ranks that hold parts of them, all must ask."""
    return {
        name: np.zeros(p.shape) if p.grad is None else _float64(p.grad)
        for name, p in model.named_parameters()
    }


def plain_weights(model: Llama) -> dict[str, Array]:
    """Copy every weight; under ranks that hold parts of them, all must ask."""
    return {name: _float64(p.detach()) for name, p in model.named_parameters()}


class _Slopes:
    """Compares gradients with differences of the plain loss, moving one copy of the weights."""

    def __init__(
        self,
        settings: LlamaSettings,
        weights: Weights,
        gradients: Weights,
        widths: Mapping[str, float],
        ids_BS: NDArray[np.int64],
    ) -> None:
        self.settings, self.ids_BS = settings, ids_BS
        self.weights, self.gradients, self.widths = weights, gradients, widths
        # Memory that was never touched costs more than what is done with it.
        self.moved = {name: np.empty_like(weight) for name, weight in weights.items()}

    def error(self, generator: np.random.Generator) -> float:
        """Return how far the slope along a random direction is from that of the gradients."""
        generators = dict(zip(self.weights, generator.spawn(len(self.weights)), strict=True))
        slope = sum(_each(lambda name: self._ahead(name, generators[name]), self.weights))
        ahead = plain_loss(self.moved, self.settings, self.ids_BS)
        _each(self._behind, self.weights)
        true_slope = (ahead - plain_loss(self.moved, self.settings, self.ids_BS)) / 2
        usual = math.hypot(*(self.widths[n] * _norm(self.gradients[n]) for n in self.weights))
        return abs(true_slope - slope) / max(usual, abs(true_slope))

    def _ahead(self, name: str, generator: np.random.Generator) -> float:
        """Move a weight one width along a random direction, and return its part of the slope."""
        moved = self.moved[name]
        np.multiply(_signs(generator, moved.shape), self.widths[name], out=moved)
        part = float(np.vdot(self.gradients[name], moved))
        moved += self.weights[name]
        return part

    def _behind(self, name: str) -> None:
        """Move a weight from one width ahead to one behind."""
        moved = self.moved[name]
        moved -= self.weights[name]
        np.subtract(self.weights[name], moved, out=moved)


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Draw ones of either sign, a random bit each."""
    size = math.prod(shape)
    bytes_ = np.frombuffer(generator.bytes(-(-size // 8)), np.uint8)
    signs = np.unpackbits(bytes_, count=size).view(np.int8)
    signs *= 2
    signs -= 1
    return signs.reshape(shape)


def _each(work: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """Do what takes long for a large model for all its weights, some at a time."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(work, names))


def _widths(weights: Weights, gradients: Weights, settings: LlamaSettings) -> dict[str, float]:
    """Choose how far each weight is moved: a like change of the loss, at most a relative nudge."""
    kinds: dict[str, list[str]] = {}
    for name in weights:
        kinds.setdefault(re.sub(r"\.\d+\.", ".", name), []).append(name)
    norms = {
        kind: math.hypot(*(_norm(gradients[n]) for n in names)) for kind, names in kinds.items()
    }
    # A new bias is zero everywhere, which is no width.
    widest = {
        kind: NUDGE * (_root_mean_square(weights[names[0]]) or settings.initializer_std)
        for kind, names in kinds.items()
    }
    like = statistics.median(norms[kind] * widest[kind] for kind in kinds)
    return {
        name: min(widest[kind], like / norms[kind]) if norms[kind] else widest[kind]
        for kind, names in kinds.items()
        for name in names
    }


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values))


def _root_mean_square(values: Array) -> float:
    return _norm(values) / math.sqrt(values.size)


def _float64(tensor: Tensor) -> Array:
    # Widened behind the transfer, which takes half as long then.
    found: Array = whole(tensor).cpu().double().numpy()
    return found


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
