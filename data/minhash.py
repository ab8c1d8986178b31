"""MinHash signatures of source text: shingles of five lines, 128 permutations.

White space does not count: it is taken out of every line, and lines that are empty without it are
left out. A document of fewer lines than a shingle has one shingle of all it has.

All documents of a batch are hashed at once. A permutation is a multiplication and an addition
modulo 2**32 of all shingles of a block that fits the cache, followed by one segmented minimum.

Shape letters: D documents, N bytes without white space, L lines, S shingles, K permutations,
B bands, R rows of a band.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.errors import WrongSettingError
from data.hashing import BASE, U64, mix, polynomials
from data.text_buffer import TextBuffer

NUM_PERMUTATIONS = 128
SHINGLE_LINES = 5
RECALL = 0.95
"""Share of the pairs at the threshold that must share a band."""

U32: TypeAlias = NDArray[np.uint32]
_WHITE_SPACE = b" \t\r\v\f"
_SHINGLE_BLOCK = 2**14


@dataclass(frozen=True, slots=True)
class Bands:
    """How a signature is cut for the search: documents that agree on one band are compared."""

    num_bands: int
    num_rows: int

    def recall(self, jaccard: float) -> float:
        """Return the share of pairs of this similarity that agree on some band."""
        return float(1 - (1 - jaccard**self.num_rows) ** self.num_bands)


def bands_for(jaccard: float) -> Bands:
    """Return the most selective bands that find enough of the pairs at a threshold.

    Raises: WrongSettingError.
    """
    for num_rows in range(NUM_PERMUTATIONS, 0, -1):
        bands = Bands(NUM_PERMUTATIONS // num_rows, num_rows)
        if bands.recall(jaccard) >= RECALL:
            return bands
    found = "so large that 128 permutations find such pairs"
    raise WrongSettingError("filters.near_duplicate_jaccard", jaccard, found)


def signatures(texts: Any, seed: int) -> U32:
    """Return the MinHash signature of every text of a `large_string` array.

    A text without a line has no shingle: all its minima are the largest number.

    Shapes: (D, K).
    """
    shingles_S, num_shingles_D = shingle_hashes(texts)
    return _minima(shingles_S, num_shingles_D, seed)


def similarity(left_DK: U32, right_DK: U32) -> NDArray[np.float32]:
    """Estimate the Jaccard similarity of pairs from their signatures."""
    agreeing_D: NDArray[np.float32] = (left_DK == right_DK).mean(axis=1, dtype=np.float32)
    return agreeing_D


def band_keys(signatures_DK: U32, bands: Bands) -> U64:
    """Return one key a band: documents with equal keys agree on the band.

    Shapes: (D, B).
    """
    keys_DB = np.zeros((len(signatures_DK), bands.num_bands), np.uint64)
    used_DBR = signatures_DK[:, : bands.num_bands * bands.num_rows].reshape(
        -1, bands.num_bands, bands.num_rows
    )
    for row in range(bands.num_rows):
        keys_DB *= np.uint64(BASE)
        keys_DB += used_DBR[:, :, row]
    return mix(keys_DB)


def shingle_hashes(texts: Any) -> tuple[U32, NDArray[np.int64]]:
    """Return the hashes of the shingles of every text, in order, and how many each text has.

    Shapes: (S,), (D,).
    """
    lines_L, num_lines_D = _line_hashes(TextBuffer.of(texts))
    ends_D = np.cumsum(num_lines_D)
    starts_D = ends_D - num_lines_D
    end_L = np.repeat(ends_D, num_lines_D)
    place_L = np.arange(len(lines_L))
    sum_L = np.zeros(len(lines_L), np.uint64)
    for ahead in range(SHINGLE_LINES):
        here = max(len(lines_L) - ahead, 0)
        inside = place_L[:here] + ahead < end_L[:here]
        weight = np.uint64(pow(BASE, ahead + 1, 2**64))
        sum_L[:here] += lines_L[ahead:] * weight * inside
    begins_L = place_L + SHINGLE_LINES <= end_L
    begins_L[starts_D[num_lines_D > 0]] = True
    hashes_S = (mix(sum_L[begins_L]) >> np.uint64(32)).astype(np.uint32)
    num_shingles_D = np.where(num_lines_D > 0, np.maximum(num_lines_D - SHINGLE_LINES + 1, 1), 0)
    return hashes_S, num_shingles_D


def _line_hashes(buffer: TextBuffer) -> tuple[U64, NDArray[np.int64]]:
    """Return the hash of every line that is not empty, and the number of lines of each document.

    Shapes: (L,), (D,).
    """
    if buffer.num_documents == 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    bare = [
        buffer.document(number).translate(None, _WHITE_SPACE)
        for number in range(buffer.num_documents)
    ]
    last_D = np.cumsum([len(text) + 1 for text in bare])
    text_N = np.frombuffer(bytearray(b"\n".join((*bare, b""))), np.uint8)
    ends = np.flatnonzero(text_N == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    text_N[ends] = 0
    filled = ends > starts
    filled_before = np.concatenate(([0], np.cumsum(filled)))
    line_of_D = np.searchsorted(ends, last_D - 1) + 1
    num_lines_D = np.diff(filled_before[line_of_D], prepend=0)
    lengths_L = (ends - starts)[filled].astype(np.uint64)
    return mix(polynomials(text_N, starts[filled]) + lengths_L), num_lines_D


def _minima(shingles_S: U32, num_shingles_D: NDArray[np.int64], seed: int) -> U32:
    """Return the least value of every permutation over the shingles of each document."""
    factors_K, terms_K = _permutations(seed)
    minima_KD = np.full((NUM_PERMUTATIONS, len(num_shingles_D)), 2**32 - 1, np.uint32)
    documents = np.flatnonzero(num_shingles_D)
    starts = np.cumsum(num_shingles_D)[documents] - num_shingles_D[documents]
    minima = np.full((NUM_PERMUTATIONS, len(documents)), 2**32 - 1, np.uint32)
    permuted = np.empty(_SHINGLE_BLOCK, np.uint32)
    for begin in range(0, len(shingles_S), _SHINGLE_BLOCK):
        block = shingles_S[begin : begin + _SHINGLE_BLOCK]
        values = permuted[: len(block)]
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        end = int(np.searchsorted(starts, begin + len(block)))
        local = np.maximum(starts[first:end] - begin, 0)
        for k in range(NUM_PERMUTATIONS):
            np.multiply(block, factors_K[k], out=values)
            np.add(values, terms_K[k], out=values)
            known = minima[k, first:end]
            np.minimum(known, np.minimum.reduceat(values, local), out=known)
    minima_KD[:, documents] = minima
    return np.ascontiguousarray(minima_KD.T)


def _permutations(seed: int) -> tuple[U32, U32]:
    """Return odd factors and terms of permutations of the 32-bit numbers."""
    raw = np.random.PCG64(seed).random_raw(2 * NUM_PERMUTATIONS) >> np.uint64(32)
    drawn = raw.astype(np.uint32)
    return drawn[:NUM_PERMUTATIONS] | np.uint32(1), drawn[NUM_PERMUTATIONS:]
