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
        self._refused_from = 0
        self.num_bytes = 0

    def wants(self, sha256: str) -> bool:
        """Tell whether a document can still get in, before its text is read."""
        return not self._refused_from or self._rank(sha256) > self._refused_from

    def add(self, sha256: str, text: str) -> None:
        """Offer a document, named by its digest."""
        rank = self._rank(sha256)
        if self._refused_from and rank <= self._refused_from:
            return
        content = text.encode()
        heappush(self._kept, (rank, sha256, content))
        self.num_bytes += len(content)
        while self.num_bytes > self._max_bytes:
            self._refused_from, _, dropped = heappop(self._kept)
            self.num_bytes -= len(dropped)

    def texts(self) -> list[str]:
        """List the texts, in the order of their digests."""
        return [text.decode() for _, _, text in sorted(self._kept, key=lambda kept: kept[1])]

    def _rank(self, sha256: str) -> int:
        """Draw a number for a document; the highest stay."""
        keyed = hashlib.sha256(f"sample:{self._seed}:{sha256}".encode()).digest()
        return int.from_bytes(keyed[:8], "big")
