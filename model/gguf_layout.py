"""The binary parts of a GGUF file: its header and where its tensors lie.

Tensors follow one another in the order of their list, each padded to the alignment; llama.cpp
refuses any other place as well, so that one list has one layout.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path

from model.errors import ModelFormatError
from model.gguf_values import Cursor, Metadata, Scalar, ValueKind

MAGIC = b"GGUF"
VERSION = 3
HEADER = struct.Struct("<4sIQQ")
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_TENSORS = 1 << 14
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
LEAST_ENTRY_BYTES = 8 + 1 + 4 + 8 + 4 + 8
MOST_ENTRY_BYTES = 8 + MAX_NAME_BYTES + 4 + 8 * MAX_DIMENSIONS + 4 + 8
LEAST_KEY_BYTES = 8 + 1 + 4 + 1


class TensorType(Enum):
    """A type of tensors: its code, the values that a block of it holds, and its bytes.

    Source: `ggml_type` and the blocks of llama.cpp's `ggml-common.h`.
    """

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    I8 = (24, 1, 1)
    I16 = (25, 1, 2)
    I32 = (26, 1, 4)
    I64 = (27, 1, 8)
    F64 = (28, 1, 8)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)

    def __init__(self, code: int, block_values: int, block_bytes: int) -> None:
        self.code = code
        self.block_values = block_values
        self.block_bytes = block_bytes


TYPES = {kind.code: kind for kind in TensorType}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies; its shape has the longest stride first, as torch has."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset_bytes: int
    """Counted from the start of the data."""

    @property
    def size_bytes(self) -> int:
        """Length of the tensor's data without padding."""
        return prod(self.shape) // self.type.block_values * self.type.block_bytes


def aligned(num_bytes: int, alignment: int) -> int:
    """Round up to a multiple of the alignment."""
    return -(-num_bytes // alignment) * alignment


def decode_header(cursor: Cursor) -> tuple[int, int]:
    """Read the number of tensors and that of metadata keys.

    Raises: CorruptFileError, ModelFormatError.
    """
    magic, version, num_tensors, num_keys = HEADER.unpack(cursor.take(HEADER.size, "header"))
    if magic != MAGIC:
        raise cursor.refusal(f"starts with {magic!r}", f"{MAGIC!r}, a GGUF file")
    if version != VERSION:
        order = ", a big-endian file" if version and not version & 0xFFFF else ""
        raise cursor.refusal(f"version {version}{order}", f"{VERSION}, little-endian")
    for count, noun, least_bytes in (
        (num_tensors, "tensors", LEAST_ENTRY_BYTES),
        (num_keys, "metadata keys", LEAST_KEY_BYTES),
    ):
        if count * least_bytes > cursor.remaining:
            most = cursor.remaining // least_bytes
            raise cursor.refusal(f"{count} {noun}", f"at most {most}, for which there is room")
    if num_tensors > MAX_TENSORS:
        raise cursor.refusal(f"{num_tensors} tensors", f"at most {MAX_TENSORS}")
    return num_tensors, num_keys


def decode_alignment(path: Path, metadata: Metadata) -> int:
    """Give the alignment of tensors.

    Raises: ModelFormatError.
    """
    value = metadata.get(ALIGNMENT_KEY, Scalar(ValueKind.U32, DEFAULT_ALIGNMENT))
    stated = value.value if isinstance(value, Scalar) and value.kind is ValueKind.U32 else None
    # A power of two has no bit in common with the number below it.
    if isinstance(stated, int) and 8 <= stated <= MAX_ALIGNMENT and not stated & (stated - 1):
        return stated
    expected = f"a U32, a power of two from 8 to {MAX_ALIGNMENT}"
    raise ModelFormatError(path, f"{ALIGNMENT_KEY} is {stated!r}", expected)


def encode_entry(tensor: GgufTensor) -> bytes:
    """Lay the description of one tensor out."""
    name = tensor.name.encode()
    num_dims = len(tensor.shape)
    layout = f"<Q{len(name)}sI{num_dims}QIQ"
    place = (*reversed(tensor.shape), tensor.type.code, tensor.offset_bytes)
    return struct.pack(layout, len(name), name, num_dims, *place)


def decode_entries(cursor: Cursor, num_tensors: int, alignment: int) -> list[GgufTensor]:
    """Read where so many tensors lie, and refuse any place but the next one.

    Raises: CorruptFileError, ModelFormatError.
    """
    tensors: list[GgufTensor] = []
    names: set[str] = set()
    expected_bytes = 0
    cursor.enter("list of tensors", num_tensors * MOST_ENTRY_BYTES)
    for _ in range(num_tensors):
        tensor = _decode_entry(cursor)
        if tensor.name in names:
            raise cursor.refusal(f"tensor {tensor.name!r} twice", "each name once")
        if tensor.offset_bytes != expected_bytes:
            found = f"tensor {tensor.name!r} at {tensor.offset_bytes}"
            raise cursor.refusal(found, f"{expected_bytes}, where the one before it ends")
        names.add(tensor.name)
        expected_bytes = aligned(expected_bytes + tensor.size_bytes, alignment)
        tensors.append(tensor)
    return tensors


def _decode_entry(cursor: Cursor) -> GgufTensor:
    name = cursor.text("tensor name")
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable():
        found = f"tensor name {name[:80]!r}"
        raise cursor.refusal(found, f"1 to {MAX_NAME_BYTES} printable bytes")
    num_dims = cursor.number("<I", f"dimensions of {name!r}")
    if not 0 < num_dims <= MAX_DIMENSIONS:
        found = f"tensor {name!r} with {num_dims} dimensions"
        raise cursor.refusal(found, f"1 to {MAX_DIMENSIONS}")
    lengths = [cursor.number("<Q", f"shape of {name!r}") for _ in range(num_dims)]
    code = cursor.number("<I", f"type of {name!r}")
    offset_bytes = cursor.number("<Q", f"offset of {name!r}")
    shape = tuple(reversed(lengths))
    if code not in TYPES:
        raise cursor.refusal(f"tensor {name!r} of type {code}", "a type of GGML's")
    tensor = GgufTensor(name, TYPES[code], shape, offset_bytes)
    if 0 in shape or lengths[0] % tensor.type.block_values:
        values = tensor.type.block_values
        found = f"tensor {name!r} of shape {list(shape)} and type {tensor.type.name}"
        raise cursor.refusal(found, f"rows of a multiple of {values}, none of them empty")
    if tensor.size_bytes > cursor.remaining:
        found = f"tensor {name!r} of shape {list(shape)}"
        raise cursor.refusal(found, f"at most the {cursor.remaining} bytes that are left")
    return tensor


def place_tensors(
    path: Path, planned: Sequence[tuple[str, TensorType, tuple[int, ...]]], alignment: int
) -> list[GgufTensor]:
    """Give every tensor its place, in this order.

    Raises: ModelFormatError if the format cannot hold one.
    """
    tensors = []
    offset_bytes = 0
    for name, kind, shape in planned:
        tensor = GgufTensor(name, kind, shape, offset_bytes)
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not 0 < len(shape) <= MAX_DIMENSIONS:
            found = f"tensor name {name[:80]!r} with {len(shape)} dimensions"
            expected = f"1 to {MAX_NAME_BYTES} bytes with 1 to {MAX_DIMENSIONS}"
            raise ModelFormatError(path, found, expected)
        if shape[-1] % kind.block_values:
            found = f"tensor {name!r} of shape {list(shape)} as {kind.name}"
            raise ModelFormatError(path, found, f"rows of a multiple of {kind.block_values}")
        tensors.append(tensor)
        offset_bytes = aligned(offset_bytes + tensor.size_bytes, alignment)
    return tensors
