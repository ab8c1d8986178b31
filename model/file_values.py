"""Values of forward passes in a file, where they are more than memory should hold.

A value is in memory while a pass shows it; what is read again is a copy with the same bits.
"""

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    shape: torch.Size
    dtype: torch.dtype


class ValueFile:
    """An unnamed file of a directory, in which any number of mappings keep their tensors.

    Raises: OSError, also where the disk is full.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> "ValueFile":
        self._file = TemporaryFile(dir=self._directory)  # closed by __exit__
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def new_values(self) -> MutableMapping[str, Tensor]:
        """Begin another mapping."""
        return _FileValues(self._file)


class _FileValues(MutableMapping[str, Tensor]):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, _Place] = {}

    def __setitem__(self, site: str, value: Tensor) -> None:
        place = _Place(self._file.seek(0, os.SEEK_END), value.shape, value.dtype)
        self._file.write(_bytes(value.detach().cpu().contiguous()))
        self._places[site] = place

    def __getitem__(self, site: str) -> Tensor:
        place = self._places[site]
        value = torch.empty(place.shape, dtype=place.dtype)
        self._file.seek(place.start)
        num_read = self._file.readinto(_bytes(value))  # type: ignore[attr-defined]  # a binary file's
        assert num_read == value.nbytes, "the file has no name, so nobody cuts it short"
        return value

    def __contains__(self, site: object) -> bool:
        return site in self._places

    def __delitem__(self, site: str) -> None:
        del self._places[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _bytes(value: Tensor) -> memoryview:
    return value.flatten().view(torch.uint8).numpy().data
