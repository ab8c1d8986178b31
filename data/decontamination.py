"""Decontamination: documents that share words in a row with a benchmark.

A word is a run of ASCII letters, digits, underscores and bytes above ASCII, in lower case; what
stands between words does not count; numbers alone, counting or primes, are no benchmark's own.
A sieve nominates places by the heads of words: almost nowhere are there that many in a row whose
heads a benchmark knows, and fewer still have the hash of one of its windows. The words decide.

Shape letters: N bytes, E edges of words, P places of windows, T entries of a table.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.code_problems import parse_problems, problems_content
from data.compiled import compiled
from data.filters import Objections, Texts
from data.hashing import BASE, U64, mix

_WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")
_IS_OF_WORD = np.array(
    [_WORD.fullmatch(bytes([byte])) is not None for byte in range(256)], np.uint8
)
_HEAD_BYTES = 8
_HEADS = np.array([2 ** (8 * count) - 1 for count in range(_HEAD_BYTES + 1)], np.uint64)
_LOWER = np.uint64(0x2020202020202020)
"""Makes capitals small; other bytes may become equal to each other, which nominates too much."""
_KNOWN_BITS = 16
_WINDOW_BITS = 22


@dataclass(frozen=True)
class _Benchmark:
    """All windows of words of the tasks of some benchmarks."""

    task_of: Mapping[tuple[bytes, ...], str]
    may_be_head_T: NDArray[np.bool_]
    may_be_window_T: NDArray[np.bool_]
    """By the leading bits of a hash: whether it may be one of theirs."""


def contaminated(texts: Texts, benchmarks: tuple[str, ...], num_words: int) -> Objections:
    """Object to a document with that many words in a row of a task of a benchmark."""
    if not benchmarks:
        return {}
    known = _benchmark(benchmarks, num_words)
    buffer = texts.buffer
    found: dict[int, str] = {}
    places_P = _windows(buffer.data, buffer.offsets, num_words, known)
    for place, number in zip(places_P.tolist(), buffer.document_of(places_P).tolist(), strict=True):
        if number not in found:
            first, end = buffer.offsets[number : number + 2].tolist()
            task = known.task_of.get(_first_words(buffer.data[place:end], num_words))
            if task:
                found[number] = f"{task}, {num_words} words from byte {place - first:,}"
    return found


def _windows(
    data_N: NDArray[np.uint8], offsets: NDArray[np.int64], num_words: int, known: _Benchmark
) -> NDArray[np.int64]:
    """Return where windows begin that may be a benchmark's."""
    places_P = np.empty(len(data_N) // 2 + 1, np.int64)
    edges_E = np.empty(int(np.diff(offsets).max(initial=0)) + 1, np.int64)
    num_found = _nominate(
        data_N,
        _heads(data_N),
        offsets,
        edges_E,
        num_words,
        known.may_be_head_T,
        known.may_be_window_T,
        places_P,
    )
    return places_P[:num_found]


def _heads(data_N: NDArray[np.uint8]) -> U64:
    """View the eight bytes from every place on, the first of them the least significant."""
    padded = data_N.tobytes() + bytes(_HEAD_BYTES)
    return np.ndarray((len(data_N),), np.dtype("<u8"), padded, 0, (1,))


@compiled
def _nominate(
    data_N: NDArray[np.uint8],
    heads_N: U64,
    offsets: NDArray[np.int64],
    edges_E: NDArray[np.int64],
    num_words: int,
    may_be_head_T: NDArray[np.bool_],
    may_be_window_T: NDArray[np.bool_],
    places_P: NDArray[np.int64],
) -> int:
    """Write down where windows begin that may be known; return how many there are."""
    num_found = 0
    for number in range(len(offsets) - 1):
        first, end = offsets[number], offsets[number + 1]
        num_edges = _edges(data_N[first:end], edges_E)
        in_a_row = 0
        for edge in range(0, num_edges, 2):
            head = _head(heads_N[first + edges_E[edge]], edges_E[edge + 1] - edges_E[edge])
            in_a_row = (in_a_row + 1) * may_be_head_T[_head_key(head)]
            if in_a_row >= num_words:
                window = np.uint64(0)
                for back in range(edge - 2 * (num_words - 1), edge + 1, 2):
                    begin, length = edges_E[back], edges_E[back + 1] - edges_E[back]
                    window = window * np.uint64(BASE) + _head(heads_N[first + begin], length)
                if may_be_window_T[_window_key(window)]:
                    places_P[num_found] = first + edges_E[edge - 2 * (num_words - 1)]
                    num_found += 1
    return num_found


@compiled
def _edges(text_N: NDArray[np.uint8], edges_E: NDArray[np.int64]) -> int:
    """Write down where words begin and end, in turn; return how many edges there are."""
    num_edges, before = np.int64(0), np.uint8(0)
    for place, byte in enumerate(text_N):
        # Always written, sometimes kept: a branch here would be guessed wrong too often.
        edges_E[num_edges] = place
        num_edges += before ^ _IS_OF_WORD[byte]
        before = _IS_OF_WORD[byte]
    edges_E[num_edges] = len(text_N)
    return int(num_edges + before)


@compiled
def _head(bytes_ahead: Any, length: int) -> Any:
    """Take the first bytes of a word, as many as a machine word has, in lower case."""
    return (bytes_ahead | _LOWER) & _HEADS[min(length, _HEAD_BYTES)]


@compiled
def _head_key(head: Any) -> Any:
    return (head * np.uint64(BASE)) >> np.uint64(64 - _KNOWN_BITS)


@compiled
def _window_key(window: Any) -> Any:
    return mix(window) >> np.uint64(64 - _WINDOW_BITS)


def _first_words(text_N: NDArray[np.uint8], num_words: int) -> tuple[bytes, ...]:
    found = []
    for match in _WORD.finditer(memoryview(text_N)):  # type: ignore[arg-type]
        found.append(match[0].lower())
        if len(found) == num_words:
            break
    return tuple(found)


@cache
def _benchmark(benchmarks: tuple[str, ...], num_words: int) -> _Benchmark:
    task_of: dict[tuple[bytes, ...], str] = {}
    for name in benchmarks:
        for task, text in _tasks(name):
            words = [word.lower() for word in _WORD.findall(text)]
            for place in range(len(words) - num_words + 1):
                window = tuple(words[place : place + num_words])
                if not all(word.isdigit() for word in window):
                    task_of.setdefault(window, task)
    may_be_head_T = np.zeros(2**_KNOWN_BITS, np.bool_)
    may_be_window_T = np.zeros(2**_WINDOW_BITS, np.bool_)
    for window in task_of:
        heads = [_head_of(word) for word in window]
        may_be_head_T[[_head_key(np.uint64(head)) for head in heads]] = True
        hashed = reduce(lambda before, head: (before * BASE + head) % 2**64, heads)
        may_be_window_T[_window_key(np.uint64(hashed))] = True
    return _Benchmark(task_of, may_be_head_T, may_be_window_T)


def _head_of(word: bytes) -> int:
    return int(_head(_heads(np.frombuffer(word, np.uint8))[0], len(word)))


def _tasks(benchmark: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of every task: its prompt and its solution."""
    for problem in parse_problems(benchmark, problems_content(benchmark)):
        yield problem.task_id, (problem.prompt + problem.canonical_solution).encode()
