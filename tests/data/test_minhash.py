import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import WrongSettingError
from data.minhash import Bands, band_keys, bands_for, shingle_hashes, signatures, similarity
from tests.data.near import jaccard, planted, shingles, sources


def texts(*values: str) -> pa.LargeStringArray:
    return pa.array(values, pa.large_string())


def of_document(values: list[str]) -> list[set[int]]:
    hashes, counts = shingle_hashes(texts(*values))
    return [set(part.tolist()) for part in np.split(hashes, np.cumsum(counts)[:-1])]


@given(st.lists(st.text(alphabet="ab \n\t\r", max_size=60), min_size=1, max_size=6))
def test_two_shingles_have_one_hash_exactly_if_they_are_equal(values: list[str]) -> None:
    expected = [shingles(value) for value in values]
    found = of_document(values)
    assert [len(hashes) for hashes in found] == [len(known) for known in expected]
    everything = frozenset().union(*expected)
    assert len(set().union(*found)) == len(everything)
    for a, b in zip(expected, found, strict=True):
        for c, d in zip(expected, found, strict=True):
            assert len(a & c) == len(b & d)


def test_lines_longer_than_a_block_and_cut_anywhere_are_hashed_as_one() -> None:
    long = "x" * 70_001
    apart = of_document([long + "y", long + "z", "y\n" * 20_000 + long + "y", long + " y"])
    assert len(apart[0] | apart[1]) == 2
    assert apart[0] == apart[3]
    assert len(apart[2]) == 2


def test_signatures_do_not_depend_on_the_batch_or_on_where_an_array_begins() -> None:
    values = [*sources(40, 5), "", "\n \n", "one line"]
    together = signatures(texts(*values), 42)
    assert together.shape == (43, 128)
    assert together.dtype == np.uint32
    alone = [signatures(texts(*values)[at : at + 1], 42)[0] for at in range(43)]
    np.testing.assert_array_equal(together, alone)
    assert signatures(texts(), 42).shape == (0, 128)


def test_a_text_without_a_line_has_the_largest_minima() -> None:
    assert set(signatures(texts(" \n\t\n"), 42)[0].tolist()) == {2**32 - 1}


def test_a_signature_is_the_same_on_every_machine() -> None:
    found = signatures(texts("import os\n\nprint(os.name)\n"), 42)[0, :4].tolist()
    assert found == [2893729511, 1162827890, 1780735497, 3147857046]


def test_another_seed_permutes_otherwise() -> None:
    values = texts(*sources(1, 5))
    assert (signatures(values, 1) != signatures(values, 2)).mean() > 0.99


@pytest.mark.parametrize("seed", [1, 42])
def test_the_estimate_has_no_bias_and_the_error_of_128_independent_permutations(seed: int) -> None:
    originals, copies = planted(1000, 11)
    exact = np.array([jaccard(a, b) for a, b in zip(originals, copies, strict=True)])
    estimate = similarity(signatures(texts(*originals), seed), signatures(texts(*copies), seed))
    error = estimate - exact
    theory = np.sqrt((exact * (1 - exact)).mean() / 128)
    # Of 1,000 pairs the mean is known to a thirtieth of the error of one, and the error to 3 %.
    assert abs(error.mean()) < 4 * theory / np.sqrt(1000)
    assert 0.88 * theory < np.sqrt((error**2).mean()) < 1.12 * theory


def test_bands_find_enough_of_the_pairs_at_the_threshold_and_no_more_selective_ones_do() -> None:
    assert bands_for(0.85) == Bands(num_bands=14, num_rows=9)
    assert bands_for(0.85).recall(0.85) == pytest.approx(0.975, abs=0.001)
    assert Bands(num_bands=12, num_rows=10).recall(0.85) == pytest.approx(0.928, abs=0.001)
    assert bands_for(0.7) == Bands(num_bands=25, num_rows=5)


def test_a_threshold_at_which_nothing_can_be_found_is_refused() -> None:
    with pytest.raises(WrongSettingError, match=r"filters.near_duplicate_jaccard is 0.01"):
        bands_for(0.01)


def test_keys_agree_exactly_where_all_rows_of_a_band_do() -> None:
    drawn = np.random.default_rng(0).integers(0, 2**32, (2, 128), dtype=np.uint32)
    drawn[1, 9:18] = drawn[0, 9:18]
    drawn[1, 18:26] = drawn[0, 18:26]
    keys = band_keys(drawn, Bands(14, 9))
    assert keys.shape == (2, 14)
    assert keys.dtype == np.uint64
    assert np.flatnonzero(keys[0] == keys[1]).tolist() == [1]
