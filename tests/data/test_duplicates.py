import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from data.duplicates import exact_duplicates, near_duplicates
from data.minhash import U32, signatures
from tests.data.near import jaccard, planted, shingles, sources

THRESHOLD = 0.85


def digests(values: list[int]) -> NDArray[np.uint8]:
    packed = b"".join(hashlib.sha256(str(value).encode()).digest() for value in values)
    return np.frombuffer(packed, np.uint8).reshape(-1, 32)


def signed(values: list[str]) -> U32:
    return signatures(pa.array(values, pa.large_string()), 42)


def everybody(num_documents: int) -> NDArray[np.bool_]:
    return np.ones(num_documents, np.bool_)


def test_the_first_document_of_a_digest_stays_across_units() -> None:
    units = [digests([7, 8, 7]), digests([]), digests([9, 8, 7, 10])]
    assert exact_duplicates(units, everybody(7)).tolist() == [0, 1, 0, 3, 1, 0, 6]
    assert exact_duplicates([], everybody(0)).tolist() == []


def test_digests_are_compared_whole() -> None:
    unit = digests([1, 2, 3, 4]).copy()
    unit[:, :31] = unit[0, :31]
    unit[3] = unit[1]
    assert exact_duplicates([unit], everybody(4)).tolist() == [0, 1, 2, 1]


def test_little_memory_finds_the_same_duplicates() -> None:
    drawn = np.random.default_rng(3)
    rows = digests(drawn.integers(0, 3000, 5000).tolist())
    whole = exact_duplicates([rows], everybody(len(rows)))
    expected = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    assert whole.tolist() == expected[1][expected[2].reshape(-1)].tolist()
    few = exact_duplicates(np.array_split(rows, 5), everybody(len(rows)), memory_bytes=10_000)
    assert few.tolist() == whole.tolist()


def test_near_duplicates_are_the_same_for_any_units_and_any_memory(tmp_path: Path) -> None:
    originals, copies = planted(200, 4)
    rows = signed([*originals, *copies])
    first, alike = near_duplicates([rows], THRESHOLD, everybody(400), scratch=tmp_path)
    assert 60 < (first != np.arange(400)).sum() <= 200
    assert set(alike[first == np.arange(400)].tolist()) == {1.0}
    assert alike[first != np.arange(400)].min() >= np.float32(THRESHOLD)
    for units, memory in (([rows], 4000), (np.array_split(rows, 5), 2**20)):
        again = near_duplicates(
            units, THRESHOLD, everybody(400), scratch=tmp_path, memory_bytes=memory
        )
        assert again[0].tolist() == first.tolist()
        assert again[1].tolist() == alike.tolist()
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_is_joined_through_others_and_its_first_document_stays(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 2**32, (5, 128), dtype=np.uint32)
    rows[3] = rows[1]
    rows[3, 118:] += 1
    rows[0] = rows[3]
    rows[0, 108:118] += 1
    first, alike = near_duplicates([rows], THRESHOLD, everybody(5), scratch=tmp_path)
    assert first.tolist() == [0, 0, 2, 0, 4]
    assert alike.tolist() == [1, 108 / 128, 1, 118 / 128, 1]


def test_what_agrees_on_a_band_but_not_on_enough_stays_apart(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 2**32, (4, 128), dtype=np.uint32)
    rows[1, :100] = rows[0, :100]
    # In the bucket of the first, and alike only among themselves.
    rows[2:, :9] = rows[0, :9]
    rows[3, 9:115] = rows[2, 9:115]
    first, _ = near_duplicates([rows], THRESHOLD, everybody(4), scratch=tmp_path)
    assert first.tolist() == [0, 1, 2, 2]


def test_a_document_that_is_no_candidate_neither_drops_nor_joins(tmp_path: Path) -> None:
    rows = np.repeat(np.random.default_rng(1).integers(0, 2**32, (1, 128), np.uint32), 4, axis=0)
    candidates = np.array([False, True, False, True])
    first, alike = near_duplicates([rows], THRESHOLD, candidates, scratch=tmp_path)
    assert first.tolist() == [0, 1, 2, 1]
    assert alike.tolist() == [1, 1, 1, 1]


def test_no_documents_have_no_duplicates(tmp_path: Path) -> None:
    first, alike = near_duplicates([], THRESHOLD, everybody(0), scratch=tmp_path)
    assert (len(first), len(alike)) == (0, 0)


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], NDArray[np.float64]]:
    """1,200 originals, then their copies; and the exact similarity of each pair."""
    originals, copies = planted(1200, 8)
    exact = [jaccard(a, b) for a, b in zip(originals, copies, strict=True)]
    return [*originals, *copies], np.array(exact)


def test_recall_and_precision_are_above_those_of_datasketch(
    pairs: tuple[list[str], NDArray[np.float64]], tmp_path: Path
) -> None:
    values, exact = pairs
    first, _ = near_duplicates([signed(values)], THRESHOLD, everybody(2400), scratch=tmp_path)
    ours = first[1200:] == np.arange(1200)
    theirs = _datasketch(values)
    alike = exact >= THRESHOLD
    assert alike.sum() > 400
    assert (~alike).sum() > 400
    assert ours[alike].mean() > max(theirs[alike].mean(), 0.92)
    assert alike[ours].mean() > max(alike[theirs].mean(), 0.88)
    # Further from the threshold than three standard errors of the estimate, nothing is missed or
    # dropped by mistake.
    assert ours[exact >= 0.95].all()
    assert not ours[exact < 0.75].any()
    # And nobody is paired with a stranger.
    assert set(first[:1200].tolist()) == set(range(1200))


def _datasketch(values: list[str]) -> NDArray[np.bool_]:
    """Whether datasketch, with as many permutations of the same shingles, finds each pair."""
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    hashes = []
    for value in values:
        made = MinHash(num_perm=128)
        made.update_batch("\n".join(shingle).encode() for shingle in shingles(value))
        hashes.append(made)
    for number, made in enumerate(hashes[:1200]):
        index.insert(number, made)
    return np.array([number in index.query(made) for number, made in enumerate(hashes[1200:])])


def test_of_ten_thousand_pairs_that_are_kept_none_reaches_the_threshold(tmp_path: Path) -> None:
    originals, copies = planted(300, 9)
    values = [*originals, *copies, *sources(50, 10)]
    first, _ = near_duplicates([signed(values)], THRESHOLD, everybody(650), scratch=tmp_path)
    kept = np.flatnonzero(first == np.arange(650)).tolist()
    every = list(combinations(kept, 2))
    drawn = np.random.default_rng(0).choice(len(every), 10_000, replace=False)
    known = {number: shingles(values[number]) for number in kept}
    reached = [
        pair
        for pair in (every[place] for place in drawn.tolist())
        if len(known[pair[0]] & known[pair[1]]) >= THRESHOLD * len(known[pair[0]] | known[pair[1]])
    ]
    assert reached == []
