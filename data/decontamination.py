"""Decontamination: documents that share words in a row with a benchmark.

A word is a run of ASCII letters, digits, underscores and bytes above ASCII, in lower case; what
stands between words does not count; numbers alone, counting or primes, are no benchmark's own.
Hashes of all windows of a batch nominate, the words decide.

Shape letters: N bytes, R words, P places of windows.
"""

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from data.filters import Objections, Texts
from data.hashing import U64, mix, windows

_WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")
_WORDS_ONLY = bytes(
    bytes([byte]).lower()[0] if _WORD.fullmatch(bytes([byte])) else 0 for byte in range(256)
)
_FILTER_BITS = 22
_HASHED_BYTES = 8
_FIRST_BYTES = np.array([2 ** (8 * count) - 1 for count in range(_HASHED_BYTES + 1)], np.uint64)


@dataclass(frozen=True)
class _Benchmark:
    """All windows of words of the tasks of some benchmarks."""

    task_of: Mapping[tuple[bytes, ...], str]
    hashes: U64
    """Sorted."""
    may_be: NDArray[np.bool_]
    """By the leading bits of a hash: whether it may be one of them."""


def contaminated(texts: Texts, benchmarks: tuple[str, ...], num_words: int) -> Objections:
    """Object to a document with that many words in a row of a task of a benchmark."""
    if not benchmarks:
        return {}
    known = _benchmark(benchmarks, num_words)
    found: dict[int, str] = {}
    starts_R, hashes_R = _words(texts.buffer.data, texts.buffer.offsets[:-1])
    if len(hashes_R) < num_words:
        return found
    windows_P = windows(hashes_R, num_words)
    hits_P = np.flatnonzero(known.may_be[windows_P >> np.uint64(64 - _FILTER_BITS)])
    hits_P = hits_P[_are_known(windows_P[hits_P], known.hashes)]
    numbers_P = texts.buffer.document_of(starts_R[hits_P])
    for place, number in zip(starts_R[hits_P].tolist(), numbers_P.tolist(), strict=True):
        first, end = texts.buffer.offsets[number : number + 2].tolist()
        if number not in found:
            task = known.task_of.get(_first_words(texts.buffer.whole[place:end], num_words))
            if task:
                found[number] = f"{task}, {num_words} words from byte {place - first:,}"
    return found


def _are_known(values_P: U64, sorted_hashes: U64) -> NDArray[np.bool_]:
    places = np.searchsorted(sorted_hashes[:-1], values_P)
    return np.equal(sorted_hashes[places], values_P)


def _words(data_N: NDArray[np.uint8], texts_D: NDArray[np.int64]) -> tuple[NDArray[np.int64], U64]:
    """Return where the words of texts that begin at some places begin, and their hashes.

    A hash is of the first bytes of a word, as many as a machine word has: what longer words have
    more is left to the confirmation.
    """
    words = data_N.tobytes().translate(_WORDS_ONLY) + bytes(_HASHED_BYTES)
    words_N = np.frombuffer(words, np.uint8)[: len(data_N)]
    is_inside_N = words_N != 0
    begins_N = is_inside_N.copy()
    begins_N[1:] &= ~is_inside_N[:-1]
    first_D = texts_D[texts_D < len(words_N)]
    begins_N[first_D] = is_inside_N[first_D]
    starts_R = np.flatnonzero(begins_N)
    # Eight bytes from every place on, the first of them the least significant.
    heads_N = np.ndarray((len(words_N),), np.dtype("<u8"), words, 0, (1,))
    heads_R = heads_N[starts_R]
    # A last word without anything behind it ends where the next text begins.
    cut_D = first_D[(first_D > 0) & is_inside_N[first_D - 1]]
    last_D = np.searchsorted(starts_R, cut_D) - 1
    heads_R[last_D] &= _FIRST_BYTES[np.minimum(cut_D - starts_R[last_D], _HASHED_BYTES)]
    return starts_R, mix(_up_to_zero(heads_R))


def _up_to_zero(heads_R: U64) -> U64:
    """Clear the first zero byte and all that follow it.

    Source: the test for a zero byte in Hacker's Delight, 6-1; its lowest bit is always right.
    """
    ones, highs = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    zeros_R = (heads_R - ones) & ~heads_R & highs
    lowest_R = zeros_R & (~zeros_R + np.uint64(1))
    return heads_R & ((lowest_R >> np.uint64(7)) - np.uint64(1))


def _first_words(text: bytes, num_words: int) -> tuple[bytes, ...]:
    found = []
    for match in _WORD.finditer(text):
        found.append(match[0].lower())
        if len(found) == num_words:
            break
    return tuple(found)


@cache
def _benchmark(benchmarks: tuple[str, ...], num_words: int) -> _Benchmark:
    task_of: dict[tuple[bytes, ...], str] = {}
    hashes = []
    for name in benchmarks:
        for task, text in _tasks(name):
            words = [word.lower() for word in _WORD.findall(text)]
            for place in range(len(words) - num_words + 1):
                window = tuple(words[place : place + num_words])
                if not all(word.isdigit() for word in window):
                    task_of.setdefault(window, task)
            _, hashes_R = _words(np.frombuffer(text, np.uint8), np.zeros(1, np.int64))
            hashes.append(windows(hashes_R, num_words))
    known = np.unique(np.concatenate(hashes))
    may_be = np.zeros(2**_FILTER_BITS, np.bool_)
    may_be[known >> np.uint64(64 - _FILTER_BITS)] = True
    return _Benchmark(task_of, known, may_be)


def _tasks(benchmark: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of every task: its prompt and its solution."""
    packed = resources.files("data").joinpath(f"benchmarks/{benchmark}.jsonl.gz").read_bytes()
    for line in gzip.decompress(packed).splitlines():
        task = json.loads(line)
        yield task["task_id"], (task["prompt"] + task["canonical_solution"]).encode()
