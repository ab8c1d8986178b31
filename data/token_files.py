"""Headerless little-endian files of token ids, a file a unit; no document straddles two.

The narrowest width that holds the vocabulary is used, and stated in the index.
"""

import re
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.errors import CorruptTokensError

DtypeName: TypeAlias = Literal["uint16", "uint32"]

LITTLE_ENDIAN: dict[DtypeName, np.dtype[Any]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
TOKENS = "tokens.bin"
"""The tokens of one unit."""


def dtype_of(vocab_size: int) -> DtypeName:
    """Name the narrowest width that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def tokens_written(unit: Path, *, dtype: DtypeName) -> int:
    """Count the tokens that a unit holds by now."""
    path = unit / TOKENS
    return path.stat().st_size // LITTLE_ENDIAN[dtype].itemsize if path.is_file() else 0


TOKEN_FILE = re.compile(r"tokens-[0-9]{5,9}\.bin")


def token_file(unit: int) -> str:
    """Name the tokens of a unit in a tokens directory."""
    return f"tokens-{unit:05d}.bin"


def adopt(made: Path, path: Path) -> None:
    """Give a finished file a second name, or copy it where the file system cannot."""
    try:
        path.hardlink_to(made)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(made, path)


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


def _require_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        is_now = "is missing" if found is None else f"{found} bytes"
        raise CorruptTokensError(path, is_now, f"{expected} bytes")
