"""What models without a network score: no better than these, and nothing was learnt.

Counted on the training rows, scored on the targets of the validation rows.

Legend: N rows, S tokens in a row, P distinct pairs of neighbours, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.errors import TokenOutOfRangeError
from data.rows import PADDING, Rows, blocks

BASELINES = "baselines.json"
"The file of a shards directory that holds them."
READ_TOKENS = 4_000_000
_PAIRS = 2**20
"""Pairs that are scored at a time."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """Cross-entropies of models that only count.

    Units: nats per target token.
    """

    uniform_nats: float
    unigram_nats: float
    bigram_nats: float
    num_target_tokens: int
    num_counted_tokens: int
    """Training tokens that the unigram and the bigram counted."""


class PairCounts(NamedTuple):
    """Neighbours within rows, and how often each pair occurs."""

    codes: NDArray[np.int64]
    """The history times the size of the vocabulary, plus the target; sorted."""
    counts: NDArray[np.int64]


def cross_entropies(train: Rows, val: Rows, vocab_size: int, *, max_train_tokens: int) -> Baselines:
    """Score counting models: uniform, unigram and bigram.

    Of more training tokens than `max_train_tokens`, rows spread evenly over them are counted.

    Raises: TokenOutOfRangeError.
    """
    chosen = _spread(train, max_train_tokens)
    seen = count_pairs(train, vocab_size, chosen)
    scored = count_pairs(val, vocab_size, np.arange(len(val)))
    count_V = count_tokens(train, vocab_size, chosen)
    unigram_V = unigram(count_V)
    num_target_tokens = int(scored.counts.sum())

    def mean_nats(probability: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> float:
        nats_P = np.empty(len(scored.codes))
        for begin in range(0, len(nats_P), _PAIRS):
            piece = slice(begin, begin + _PAIRS)
            nats_P[piece] = scored.counts[piece] * np.log(probability(scored.codes[piece]))
        return float(-nats_P.sum() / num_target_tokens)

    return Baselines(
        uniform_nats=math.log(vocab_size),
        unigram_nats=mean_nats(lambda code_P: unigram_V[code_P % vocab_size]),
        bigram_nats=mean_nats(bigram(seen, unigram_V)),
        num_target_tokens=num_target_tokens,
        num_counted_tokens=int(count_V.sum()),
    )


def _spread(rows: Rows, max_tokens: int) -> NDArray[np.int64]:
    """Choose as many rows as have so many tokens, spread evenly; shapes: (N,)."""
    num_rows = min(max(max_tokens // rows.row_tokens, 1), len(rows))
    return np.arange(num_rows) * len(rows) // num_rows


def unigram(count_V: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimate the probability of each id from its count, with add-one smoothing.

    Shapes: (V,) -> (V,).
    Source: Laplace's rule of succession; Chen and Goodman 1998, section 2.1.
    """
    smoothed_V = count_V + 1.0
    return np.asarray(smoothed_V / smoothed_V.sum())


def bigram(
    seen: PairCounts, unigram_V: NDArray[np.float64]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Estimate the probability of a pair's target after its history, interpolated with the unigram.

    (c(h, w) + n(h) p(w)) / (c(h) + n(h)), where n(h) counts the distinct successors of h; p(w)
    after a history never seen. The function that is returned takes the codes of pairs.

    Shapes: (P,) -> (P,).
    Source: Witten and Bell 1991, in Chen and Goodman 1998, section 2.4.
    """
    vocab_size = len(unigram_V)
    begins_V = np.searchsorted(seen.codes, np.arange(vocab_size) * vocab_size)
    distinct_V = np.diff(begins_V, append=len(seen.codes))
    total_V = np.zeros(vocab_size, np.int64)
    is_history_V = distinct_V > 0
    total_V[is_history_V] = np.add.reduceat(seen.counts, begins_V[is_history_V])

    def probability(code_P: NDArray[np.int64]) -> NDArray[np.float64]:
        history_P, target_P = np.divmod(code_P, vocab_size)
        total_P, distinct_P = total_V[history_P], distinct_V[history_P]
        interpolated_P = _lookup(seen, code_P) + distinct_P * unigram_V[target_P]
        weight_P = np.maximum(total_P + distinct_P, 1)
        return np.where(total_P > 0, interpolated_P / weight_P, unigram_V[target_P])

    return probability


def count_tokens(rows: Rows, vocab_size: int, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count every id in every position of the chosen rows.

    Shapes: (N,) -> (V,).
    """
    count_V = np.zeros(vocab_size, dtype=np.int64)
    for ids_NS in _read(rows, vocab_size, chosen):
        count_V += np.bincount(ids_NS[ids_NS != PADDING], minlength=vocab_size)
    return count_V


def count_pairs(rows: Rows, vocab_size: int, chosen: NDArray[np.int64]) -> PairCounts:
    """Count the pairs of neighbouring ids within the chosen rows.

    Shapes: (N,).
    Raises: TokenOutOfRangeError.
    """
    seen = PairCounts(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for ids_NS in _read(rows, vocab_size, chosen):
        codes_NT = ids_NS[:, :-1] * vocab_size + ids_NS[:, 1:]
        # Padding comes last in a row: what is before a target is a token.
        is_pair_NT = ids_NS[:, 1:] != PADDING
        seen = _merged(seen, *np.unique(codes_NT[is_pair_NT], return_counts=True))
    return seen


def _merged(seen: PairCounts, codes: NDArray[np.int64], counts: NDArray[np.int64]) -> PairCounts:
    """Add the counts of other pairs, sorted too; sorting all of them again would take most time."""
    place = np.searchsorted(seen.codes, codes)
    is_known = _found(seen, codes, place)
    seen.counts[place[is_known]] += counts[is_known]
    place, codes, counts = place[~is_known], codes[~is_known], counts[~is_known]
    return PairCounts(np.insert(seen.codes, place, codes), np.insert(seen.counts, place, counts))


def target_bytes(val: Rows, token_bytes: NDArray[np.integer[Any]]) -> int:
    """Count the UTF-8 bytes of the target tokens of the rows."""
    everything = np.arange(len(val))
    targets = (ids_NS[:, 1:] for ids_NS in _read(val, len(token_bytes), everything))
    return sum(int(token_bytes[each[each != PADDING]].sum()) for each in targets)


def _read(rows: Rows, vocab_size: int, chosen: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for block in blocks(chosen, READ_TOKENS // rows.row_tokens):
        ids_NS = rows.take(block)
        if ids_NS.max() >= vocab_size:
            where = f"{rows.split} rows"
            raise TokenOutOfRangeError(where, int(ids_NS.max()), vocab_size)
        yield ids_NS


def _lookup(seen: PairCounts, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count of each pair among those seen, zero where it was not."""
    place = np.searchsorted(seen.codes, codes)
    is_known = _found(seen, codes, place)
    found = np.zeros(len(codes), np.int64)
    found[is_known] = seen.counts[place[is_known]]
    return found


def _found(
    seen: PairCounts, codes: NDArray[np.int64], place: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which pairs stand at the places where they would have to be inserted."""
    is_known = place < len(seen.codes)
    is_known[is_known] = seen.codes[place[is_known]] == codes[is_known]
    return is_known
