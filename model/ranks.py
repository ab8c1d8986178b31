"""The processes that train one model together, as the training loop sees them.

Every rank is given the same global batch and takes its own rows of it, and every sum is over the
rows of all ranks: what is learnt depends on the batch, not on how many share it. Only the order in
which floating-point numbers are added does.

Shapes: B rows of the global batch, S tokens of a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from model.errors import WrongSettingError

Parallelism = Literal["ddp", "fsdp"]


class Ranks:
    """One process that trains alone; the base of those that train together."""

    rank = 0
    size = 1
    stopping = False
    """Whether any rank was asked to stop before the last sum; every rank sees the same."""
    asked_to_stop = False
    """Set by whoever is told, a signal handler for example; others learn of it in a sum."""

    def distribute(self, model: nn.Module) -> nn.Module:
        """Return what computes the model and exchanges its gradients; before any optimizer."""
        return model

    def own(self, ids_BS: np.ndarray) -> np.ndarray:
        """Take this rank's rows of a global batch.

        Shapes: (B, S) -> (B / size, S).
        Raises: WrongSettingError if the ranks cannot have equally many.
        """
        if len(ids_BS) % self.size:
            expected = f"a multiple of the {self.size} ranks"
            raise WrongSettingError("train.batch_rows", len(ids_BS), expected)
        own = len(ids_BS) // self.size
        return ids_BS[self.rank * own : (self.rank + 1) * own]

    def sum(self, values: Tensor) -> Tensor:
        """Add a vector over all ranks; every rank gets the same bits."""
        self.stopping = self.stopping or self.asked_to_stop
        return values

    @contextmanager
    def holding_gradients(self, module: nn.Module) -> Iterator[None]:
        """Keep gradients on this rank: for all backward passes of a step but its last."""
        yield

    @property
    def loss_scale(self) -> int:
        """By what to multiply a loss before its backward pass: gradients are averaged, not added."""
        return self.size

    def whole(self, tensor: Tensor) -> Tensor:
        """Put a tensor together that ranks may hold in parts; all ranks must ask."""
        return tensor


class RankGroup(Ranks):
    """One of several processes, joined by torch's default process group."""

    def __init__(self, parallelism: Parallelism) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.parallelism = parallelism

    def distribute(self, model: nn.Module) -> nn.Module:
        """Wrap for DDP, or shard the parameters in place for FSDP2."""
        if self.parallelism == "ddp":
            return DistributedDataParallel(model)
        shard(model)
        return model

    def sum(self, values: Tensor) -> Tensor:
        """Add a vector over all ranks, and with it whether any was asked to stop."""
        asked = torch.tensor([float(self.asked_to_stop)], dtype=values.dtype, device=values.device)
        both = torch.cat((values, asked))
        dist.all_reduce(both)
        self.stopping = bool(both[-1].item())
        return both[:-1]

    @contextmanager
    def holding_gradients(self, module: nn.Module) -> Iterator[None]:
        """Keep gradients on this rank."""
        if isinstance(module, DistributedDataParallel):
            with module.no_sync():
                yield
            return
        sharded: Any = module
        sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            sharded.set_requires_gradient_sync(True)

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather the parts of a sharded tensor."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard(model: nn.Module) -> None:
    """Split every parameter over the ranks, layer by layer, so that one layer is whole at a time.

    Source: torch.distributed.fsdp.fully_shard (FSDP2).
    """
    from torch.distributed.fsdp import fully_shard

    layers: Any = model.get_submodule("model.layers")
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)
