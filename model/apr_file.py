"""The .apr container: write tensors and JSON to one file, and map them back without a copy.

Opening checks the header's checksum and all of the structure; only `AprFile.verify` reads all data.
"""

import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from torch import Tensor

from model.apr_blocks import BlockTensor, decode_blocks, quantize
from model.apr_dtypes import PLAIN, AprDtype
from model.apr_layout import (
    CHECKSUM,
    CHECKSUM_OFFSET,
    HEADER,
    AprFlag,
    AprHeader,
    AprTensor,
    aligned,
    decode_header,
    decode_index,
    encode_header,
    encode_index,
    place_tensors,
    require_gapless,
    require_zeros,
)
from model.apr_metadata import decode_metadata, encode_metadata
from model.errors import CorruptFileError, ModelFormatError
from model.mapped_file import map_file, map_tensor, require_bytes

VOCABULARY_KEY = "tokenizer.vocabulary"
# Small enough to stay in cache between the checksum and the write.
CHUNK_BYTES = 1 << 20


def write_apr(
    path: Path,
    metadata: Mapping[str, object],
    tensors: Mapping[str, Tensor | BlockTensor],
    dtypes: Mapping[str, AprDtype] = MappingProxyType({}),
) -> None:
    """Write one .apr file, replacing `path`, and leave nothing there on failure.

    `dtypes` names the tensors to quantise; every other is stored as it is.
    Replacing is not atomic: write to a temporary name and rename where that matters.
    Memory: one tensor's copy at a time, and none for a tensor that can be written as it lies.
    Raises: ModelFormatError if the format cannot hold the metadata or a tensor.
    """
    entries = place_tensors(path, tensors, dtypes)
    encoded = encode_metadata(path, metadata)
    index = encode_index(entries)
    flags = AprFlag.ROW_MAJOR
    if VOCABULARY_KEY in metadata:
        flags |= AprFlag.HAS_VOCABULARY
    if any(entry.dtype.is_quantized for entry in entries):
        flags |= AprFlag.QUANTIZED
    index_offset = aligned(HEADER.size + len(encoded))
    data_offset = aligned(index_offset + len(index))
    header = AprHeader(int(flags), len(entries), len(encoded), index_offset, data_offset)
    front = _padded(encoded) + _padded(index)
    # A new file, not a truncated one: tensors mapped from the former file stay what they were.
    path.unlink(missing_ok=True)
    try:
        with path.open("xb") as file:
            _stream(file, encode_header(header), front, _data(path, entries, tensors))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _stream(file: BinaryIO, header: bytes, front: bytes, data: Iterator[memoryview]) -> None:
    """Write the header last, so that a file cut short has no magic number."""
    file.write(bytes(len(header)) + front)
    checksum = zlib.crc32(front, zlib.crc32(header))
    for chunk in data:
        checksum = zlib.crc32(chunk, checksum)
        file.write(chunk)
    file.write(CHECKSUM.pack(checksum))
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    file.write(header)
    file.flush()
    os.fsync(file.fileno())


def _data(
    path: Path, entries: list[AprTensor], tensors: Mapping[str, Tensor | BlockTensor]
) -> Iterator[memoryview]:
    for entry in entries:
        tensor = tensors[entry.name]
        if isinstance(tensor, Tensor) and entry.dtype.is_quantized:
            tensor = quantize(path, entry.name, entry.dtype, tensor)
        plain = tensor.blocks if isinstance(tensor, BlockTensor) else tensor
        view = plain.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        assert len(view) == entry.size_bytes, f"{entry.name} changed while it was written"
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]
        yield memoryview(bytes(aligned(len(view)) - len(view)))


def _padded(section: bytes) -> bytes:
    return section.ljust(aligned(len(section)), b"\0")


class AprFile:
    """An open .apr file; its tensors stay usable as long as they are referenced."""

    def __init__(
        self,
        path: Path,
        header: AprHeader,
        metadata: dict[str, object],
        tensors: dict[str, AprTensor],
        mapped: mmap.mmap,
    ) -> None:
        self.path = path
        self.header = header
        self.metadata = metadata
        self.tensors = tensors
        self._mapped = mapped

    @property
    def size_bytes(self) -> int:
        """Length of the whole file."""
        return len(self._mapped)

    def tensor(self, name: str) -> Tensor:
        """Return one tensor's values: mapped where they are plain, else computed from its blocks.

        Writing to it changes this process's view, never the file.
        """
        stored = self.stored(name)
        return decode_blocks(stored) if isinstance(stored, BlockTensor) else stored

    def stored(self, name: str) -> Tensor | BlockTensor:
        """Map one tensor as it is stored, so that it can be written again unchanged."""
        entry = self.tensors[name]
        if entry.dtype.is_quantized:
            return BlockTensor(entry.dtype, entry.shape, self._map(entry, torch.uint8))
        return self._map(entry, PLAIN[entry.dtype]).reshape(entry.shape)

    def _map(self, entry: AprTensor, dtype: torch.dtype) -> Tensor:
        start = self.header.data_offset + entry.offset_bytes
        return map_tensor(self._mapped, dtype, start, entry.size_bytes)

    def checksums(self) -> dict[str, str]:
        """Verify both checksums and return them.

        Raises: CorruptFileError, ModelFormatError.
        """
        self.verify()
        places = {"header": CHECKSUM_OFFSET, "footer": self.size_bytes - CHECKSUM.size}
        found = {name: CHECKSUM.unpack_from(self._mapped, place) for name, place in places.items()}
        return {f"crc32 {name}": f"{checksum:08x}" for name, (checksum,) in found.items()}

    def verify(self) -> None:
        """Read every byte and compare it with the checksum at the end of the file.

        Raises: CorruptFileError, or ModelFormatError if padding is not zero.
        """
        checksum = 0
        end = self.size_bytes - CHECKSUM.size
        with memoryview(self._mapped) as view:
            for start in range(0, end, CHUNK_BYTES):
                with view[start : min(start + CHUNK_BYTES, end)] as chunk:
                    checksum = zlib.crc32(chunk, checksum)
        (stored,) = CHECKSUM.unpack_from(self._mapped, end)
        if checksum != stored:
            found = f"bytes with checksum {checksum:08x}"
            raise CorruptFileError(self.path, found, f"{stored:08x} as the footer says")
        for entry in self.tensors.values():
            start = self.header.data_offset
            end_of_data = start + entry.offset_bytes + entry.size_bytes
            padding = self._mapped[end_of_data : start + entry.end_bytes]
            require_zeros(self.path, padding, f"tensor {entry.name!r}")


def open_apr(path: Path) -> AprFile:
    """Map an .apr file and check its structure.

    Raises: CorruptFileError if it is cut short or its header changed, ModelFormatError.
    """
    mapped = map_file(path, HEADER.size)
    size_bytes = len(mapped)
    header = decode_header(path, mapped[: HEADER.size])
    require_bytes(path, size_bytes, header.data_offset + CHECKSUM.size)
    metadata_end = HEADER.size + header.metadata_bytes
    metadata = decode_metadata(path, mapped[HEADER.size : metadata_end])
    require_zeros(path, mapped[metadata_end : header.index_offset], "metadata")
    index = mapped[header.index_offset : header.data_offset]
    tensors = decode_index(path, index, header.num_tensors)
    expected_bytes = header.data_offset + require_gapless(path, tensors) + CHECKSUM.size
    require_bytes(path, size_bytes, expected_bytes)
    if size_bytes > expected_bytes:
        raise ModelFormatError(path, f"{size_bytes} bytes long", f"{expected_bytes}")
    return AprFile(path, header, metadata, tensors, mapped)
