"""The loss of every token of held-out rows.

Shapes: B rows, T positions, S = T + 1 ids of a row.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from model.llama import Llama
from model.loss import row_losses


def evaluate(
    model: Llama,
    rows: Iterable[np.ndarray],
    device: torch.device | str,
    *,
    document_end: int | None,
) -> Iterator[np.ndarray]:
    """Score every row under the model, one batch for each batch given; padding costs nothing.

    `document_end` is that of the model's training.

    Shapes: every batch (B, S) of int64 -> (B, T) of float32.
    Units: nats per token.
    Precision: a row's losses may differ in the last bits with the rows beside it, because matrix
        libraries choose another order of summation for another number of rows.
    """
    for ids_BS in rows:
        ids = torch.from_numpy(ids_BS).to(device)
        yield _losses(model, ids, document_end).float().cpu().numpy()


# Inference mode must not be held across a yield: the consumer would run under it.
@torch.inference_mode()
def _losses(model: Llama, ids_BS: Tensor, document_end: int | None) -> Tensor:
    return row_losses(model, ids_BS, document_end)
