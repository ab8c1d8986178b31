"""Ratios over documents and their errors, against hand-made numbers and against resampling."""

import math

import numpy as np
import pytest

from model.loss_statistics import LossCounter, loss_statistics, ratio, ratio_difference


def test_a_worked_example() -> None:
    found = ratio(np.array([2.0, 6.0]), np.array([1, 3]))
    assert (found.mean, found.standard_error) == (2.0, 0.0)
    found = ratio(np.array([1.0, 7.0]), np.array([1, 3]))
    # Residuals are -1 and 1 of 4 tokens; the correction is 2.
    assert found.mean == 2.0
    assert found.standard_error == pytest.approx(math.sqrt(2 * 2) / 4)


def test_one_document_has_no_error() -> None:
    assert ratio(np.array([3.0]), np.array([2])).standard_error is None
    one = (np.array([3.0]), np.array([2]))
    assert ratio_difference(one, one).standard_error is None


def test_documents_without_a_target_do_not_count() -> None:
    found = loss_statistics(np.array([2.0, 0.0, 6.0]), np.array([1, 0, 3]))
    assert (found.num_documents, found.num_tokens, found.mean_nats) == (2, 4, 2.0)


def test_a_difference_of_equal_ratios_is_sure_to_be_none() -> None:
    draw = np.random.default_rng(0)
    sums, weights = draw.random(50), draw.integers(1, 9, 50)
    found = ratio_difference((sums, weights), (2 * sums, 2 * weights))
    assert found.mean == pytest.approx(0, abs=1e-15)
    assert found.standard_error == pytest.approx(0, abs=1e-15)


def test_the_error_of_a_difference_is_what_resampling_documents_gives() -> None:
    draw = np.random.default_rng(1)
    before_weights, now_weights = draw.integers(50, 150, 400), draw.integers(40, 120, 400)
    level = draw.normal(2.0, 0.5, 400)
    before = level * before_weights
    now = (level + draw.normal(0.1, 0.2, 400)) * now_weights
    found = ratio_difference((before, before_weights), (now, now_weights))
    resampled = []
    for _ in range(2000):
        taken = draw.integers(0, 400, 400)
        means = (now[taken].sum() / now_weights[taken].sum(),
                 before[taken].sum() / before_weights[taken].sum())  # fmt: skip
        resampled.append(means[0] - means[1])
    assert found.standard_error == pytest.approx(np.std(resampled), rel=0.1)
    assert found.mean == pytest.approx(now.sum() / now_weights.sum() - before.sum()
                                       / before_weights.sum())  # fmt: skip


def test_losses_are_summed_by_document_and_by_position_where_there_is_a_target() -> None:
    counter = LossCounter(3, 2)
    losses_BT = np.array([[1.0, 2.0], [4.0, 8.0]], dtype=np.float32)
    documents_BT = np.array([[0, 0], [2, 2]])
    counter.add(losses_BT, documents_BT, np.array([[True, True], [True, False]]))
    nats, tokens = counter.by_document
    assert (nats.tolist(), tokens.tolist()) == ([3.0, 0.0, 4.0], [2, 0, 1])
    nats, tokens = counter.by_position
    assert (nats.tolist(), tokens.tolist()) == ([5.0, 2.0], [2, 1])
    assert counter.statistics().mean_nats == 7 / 3


def test_sums_do_not_depend_on_how_rows_are_cut() -> None:
    draw = np.random.default_rng(2)
    losses_BT = draw.random((12, 50)).astype(np.float32)
    documents_BT = np.sort(draw.integers(0, 4, (12, 50)), axis=1)
    is_target_BT = draw.random((12, 50)) > 0.1
    found = []
    for size in (1, 5, 12):
        counter = LossCounter(4, 50)
        for first in range(0, 12, size):
            rows = slice(first, first + size)
            counter.add(losses_BT[rows], documents_BT[rows], is_target_BT[rows])
        found.append((*counter.by_document, *counter.by_position))
    for each in found[1:]:
        for ours, theirs in zip(each, found[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
