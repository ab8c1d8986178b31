"""A digest of a training state's bits, made where the state is: one read of it and no copy.

The 64-bit words of every tensor are added up by their place modulo a prime, and these sums, each
times an odd number of its own, to one. So a word that changes always changes the digest, and words
that change places do unless they move by a multiple of the prime. It tells two honest states apart;
against a forger there is the sha256 of every snapshot.

Legend: N words of a tensor, C places modulo the prime.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.ranks import Ranks, own_part
from model.train_settings import TrainSettings
from model.training_state import TrainingState, weights
from model.transfers import coming

CLASSES = 1021
"""A prime: no row of a matrix is as wide."""
_ODD = 0x1E3779B97F4A7C15
"""Neighbouring multiples of it share few bits: 2^64 over the golden ratio, made positive."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def is_digested(step: int, every: int, settings: TrainSettings) -> bool:
    """Tell whether a step's report has a digest: every so many, and the last of an epoch."""
    return settings.ends_epoch(step) or step % every == 0


def state_digest(state: TrainingState, ranks: Ranks, *, compiled: bool = False) -> str:
    """Digest the weights and the optimizer's tensors; all ranks must ask.

    The optimizer's counts are left out: a step reports its number of updates. `compiled` says
    whether a GPU may be given a kernel made for this.
    """
    return begin_digest(state, ranks, compiled=compiled)()


@torch.no_grad()
def begin_digest(state: TrainingState, ranks: Ranks, *, compiled: bool) -> Callable[[], str]:
    """Begin a digest of the state as it is now; what is returned waits for it."""
    moments = state.optimizer.tensors().items()
    kept = [*weights(state).values(), *(t for name, t in moments if not name.endswith(".step"))]
    words = [_words(own_part(tensor)) for tensor in kept]
    total = coming(ranks.sum_words(_added(words, compiled=compiled)))
    return lambda: f"{int(total().item()) % 2**64:016x}"


def _added(words: Sequence[Tensor], *, compiled: bool) -> Tensor:
    """Add up all words, each times the odd number of its tensor and class.

    Shapes: -> ().
    """
    if compiled and words[0].is_cuda:
        # Where nothing can be compiled, the package that the kernel is written in may be missing.
        from model.sum_kernels import weighted_sum

        return weighted_sum(words, CLASSES, _ODD)
    sums_C = torch.stack([_fold(each_N) for each_N in words]).reshape(-1)
    odd_C = 2 * torch.arange(1, len(sums_C) + 1, device=sums_C.device) * _ODD + 1
    return (sums_C * odd_C).sum()


def _fold(words_N: Tensor) -> Tensor:
    """Add up a tensor's words by their place modulo the prime.

    Shapes: (N,) -> (C,).
    """
    num_whole = len(words_N) // CLASSES * CLASSES
    sums_C = words_N[:num_whole].view(-1, CLASSES).sum(0)
    rest = words_N[num_whole:]
    sums_C[: len(rest)] += rest
    return sums_C


def _words(tensor: Tensor) -> Tensor:
    """View a tensor's bytes as 64-bit words; where they do not fill any, widen each element."""
    flat = tensor.reshape(-1)
    size = flat.element_size()
    if flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0:
        return flat.view(torch.int64)
    return flat.view(_INTEGERS[size]).to(torch.int64)
