"""Headerless little-endian files of token ids, of which a document never straddles two.

The narrowest width that holds the vocabulary is used, and stated in the index.
"""

from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.errors import CorruptTokensError

DtypeName: TypeAlias = Literal["uint16", "uint32"]

LITTLE_ENDIAN: dict[DtypeName, np.dtype[Any]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
MAX_FILE_TOKENS = 100_000_000


def dtype_of(vocab_size: int) -> DtypeName:
    """Name the narrowest width that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class TokenWriter:
    """Appends documents to `tokens-NNNNN.bin`, starting a new file once one is full."""

    def __init__(
        self, directory: Path, dtype: DtypeName, *, max_file_tokens: int = MAX_FILE_TOKENS
    ) -> None:
        self._directory = directory
        self._dtype = LITTLE_ENDIAN[dtype]
        self._max_file_tokens = max_file_tokens
        self._file: BinaryIO | None = None
        self._sizes: list[int] = []

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Name and number of tokens of every file begun."""
        return tuple((_name(number), size) for number, size in enumerate(self._sizes))

    def write(self, ids: NDArray[np.integer[Any]]) -> None:
        """Append one document, its end of text included."""
        if self._file is None or self._sizes[-1] >= self._max_file_tokens:
            self._roll_over()
        assert self._file is not None
        self._file.write(ids.astype(self._dtype).tobytes())
        self._sizes[-1] += len(ids)

    def _roll_over(self) -> None:
        if self._file:
            self._file.close()
        self._file = (self._directory / _name(len(self._sizes))).open("xb")
        self._sizes.append(0)


class TokenReader:
    """Reads ranges of the token stream that the files make up together."""

    def __init__(
        self, directory: Path, files: tuple[tuple[str, int], ...], dtype: DtypeName
    ) -> None:
        """Map the files into memory.

        Raises: CorruptTokensError if a file is absent or has another size than its index says.
        """
        width = LITTLE_ENDIAN[dtype]
        for name, size in files:
            _require_size(directory / name, size * width.itemsize)
        self._maps = [np.memmap(directory / name, dtype=width, mode="r") for name, _ in files]
        self._starts = np.cumsum([0] + [size for _, size in files])

    def read(self, start: int, num_tokens: int) -> NDArray[np.integer[Any]]:
        """Read a range that lies within one document, hence within one file."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        offset = start - int(self._starts[number])
        ids = self._maps[number][offset : offset + num_tokens]
        assert len(ids) == num_tokens, "a document straddles two files"
        return ids


def _name(number: int) -> str:
    return f"tokens-{number:05d}.bin"


def _require_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        is_now = "is missing" if found is None else f"{found} bytes"
        raise CorruptTokensError(path, is_now, f"{expected} bytes")
