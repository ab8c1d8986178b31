"""Quantised tensors of an .apr file: encode float32 into blocks, and blocks back.

Q4K and Q6K are GGML's super-blocks; AprQ4 and AprQ8 are the format's own.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.apr_dtypes import SCALE_BYTES, SMALL_BLOCK, AprDtype
from model.errors import ModelFormatError

SMALLEST_SCALE = 2.0**-14
"Other readers take an AprQ4 scale below the normal range of float16 for zero."
MAX_MAGNITUDE = 65_504.0
"Far above any weight; its block's scale is within the range of float16."
NIBBLE_ZERO = 8
MAX_NIBBLE, MAX_BYTE = 7, 127

GGML = {AprDtype.Q4K: "Q4_K", AprDtype.Q6K: "Q6_K"}
QUANTIZATION: dict[AprDtype, dict[str, object]] = {
    AprDtype.Q4K: {"quant_type": "q4_k", "bits": 4, "block_size": 256, "symmetric": False},
    AprDtype.Q6K: {"quant_type": "q6_k", "bits": 6, "block_size": 256, "symmetric": True},
    AprDtype.AprQ4: {"quant_type": "q4", "bits": 4, "block_size": 32, "symmetric": True},
    AprDtype.AprQ8: {"quant_type": "q8", "bits": 8, "block_size": None, "symmetric": True},
}
"What the metadata says of a file whose matrices are quantised so."


@dataclass(frozen=True, slots=True, eq=False)
class BlockTensor:
    """A tensor as its file stores it."""

    dtype: AprDtype
    shape: tuple[int, ...]
    blocks: Tensor
    "uint8, flat."


def quantize(path: Path, name: str, dtype: AprDtype, tensor: Tensor) -> BlockTensor:
    """Encode a tensor; `path` and `name` only say in a refusal what it was.

    Precision: from the tensor in float32.
    Raises: ModelFormatError if a value is not finite, or the blocks cannot hold the shape.
    """
    shape = tuple(tensor.shape)
    if not dtype.fits(shape):
        found = f"tensor {name!r} of shape {list(shape)} as {dtype.name}"
        raise ModelFormatError(path, found, "of rows of whole blocks")
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    if not values.isfinite().all():
        raise ModelFormatError(path, f"tensor {name!r} with NaN or infinity", "finite")
    if values.numel() and values.abs().max() > MAX_MAGNITUDE:
        found = f"tensor {name!r} with values up to {values.abs().max().item():.6g}"
        raise ModelFormatError(path, found, f"at most {MAX_MAGNITUDE:g}")
    if dtype is AprDtype.AprQ8:
        blocks = _encode_q8(values)
    elif dtype is AprDtype.AprQ4:
        blocks = _encode_q4(values)
    else:
        # Deferred: the compiler that it brings takes longer to import than most files to read.
        from model.k_quants import BlockKind, encode

        blocks = encode(BlockKind[GGML[dtype]], values.reshape(-1, shape[-1]))
    return BlockTensor(dtype, shape, blocks.reshape(-1))


def decode_blocks(stored: BlockTensor) -> Tensor:
    """Return the float32 values that the blocks stand for."""
    if stored.dtype is AprDtype.AprQ8:
        return _decode_q8(stored.blocks).reshape(stored.shape)
    if stored.dtype is AprDtype.AprQ4:
        return _decode_q4(stored.blocks, stored.shape)
    from model.k_quants import BlockKind, decode

    return decode(BlockKind[GGML[stored.dtype]], stored.blocks, stored.shape)


def _encode_q8(values: Tensor) -> Tensor:
    scale = _scale(values.abs().max() if values.numel() else values.new_zeros(()), MAX_BYTE)
    steps = _round_away(values.reshape(-1) / scale).clamp_(-MAX_BYTE, MAX_BYTE).to(torch.int8)
    return torch.cat([scale.reshape(1).view(torch.uint8), steps.view(torch.uint8)])


def _decode_q8(blocks: Tensor) -> Tensor:
    # A copy, since a scale that lies at any address cannot be viewed as a number.
    scale = blocks[:SCALE_BYTES].clone().view(torch.float32)
    return blocks[SCALE_BYTES:].view(torch.int8).to(torch.float32) * scale


def _encode_q4(values: Tensor) -> Tensor:
    """Encode blocks of a half-precision scale and a nibble a value, the even ones low."""
    flat = values.reshape(-1)
    num_blocks = -(-flat.numel() // SMALL_BLOCK)
    padded = torch.zeros(num_blocks * SMALL_BLOCK)
    padded[: flat.numel()] = flat
    groups = padded.reshape(num_blocks, SMALL_BLOCK)
    scale = _scale(groups.abs().amax(1, keepdim=True), MAX_NIBBLE)
    half = scale.clamp_min(SMALLEST_SCALE).to(torch.float16)
    steps = _round_away(groups / half.to(torch.float32)).clamp_(-NIBBLE_ZERO, MAX_NIBBLE)
    codes = (steps + NIBBLE_ZERO).to(torch.uint8)
    nibbles = codes[:, 0::2] | (codes[:, 1::2] << 4)
    if rest := flat.numel() % SMALL_BLOCK:
        _blank(nibbles[-1], rest)
    return torch.cat([half.view(torch.uint8), nibbles], dim=1).reshape(-1)


def _blank(nibbles: Tensor, rest: int) -> None:
    """Leave zero bytes behind the last value, as the format has it."""
    nibbles[-(-rest // 2) :] = 0
    if rest % 2:
        nibbles[rest // 2] &= 0x0F


def _decode_q4(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    rows = blocks.reshape(-1, 2 + SMALL_BLOCK // 2)
    scale = rows[:, :2].contiguous().view(torch.float16).to(torch.float32)
    scale[scale.abs() < SMALLEST_SCALE] = 0.0
    values = torch.empty(len(rows), SMALL_BLOCK)
    values[:, 0::2] = (rows[:, 2:] & 0x0F).to(torch.float32) - NIBBLE_ZERO
    values[:, 1::2] = (rows[:, 2:] >> 4).to(torch.float32) - NIBBLE_ZERO
    values *= scale
    return values.reshape(-1)[: torch.Size(shape).numel()].reshape(shape)


def _scale(extreme: Tensor, steps: int) -> Tensor:
    """Divide the largest value into steps; where all are zero any scale will do, and it is one."""
    return torch.where(extreme == 0, torch.ones_like(extreme), extreme / steps)


def _round_away(values: Tensor) -> Tensor:
    """Round halves away from zero, as the format's other writers do."""
    return values.sign() * (values.abs() + 0.5).floor()
