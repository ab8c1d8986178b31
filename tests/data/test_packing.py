import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.packing import best_fit, lay_out

EOS = 0


def stream_of(lengths: list[int]) -> np.ndarray:
    """Documents whose tokens are their own number, counted from one, and then their end."""
    return np.concatenate(
        [np.append(np.full(length - 1, number), EOS) for number, length in enumerate(lengths, 1)]
    )


def test_short_documents_share_a_row_and_the_rest_is_padding() -> None:
    lengths = np.array([3, 2, 4])
    rows, order, first = lay_out(stream_of([3, 2, 4]), lengths, 6, padding=EOS)
    assert rows.tolist() == [[3, 3, 3, EOS, 2, EOS], [1, 1, EOS, EOS, EOS, EOS]]
    assert order.tolist() == [2, 1, 0]
    assert first.tolist() == [0, 2]


def test_a_document_longer_than_a_row_fills_rows_of_its_own_and_shares_its_last() -> None:
    rows, order, first = lay_out(stream_of([7, 2]), np.array([7, 2]), 5, padding=EOS)
    assert rows.tolist() == [[1, 1, 1, 1, 1], [1, EOS, 2, EOS, EOS]]
    assert order.tolist() == [0, 1]
    assert first.tolist() == [0, 0]


def test_a_document_as_long_as_a_row_has_one_to_itself() -> None:
    rows, _, _ = lay_out(stream_of([4, 2]), np.array([4, 2]), 4, padding=EOS)
    assert rows.tolist() == [[1, 1, 1, EOS], [2, EOS, EOS, EOS]]


def test_no_document_makes_no_row() -> None:
    rows, order, first = lay_out(np.zeros(0, int), np.zeros(0, np.int64), 4, padding=EOS)
    assert rows.shape == (0, 4)
    assert len(order) == len(first) == 0


@pytest.mark.parametrize("row_tokens", [2, 7, 33])
@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=60))
def test_every_document_is_whole_once_and_cut_only_if_longer_than_a_row(
    row_tokens: int, lengths: list[int]
) -> None:
    rows, order, first = lay_out(stream_of(lengths), np.array(lengths), row_tokens, padding=EOS)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    for number, length in enumerate(lengths, 1):
        holding = np.flatnonzero((rows == number).any(axis=1))
        assert (rows == number).sum() == length - 1
        fewest = -(-(length - 1) // row_tokens)
        assert len(holding) == fewest or length > row_tokens
        assert np.array_equal(holding, np.arange(holding[0], holding[-1] + 1))
    for row, place in zip(rows, first, strict=True):
        assert row[0] in (order[place] + 1, EOS)


def test_best_fit_wastes_less_than_one_row_in_ten_on_lengths_of_real_files() -> None:
    lengths = np.random.default_rng(0).lognormal(6.5, 1.2, 5000).astype(np.int64) + 2
    rows = best_fit(lengths, 2049)
    num_rows = sum(-(-int(lengths[documents].sum()) // 2049) for documents in rows)
    assert num_rows * 2049 < 1.1 * lengths.sum()
