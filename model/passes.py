"""The forward and backward passes of a training step, however the ranks hold the model."""

from typing import Protocol

from torch import Tensor, nn

from model.fast_llama import FastLlama
from model.llama import Llama
from model.loss import row_losses
from model.precision import Precision, product_dtype
from model.ranks import is_sharded


class Passes(Protocol):
    """Scores micro-batches so that gradients reach a model's parameters."""

    def refresh(self) -> None:
        """Take over the model's weights, which the optimizer has moved."""

    def __call__(self, ids_BS: Tensor, document_end: int | None, scale: float) -> Tensor:
        """Return the scaled sum of the losses of some rows."""


class ShardedPasses:
    """Runs a model that ranks hold in parts as it stands: it gathers and rounds them itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def refresh(self) -> None:
        """Do nothing: there is no copy."""

    def __call__(self, ids_BS: Tensor, document_end: int | None, scale: float) -> Tensor:
        """Return the scaled sum of the losses of some rows.

        Shapes: (B, S) -> ().
        """
        return row_losses(self.model, ids_BS, document_end).sum() * scale


def passes_of(model: Llama, precision: Precision, *, compiled: bool) -> Passes:
    """Choose what runs a model's training steps.

    A sharded model is never compiled.
    """
    if is_sharded(model):
        return ShardedPasses(model)
    dtype = product_dtype(precision, model.model.norm.weight.dtype)
    return FastLlama(model, dtype, compiled=compiled)
