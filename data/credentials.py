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
# Each secret has one of these pairs at an even place of the batch, and one at an odd place: the
# number is the distance from the beginning of the secret, or of PRIVATE for a PEM header.
_PAIRS = (
    (b"AK", 0),
    (b"KI", 1),
    (b"AI", 0),
    (b"Iz", 1),
    (b"xo", 0),
    (b"ox", 1),
    (b"IV", 2),
    (b"VA", 3),
    (b"gh", 0),
)
_BLOCK = 2**17


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
    found = [np.empty(0, np.int64)]
    for begin in range(0, len(even), _BLOCK):
        block = even[begin : begin + _BLOCK]
        for pair, distance in _PAIRS:
            is_pair = block == np.frombuffer(pair, np.uint16)[0]
            if is_pair.any():
                found.append(2 * (np.flatnonzero(is_pair) + begin) - distance)
    places_P = np.concatenate([*found, _github_at_odd_places(even)])
    return np.unique(places_P[places_P >= 0])


def _github_at_odd_places(even: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Find `h` and, two bytes on, `_` at even places."""
    low = even.view(np.uint8)[::2]
    found = np.flatnonzero((low[:-1] == ord("h")) & (low[1:] == ord("_")))
    return 2 * found - 1
