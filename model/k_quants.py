"""Quantise float matrices to GGML's blocks and back: Q8_0, Q4_K and Q6_K.

The bytes depend on the values alone, not on the processor nor on the number of threads. Work is
spread over as many threads as torch is set to use.

Shapes: N blocks, G groups of a block, V values of a group, L lanes (all groups side by side).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import isfinite, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.block_fit import Grid, fit_scales
from model.block_formats import (
    BlockKind,
    Bytes,
    Floats,
    pack_q4_k,
    pack_q6_k,
    pack_q8_0,
    unpack_q4_k,
    unpack_q6_k,
    unpack_q8_0,
)
from model.block_search import round_q8_0, search_affine, search_symmetric
from model.errors import UnencodableError

__all__ = ["BlockKind", "decode", "encode", "row_bytes"]

CHUNK_VALUES = 1 << 16
"""Values in work at a time: they and what is computed from them stay in a core's cache."""

MAX_MAGNITUDE = float(1 << 20)
"""Far above any weight, and far below what overflows a scale of half precision."""

Q4 = Grid(
    q_range=(np.float32(0), np.float32(15)),
    scale_range=(np.float32(0), np.float32(63)),
    reaches=(63,),
    change_C2=np.array(list(product((0, -1, 1), repeat=2)), np.float32),
)
Q6 = Grid(
    q_range=(np.float32(-32), np.float32(31)),
    scale_range=(np.float32(-128), np.float32(127)),
    reaches=(-128, -125),
    change_C2=np.array([[0, 0], [-1, 0], [1, 0]], np.float32),
)
# No stretch first: it spans the values of a group plainly.
Q4_STRETCHES = np.array([0, *range(-10, 0), *range(1, 11)], np.float32) / np.float32(10)
Q6_STRETCHES = np.array([0, *range(-9, 0), *range(1, 10)], np.float32) / np.float32(10)


def encode(kind: BlockKind, matrix: Tensor) -> Tensor:
    """Quantise every row.

    Shapes: (rows, K) float32 -> (rows, bytes of a row) uint8; K a multiple of `kind.values`.
    Raises: UnencodableError.
    """
    _require_rows(kind, matrix)
    values = matrix.detach().cpu().contiguous()
    _require_range(kind, values)
    x_NK = values.numpy().reshape(-1, kind.values)
    blocks = np.empty((len(x_NK), kind.bytes), np.uint8)
    _in_chunks(kind, ENCODERS[kind], x_NK, blocks)
    return torch.from_numpy(blocks).reshape(len(values), row_bytes(kind, values.shape[1]))


def decode(kind: BlockKind, blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give the values that blocks stand for.

    Raises: UnencodableError if the blocks are not those of the shape.
    """
    num_blocks = blocks.numel() // kind.bytes
    if blocks.numel() % kind.bytes or num_blocks * kind.values != prod(shape):
        found = f"{blocks.numel()} bytes for shape {list(shape)}"
        expected = f"{kind.bytes} bytes for every {kind.values} values"
        raise UnencodableError(kind.name, found, expected)
    flat = np.empty((num_blocks, kind.values), np.float32)
    encoded = blocks.contiguous().numpy().reshape(-1, kind.bytes)
    _in_chunks(kind, DECODERS[kind], encoded, flat)
    return torch.from_numpy(flat).reshape(shape)


def row_bytes(kind: BlockKind, num_values: int) -> int:
    """Give the bytes of a row of whole blocks."""
    return num_values // kind.values * kind.bytes


def _require_rows(kind: BlockKind, matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.dtype != torch.float32 or matrix.shape[1] % kind.values:
        dtype = str(matrix.dtype).removeprefix("torch.")
        found = f"a {dtype} tensor of shape {list(matrix.shape)}"
        expected = f"a float32 matrix whose rows are a multiple of {kind.values} long"
        raise UnencodableError(kind.name, found, expected)


def _require_range(kind: BlockKind, values: Tensor) -> None:
    if not values.numel():
        return
    low, high = (float(end) for end in values.aminmax())
    if not (isfinite(low) and isfinite(high)):
        raise UnencodableError(kind.name, "a matrix with NaN or infinity", "finite values")
    peak = max(-low, high)
    if peak > MAX_MAGNITUDE:
        found, expected = f"a value of magnitude {peak:.3g}", f"at most {MAX_MAGNITUDE:.3g}"
        raise UnencodableError(kind.name, found, expected)


def _in_chunks(
    kind: BlockKind,
    convert: Callable[[NDArray[Any]], NDArray[Any]],
    source: NDArray[Any],
    target: NDArray[Any],
) -> None:
    """Convert blocks of `source` to those of `target`, a few at a time."""
    num_blocks = CHUNK_VALUES // kind.values

    def work(start: int) -> None:
        target[start : start + num_blocks] = convert(source[start : start + num_blocks])

    starts = range(0, len(source), num_blocks)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        # Reading the results raises what a thread raised.
        list(threads.map(work, starts))


def _encode_q8_0(x_NV: Floats) -> Bytes:
    scale_N, q_NV = round_q8_0(x_NV)
    return pack_q8_0(scale_N.astype(np.float16), q_NV)


def _encode_q4_k(x_NK: Floats) -> Bytes:
    x_VL = _lanes(x_NK, 32)
    # As llama.cpp weighs where it is not told what matters: large values count more.
    weight_VL: Floats = np.sqrt(_mean_squares(x_VL)) + np.abs(x_VL)
    plain_2NG, best_2NG = (
        search_affine(x_VL, weight_VL, stretches, Q4.q_range[1]).reshape(2, -1, 8)
        for stretches in (Q4_STRETCHES[:1], Q4_STRETCHES)
    )
    fit = fit_scales(Q4, x_VL, weight_VL, plain_2NG, best_2NG)
    q_NGV = fit.q(Q4, x_VL).T.astype(np.uint8).reshape(-1, 8, 32)
    return pack_q4_k(fit.unit_2N.astype(np.float16), fit.scale_2NG.astype(np.uint8), q_NGV)


def _encode_q6_k(x_NK: Floats) -> Bytes:
    x_VL = _lanes(x_NK, 16)
    # llama.cpp weighs by the square; with half of its mean added, plain error falls as well.
    weight_VL: Floats = x_VL * x_VL + _mean_squares(x_VL) / np.float32(2)
    plain_2NG, best_2NG = (
        search_symmetric(x_VL, weight_VL, stretches, Q6.q_range).reshape(2, -1, 16)
        for stretches in (Q6_STRETCHES[:1], Q6_STRETCHES)
    )
    fit = fit_scales(Q6, x_VL, weight_VL, plain_2NG, best_2NG)
    q_NGV = fit.q(Q6, x_VL).T.astype(np.int8).reshape(-1, 16, 16)
    return pack_q6_k(fit.unit_2N[0].astype(np.float16), fit.scale_2NG[0].astype(np.int8), q_NGV)


def _lanes(x_NK: Floats, group_values: int) -> Floats:
    """Set groups side by side.

    Shapes: (N, K) -> (V, L).
    """
    return np.ascontiguousarray(x_NK.reshape(-1, group_values).T)


def _mean_squares(x_VL: Floats) -> Floats:
    total_L: Floats = x_VL[0] * x_VL[0]
    for x_L in x_VL[1:]:  # in one order on every machine
        total_L += x_L * x_L
    return total_L / np.float32(len(x_VL))


ENCODERS = {
    BlockKind.Q8_0: _encode_q8_0,
    BlockKind.Q4_K: _encode_q4_k,
    BlockKind.Q6_K: _encode_q6_k,
}
DECODERS = {
    BlockKind.Q8_0: unpack_q8_0,
    BlockKind.Q4_K: unpack_q4_k,
    BlockKind.Q6_K: unpack_q6_k,
}
