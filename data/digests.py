"""Digests of files and of documents, all of them sha256.

Legend: D documents.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DIGEST_BYTES = 32


def file_sha256(path: Path) -> str:
    """Digest a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(sha256_D: pa.Array) -> NDArray[np.uint8]:
    """Turn hex digests into bytes.

    Shapes: (D,) -> (D, 32).
    """
    raw = bytes.fromhex("".join(sha256_D.to_pylist()))
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def shared_digests(few_D32: NDArray[np.uint8], many: Iterable[NDArray[np.uint8]]) -> set[bytes]:
    """Find the digests that are among few and among many, which come in pieces.

    Shapes: (D, 32), each (D, 32).
    """
    heads_D = _heads(few_D32)
    sorted_D = np.sort(heads_D)
    suspects = set[bytes]()
    for piece_D32 in many:
        own_D = _heads(piece_D32)
        place_D = np.searchsorted(sorted_D, own_D)
        is_inside_D = place_D < len(sorted_D)
        is_inside_D[is_inside_D] = sorted_D[place_D[is_inside_D]] == own_D[is_inside_D]
        suspects |= _distinct(piece_D32[is_inside_D])
    suspected = np.frombuffer(b"".join(suspects), np.uint8).reshape(-1, DIGEST_BYTES)
    return suspects & _distinct(few_D32[np.isin(heads_D, _heads(suspected))])


def _heads(digests_D32: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests_D32[:, :8]).view(np.uint64)[:, 0]


def _distinct(digests_D32: NDArray[np.uint8]) -> set[bytes]:
    return {digest.tobytes() for digest in digests_D32}
