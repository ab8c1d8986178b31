"""Which documents repeat earlier ones: exactly, or nearly, across all units of a corpus.

Documents are numbered across units in order, and of documents that are alike the first one stays.
Both searches are joins on a key. They go through the keys a range of values at a time, so many
ranges that one of them fits the memory that is allowed, whatever the number of documents; beyond
it there are only the results: of a document its number in 4 bytes, and 4 more for a similarity. A
key only nominates: digests are compared whole, near duplicates by their signatures.

Shape letters: D documents, K permutations, M members of a range or of buckets, P pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.hashing import U64
from data.minhash import U32, Bands, band_keys, bands_for, similarity

MEMORY_BYTES = 512 * 2**20
"""Working memory of a search, beside its results; more if so many documents share one key."""
_BYTES_A_MEMBER = 64
"""A key, a number, a sorting order, and the copies that sorting and selecting them makes."""
_ROWS = 2**16
"""Rows that are read or compared at a time."""
_KEYS = 2**20
"""Keys that are read at a time."""

Numbers: TypeAlias = NDArray[np.integer[Any]]
Alike: TypeAlias = Callable[[Numbers, Numbers], NDArray[np.bool_]]


@dataclass(frozen=True)
class Rows:
    """The rows of all units as one table; `units` may open its arrays when they are asked for."""

    units: Sequence[NDArray[np.uint8]] | Sequence[U32]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The number of the first document of each unit, and of all documents at the end."""
        return np.cumsum([0, *(len(unit) for unit in self.units)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, numbers_P: Numbers) -> NDArray[np.uint8] | U32:
        """Copy the rows of some documents."""
        unit_P = np.searchsorted(self.starts, numbers_P, side="right") - 1
        rows = np.empty((len(numbers_P), self.units[0].shape[1]), self.units[0].dtype)
        for unit in np.unique(unit_P).tolist():
            of_unit = unit_P == unit
            rows[of_unit] = self.units[unit][numbers_P[of_unit] - self.starts[unit]]
        return rows

    def pieces(self, num_rows: int) -> Iterator[NDArray[np.uint8] | U32]:
        """Yield all rows in order, no more than so many at a time."""
        for unit in self.units:
            for begin in range(0, len(unit), num_rows):
                yield unit[begin : begin + num_rows]


def everybody(num_documents: int) -> Numbers:
    """Number documents, in the narrowest type that holds all numbers; shapes: (D,)."""
    return np.arange(num_documents, dtype=np.min_scalar_type(num_documents))


def exact_duplicates(
    digests: Sequence[NDArray[np.uint8]],
    candidates_D: NDArray[np.bool_],
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Numbers:
    """Return for each document the first one that has its digest, itself if there is none before.

    Documents that are no candidates are alone.

    Shapes: each of `digests` (documents of the unit, bytes of the digest, at least 8); result (D,).
    """
    rows = Rows(digests)
    first_D = everybody(len(rows))

    def keys() -> Iterator[U64]:
        for piece in rows.pieces(_KEYS):
            yield np.ascontiguousarray(piece[:, :8]).view(">u8")[:, 0].astype(np.uint64)

    def alike(left_P: Numbers, right_P: Numbers) -> NDArray[np.bool_]:
        equal_P: NDArray[np.bool_] = np.all(rows.take(left_P) == rows.take(right_P), axis=1)
        return equal_P

    for members in _members(keys, candidates_D, memory_bytes):
        for leaders_P, others_P in _alike_pairs(*members, alike):
            first_D[others_P] = leaders_P
    return first_D


def near_duplicates(
    signatures: Sequence[U32],
    jaccard: float,
    candidates_D: NDArray[np.bool_],
    *,
    scratch: Path,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[Numbers, NDArray[np.float32]]:
    """Return for each document the first one of its cluster, and the estimated similarity to it.

    Two documents are joined where they agree on a band and their signatures on at least `jaccard`
    of the permutations; a cluster is all that is so joined, directly or through others. Documents
    that are no candidates are alone. The directory `scratch` takes files of 8 bytes a document and
    band, which are gone afterwards.

    Shapes: each of `signatures` (documents of the unit, K); results (D,), (D,).
    Raises: WrongSettingError.
    """
    rows = Rows(signatures)
    first_D = everybody(len(rows))

    def alike(left_P: Numbers, right_P: Numbers) -> NDArray[np.bool_]:
        # What an earlier band has joined needs no second look.
        known_P = np.equal(_roots(first_D, left_P), _roots(first_D, right_P))
        new = np.flatnonzero(~known_P)
        known_P[new] = _similarity(rows, left_P[new], right_P[new]) >= np.float32(jaccard)
        return known_P

    for path in _spill_keys(rows, bands_for(jaccard), scratch):
        pairs = path.with_suffix(".pairs")
        # Joined when the band is done, so that the result does not depend on the ranges.
        with pairs.open("wb") as file:
            for members in _members(_reader(path), candidates_D, memory_bytes):
                for pair in _alike_pairs(*members, alike):
                    np.stack(pair, axis=1).tofile(file)
        for pair_P2 in _read(pairs, np.dtype(np.int64), 2 * _KEYS):
            _join(first_D, pair_P2[::2], pair_P2[1::2])
        path.unlink()
        pairs.unlink()
    for begin in range(0, len(first_D), _KEYS):
        first_D[begin : begin + _KEYS] = _roots(first_D, first_D[begin : begin + _KEYS])
    return first_D, _similarity_to_first(rows, first_D)


def _spill_keys(rows: Rows, bands: Bands, scratch: Path) -> list[Path]:
    """Write one file of keys a band: a search reads one band at a time, a signature holds all."""
    paths = [scratch / f"band-{number}.keys" for number in range(bands.num_bands)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for piece in rows.pieces(_ROWS):
            for file, keys in zip(files, band_keys(piece.view(np.uint32), bands).T, strict=True):
                np.ascontiguousarray(keys).tofile(file)
    return paths


def _reader(path: Path) -> Callable[[], Iterator[U64]]:
    return lambda: _read(path, np.dtype(np.uint64), _KEYS)


def _read(path: Path, dtype: np.dtype, count: int) -> Iterator[NDArray]:  # type: ignore[type-arg]
    with path.open("rb") as file:
        while len(piece := np.fromfile(file, dtype, count)):
            yield piece


def _members(
    keys: Callable[[], Iterator[U64]], candidates_D: NDArray[np.bool_], memory_bytes: int
) -> Iterator[tuple[U64, Numbers]]:
    """Yield keys and numbers of the candidates that share a key with another, by key and number.

    Each yield is a range of the keys' values; the keys are hashes, so ranges of equal width hold
    about equally many.
    """
    num_ranges = -(-int(candidates_D.sum()) * _BYTES_A_MEMBER // memory_bytes)
    for number in range(num_ranges):
        least, most = 2**64 * number // num_ranges, 2**64 * (number + 1) // num_ranges - 1
        found_keys, found_numbers, begin = [], [], 0
        for piece in keys():
            inside = (piece >= np.uint64(least)) & (piece <= np.uint64(most))
            inside &= candidates_D[begin : begin + len(piece)]
            found_keys.append(piece[inside])
            found_numbers.append(np.flatnonzero(inside) + begin)
            begin += len(piece)
        yield _in_buckets(np.concatenate(found_keys), np.concatenate(found_numbers))


def _in_buckets(keys_M: U64, numbers_M: Numbers) -> tuple[U64, Numbers]:
    """Sort by key, then number, and leave out those whose key is theirs alone."""
    order = np.argsort(keys_M, kind="stable")
    keys_M = keys_M[order]
    same = keys_M[1:] == keys_M[:-1]
    shared = np.zeros(len(keys_M), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    return keys_M[shared], numbers_M[order[shared]]


def _alike_pairs(
    keys_M: U64, numbers_M: Numbers, alike: Alike
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield pairs of documents that are alike, of buckets that are runs of equal keys.

    In each bucket all are compared with the first; those that are not alike make a smaller bucket,
    until none is left.
    """
    while len(keys_M):
        heads = np.flatnonzero(np.concatenate(([True], keys_M[1:] != keys_M[:-1])))
        leaders_M = np.repeat(numbers_M[heads], np.diff(heads, append=len(keys_M)))
        rest_M = numbers_M != leaders_M
        keys_M, numbers_M, leaders_M = keys_M[rest_M], numbers_M[rest_M], leaders_M[rest_M]
        alike_M = np.empty(len(keys_M), np.bool_)
        for begin in range(0, len(keys_M), _ROWS):
            piece = slice(begin, begin + _ROWS)
            alike_M[piece] = alike(leaders_M[piece], numbers_M[piece])
        yield leaders_M[alike_M], numbers_M[alike_M]
        keys_M, numbers_M = keys_M[~alike_M], numbers_M[~alike_M]


def _similarity(rows: Rows, left_P: Numbers, right_P: Numbers) -> NDArray[np.float32]:
    if not len(left_P):
        return np.empty(0, np.float32)
    return similarity(rows.take(left_P).view(np.uint32), rows.take(right_P).view(np.uint32))


def _similarity_to_first(rows: Rows, first_D: Numbers) -> NDArray[np.float32]:
    similarity_D = np.ones(len(first_D), np.float32)
    for begin in range(0, len(first_D), _KEYS):
        piece = first_D[begin : begin + _KEYS]
        repeats = np.flatnonzero(piece != np.arange(begin, begin + len(piece))) + begin
        for at in range(0, len(repeats), _ROWS):
            numbers_P = repeats[at : at + _ROWS]
            similarity_D[numbers_P] = _similarity(rows, first_D[numbers_P], numbers_P)
    return similarity_D


def _join(parent_D: Numbers, left_P: Numbers, right_P: Numbers) -> None:
    """Unite the sets of both sides of each pair; the root of a set is its least number."""
    while len(left_P):
        left_P, right_P = _roots(parent_D, left_P), _roots(parent_D, right_P)
        apart = left_P != right_P
        left_P, right_P = left_P[apart], right_P[apart]
        # Of several parents for one root the least stays; the other pairs get their next turn.
        np.minimum.at(parent_D, np.maximum(left_P, right_P), np.minimum(left_P, right_P))


def _roots(parent_D: Numbers, numbers_P: Numbers) -> Numbers:
    """Follow parents up to the roots, and shorten the way for the next time."""
    roots_P = parent_D[numbers_P]
    while not np.array_equal(above := parent_D[roots_P], roots_P):
        roots_P = above
    parent_D[numbers_P] = roots_P
    return roots_P
