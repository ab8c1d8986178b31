"""Interpolated n-grams against the formulas of their docstring, one target at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ngrams import Ngrams

V = 5
Grid = list[list[int]]
GRIDS = st.lists(st.lists(st.integers(0, V - 1), min_size=7, max_size=7), min_size=1, max_size=9)


def probability(train: Grid, history: list[int], target: int) -> float:
    """The formula as it is written, searching the rows anew each time."""
    tokens = [token for row in train for token in row]
    if not history:
        return (tokens.count(target) + 1) / (len(tokens) + V)
    length = len(history)
    after = [
        row[end]
        for row in train
        for end in range(length, len(row))
        if row[end - length : end] == history
    ]
    shorter = probability(train, history[1:], target)
    if not after:
        return shorter
    return (after.count(target) + len(set(after)) * shorter) / (len(after) + len(set(after)))


def slow_nats(train: Grid, row: list[int], order: int) -> float:
    return -sum(
        math.log(probability(train, row[max(0, place - order + 1) : place], row[place]))
        for place in range(1, len(row))
    )


def counted(train: Grid, asked: Grid, order: int = 5) -> Ngrams:
    ngrams = Ngrams(order, V)
    ngrams.expect(np.array(asked))
    ngrams.count(np.array(train))
    return ngrams


@given(GRIDS, GRIDS)
def test_the_losses_are_those_of_the_formulas(train: Grid, asked: Grid) -> None:
    found_NK = counted(train, asked).nats(np.array(asked))
    expected = [[slow_nats(train, row, order) for order in (1, 2, 3, 4, 5)] for row in asked]
    np.testing.assert_allclose(found_NK, expected, rtol=1e-12)


@given(GRIDS, st.lists(st.integers(0, V - 1), min_size=4, max_size=4))
def test_the_probabilities_of_all_targets_sum_to_one(train: Grid, history: list[int]) -> None:
    asked = np.array([[*history, target] for target in range(V)])
    nats_NK = counted(train, asked.tolist()).nats(asked)
    # Every row has the losses of the shared history as well.
    shared_K = counted(train, asked.tolist()).nats(asked[:1, :-1])
    assert np.exp(shared_K - nats_NK).sum(axis=0) == pytest.approx(np.ones(5), rel=1e-12)


def test_a_worked_example() -> None:
    ngrams = counted([[1, 2, 1, 2, 3]], [[1, 2, 3]], order=3)
    # p(2) and p(3) alone; after 1 came 2 twice; after 2 came 1 and 3, after 12 the same.
    two, three = 3 / 10, 2 / 10
    two_after_1 = (2 + 1 * two) / (2 + 1)
    three_after_2 = (1 + 2 * three) / (2 + 2)
    three_after_12 = (1 + 2 * three_after_2) / (2 + 2)
    expected = [two * three, two_after_1 * three_after_2, two_after_1 * three_after_12]
    assert np.exp(-ngrams.nats(np.array([[1, 2, 3]]))[0]) == pytest.approx(expected)


def test_counting_in_pieces_is_counting_at_once_and_tables_grow() -> None:
    draw = np.random.default_rng(1)
    train, asked = draw.integers(0, V, (4000, 9)), draw.integers(0, V, (50, 9))
    at_once, in_pieces = Ngrams(5, V), Ngrams(5, V)
    at_once.expect(asked)
    at_once.count(train)
    for piece in np.split(asked, 10):
        in_pieces.expect(piece)
    for piece in np.split(train, 40):
        in_pieces.count(piece)
    np.testing.assert_array_equal(in_pieces.nats(asked), at_once.nats(asked))
    assert in_pieces.num_counted_tokens == 36_000


def test_nothing_reaches_over_the_end_of_a_row_or_into_padding() -> None:
    whole = counted([[1, 2, 3], [1, 2, 3]], [[1, 2, 3]])
    padded = counted([[1, 2, 3, -1, -1], [1, 2, 3, -1, -1]], [[1, 2, 3, -1]])
    np.testing.assert_array_equal(
        padded.nats(np.array([[1, 2, 3, -1]])), whole.nats(np.array([[1, 2, 3]]))
    )
    assert padded.num_counted_tokens == whole.num_counted_tokens == 6


def test_a_history_that_was_not_expected_is_passed_over() -> None:
    ngrams = counted([[1, 2, 3, 4]], [[1, 2]])
    nats_K = ngrams.nats(np.array([[3, 4]]))[0]
    # Only the frequency of 4 is known: 2 of 9 with one added to each count.
    assert nats_K == pytest.approx([-math.log(2 / 9)] * 5)
