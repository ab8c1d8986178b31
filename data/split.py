"""Which documents are held out: decided by content, so that no document is on both sides."""

import hashlib
from typing import Literal, TypeAlias

SplitName: TypeAlias = Literal["train", "val"]


def is_validation(sha256: str, fraction: float, seed: int) -> bool:
    """Tell whether the document with this content digest is held out.

    The decision depends on nothing else, so that it survives a growing corpus.
    """
    keyed = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(keyed[:8], "big") < fraction * 2**64


def split_of(sha256: str, fraction: float, seed: int) -> SplitName:
    """Name the side that the document with this content digest is on."""
    return "val" if is_validation(sha256, fraction, seed) else "train"
