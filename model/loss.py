"""The training and validation objective: cross-entropy of the next token, in nats.

Shapes: B rows, T positions, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

PADDING = -1
"""The id of a position that holds no token: its loss is zero, and no mean counts it."""


def token_losses(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Score every target under the distribution before it; padding costs nothing.

    Shapes: (B, T, V), (B, T) -> (B, T).
    Units: nats.
    Precision: float32 at least, whatever the logits are; float64 stays float64.
    """
    wide_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    losses = functional.cross_entropy(
        wide_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=PADDING, reduction="none"
    )
    return losses.view_as(targets_BT)
