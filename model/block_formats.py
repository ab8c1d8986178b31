"""How GGML lays blocks of few bits out in bytes: Q8_0, Q4_K and Q6_K.

Every value is `scale * q - offset`. A block of the K formats is a super-block, whose groups have
small whole scales of their own that multiply one half-precision scale.

Shapes: N blocks, G groups of a block, V values of a group.
Source: `block_q8_0`, `block_q4_K` and `block_q6_K` of llama.cpp's `ggml-common.h`.
"""

from enum import Enum

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

NIBBLE = np.uint8(0x0F)
SIX_BITS = np.uint8(0x3F)
TWO_BITS = np.uint8(0x03)
Q6_ZERO = 32
"""Q6_K stores q raised by this, so that it is not negative."""


class BlockKind(Enum):
    """A block format: its name, the values that a block holds, and its bytes."""

    Q8_0 = ("Q8_0", 32, 34)
    Q4_K = ("Q4_K", 256, 144)
    Q6_K = ("Q6_K", 256, 210)

    def __init__(self, label: str, values: int, num_bytes: int) -> None:
        self.label = label
        self.values = values
        self.bytes = num_bytes


def pack_q8_0(scale_N: Halves, q_NV: NDArray[np.int8]) -> Bytes:
    """Lay Q8_0 blocks out.

    Shapes: (N,), (N, 32) -> (N, 34).
    """
    return np.hstack([_half_bytes(scale_N), q_NV.view(np.uint8)])


def unpack_q8_0(blocks: Bytes) -> Floats:
    """Give the values of Q8_0 blocks.

    Shapes: (N, 34) -> (N, 32).
    """
    return _half(blocks[:, :2])[:, None] * blocks[:, 2:].view(np.int8).astype(np.float32)


def pack_q4_k(unit_2N: Halves, scale_2NG: Bytes, q_NGV: Bytes) -> Bytes:
    """Lay Q4_K super-blocks out: scales first, offsets second.

    Shapes: (2, N), (2, N, 8), (N, 8, 32) -> (N, 144).
    """
    # Of groups 4 to 7, the upper two bits lie where six bits leave room in groups 0 to 3.
    (low, low_offset), (high, high_offset) = scale_2NG[:, :, :4], scale_2NG[:, :, 4:]
    parts = [
        _half_bytes(unit_2N[0]),
        _half_bytes(unit_2N[1]),
        low | (high >> 4) << 6,
        low_offset | (high_offset >> 4) << 6,
        (high & NIBBLE) | (high_offset & NIBBLE) << 4,
        (q_NGV[:, 0::2] | q_NGV[:, 1::2] << 4).reshape(len(q_NGV), -1),
    ]
    return np.hstack(parts)


def unpack_q4_k(blocks: Bytes) -> Floats:
    """Give the values of Q4_K super-blocks.

    Shapes: (N, 144) -> (N, 256).
    """
    low, low_offset, rest = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scale_NG = np.hstack([low & SIX_BITS, (rest & NIBBLE) | (low >> 6) << 4])
    offset_NG = np.hstack([low_offset & SIX_BITS, (rest >> 4) | (low_offset >> 6) << 4])
    scale_NG1 = (_half(blocks[:, :2])[:, None] * scale_NG)[:, :, None]
    offset_NG1 = (_half(blocks[:, 2:4])[:, None] * offset_NG)[:, :, None]
    nibbles = blocks[:, 16:].reshape(-1, 4, 1, 32)
    q_NGV = np.concatenate([nibbles & NIBBLE, nibbles >> 4], axis=2).reshape(-1, 8, 32)
    values: Floats = scale_NG1 * q_NGV - offset_NG1
    return values.reshape(-1, 256)


def pack_q6_k(scale_N: Halves, scale_NG: NDArray[np.int8], q_NGV: NDArray[np.int8]) -> Bytes:
    """Lay Q6_K super-blocks out.

    Shapes: (N,), (N, 16), (N, 16, 16) -> (N, 210).
    """
    raised = (q_NGV + np.int8(Q6_ZERO)).view(np.uint8).reshape(-1, 2, 4, 32)
    low, high = raised & NIBBLE, raised >> 4
    lows = low[:, :, :2] | low[:, :, 2:] << 4
    highs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = [lows.reshape(-1, 128), highs.reshape(-1, 64), scale_NG.view(np.uint8)]
    return np.hstack([*parts, _half_bytes(scale_N)])


def unpack_q6_k(blocks: Bytes) -> Floats:
    """Give the values of Q6_K super-blocks.

    Shapes: (N, 210) -> (N, 256).
    """
    low, high = blocks[:, :128].reshape(-1, 2, 2, 32), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    lows = np.concatenate([low & NIBBLE, low >> 4], axis=2)
    highs = high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & TWO_BITS
    q_NGV = (lows | highs << 4).view(np.int8).reshape(-1, 16, 16) - np.int8(Q6_ZERO)
    scale_NG = _half(blocks[:, 208:])[:, None] * blocks[:, 192:208].view(np.int8)
    values: Floats = scale_NG[:, :, None] * q_NGV
    return values.reshape(-1, 256)


def _half_bytes(halves: Halves) -> Bytes:
    return halves.astype("<f2").view(np.uint8).reshape(-1, 2)


def _half(two_bytes: Bytes) -> Floats:
    halves = np.ascontiguousarray(two_bytes).view("<f2")
    return halves.reshape(-1).astype(np.float32)
