"""Sums over all numbers of many tensors, each read once, begun by one launch.

torch reads a difference three times before its norm is known, and starts a kernel or more for every
tensor, which takes a host longer than a GPU needs for the sums (decision 0010).

Legend: K tensors, P pieces of them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from model.transfers import sent

_PIECE = 8192
"""Numbers that a program adds up."""


def distance_in_one_pass(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Return the norm of all differences between float32 tensors of equal sizes.

    Shapes: -> ().
    """
    tables = _tables(ones)
    sums_P = torch.empty(len(tables[1]), device=ones[0].device)
    with torch.cuda.device(sums_P.device):
        _add_squares[(len(sums_P),)](_addresses(ones), _addresses(others), *tables, sums_P, _PIECE)
    return sums_P.double().sum().sqrt().float()


def weighted_sum(words: Sequence[Tensor], classes: int, odd: int) -> Tensor:
    """Add up 64-bit words, each times an odd number of its tensor and its place modulo `classes`.

    Shapes: -> ().
    """
    tables = _tables(words)
    sums_P = torch.empty(len(tables[1]), dtype=torch.int64, device=words[0].device)
    with torch.cuda.device(sums_P.device):
        _add_words[(len(sums_P),)](_addresses(words), *tables, sums_P, classes, odd, _PIECE)
    return sums_P.sum()


def _addresses(tensors: Sequence[Tensor]) -> Tensor:
    assert all(each.is_contiguous() for each in tensors)
    return sent(torch.tensor([each.data_ptr() for each in tensors]), tensors[0].device)


def _tables(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return _pieces(tuple(each.numel() for each in tensors), tensors[0].device)


@lru_cache(maxsize=4)
def _pieces(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Say how large the tensors are, whose each piece is, and where in it that begins.

    Shapes: -> (K,), (P,), (P,).
    """
    counts_K = -(-np.array(sizes) // _PIECE)
    owners_P = np.repeat(np.arange(len(sizes)), counts_K)
    before_K = np.cumsum(counts_K) - counts_K
    firsts_P = (np.arange(len(owners_P)) - before_K[owners_P]) * _PIECE
    made: Any = [
        torch.from_numpy(each).to(device) for each in (np.array(sizes), owners_P, firsts_P)
    ]
    return tuple(made)


@triton.jit  # type: ignore[untyped-decorator]
def _add_squares(ones, others, sizes, owners, firsts, sums, piece: tl.constexpr):  # type: ignore[no-untyped-def]
    number = tl.program_id(0)
    owner = tl.load(owners + number)
    places = tl.load(firsts + number) + tl.arange(0, piece)
    inside = places < tl.load(sizes + owner)
    one = tl.load(tl.load(ones + owner).to(tl.pointer_type(tl.float32)) + places, inside, 0.0)
    other = tl.load(tl.load(others + owner).to(tl.pointer_type(tl.float32)) + places, inside, 0.0)
    difference = one - other
    tl.store(sums + number, tl.sum(difference * difference, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _add_words(  # type: ignore[no-untyped-def]
    words,
    sizes,
    owners,
    firsts,
    sums,
    classes: tl.constexpr,
    odd: tl.constexpr,
    piece: tl.constexpr,
):
    number = tl.program_id(0)
    owner = tl.load(owners + number)
    places = tl.load(firsts + number) + tl.arange(0, piece)
    inside = places < tl.load(sizes + owner)
    word = tl.load(tl.load(words + owner).to(tl.pointer_type(tl.int64)) + places, inside, 0)
    factor = 2 * (owner * classes + places % classes + 1) * odd + 1
    tl.store(sums + number, tl.sum(word * factor, 0))
