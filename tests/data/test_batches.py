from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batches import batches, num_batches
from data.errors import CorpusTooSmallError, WrongSettingError
from data.rows import Rows, open_rows
from tests.data.corpus import write_shards

NUM_ROWS = 11


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    directory = tmp_path_factory.mktemp("rows")
    train = [[[row, row + 100] for row in range(NUM_ROWS)]]
    index = write_shards(directory, train, [[[0, 0]]], vocab_size=200)
    return open_rows(directory, index, "train")


def listed(rows: Rows, **arguments: int) -> list[list[int]]:
    return [ids_BS[:, 0].tolist() for ids_BS in batches(rows, **arguments)]


def test_the_order_is_the_same_on_every_machine(rows: Rows) -> None:
    assert listed(rows, batch_rows=4, seed=0, max_passes=2) == [
        [4, 6, 7, 2],
        [0, 3, 5, 10],
        [7, 1, 10, 3],
        [9, 4, 0, 6],
    ]


def test_a_batch_holds_whole_rows(rows: Rows) -> None:
    ids_BS = next(batches(rows, batch_rows=3, seed=0, max_passes=1))
    assert ids_BS.shape == (3, 2)
    assert (ids_BS[:, 1] == ids_BS[:, 0] + 100).all()
    assert ids_BS.dtype == np.int64


@given(st.integers(1, NUM_ROWS), st.integers(0, 2**32), st.integers(1, 4))
def test_a_pass_visits_no_row_twice_and_leaves_out_less_than_a_batch(
    rows: Rows, batch_rows: int, seed: int, max_passes: int
) -> None:
    found = listed(rows, batch_rows=batch_rows, seed=seed, max_passes=max_passes)
    assert len(found) == num_batches(rows, batch_rows, max_passes)
    per_pass = len(found) // max_passes
    for number in range(max_passes):
        visited = list(chain(*found[number * per_pass : (number + 1) * per_pass]))
        assert len(visited) == len(set(visited)) == per_pass * batch_rows
        assert NUM_ROWS - len(visited) < batch_rows


@given(st.data(), st.integers(1, NUM_ROWS), st.integers(0, 2**32), st.integers(1, 4))
def test_continuing_from_any_cursor_gives_what_would_have_followed(
    rows: Rows, data: st.DataObject, batch_rows: int, seed: int, max_passes: int
) -> None:
    whole = listed(rows, batch_rows=batch_rows, seed=seed, max_passes=max_passes)
    done = data.draw(st.integers(0, len(whole)))
    cursor = done * batch_rows
    rest = listed(rows, batch_rows=batch_rows, seed=seed, max_passes=max_passes, cursor=cursor)
    assert rest == whole[done:]


def test_passes_and_seeds_have_orders_of_their_own(rows: Rows) -> None:
    first, second = listed(rows, batch_rows=NUM_ROWS, seed=5, max_passes=2)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(NUM_ROWS))
    assert listed(rows, batch_rows=NUM_ROWS, seed=6, max_passes=1) != [first]


def test_more_passes_only_add_batches(rows: Rows) -> None:
    longer = listed(rows, batch_rows=2, seed=1, max_passes=3)
    assert longer[:5] == listed(rows, batch_rows=2, seed=1, max_passes=1)


def test_fewer_rows_than_a_batch_are_refused_before_the_first_batch(rows: Rows) -> None:
    with pytest.raises(CorpusTooSmallError) as caught:
        batches(rows, batch_rows=NUM_ROWS + 1, seed=0, max_passes=1)
    assert caught.value.split == "train"
    assert (caught.value.num_tokens, caught.value.needed) == (22, 24)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("batch_rows", 0),
        ("seed", -1),
        ("max_passes", 0),
        ("cursor", 3),
        ("cursor", 12),
        ("cursor", -2),
    ],
)
def test_a_wrong_setting_is_refused_by_name(rows: Rows, setting: str, found: int) -> None:
    arguments = {"batch_rows": 2, "seed": 0, "max_passes": 1, "cursor": 0} | {setting: found}
    with pytest.raises(WrongSettingError) as caught:
        batches(rows, **arguments)
    assert (caught.value.setting, caught.value.found) == (setting, found)
