"""The safetensors container: write it in a stream, and map it back without a copy.

The bytes are those of the safetensors library. Reading is stricter than it: what two readers could
take differently (a key twice, an unknown field, space before the header) is refused.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from model.apr_metadata import decode_metadata, require_metadata_size
from model.errors import ModelFormatError, UnsupportedFeatureError
from model.mapped_file import map_file, map_tensor, require_bytes

LENGTH = struct.Struct("<Q")
ALIGNMENT_BYTES = 8
METADATA_KEY = "__metadata__"
MAX_TENSORS = 65_536
MAX_DIMENSIONS = 8
MAX_NAME_BYTES = 256
MAX_ELEMENTS = 1 << 48
CHUNK_BYTES = 1 << 20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The library puts wide elements first, so that all are aligned, and equally wide ones by this rank.
RANK = {name: rank for rank, name in enumerate(
    ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """Where one tensor lies; `start_bytes` counts from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start_bytes: int

    @property
    def size_bytes(self) -> int:
        """Length of the tensor's data."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtypes: Mapping[str, torch.dtype],
    metadata: Mapping[str, str],
) -> None:
    """Write one file, replacing `path`, and leave nothing there on failure.

    Precision: every tensor is rounded to its dtype in `dtypes`.
    Memory: one tensor's copy at a time, and none for a contiguous tensor on the CPU of that dtype.
    """
    names = sorted(tensors, key=lambda name: (-RANK[DTYPE_NAMES[dtypes[name]]], name.encode()))
    header: dict[str, object] = {METADATA_KEY: dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * dtypes[name].itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtypes[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    # A new file, not a truncated one: tensors mapped from the former file stay what they were.
    path.unlink(missing_ok=True)
    try:
        with path.open("xb") as file:
            file.write(LENGTH.pack(len(text)) + text)
            for name in names:
                for chunk in _chunks(tensors[name], dtypes[name]):
                    file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _chunks(tensor: Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
    flat = tensor.detach().to("cpu", dtype).contiguous().reshape(-1)
    view = flat.view(torch.uint8).numpy().data
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


class SafetensorsFile:
    """An open file; its tensors stay usable as long as they are referenced."""

    def __init__(
        self,
        path: Path,
        metadata: dict[str, str],
        tensors: dict[str, SafeTensor],
        mapped: mmap.mmap,
        data_offset: int,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._mapped = mapped
        self._data_offset = data_offset

    @property
    def size_bytes(self) -> int:
        """Length of the whole file."""
        return len(self._mapped)

    def tensor(self, name: str) -> Tensor:
        """Map one tensor; writing to it changes this process's view, never the file."""
        entry = self.tensors[name]
        start = self._data_offset + entry.start_bytes
        flat = map_tensor(self._mapped, DTYPES[entry.dtype], start, entry.size_bytes)
        return flat.reshape(entry.shape)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map a file and check its structure; the format has no checksum of its data.

    Raises: CorruptFileError if it is cut short, ModelFormatError, UnsupportedFeatureError.
    """
    mapped = map_file(path, LENGTH.size)
    size_bytes = len(mapped)
    (header_bytes,) = LENGTH.unpack_from(mapped)
    require_bytes(path, size_bytes, LENGTH.size + header_bytes)
    require_metadata_size(path, header_bytes)
    data_offset = LENGTH.size + header_bytes
    encoded = mapped[LENGTH.size : data_offset]
    if encoded[:1] != b"{":
        raise ModelFormatError(path, f"header starts with {encoded[:1]!r}", "b'{'")
    header = decode_metadata(path, encoded.rstrip(b" "))
    metadata = _decode_metadata(path, header.pop(METADATA_KEY, {}))
    if len(header) > MAX_TENSORS:
        raise ModelFormatError(path, f"{len(header)} tensors", f"at most {MAX_TENSORS}")
    placed = [_decode_tensor(path, name, fields) for name, fields in header.items()]
    end = _require_gapless(path, placed)
    require_bytes(path, size_bytes, data_offset + end)
    if size_bytes > data_offset + end:
        raise ModelFormatError(path, f"{size_bytes} bytes long", f"{data_offset + end}")
    return SafetensorsFile(
        path, metadata, {each.name: each for each in placed}, mapped, data_offset
    )


def _decode_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFormatError(path, f"{METADATA_KEY} is {metadata!r:.60}", "an object of texts")
    return metadata


def _decode_tensor(path: Path, name: str, fields: object) -> SafeTensor:
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable():
        found = f"tensor name {name[:40]!a} of {len(name.encode())} bytes"
        raise ModelFormatError(path, found, f"1 to {MAX_NAME_BYTES} printable ones")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        found = f"tensor {name!r} with {fields!r:.60}"
        raise ModelFormatError(path, found, "dtype, shape and data_offsets, nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if dtype not in list(DTYPES):
        found = f"tensor {name!r} of dtype {dtype!r:.40}"
        raise UnsupportedFeatureError(path, found, f"one of {', '.join(DTYPES)}")
    if not _are_lengths(shape) or len(shape) > MAX_DIMENSIONS:
        found = f"tensor {name!r} of shape {shape!r:.60}"
        raise ModelFormatError(path, found, f"at most {MAX_DIMENSIONS} whole numbers")
    if prod(max(length, 1) for length in shape) > MAX_ELEMENTS:
        raise ModelFormatError(path, f"tensor {name!r} of shape {shape}", "a shape memory can hold")
    if not _are_lengths(offsets) or len(offsets) != 2:
        found = f"tensor {name!r} at {offsets!r:.60}"
        raise ModelFormatError(path, found, "two whole numbers")
    entry = SafeTensor(name, dtype, tuple(shape), offsets[0])
    if offsets[1] - offsets[0] != entry.size_bytes:
        found = f"tensor {name!r} of {offsets[1] - offsets[0]} bytes"
        raise ModelFormatError(path, found, f"{entry.size_bytes} by its dtype and shape")
    return entry


def _are_lengths(values: object) -> bool:
    # bool is a subclass of int, hence not isinstance.
    return isinstance(values, list) and all(type(each) is int and each >= 0 for each in values)


def _require_gapless(path: Path, tensors: list[SafeTensor]) -> int:
    """Refuse tensors that overlap or leave a gap, and return the length of the data."""
    end = 0
    for entry in sorted(tensors, key=lambda entry: (entry.start_bytes, entry.size_bytes)):
        if entry.start_bytes != end:
            found = f"tensor {entry.name!r} at {entry.start_bytes}"
            raise ModelFormatError(path, found, f"{end}, where the one before it ends")
        end += entry.size_bytes
    return end
