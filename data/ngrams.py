"""Interpolated n-grams of tokens, counted on many rows and asked about few.

The probability of a token after the k tokens before it is
(c(h, w) + n(h) p(w | the k-1 tokens before)) / (c(h) + n(h)), where c counts and n(h) is the number
of distinct successors of h; after a history never seen it is that of the shorter history. The
shortest is empty: there the counts are smoothed by one.

Only what the few rows ask about is counted: their histories are the nodes of a tree, and pairs of
another history are passed over. So memory grows with the distinct pairs after known histories.

Source: Witten and Bell 1991, in Chen and Goodman 1998, section 2.4, eqs. 15 and 16; Laplace's rule
of succession for the empty history.

Legend: N rows, S tokens in a row, K histories of different lengths, V vocabulary, M nodes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_EMPTY, _ABSENT, _ROOT = -1, -1, 0
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FIRST_BITS = 12


@dataclass(slots=True)
class _Table:
    """A hash table from numbers to numbers; linear probing, never more than half full."""

    keys: I64
    values: I64
    size: int = 0

    @classmethod
    def of_bits(cls, bits: int) -> "_Table":
        return cls(np.full(1 << bits, _EMPTY, np.int64), np.zeros(1 << bits, np.int64))

    def reserve(self, more: int) -> None:
        """Make room for more entries."""
        needed = max(2 * (self.size + more), 1).bit_length()
        if 1 << needed > len(self.keys):
            larger = _Table.of_bits(needed)
            _rehash(self.keys, self.values, larger.keys, larger.values)
            self.keys, self.values = larger.keys, larger.values


class Ngrams:
    """Counts of n-grams after the histories that occur in some rows."""

    def __init__(self, order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        self._count_V = np.zeros(vocab_size, np.int64)
        # From a node and a token to the node of the longer history; from both to their count.
        self._children, self._pairs = _Table.of_bits(_FIRST_BITS), _Table.of_bits(_FIRST_BITS)
        self._total_M, self._distinct_M = np.zeros(1, np.int64), np.zeros(1, np.int64)

    @property
    def num_counted_tokens(self) -> int:
        """Tokens that were counted."""
        return int(self._count_V.sum())

    def expect(self, ids_NS: I64) -> None:
        """Take in the histories of rows that will be asked about; before anything is counted.

        Shapes: a negative id ends its row.
        """
        self._children.reserve(ids_NS.size * (self.order - 1))
        table = self._children
        table.size = _add_histories(ids_NS, table.keys, table.values, table.size, *self._shape)
        self._total_M = np.zeros(table.size + 1, np.int64)
        self._distinct_M = np.zeros(table.size + 1, np.int64)

    def count(self, ids_NS: I64) -> None:
        """Count the tokens of rows, and the pairs after known histories.

        Shapes: a negative id ends its row.
        """
        self._count_V += np.bincount(ids_NS[ids_NS >= 0], minlength=self.vocab_size)
        pairs = self._pairs
        pairs.reserve(ids_NS.size * (self.order - 1))
        pairs.size = _count_pairs(
            ids_NS,
            self._children.keys,
            self._children.values,
            pairs.keys,
            pairs.values,
            pairs.size,
            self._total_M,
            self._distinct_M,
            *self._shape,
        )

    def nats(self, ids_NS: I64) -> F64:
        """Sum the losses of the targets of each row, by the length of history that is looked at.

        Shapes: (N, S) -> (N, order); a negative id ends its row.
        """
        nats_NK = np.zeros((len(ids_NS), self.order))
        _score(
            ids_NS,
            self._children.keys,
            self._children.values,
            self._pairs.keys,
            self._pairs.values,
            self._total_M,
            self._distinct_M,
            self.unigram(),
            nats_NK,
            *self._shape,
        )
        return nats_NK

    def unigram(self) -> F64:
        """Estimate the probability of each id by itself.

        Shapes: -> (V,).
        """
        smoothed_V = self._count_V + 1.0
        return np.asarray(smoothed_V / smoothed_V.sum())

    @property
    def _shape(self) -> tuple[int, int]:
        return self.order - 1, self.vocab_size


@compiled
def _slot(keys: I64, key: int) -> int:
    """Find the slot of a key, or the empty one where it would stand."""
    mask = np.uint64(len(keys) - 1)
    mixed = np.uint64(key) * _MULTIPLIER
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while keys[slot] != _EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)  # type: ignore[return-value]  # an int to numba


@compiled
def _rehash(keys: I64, values: I64, larger_keys: I64, larger_values: I64) -> None:
    for number in range(len(keys)):
        if keys[number] != _EMPTY:
            slot = _slot(larger_keys, keys[number])
            larger_keys[slot], larger_values[slot] = keys[number], values[number]


@compiled
def _step(nodes_K: I64, keys: I64, values: I64, token: int, vocab_size: int) -> None:
    """Lengthen every history by a token; the empty one stays."""
    for length in range(len(nodes_K) - 1, 0, -1):
        shorter = nodes_K[length - 1]
        nodes_K[length] = _ABSENT
        if shorter != _ABSENT:
            slot = _slot(keys, shorter * vocab_size + token)
            if keys[slot] != _EMPTY:
                nodes_K[length] = values[slot]


@compiled
def _beginning(longest: int) -> I64:
    nodes_K = np.full(longest + 1, _ABSENT, np.int64)
    nodes_K[0] = _ROOT
    return nodes_K


@compiled
def _add_histories(
    ids_NS: I64, keys: I64, values: I64, size: int, longest: int, vocab_size: int
) -> int:
    """Give every history of the rows a node; return how many there are."""
    for row in range(len(ids_NS)):
        nodes_K = _beginning(longest)
        for place in range(ids_NS.shape[1] - 1):
            token = ids_NS[row, place]
            # What comes before padding is a history that nobody asks about.
            if token < 0 or ids_NS[row, place + 1] < 0:
                break
            for length in range(longest, 0, -1):
                if nodes_K[length - 1] != _ABSENT:
                    key = nodes_K[length - 1] * vocab_size + token
                    slot = _slot(keys, key)
                    if keys[slot] == _EMPTY:
                        size += 1
                        keys[slot], values[slot] = key, size
                    nodes_K[length] = values[slot]
    return size


@compiled
def _count_pairs(
    ids_NS: I64,
    keys: I64,
    values: I64,
    pair_keys: I64,
    pair_counts: I64,
    size: int,
    total_M: I64,
    distinct_M: I64,
    longest: int,
    vocab_size: int,
) -> int:
    """Count what follows each known history; return how many distinct pairs there are."""
    for row in range(len(ids_NS)):
        nodes_K = _beginning(longest)
        for place in range(ids_NS.shape[1] - 1):
            target = ids_NS[row, place + 1]
            if target < 0:
                break
            _step(nodes_K, keys, values, ids_NS[row, place], vocab_size)
            for length in range(1, longest + 1):
                node = nodes_K[length]
                if node != _ABSENT:
                    key = node * vocab_size + target
                    slot = _slot(pair_keys, key)
                    if pair_keys[slot] == _EMPTY:
                        size += 1
                        distinct_M[node] += 1
                        pair_keys[slot] = key
                    pair_counts[slot] += 1
                    total_M[node] += 1
    return size


@compiled
def _score(
    ids_NS: I64,
    keys: I64,
    values: I64,
    pair_keys: I64,
    pair_counts: I64,
    total_M: I64,
    distinct_M: I64,
    unigram_V: F64,
    nats_NK: F64,
    longest: int,
    vocab_size: int,
) -> None:
    """Sum the losses of every row's targets after histories of every length."""
    for row in range(len(ids_NS)):
        nodes_K = _beginning(longest)
        for place in range(ids_NS.shape[1] - 1):
            target = ids_NS[row, place + 1]
            if target < 0:
                break
            _step(nodes_K, keys, values, ids_NS[row, place], vocab_size)
            probability = unigram_V[target]
            nats_NK[row, 0] -= np.log(probability)
            for length in range(1, longest + 1):
                node = nodes_K[length]
                if node != _ABSENT and total_M[node] > 0:
                    slot = _slot(pair_keys, node * vocab_size + target)
                    count = pair_counts[slot] if pair_keys[slot] != _EMPTY else 0
                    backed_off = count + distinct_M[node] * probability
                    probability = backed_off / (total_M[node] + distinct_M[node])
                nats_NK[row, length] -= np.log(probability)
