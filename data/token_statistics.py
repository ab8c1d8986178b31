"""What a token stream looks like, and whether it can be a text at all.

A stream of almost one id trains to a loss near zero and looks like a success; its statistics
give it away before the first step.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.errors import DegenerateTokensError, TokenOutOfRangeError

NUM_TOP_IDS = 10
TOKENS_PER_DISTINCT_ID = 16
"""A short text cannot have as many distinct ids as a long one; this many tokens excuse one less."""
TOKENS_OF_A_TEXT = 100
"""For each id that is wanted: with fewer, the text may be too short and not the tokenizer wrong."""


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """What was counted in a stream of token ids.

    Units: `entropy_bits` is per token, of the distribution of single ids.
    """

    num_tokens: int
    distinct_ids: int
    entropy_bits: float
    unk_ratio: float
    max_id: int
    """-1 for an empty stream."""
    top_ids: tuple[tuple[int, int], ...]
    """The most frequent ids and their counts, most frequent first."""

    @property
    def top_share(self) -> float:
        """Share of the most frequent id."""
        return self.top_ids[0][1] / self.num_tokens if self.top_ids else 0.0


class TokenCounter:
    """Counts a stream that arrives in pieces; `where` names it in an error."""

    def __init__(self, vocab_size: int, where: str) -> None:
        self.where = where
        self.counts_V = np.zeros(vocab_size, dtype=np.int64)

    def add(self, ids: NDArray[np.integer[Any]]) -> None:
        """Count more ids.

        Raises: TokenOutOfRangeError.
        """
        outlier = _count(ids.reshape(-1), self.counts_V)
        if outlier is not None:
            raise TokenOutOfRangeError(self.where, outlier, len(self.counts_V))

    def add_counts(self, counts_V: NDArray[np.int64]) -> None:
        """Add what was counted elsewhere.

        Shapes: (V,).
        """
        self.counts_V += counts_V

    def statistics(self, unk_id: int | None) -> TokenStatistics:
        """Describe what was counted; a vocabulary without an unknown token has `unk_id` None."""
        counts_V, present = self.counts_V, np.flatnonzero(self.counts_V)
        num_tokens = int(counts_V.sum())
        top = present[np.argsort(-counts_V[present], kind="stable")][:NUM_TOP_IDS]
        unknown = 0 if unk_id is None else int(counts_V[unk_id])
        return TokenStatistics(
            num_tokens=num_tokens,
            distinct_ids=len(present),
            entropy_bits=_entropy_bits(counts_V[present].tolist()),
            unk_ratio=unknown / num_tokens if num_tokens else 0.0,
            max_id=int(present[-1]) if len(present) else -1,
            top_ids=tuple((int(token), int(counts_V[token])) for token in top),
        )


@compiled
def _count(ids_N: NDArray[np.integer[Any]], counts_V: NDArray[np.int64]) -> int | None:
    """Count ids up to the first that is outside the vocabulary, which is returned."""
    for token in ids_N:
        if not 0 <= token < len(counts_V):
            return int(token)
        counts_V[token] += 1
    return None


def token_statistics(
    ids: NDArray[np.integer[Any]], vocab_size: int, *, unk_id: int | None = None
) -> TokenStatistics:
    """Describe a stream of token ids.

    Raises: TokenOutOfRangeError.
    """
    counter = TokenCounter(vocab_size, "token stream")
    counter.add(ids)
    return counter.statistics(unk_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class DegenerateBounds:
    """What a token stream must look like for a model to be trained on it."""

    max_unk_ratio: float
    min_distinct_ids: int
    max_top_share: float
    """No token of a text is every second one; a fallback id that swallowed the text is."""

    def refuse(self, found: TokenStatistics, where: str) -> None:
        """Refuse a stream that is mostly unknown, has few distinct ids, or is mostly one id.

        Raises: DegenerateTokensError.
        """
        wanted = min(self.min_distinct_ids, found.num_tokens // TOKENS_PER_DISTINCT_ID)
        if found.distinct_ids < wanted:
            expected = f"at least {wanted}"
            num_tokens = found.num_tokens
            is_short = num_tokens < wanted * TOKENS_OF_A_TEXT
            raise DegenerateTokensError(
                where, "distinct_ids", found.distinct_ids, expected, num_tokens, is_short
            )
        if found.unk_ratio > self.max_unk_ratio:
            expected = f"at most {self.max_unk_ratio}"
            raise DegenerateTokensError(
                where, "unk_ratio", found.unk_ratio, expected, found.num_tokens
            )
        if found.top_share > self.max_top_share:
            expected = f"at most {self.max_top_share}"
            raise DegenerateTokensError(
                where, "top_share", found.top_share, expected, found.num_tokens
            )


def _entropy_bits(counts: list[int]) -> float:
    """Exactly rounded summation: the index this goes into must not depend on the machine."""
    total = sum(counts)
    # Many ids share a count, and so a term.
    terms = {count: -count / total * math.log2(count / total) for count in set(counts)}
    return math.fsum(map(terms.__getitem__, counts))
