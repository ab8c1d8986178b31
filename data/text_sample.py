"""A seeded sample of a corpus, for what cannot see all of it.

Which documents are in it is decided by their digests: not by their order, their batches or the unit
that they come from. Memory holds the sample and one document more.
"""

import hashlib
from heapq import heappop, heappush

from data.bounds import at_least


class TextSample:
    """Keeps documents with the smallest keys, up to so many bytes."""

    def __init__(self, max_bytes: int, seed: int) -> None:
        """Start an empty sample.

        Raises: WrongSettingError.
        """
        at_least("tokenizer.sample_bytes", max_bytes, 1)
        self._max_bytes = max_bytes
        self._seed = seed
        self._kept: list[tuple[int, str, bytes]] = []
        self._digests: set[str] = set()
        self._refused_from = 0
        self.num_bytes = 0

    def wants(self, sha256: str) -> bool:
        """Tell whether a document can still get in, before its text is read."""
        return not self._refused_from or self._rank(sha256) > self._refused_from

    def add(self, sha256: str, text: str) -> None:
        """Offer a document, named by its digest."""
        rank = self._rank(sha256)
        if sha256 in self._digests or (self._refused_from and rank <= self._refused_from):
            return
        content = text.encode()
        self._digests.add(sha256)
        heappush(self._kept, (rank, sha256, content))
        self.num_bytes += len(content)
        # One document stays even if it is too large: a sample of nothing is of no use.
        while self.num_bytes > self._max_bytes and len(self._kept) > 1:
            self._refused_from, digest, dropped = heappop(self._kept)
            self._digests.remove(digest)
            self.num_bytes -= len(dropped)

    def texts(self) -> list[str]:
        """List the texts, in the order of their digests."""
        return [text.decode() for _, _, text in sorted(self._kept, key=lambda kept: kept[1])]

    def _rank(self, sha256: str) -> int:
        """Draw a number for a document; the highest stay."""
        keyed = hashlib.sha256(f"sample:{self._seed}:{sha256}".encode()).digest()
        return int.from_bytes(keyed[:8], "big")
