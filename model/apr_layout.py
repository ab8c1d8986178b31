"""The binary parts of an .apr file: its header and its tensor index.

One file has one spelling: every offset follows from what comes before it, names ascend by their
UTF-8 bytes and padding is zero, so the reader refuses what the writer could not have written.
FORMAT.md specifies the bytes.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from math import prod
from pathlib import Path

from torch import Tensor

from model.apr_blocks import BlockTensor
from model.apr_dtypes import DTYPE_OF, OTHER_DTYPES, READABLE, SUPER_BLOCK, AprDtype
from model.apr_metadata import require_metadata_size
from model.errors import CorruptFileError, ModelFormatError, UnsupportedFeatureError

MAGIC = b"APR\0"
VERSION = (2, 0)
ALIGNMENT_BYTES = 64
HEADER = struct.Struct("<4sBBHIQIQQI20s")
CHECKSUM = struct.Struct("<I")
CHECKSUM_OFFSET = 40
MAX_TENSORS = 16_384
MAX_NAME_BYTES = 256
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48
MOST_ENTRY_BYTES = 2 + MAX_NAME_BYTES + 1 + 1 + 8 * MAX_DIMENSIONS + 8 + 8


class AprFlag(IntFlag):
    """What the header says about the file as a whole."""

    LZ4_COMPRESSED = 0x0001
    ZSTD_COMPRESSED = 0x0002
    ENCRYPTED = 0x0004
    SIGNED = 0x0008
    SHARDED = 0x0010
    QUANTIZED = 0x0020
    HAS_FILTERBANK = 0x0040
    HAS_MODEL_CARD = 0x0080
    STREAMING = 0x0100
    HAS_VOCABULARY = 0x0200
    ROW_MAJOR = 0x0400
    COLUMN_MAJOR = 0x0800


# These say something about the content; every other bit changes how the bytes must be read.
INFORMATIVE_FLAGS = (
    AprFlag.QUANTIZED
    | AprFlag.HAS_FILTERBANK
    | AprFlag.HAS_MODEL_CARD
    | AprFlag.STREAMING
    | AprFlag.HAS_VOCABULARY
)


@dataclass(frozen=True, slots=True)
class AprTensor:
    """Where one tensor lies; `offset_bytes` counts from the start of the data section."""

    name: str
    dtype: AprDtype
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        """Length of the tensor's data without padding."""
        return self.dtype.size_bytes(self.shape)

    @property
    def end_bytes(self) -> int:
        """Where the next tensor starts."""
        return aligned(self.offset_bytes + self.size_bytes)


@dataclass(frozen=True, slots=True)
class AprHeader:
    """The fixed start of the file: its flags and where its sections lie."""

    flags: int
    num_tensors: int
    metadata_bytes: int
    index_offset: int
    data_offset: int


def aligned(num_bytes: int) -> int:
    """Round up to the alignment of every section and tensor."""
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def encode_header(header: AprHeader) -> bytes:
    """Lay the header out, checksum included."""
    sections = (HEADER.size, header.metadata_bytes, header.index_offset, header.data_offset)
    fields = (MAGIC, *VERSION, header.flags, header.num_tensors, *sections)
    checksum = _header_checksum(HEADER.pack(*fields, 0, b""))
    return HEADER.pack(*fields, checksum, b"")


def decode_header(path: Path, encoded: bytes) -> AprHeader:
    """Read a header and refuse one that this reader could misread.

    Raises: CorruptFileError if its checksum differs, ModelFormatError.
    """
    magic, major, minor, flags, num_tensors, *sections, stored, reserved = HEADER.unpack(encoded)
    metadata_offset, metadata_bytes, index_offset, data_offset = sections
    if magic != MAGIC:
        raise ModelFormatError(path, f"starts with {magic!r}", f"{MAGIC!r}, an .apr file")
    checksum = _header_checksum(encoded)
    if checksum != stored:
        found = f"header has checksum {checksum:08x}"
        raise CorruptFileError(path, found, f"{stored:08x} as stored in it")
    if (major, minor) != VERSION:
        raise ModelFormatError(path, f"version {major}.{minor}", "2.0")
    _require_readable_flags(path, flags)
    require_metadata_size(path, metadata_bytes)
    if reserved != bytes(len(reserved)):
        raise ModelFormatError(path, "header uses reserved bytes", "zeros there")
    expected_offset = aligned(HEADER.size + metadata_bytes)
    if (metadata_offset, index_offset) != (HEADER.size, expected_offset):
        found = f"metadata at {metadata_offset} and index at {index_offset}"
        raise ModelFormatError(path, found, f"{HEADER.size} and {expected_offset}")
    if num_tensors > MAX_TENSORS:
        raise ModelFormatError(path, f"{num_tensors} tensors", f"at most {MAX_TENSORS}")
    # The index is read whole, so that it may not be as long as the file.
    last_offset = aligned(index_offset + num_tensors * MOST_ENTRY_BYTES)
    if not index_offset <= data_offset <= last_offset:
        expected = f"from {index_offset} to {last_offset} for {num_tensors} tensors"
        raise ModelFormatError(path, f"data at {data_offset}", expected)
    return AprHeader(flags, num_tensors, metadata_bytes, index_offset, data_offset)


def _header_checksum(encoded: bytes) -> int:
    """Checksum everything but the checksum."""
    rest = CHECKSUM_OFFSET + CHECKSUM.size
    return zlib.crc32(encoded[rest:], zlib.crc32(encoded[:CHECKSUM_OFFSET]))


def _require_readable_flags(path: Path, flags: int) -> None:
    # As an integer, since the complement of an IntFlag drops the bits that have no name.
    extra = flags & ~int(INFORMATIVE_FLAGS | AprFlag.ROW_MAJOR)
    if extra:
        known = [flag.name for flag in AprFlag if flag & extra and flag.name is not None]
        found = f"flags {flags:#06x} ({', '.join(known) or 'unknown'})"
        raise UnsupportedFeatureError(path, found, "plain row-major data in one file")
    if not flags & AprFlag.ROW_MAJOR:
        raise ModelFormatError(path, f"flags {flags:#06x}", "with ROW_MAJOR (0x0400)")


def place_tensors(
    path: Path, tensors: Mapping[str, Tensor | BlockTensor], dtypes: Mapping[str, AprDtype]
) -> list[AprTensor]:
    """Give every tensor its place, in the order of the names' bytes.

    `dtypes` names those that will be quantised.

    Raises: ModelFormatError if the format cannot hold a name, a dtype or a shape.
    """
    if len(tensors) > MAX_TENSORS:
        raise ModelFormatError(path, f"{len(tensors)} tensors", f"at most {MAX_TENSORS}")
    entries = []
    offset_bytes = 0
    for name in sorted(tensors, key=lambda name: _encode_name(path, name)):
        tensor = tensors[name]
        dtype = dtypes.get(name) or _stored_dtype(path, name, tensor)
        shape = tuple(tensor.shape)
        if len(shape) > MAX_DIMENSIONS:
            found = f"tensor {name!r} has {len(shape)} dimensions"
            raise ModelFormatError(path, found, f"at most {MAX_DIMENSIONS}")
        _require_whole_blocks(path, name, dtype, shape)
        entries.append(AprTensor(name, dtype, shape, offset_bytes))
        offset_bytes = entries[-1].end_bytes
    return entries


def _stored_dtype(path: Path, name: str, tensor: Tensor | BlockTensor) -> AprDtype:
    if isinstance(tensor, BlockTensor):
        return tensor.dtype
    if tensor.dtype not in DTYPE_OF:
        found = f"tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}"
        raise ModelFormatError(path, found, "float32, float16 or bfloat16")
    return DTYPE_OF[tensor.dtype]


def _require_whole_blocks(path: Path, name: str, dtype: AprDtype, shape: tuple[int, ...]) -> None:
    if not dtype.fits(shape):
        found = f"tensor {name!r} of {dtype.name} and shape {list(shape)}"
        raise ModelFormatError(path, found, f"rows of whole blocks of {SUPER_BLOCK}")


def _encode_name(path: Path, name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ModelFormatError(path, f"tensor name {name!a}", "text that UTF-8 can hold") from None
    if not 0 < len(encoded) <= MAX_NAME_BYTES:
        found = f"tensor name {name[:40]!r} of {len(encoded)} bytes"
        raise ModelFormatError(path, found, f"1 to {MAX_NAME_BYTES}")
    return encoded


def encode_index(entries: list[AprTensor]) -> bytes:
    """Lay the tensor index out, unpadded."""
    return b"".join(_encode_entry(entry) for entry in entries)


def _encode_entry(entry: AprTensor) -> bytes:
    name = entry.name.encode()
    num_dims = len(entry.shape)
    layout = f"<H{len(name)}sBB{num_dims}QQQ"
    place = (*entry.shape, entry.offset_bytes, entry.size_bytes)
    return struct.pack(layout, len(name), name, entry.dtype, num_dims, *place)


def decode_index(path: Path, encoded: bytes, num_tensors: int) -> dict[str, AprTensor]:
    """Read the padded tensor index and refuse any place but the one that `place_tensors` gives.

    Raises: ModelFormatError.
    """
    tensors: dict[str, AprTensor] = {}
    position = 0
    last = b""
    for number in range(num_tensors):
        try:
            name, entry, size_bytes, position = _decode_entry(path, encoded, position)
        except struct.error:
            found = f"index of {len(encoded)} bytes ends in tensor {number}"
            raise ModelFormatError(path, found, f"{num_tensors} whole entries") from None
        if name <= last:
            found = f"tensor {entry.name!r} after {last.decode()!r}"
            raise ModelFormatError(path, found, "each name once, in ascending order")
        if size_bytes != entry.size_bytes:
            found = f"tensor {entry.name!r} of {size_bytes} bytes"
            raise ModelFormatError(path, found, f"{entry.size_bytes} by its dtype and shape")
        tensors[entry.name] = entry
        last = name
    if aligned(position) != len(encoded):
        found = f"index of {len(encoded)} bytes"
        raise ModelFormatError(path, found, f"{aligned(position)} for {num_tensors} tensors")
    require_zeros(path, encoded[position:], "index")
    return tensors


def _decode_entry(path: Path, encoded: bytes, position: int) -> tuple[bytes, AprTensor, int, int]:
    """Read one entry: its name's bytes, itself, the size it states, where the next starts."""
    (name_bytes,) = struct.unpack_from("<H", encoded, position)
    raw, code, num_dims = struct.unpack_from(f"<{name_bytes}sBB", encoded, position + 2)
    position += 2 + name_bytes + 2
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise ModelFormatError(path, f"tensor name {raw[:40]!r}", "UTF-8") from None
    _encode_name(path, name)
    if code not in list(AprDtype):
        found = f"tensor {name!r} of dtype {OTHER_DTYPES.get(code, 'code')} ({code})"
        raise UnsupportedFeatureError(path, found, f"one of {READABLE}")
    if num_dims > MAX_DIMENSIONS:
        found = f"tensor {name!r} with {num_dims} dimensions"
        raise ModelFormatError(path, found, f"at most {MAX_DIMENSIONS}")
    *shape, offset, size = struct.unpack_from(f"<{num_dims}QQQ", encoded, position)
    position += 8 * (num_dims + 2)
    # An empty tensor has a size of zero however long its other dimensions claim to be.
    if prod(max(length, 1) for length in shape) > MAX_ELEMENTS:
        raise ModelFormatError(path, f"tensor {name!r} of shape {shape}", "a shape memory can hold")
    _require_whole_blocks(path, name, AprDtype(code), tuple(shape))
    return raw, AprTensor(name, AprDtype(code), tuple(shape), offset), size, position


def require_gapless(path: Path, tensors: Mapping[str, AprTensor]) -> int:
    """Refuse tensors that overlap or leave a gap, and return the length of the data section.

    Raises: ModelFormatError.
    """
    end_bytes = 0
    for entry in sorted(tensors.values(), key=lambda entry: (entry.offset_bytes, entry.end_bytes)):
        if entry.offset_bytes != end_bytes:
            found = f"tensor {entry.name!r} at {entry.offset_bytes}"
            raise ModelFormatError(path, found, f"{end_bytes}, where the one before it ends")
        end_bytes = entry.end_bytes
    return end_bytes


def require_zeros(path: Path, padding: bytes, section: str) -> None:
    """Refuse padding that could hide something.

    Raises: ModelFormatError.
    """
    if padding.strip(b"\0"):
        raise ModelFormatError(path, f"padding after the {section} is not zero", "zeros")
