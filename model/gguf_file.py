"""The GGUF container: write metadata and tensors to one file, and map them back without a copy.

Opening checks all of the structure; the format has no checksum, so values are checked by who reads
them. Version 3, little-endian.
Source: ggml's docs/gguf.md.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CorruptFileError, ModelFormatError
from model.gguf_layout import (
    HEADER,
    MAGIC,
    VERSION,
    GgufTensor,
    TensorType,
    aligned,
    decode_alignment,
    decode_entries,
    decode_header,
    encode_entry,
    place_tensors,
)
from model.gguf_values import Cursor, Metadata, Value, decode_metadata, encode_metadata
from model.mapped_file import map_file

Planned = tuple[str, TensorType, tuple[int, ...]]


def write_gguf(
    path: Path,
    metadata: Metadata,
    planned: Sequence[Planned],
    data: Iterable[NDArray[np.generic]],
) -> None:
    """Write one GGUF file in place of `path`, or leave `path` as it was.

    `data` gives each planned tensor's bytes in turn, so that only one need be in memory.
    Raises: ModelFormatError if the format cannot hold the metadata or a tensor.
    """
    alignment = decode_alignment(path, metadata)
    tensors = place_tensors(path, planned, alignment)
    header = HEADER.pack(MAGIC, VERSION, len(tensors), len(metadata))
    front = header + encode_metadata(path, metadata) + b"".join(map(encode_entry, tensors))
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(front.ljust(aligned(len(front), alignment), b"\0"))
            for tensor, array in zip(tensors, data, strict=True):
                content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                assert content.size == tensor.size_bytes, f"{tensor.name} is not as planned"
                file.write(content.data)
                file.write(bytes(aligned(content.size, alignment) - content.size))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """Make a rename last."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class GgufFile:
    """An open GGUF file; the bytes of its tensors stay usable as long as they are referenced."""

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Value],
        tensors: list[GgufTensor],
        data: memoryview,
        size_bytes: int,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.size_bytes = size_bytes
        self._data = data

    def place(self, name: str) -> tuple[int, int]:
        """Say where in the file the bytes of one tensor begin, and how many they are."""
        tensor = self.tensors[name]
        start_bytes = self.size_bytes - len(self._data)
        return start_bytes + tensor.offset_bytes, tensor.size_bytes

    def content(self, name: str) -> NDArray[np.uint8]:
        """Map the bytes of one tensor; writing to them changes this process's view alone."""
        tensor = self.tensors[name]
        start = tensor.offset_bytes
        return np.frombuffer(self._data[start : start + tensor.size_bytes], np.uint8)


def open_gguf(path: Path) -> GgufFile:
    """Map a GGUF file and check its structure.

    Raises: CorruptFileError if it is cut short, ModelFormatError.
    """
    view = memoryview(map_file(path, HEADER.size))
    cursor = Cursor(path, view)
    num_tensors, num_keys = decode_header(cursor)
    metadata = decode_metadata(cursor, num_keys)
    alignment = decode_alignment(path, metadata)
    tensors = decode_entries(cursor, num_tensors, alignment)
    padding = aligned(cursor.position, alignment) - cursor.position
    cursor.enter("padding", padding)
    _require_zeros(path, cursor.take(padding, "padding"), "list of tensors")
    _require_whole(path, tensors, view[cursor.position :], alignment)
    return GgufFile(path, metadata, tensors, view[cursor.position :], len(view))


def _require_whole(
    path: Path, tensors: Sequence[GgufTensor], data: memoryview, alignment: int
) -> None:
    """Refuse data that end too early or go on after the last tensor, and padding that hides."""
    ends = [tensor.offset_bytes + tensor.size_bytes for tensor in tensors]
    expected_bytes = aligned(ends[-1], alignment) if ends else 0
    if len(data) < expected_bytes:
        found = f"data of {len(data)} bytes"
        raise CorruptFileError(path, found, f"{expected_bytes} for {len(tensors)} tensors")
    if len(data) > expected_bytes:
        found = f"{len(data) - expected_bytes} bytes after the last tensor"
        raise ModelFormatError(path, found, "none")
    for tensor, end in zip(tensors, ends, strict=True):
        _require_zeros(path, data[end : aligned(end, alignment)], f"tensor {tensor.name!r}")


def _require_zeros(path: Path, padding: memoryview, section: str) -> None:
    if any(padding):
        raise ModelFormatError(path, f"padding after the {section} is not zero", "zeros")
