"""The loss of every token of held-out rows.

Rows are scored one at a time. Matrix libraries add in another order for another number of rows, so
this is what gives a row the same bits whatever stands beside it, however many ranks share the work
and wherever it is cut; a row is long enough to keep a device busy.

Shapes: B rows, T positions, S = T + 1 ids of a row.
"""

import numpy as np
import torch

from model.llama import Llama
from model.loss import row_losses
from model.precision import Precision


@torch.inference_mode()
def evaluate(
    model: Llama, ids_BS: np.ndarray, device: torch.device | str, *, document_end: int | None
) -> np.ndarray:
    """Score every target of some rows; padding costs nothing.

    `document_end` is that of the model's training.

    Shapes: (B, S) of int64 -> (B, T) of float32.
    Units: nats per token.
    """
    ids = torch.from_numpy(ids_BS).to(device)
    losses = [row_losses(model, row_S[None], document_end) for row_S in ids]
    return torch.cat(losses).float().cpu().numpy()


@torch.no_grad()
def round_weights(model: Llama, precision: Precision) -> Llama:
    """Round the weights of a model to the format in which it is to be scored.

    Precision: norms and losses stay as wide as the model makes them.
    """
    if precision == "bfloat16":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    return model
