"""The processes that train one model together, as the training loop sees them.

Every rank is given the same global batch and takes its own rows of it, and every sum is over the
rows of all ranks: what is learnt depends on the batch, not on how many share it. Only the order in
which floating-point numbers are added does.

Shapes: B rows of the global batch, S tokens of a row.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.errors import WrongSettingError
from model.precision import Precision
from model.transfers import coming

Parallelism = Literal["ddp", "fsdp"]


class Ranks:
    """One process that trains alone; the base of those that train together."""

    rank = 0
    size = 1

    def __init__(self, is_asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        self.is_asked_to_stop = is_asked_to_stop
        """Tells of this rank alone; the others learn of it in the next sum."""
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        """Held while this rank can only wait for others."""
        self._asked: Callable[[], bool | Tensor] = bool

    @property
    def stopping(self) -> bool:
        """Whether any rank was asked to stop before the last sum; every rank sees the same."""
        with self.waiting():
            return bool(self._asked())

    def place(self, model: nn.Module, device: torch.device | str, precision: Precision) -> None:  # noqa: ARG002
        """Move a model to where this rank computes; before its optimizer is made."""
        model.to(device)

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
        asked = self.is_asked_to_stop()
        self._asked = lambda: asked
        return values

    @contextmanager
    def exchanging(self, passes: Any, *, last: bool) -> Iterator[None]:  # noqa: ARG002
        """Add up gradients over all ranks in the last backward pass of a step, and not before."""
        yield

    def norm(self, of_own_part: Tensor) -> Tensor:
        """Return the norm of all parameters, given that of what this rank holds of them."""
        return of_own_part

    def sum_words(self, of_own_part: Tensor) -> Tensor:
        """Add up a 64-bit word over what the ranks hold, modulo 2^64; ranks do not cancel out."""
        return of_own_part

    def gather(self, value: object) -> list[Any]:
        """Collect a plain value from every rank, on every rank, in their order."""
        return [value]

    @property
    def loss_scale(self) -> int:
        """By what to multiply a loss before its backward pass: some exchanges take the mean."""
        return 1


class RankGroup(Ranks):
    """One of several processes, joined by torch's default process group."""

    def __init__(
        self,
        parallelism: Parallelism,
        num_nodes: int = 1,
        is_asked_to_stop: Callable[[], bool] = lambda: False,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__(is_asked_to_stop)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.parallelism = parallelism
        self.num_nodes = num_nodes
        self.backend = dist.get_backend()
        self.waiting = waiting

    def place(self, model: nn.Module, device: torch.device | str, precision: Precision) -> None:
        """Move a model to where this rank computes, and keep only a part of it under FSDP.

        All ranks hold the weights of the first afterwards.
        """
        model.to(device)
        for parameter in model.parameters():
            dist.broadcast(parameter.detach(), 0)
        if self.parallelism == "fsdp":
            shard(model, torch.bfloat16 if precision == "bfloat16" else torch.float32)

    def sum(self, values: Tensor) -> Tensor:
        """Add a vector over all ranks, and with it whether any was asked to stop.

        A GPU may still be at it: whoever reads the sum waits for the others then.
        """
        # Filled in, not copied: a copy would have the host wait for the GPU.
        asked = values.new_full((1,), float(self.is_asked_to_stop()))
        both = torch.cat((values, asked))
        with self.waiting():
            dist.all_reduce(both)
        self._asked = coming(both[-1])
        return both[:-1]

    @contextmanager
    def exchanging(self, passes: Any, *, last: bool) -> Iterator[None]:
        """Add up gradients over all ranks in the last backward pass of a step, and not before.

        Over several machines those of a layer as soon as they are whole, while others are made. On
        one, all of them afterwards: NCCL's sums hold cores of a GPU that a product would wait for,
        longer than the sums take alone (decision 0010).
        """
        if self.parallelism == "fsdp":
            passes.model.set_requires_gradient_sync(last)
            yield
            return
        flats: list[Tensor] = []
        sums: list[Any] = []

        def begin(flat: Tensor) -> None:
            sums.append(dist.all_reduce(flat, async_op=True))

        if last:
            passes.tell(begin if self.num_nodes > 1 else flats.append)
        try:
            yield
        finally:
            passes.tell(None)
        for flat in flats:
            begin(flat)
        for each in sums:
            each.wait()

    @property
    def loss_scale(self) -> int:
        """By what to multiply a loss before its backward pass: FSDP takes the mean."""
        return self.size if self.parallelism == "fsdp" else 1

    def norm(self, of_own_part: Tensor) -> Tensor:
        """Return the norm of all parameters, given that of what this rank holds of them."""
        if self.parallelism == "ddp":
            return of_own_part
        return self.sum(of_own_part.square().reshape(1)).sqrt().squeeze(0)

    def sum_words(self, of_own_part: Tensor) -> Tensor:
        """Add up a 64-bit word over what the ranks hold, modulo 2^64; ranks do not cancel out."""
        if self.parallelism == "ddp":
            return of_own_part
        total = of_own_part * (2 * self.rank + 1)
        with self.waiting():
            dist.all_reduce(total)
        return total

    def gather(self, value: object) -> list[Any]:
        """Collect a plain value from every rank, on every rank, in their order."""
        found: list[Any] = [None] * self.size
        with self.waiting():
            dist.all_gather_object(found, value)
        return found


def shard(model: nn.Module, dtype: torch.dtype) -> None:
    """Split every parameter over the ranks; one layer at a time is whole, in the given dtype.

    Precision: what the optimizer moves keeps its own dtype, and so does the sum of gradients.
    Source: Zhao et al. 2023, arXiv:2304.11277, as torch's `fully_shard`.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    layers: Any = model.get_submodule("model.layers")
    for layer in layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def is_sharded(model: nn.Module) -> bool:
    """Tell whether ranks hold the model in parts."""
    return any(is_part(parameter) for parameter in model.parameters())


def is_part(tensor: Tensor) -> bool:
    """Tell whether a tensor is held by ranks in parts."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Put together what ranks hold in parts; all of them must ask.

    A tensor that is no part of a sharded model is returned as it is.
    """
    sharded: Any = tensor
    found: Tensor = sharded.full_tensor() if is_part(tensor) else tensor
    return found


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor."""
    sharded: Any = tensor
    found: Tensor = sharded.to_local() if is_part(tensor) else tensor
    return found


def like(values: Tensor, parameter: Tensor) -> Tensor:
    """Copy values to where a parameter is, split over the ranks as it is."""
    placed = values.to(parameter.device, copy=True)
    if not is_part(parameter) or placed.shape != parameter.shape:
        return placed
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    return distribute_tensor(placed, sharded.device_mesh, sharded.placements)
