"""Models in engines of which nothing but the logits can be had.

What can be done to them all the same: their weights can be changed before they run.

Shapes: B rows, T positions, V vocabulary.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from model.llama import LlamaSettings
from model.sides import Rounding
from model.taps import LOGITS
from model.teacher_forcing import free_logits
from model.torch_side import TorchSide


@runtime_checkable
class LogitsSide(Protocol):
    """A model in an engine that shows nothing but its logits."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def settings(self) -> LlamaSettings:
        """The architecture as this side understands it."""

    @property
    def dtype(self) -> torch.dtype:
        """What the engine computes in."""

    @property
    def round_inputs(self) -> Rounding | None:
        """What the engine does to the inputs of its matrix products; None if nothing."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights under Hugging Face's names."""

    def logits(self, ids_BT: Tensor, silent: Collection[str]) -> Tensor:
        """Make one forward pass with all values of some tensors zero.

        Shapes: (B, T) -> (B, T, V).
        """


@dataclass(frozen=True, slots=True)
class TorchLogits:
    """A torch model whose sites nobody looks at."""

    side: TorchSide

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.side.name

    @property
    def settings(self) -> LlamaSettings:
        """The architecture."""
        return self.side.settings

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the logits."""
        found: torch.dtype = getattr(torch, self.side.declarations[LOGITS].dtype)
        return found

    @property
    def round_inputs(self) -> Rounding | None:
        """What the engine does to the inputs of its matrix products."""
        return self.side.round_inputs

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights under Hugging Face's names."""
        return self.side.weights()

    def logits(self, ids_BT: Tensor, silent: Collection[str]) -> Tensor:
        """Make one forward pass with all values of some tensors zero."""
        with silenced(self.side.weights(), silent):
            return free_logits(self.side.run, ids_BT)


@contextmanager
def silenced(weights: Mapping[str, Tensor], names: Collection[str]) -> Iterator[None]:
    """Make all values of some tensors zero for the length of a block."""
    kept = {name: weights[name].clone() for name in names}
    for name in names:
        weights[name].zero_()
    try:
        yield
    finally:
        for name, value in kept.items():
            weights[name].copy_(value)
