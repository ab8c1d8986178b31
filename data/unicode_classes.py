"""Where two engines class code points differently, because their Unicode versions differ.

An engine is asked, not believed: a probe tokenizer with the pre-tokenizer in question has merges
that show in the ids whether a code point was split from its neighbours. Code points above
`LAST_ASKED` are rare and never asked about: they count as different.

Legend: D documents, C code points asked.
"""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.tokenizer_file import NUM_BYTES, byte_characters

LAST_ASKED = 0x1FFFF
SURROGATES = range(0xD800, 0xE000)
PROBE = "a{0}A{0}0{0}!{0} "
"""A code point beside letters, digits, punctuation and white space."""
NEIGHBOURS = b"aA0! "
BLOCK_BYTES = 1024
GROUP = 64
LEAD_BYTES = range(0xC2, 0xF5)
TRAIL_BYTES = range(0x80, 0xC0)
LETTER_SINCE = {
    "13.0": 0xA7C7,
    "14.0": 0xA7C0,
    "15.0": 0x1E030,
    "15.1": 0x2EBF0,
    "16.0": 0xA7CB,
    "17.0": 0xA7CE,
}
"""For each Unicode version a code point that it was the first to call a letter."""


def probe_definition(definition: str) -> str:
    """Replace the vocabulary of a tokenizer by one that shows where its pre-tokenizer splits."""
    character_of = byte_characters()
    merges = [
        [character_of[left], character_of[right]]
        for neighbour in NEIGHBOURS
        for left, right in (
            *((neighbour, lead) for lead in LEAD_BYTES),
            *((trail, neighbour) for trail in TRAIL_BYTES),
        )
    ]
    tokens = [*character_of, *("".join(pair) for pair in merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    plain = json.loads(definition)
    model = {**plain["model"], "vocab": vocab, "merges": merges, "unk_token": None}
    return json.dumps({**plain, "model": model, "decoder": None})


def asked_code_points() -> list[Sequence[int]]:
    """List the code points that engines are asked about, in groups."""
    points = [point for point in range(0x80, LAST_ASKED + 1) if point not in SURROGATES]
    return [points[first : first + GROUP] for first in range(0, len(points), GROUP)]


def probes(groups: Iterable[Sequence[int]]) -> pa.LargeStringArray:
    """Write one text to encode for each group of code points."""
    texts = ["".join(PROBE.format(chr(point)) for point in group) for group in groups]
    return pa.array(texts, pa.large_string())


def unicode_version(letters: Sequence[NDArray[np.uint32]]) -> str:
    """Name the newest version all of whose letters, asked by `letter_probes`, are letters."""
    newest = "before 13.0"
    for version, ids in zip(LETTER_SINCE, letters, strict=True):
        if int(ids[0]) >= NUM_BYTES:
            newest = version
    return newest


def letter_probes() -> pa.LargeStringArray:
    """Write a letter before each code point of `LETTER_SINCE`: they merge if it is one too."""
    return pa.array([f"a{chr(point)}" for point in LETTER_SINCE.values()], pa.large_string())


class CodePointTest:
    """Finds the documents that hold any of some code points, or one that was not asked about."""

    def __init__(self, code_points: Iterable[int]) -> None:
        points = np.array(sorted(code_points), dtype=np.int64)
        self._is_in_C = np.zeros(LAST_ASKED + 1, dtype=np.bool_)
        self._is_in_C[points] = True
        first = chr(int(points[0]) if len(points) else LAST_ASKED + 1)
        self._first_lead = first.encode()[0]

    def documents(self, texts: pa.LargeStringArray) -> NDArray[np.int64]:
        """List the places of the documents with such a code point.

        Shapes: D texts -> at most (D,).
        """
        starts_D, content = text_buffers(texts)
        positions = self._positions(content[starts_D[0] : starts_D[-1]]) + starts_D[0]
        return np.unique(np.searchsorted(starts_D, positions, side="right") - 1)

    def _positions(self, content: NDArray[np.uint8]) -> NDArray[np.int64]:
        leads = _at_least(content, self._first_lead)
        # Past the end of the content only zeros follow, which belong to no code point.
        ahead = np.concatenate((content[-4:], np.zeros(4, dtype=np.uint8)))
        near_end = leads >= len(content) - 4
        found = leads[~near_end]
        hits = found[self._is_hit(content, found)]
        last = leads[near_end] - max(len(content) - 4, 0)
        late = last[self._is_hit(ahead, last)] + max(len(content) - 4, 0)
        return np.concatenate((hits, late))

    def _is_hit(self, content: NDArray[np.uint8], leads: NDArray[np.int64]) -> NDArray[np.bool_]:
        points = _decode(content, leads)
        return self._is_in_C[np.minimum(points, LAST_ASKED)] | (points > LAST_ASKED)


def text_buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """View the offsets and the bytes of texts without copying; the first offset may not be 0.

    Shapes: D texts -> (D + 1,) and the bytes of the whole buffer.
    """
    _, offsets, content = texts.buffers()
    starts_D = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return starts_D, np.frombuffer(content or b"", dtype=np.uint8)


def _at_least(content: NDArray[np.uint8], least: int) -> NDArray[np.int64]:
    """Find the bytes of at least this value; most blocks have none and are dropped at once."""
    whole = len(content) // BLOCK_BYTES * BLOCK_BYTES
    blocks = content[:whole].reshape(-1, BLOCK_BYTES)
    hot = np.flatnonzero(blocks.max(axis=1) >= least)
    block, place = np.nonzero(blocks[hot] >= least)
    rest = np.flatnonzero(content[whole:] >= least) + whole
    return np.concatenate((hot[block] * BLOCK_BYTES + place, rest))


def _decode(content: NDArray[np.uint8], leads: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read the code points whose UTF-8 begins at these places."""
    lead, second, third, fourth = (content[leads + step].astype(np.int64) for step in range(4))
    low2, low3, low4 = second & 0x3F, third & 0x3F, fourth & 0x3F
    two = (lead & 0x1F) << 6 | low2
    three = (lead & 0x0F) << 12 | low2 << 6 | low3
    four = (lead & 0x07) << 18 | low2 << 12 | low3 << 6 | low4
    return np.where(lead < 0xE0, two, np.where(lead < 0xF0, three, four))
