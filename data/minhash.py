"""MinHash signatures of source text: shingles of five lines, 128 permutations.

White space does not count: it is taken out of every line, and lines that are empty without it are
left out. A document of fewer lines than a shingle has one shingle of all it has.

A permutation is a multiplication and an addition modulo 2**32.

Shape letters: D documents, N bytes without white space, L lines, S shingles, K permutations,
B bands, R rows of a band.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.errors import WrongSettingError
from data.hashing import BASE, U64, mix, powers
from data.text_buffer import TextBuffer

NUM_PERMUTATIONS = 128
SHINGLE_LINES = 5
RECALL = 0.95
"""Share of the pairs at the threshold that must share a band."""

U32: TypeAlias = NDArray[np.uint32]
_NEWLINE = ord("\n")
_COUNTS = np.array([chr(byte) not in " \t\r\v\f" for byte in range(256)], np.int64)
_VALUES = (np.arange(256) * _COUNTS).astype(np.uint64)
_LINE_POWERS = powers(2**10 + 1)
_SHINGLE_POWERS = powers(SHINGLE_LINES + 1)[1:]


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
    mixed_DB: U64 = mix(keys_DB)
    return mixed_DB


def shingle_hashes(texts: Any) -> tuple[U32, NDArray[np.int64]]:
    """Return the hashes of the shingles of every text, in order, and how many each text has.

    Shapes: (S,), (D,).
    """
    buffer = TextBuffer.of(texts)
    # Every line but the last of a text has an end.
    lines_L = np.empty(np.count_nonzero(buffer.data == _NEWLINE) + buffer.num_documents, np.uint64)
    num_lines_D = np.empty(buffer.num_documents, np.int64)
    _hash_lines(buffer.data, buffer.offsets, _LINE_POWERS, lines_L, num_lines_D)
    num_shingles_D = np.where(num_lines_D > 0, np.maximum(num_lines_D - SHINGLE_LINES + 1, 1), 0)
    shingles_S = np.empty(num_shingles_D.sum(), np.uint32)
    _hash_shingles(lines_L, num_lines_D, _SHINGLE_POWERS, shingles_S)
    return shingles_S, num_shingles_D


@compiled
def _hash_lines(
    data_N: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    powers: U64,
    lines_L: U64,
    num_lines_D: NDArray[np.int64],
) -> None:
    """Hash every line that is not empty, and count the lines of each document."""
    line = np.int64(0)
    for number in range(len(num_lines_D)):
        before = line
        sum_, scale, place, done = np.uint64(0), np.uint64(1), np.int64(0), np.uint64(0)
        for byte in data_N[offsets[number] : offsets[number + 1]]:
            if byte == _NEWLINE:
                length = done + np.uint64(place)
                lines_L[line] = mix(sum_ + length)
                line += length > 0
                sum_, scale, place, done = np.uint64(0), np.uint64(1), np.int64(0), np.uint64(0)
                continue
            # White space is added as nothing: a branch would be guessed wrong too often.
            sum_ += _VALUES[byte] * powers[place] * scale
            place += _COUNTS[byte]
            if place == len(powers) - 1:
                scale, place, done = scale * powers[place], np.int64(0), done + np.uint64(place)
        length = done + np.uint64(place)
        lines_L[line] = mix(sum_ + length)
        line += length > 0
        num_lines_D[number] = line - before


@compiled
def _hash_shingles(
    lines_L: U64, num_lines_D: NDArray[np.int64], powers: U64, shingles_S: U32
) -> None:
    """Hash the lines of every shingle; what has too few lines for one is one."""
    first = shingle = 0
    for num_lines in num_lines_D:
        end = first + num_lines
        for begin in range(first, max(end - len(powers) + 1, min(first + 1, end))):
            total = np.uint64(0)
            for place in range(begin, min(begin + len(powers), end)):
                total += lines_L[place] * powers[place - begin]
            shingles_S[shingle] = mix(total) >> np.uint64(32)
            shingle += 1
        first = end


def _minima(shingles_S: U32, num_shingles_D: NDArray[np.int64], seed: int) -> U32:
    """Return the least value of every permutation over the shingles of each document."""
    factors_K, terms_K = _permutations(seed)
    minima_DK = np.full((len(num_shingles_D), NUM_PERMUTATIONS), 2**32 - 1, np.uint32)
    _minimise(shingles_S, num_shingles_D, factors_K, terms_K, minima_DK)
    return minima_DK


@compiled
def _minimise(
    shingles_S: U32,
    num_shingles_D: NDArray[np.int64],
    factors_K: U32,
    terms_K: U32,
    minima_DK: U32,
) -> None:
    """Lower the minima to the least value of every permutation."""
    first = 0
    for number in range(len(num_shingles_D)):
        minima_K = minima_DK[number]
        for shingle in shingles_S[first : first + num_shingles_D[number]]:
            for k in range(NUM_PERMUTATIONS):
                value = np.uint32(shingle * factors_K[k] + terms_K[k])
                minima_K[k] = min(minima_K[k], value)
        first += num_shingles_D[number]


def _permutations(seed: int) -> tuple[U32, U32]:
    """Return odd factors and terms of permutations of the 32-bit numbers."""
    raw = np.random.PCG64(seed).random_raw(2 * NUM_PERMUTATIONS) >> np.uint64(32)
    drawn = raw.astype(np.uint32)
    return drawn[:NUM_PERMUTATIONS] | np.uint32(1), drawn[NUM_PERMUTATIONS:]
