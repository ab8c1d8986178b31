"""The gradients of a global batch, micro-batch by micro-batch.

Shapes: B rows, S tokens of a row.
"""

import numpy as np
import torch
from torch import Tensor

from model.batch import count_targets
from model.passes import Passes
from model.ranks import Ranks
from model.train_settings import TrainSettings
from model.training_state import TrainingState
from model.transfers import sent


def accumulate(
    state: TrainingState,
    ids_BS: np.ndarray,
    settings: TrainSettings,
    passes: Passes,
    ranks: Ranks,
    document_end: int | None = None,
) -> Tensor:
    """Leave the gradients of the mean loss over all targets of the batch, and return that loss."""
    scale = ranks.loss_scale / count_targets(ids_BS)
    state.optimizer.zero_grad()
    passes.refresh()
    device = next(state.model.parameters()).device
    own_BS = sent(torch.from_numpy(ranks.own(ids_BS)), device)
    micros = torch.split(own_BS, settings.micro_batch_rows)
    losses: list[Tensor] = []
    for number, micro_BS in enumerate(micros, start=1):
        with ranks.exchanging(passes, last=number == len(micros)):
            loss = passes(micro_BS, document_end, scale)
            torch.autograd.backward(loss)
            losses.append(loss.detach())
    return ranks.sum(torch.stack(losses).sum(0, keepdim=True) / ranks.loss_scale).squeeze(0)
