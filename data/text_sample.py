"""A seeded sample of a corpus, for what cannot see all of it.

Which documents are in it is decided by their digests: not by their order, their batches or the unit
that they come from. Memory holds the sample and one document more.
"""

import hashlib
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from data.bounds import at_least


class Sampled(NamedTuple):
    """A document of a sample, with the names that came with it."""

    rank: int
    sha256: str
    names: tuple[str, ...]
    content: bytes


class TextSample:
    """Keeps documents with the smallest keys, up to so many bytes."""

    def __init__(self, max_bytes: int, seed: int) -> None:
        """Start an empty sample.

        Raises: WrongSettingError.
        """
        at_least("tokenizer.sample_bytes", max_bytes, 1)
        self._max_bytes = max_bytes
        self._seed = seed
        self._kept: list[Sampled] = []
        self._digests: set[str] = set()
        self._refused_from = 0
        self.num_bytes = 0

    def wants(self, sha256: str) -> bool:
        """Tell whether a document can still get in, before its text is read."""
        return not self._refused_from or self._rank(sha256) > self._refused_from

    def add(self, sha256: str, text: str, names: tuple[str, ...] = ()) -> None:
        """Offer a document, known by its digest; of equal ones the first is kept."""
        rank = self._rank(sha256)
        if sha256 in self._digests or (self._refused_from and rank <= self._refused_from):
            return
        content = text.encode()
        self._digests.add(sha256)
        heappush(self._kept, Sampled(rank, sha256, names, content))
        self.num_bytes += len(content)
        # One document stays even if it is too large: a sample of nothing is of no use.
        while self.num_bytes > self._max_bytes and len(self._kept) > 1:
            dropped = heappop(self._kept)
            self._refused_from = dropped.rank
            self._digests.remove(dropped.sha256)
            self.num_bytes -= len(dropped.content)

    def documents(self) -> Iterator[Sampled]:
        """Yield the documents, in the order of their digests."""
        yield from sorted(self._kept, key=lambda kept: kept.sha256)

    def _rank(self, sha256: str) -> int:
        """Draw a number for a document; the highest stay."""
        keyed = hashlib.sha256(f"sample:{self._seed}:{sha256}".encode()).digest()
        return int.from_bytes(keyed[:8], "big")
