import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.row_digests import row_digests

ROWS_NS = np.arange(60, dtype=np.int64).reshape(5, 12)


def test_equal_rows_have_equal_digests() -> None:
    digests = row_digests(np.concatenate((ROWS_NS, ROWS_NS)))

    assert digests[:5].tolist() == digests[5:].tolist()
    assert len(set(digests.tolist())) == 5


@given(
    row=st.integers(0, 4),
    place=st.integers(0, 11),
    change=st.integers(1, 2**31),
    sign=st.booleans(),
)
def test_one_changed_token_changes_the_digest(
    row: int, place: int, change: int, sign: bool
) -> None:
    changed_NS = ROWS_NS.copy()
    changed_NS[row, place] += change if sign else -change

    differs = row_digests(changed_NS) != row_digests(ROWS_NS)

    assert differs.tolist() == [number == row for number in range(5)]


def test_two_swapped_tokens_change_the_digest() -> None:
    swapped_NS = ROWS_NS.copy()
    swapped_NS[:, [0, 1]] = swapped_NS[:, [1, 0]]

    assert not np.isin(row_digests(swapped_NS), row_digests(ROWS_NS)).any()
