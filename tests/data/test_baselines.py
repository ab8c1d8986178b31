import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import baselines as module
from data.baselines import (
    bigram,
    count_pairs,
    count_tokens,
    cross_entropies,
    target_bytes,
    unigram,
)
from data.errors import TokenOutOfRangeError
from data.rows import Rows, open_rows
from tests.data.corpus import write_shards

VOCAB_SIZE = 6

Grid = list[list[int]]


def opened(directory: Path, train: Grid, val: Grid) -> tuple[Rows, Rows]:
    index = write_shards(directory, [train], [val], vocab_size=VOCAB_SIZE)
    return open_rows(directory, index, "train"), open_rows(directory, index, "val")


def slow_reference(train: Grid, val: Grid) -> tuple[float, float]:
    """The formulas of the docstrings, one target at a time."""
    tokens = Counter(token for row in train for token in row)
    pairs = Counter(pair for row in train for pair in pairwise(row))
    unigram_nats, bigram_nats, num_targets = 0.0, 0.0, 0
    for row in val:
        for history, target in pairwise(row):
            p_unigram = (tokens[target] + 1) / (tokens.total() + VOCAB_SIZE)
            total = sum(count for pair, count in pairs.items() if pair[0] == history)
            distinct = len([pair for pair in pairs if pair[0] == history])
            seen = pairs[history, target]
            backed_off = seen + distinct * p_unigram
            p_bigram = backed_off / (total + distinct) if total else p_unigram
            unigram_nats -= math.log(p_unigram)
            bigram_nats -= math.log(p_bigram)
            num_targets += 1
    return unigram_nats / num_targets, bigram_nats / num_targets


GRIDS = st.lists(
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=4, max_size=4), min_size=1, max_size=9
)


@given(GRIDS, GRIDS)
def test_the_scores_are_those_of_the_literal_formulas(
    tmp_path_factory: pytest.TempPathFactory, train: Grid, val: Grid
) -> None:
    rows = opened(tmp_path_factory.mktemp("rows"), train, val)
    found = cross_entropies(*rows, VOCAB_SIZE, max_train_tokens=10**6)
    unigram_nats, bigram_nats = slow_reference(train, val)
    assert found.uniform_nats == math.log(VOCAB_SIZE)
    assert found.unigram_nats == pytest.approx(unigram_nats, rel=1e-12)
    assert found.bigram_nats == pytest.approx(bigram_nats, rel=1e-12)
    assert found.num_target_tokens == 3 * len(val)


@given(GRIDS)
def test_the_probabilities_of_all_targets_sum_to_one(
    tmp_path_factory: pytest.TempPathFactory, train: Grid
) -> None:
    rows, _ = opened(tmp_path_factory.mktemp("rows"), train, train)
    unigram_V = unigram(count_tokens(rows, VOCAB_SIZE, np.arange(len(rows))))
    probability = bigram(count_pairs(rows, VOCAB_SIZE, np.arange(len(rows))), unigram_V)
    bigram_P = probability(np.arange(VOCAB_SIZE**2))
    assert unigram_V.sum() == pytest.approx(1)
    assert bigram_P.reshape(VOCAB_SIZE, VOCAB_SIZE).sum(axis=1) == pytest.approx(1)


def test_a_worked_example(tmp_path: Path) -> None:
    rows = opened(tmp_path, [[1, 2, 1, 2]], [[1, 2, 3, 1]])
    found = cross_entropies(*rows, VOCAB_SIZE, max_train_tokens=10**6)
    # Of four tokens, 1 and 2 occur twice; pairs: 12 twice, 21 once; 3 was never a history.
    unigrams, bigrams = (3 / 10, 1 / 10, 3 / 10), ((2 + 3 / 10) / 3, (1 / 10) / 2, 3 / 10)
    assert found.uniform_nats == math.log(6)
    assert found.unigram_nats == pytest.approx(-math.log(math.prod(unigrams)) / 3)
    assert found.bigram_nats == pytest.approx(-math.log(math.prod(bigrams)) / 3)
    assert found.num_target_tokens == 3


def test_counting_in_pieces_is_counting_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 1, 2], [5, 5, 5, 5], [2, 3, 2, 3]]
    rows = opened(tmp_path, train, train[1:3])
    at_once = cross_entropies(*rows, VOCAB_SIZE, max_train_tokens=10**6)
    monkeypatch.setattr(module, "READ_TOKENS", 1)
    assert cross_entropies(*rows, VOCAB_SIZE, max_train_tokens=10**6) == at_once


def test_only_targets_have_bytes(tmp_path: Path) -> None:
    _, val = opened(tmp_path, [[0, 0, 0]], [[5, 1, 0], [4, 2, 2]])
    assert target_bytes(val, np.array([0, 1, 10, 100, 1000, 10000])) == 1 + 0 + 10 + 10


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    train, val = opened(tmp_path, [[1, 2]], [[1, 5]])
    with pytest.raises(TokenOutOfRangeError) as caught:
        cross_entropies(train, val, 5, max_train_tokens=10**6)
    assert (caught.value.where, caught.value.token, caught.value.vocab_size) == ("val rows", 5, 5)


def test_of_many_training_tokens_rows_spread_over_them_are_counted(tmp_path: Path) -> None:
    train = [[number, number] for number in (1, 2, 3, 4, 5)]
    rows = opened(tmp_path, train, [[1, 2]])
    found = cross_entropies(*rows, VOCAB_SIZE, max_train_tokens=7)
    assert found.num_counted_tokens == 6
    # Rows 0, 1 and 3 were counted, so 2 was seen twice among six tokens.
    assert found.unigram_nats == pytest.approx(-math.log(3 / (6 + VOCAB_SIZE)))


def test_padding_is_neither_counted_nor_scored(tmp_path: Path) -> None:
    padded = [[1, 0, 0, 0], [2, 3, 0, 0]]
    index = replace(write_shards(tmp_path, [padded], [padded], vocab_size=6), packing="whole")
    rows = open_rows(tmp_path, index, "train"), open_rows(tmp_path, index, "val")
    found = cross_entropies(*rows, VOCAB_SIZE, max_train_tokens=10**6)
    assert found.num_target_tokens == 3
    assert found.num_counted_tokens == 5
    assert target_bytes(rows[1], np.array([0, 1, 10, 100, 0, 0])) == 100
