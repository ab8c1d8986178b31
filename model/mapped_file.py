"""A file as memory: private, so that nothing written there reaches the file."""

import mmap
import stat
from pathlib import Path

import torch
from torch import Tensor

from model.errors import CorruptFileError, ModelFormatError


def map_file(path: Path, least_bytes: int) -> mmap.mmap:
    """Map a file of at least this length; one byte or more, since nothing cannot be mapped.

    Raises: ModelFormatError if it is no regular file, CorruptFileError if it is too short.
    """
    # Opening a pipe would wait for somebody to write into it.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelFormatError(path, "no regular file", "one")
    with path.open("rb") as file:
        size_bytes = file.seek(0, 2)
        require_bytes(path, size_bytes, least_bytes)
        # Copy on write: torch wants a writable buffer.
        return mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_COPY)


def require_bytes(path: Path, size_bytes: int, least_bytes: int) -> None:
    """Refuse a file that is shorter than what it says it holds.

    Raises: CorruptFileError.
    """
    if size_bytes < least_bytes:
        found = f"ends after {size_bytes} bytes"
        raise CorruptFileError(path, found, f"{least_bytes} or more")


def map_tensor(mapped: mmap.mmap, dtype: torch.dtype, offset: int, size_bytes: int) -> Tensor:
    """Return a stretch of the file as a flat tensor, copied only where it is not aligned."""
    if not size_bytes:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(mapped, dtype=torch.uint8, count=size_bytes, offset=offset)
    return (flat.clone() if offset % dtype.itemsize else flat).view(dtype)
