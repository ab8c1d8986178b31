"""The training and validation objective: cross-entropy of the next token, in nats.

Shapes: B rows, T positions, S = T + 1 ids of a row, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.documents import documents_of

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


def row_losses(model: nn.Module, ids_BS: Tensor, document_end: int | None) -> Tensor:
    """Score every token of some rows but the first of each, given those before it.

    `document_end` is the id behind which a token sees nothing of its row; None lets it see all.
    What stands after the end of a document is a target of that document with or without it, so
    that both ways score the same tokens.

    Shapes: (B, S) -> (B, T).
    Units: nats.
    """
    inputs_BT = ids_BS[:, :-1]
    # Padding is only ever followed by padding: what the model is given there reaches no target.
    known_BT = inputs_BT.clamp(min=0)
    documents_BT = None if document_end is None else documents_of(inputs_BT, document_end)
    return token_losses(model(known_BT, documents_BT), ids_BS[:, 1:])
