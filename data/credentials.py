"""Secrets in source text: keys and tokens whose form gives them away.

Shape letters: N bytes, P positions.
"""

import re

import numpy as np
from numpy.typing import NDArray

from data.filters import Objections, Texts

_SECRETS = re.compile(
    rb"(?P<aws_access_key>AKIA[0-9A-Z]{16})"
    rb"|(?P<github_token>gh[pousr]_[A-Za-z0-9]{36})"
    rb"|(?P<slack_token>xox[baprs]-[0-9A-Za-z-]{10,})"
    rb"|(?P<google_api_key>AIza[0-9A-Za-z_-]{35})"
    rb"|(?P<private_key>-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY)"
)
_PEM = b"-----BEGIN "
_PEM_REACH = 64
"""Bytes from the beginning of a PEM header to the words that give it away, at most."""
# Each secret has one of these pairs at an even place of the batch, whether it begins at an even or
# an odd one: with the distance from the beginning, which for a PEM header is that of PRIVATE, and
# a letter that must stand at another distance.
_PAIRS = (
    (b"AK", 0, b"I", 2),
    (b"KI", 1, b"A", 0),
    (b"AI", 0, b"z", 2),
    (b"Iz", 1, b"A", 0),
    (b"xo", 0, b"x", 2),
    (b"ox", 1, b"x", 0),
    (b"IV", 2, b"T", 5),
    (b"VA", 3, b"T", 5),
    (b"gh", 0, b"_", 3),
)


def secrets(texts: Texts) -> Objections:
    """Object to a secret; the detail names its kind and place, and never the secret."""
    whole, found = texts.buffer.whole, {}
    places_P = _hints(texts.buffer.data)
    numbers_P = texts.buffer.document_of(places_P)
    for place, number in zip(places_P.tolist(), numbers_P.tolist(), strict=True):
        first, end = texts.buffer.offsets[number : number + 2].tolist()
        begin = place
        if whole.startswith(b"PRIVATE KEY", place):
            begin = max(whole.rfind(_PEM, max(first, place - _PEM_REACH), place), first)
        match = _SECRETS.match(whole, begin, end)
        if match and number not in found:
            found[number] = f"{match.lastgroup} at byte {begin - first:,}"
    return found


def _hints(data_N: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return all places where a secret may begin, in order, found by comparing pairs of bytes."""
    even = data_N[: len(data_N) // 2 * 2].view(np.uint16)
    # Half of the GitHub tokens have no such pair, but h and two bytes later an underscore.
    low = even & np.uint16(0xFF)
    is_hint = np.zeros(len(even), np.bool_)
    is_hint[:-1] = (low[:-1] == ord("h")) & (low[1:] == ord("_"))
    for pair, *_ in _PAIRS:
        is_hint |= even == np.frombuffer(pair, np.uint16)[0]
    hints = np.flatnonzero(is_hint)
    found = [_with_letter(data_N, 2 * hints - 1, b"g", 0)]
    for pair, distance, letter, at in _PAIRS:
        places = 2 * hints[even[hints] == np.frombuffer(pair, np.uint16)[0]] - distance
        found.append(_with_letter(data_N, places, letter, at))
    return np.unique(np.concatenate(found))


def _with_letter(
    data_N: NDArray[np.uint8], places_P: NDArray[np.int64], letter: bytes, at: int
) -> NDArray[np.int64]:
    places_P = places_P[(places_P >= 0) & (places_P + at < len(data_N))]
    return places_P[np.equal(data_N[places_P + at], letter[0])]
