"""Digests of files and of documents, all of them sha256.

Legend: D documents.
"""

import hashlib
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
