"""Personal data in source text: mail and network addresses, replaced by fixed words.

Network addresses that lead to nobody stay: those that are private, reserved or for documentation;
and so do addresses of version 6 with fewer than three colons, which are rarer than slices.

Shape letters: N bytes, P places.
"""

import ipaddress
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.text_buffer import TextBuffer

MAIL = "<EMAIL>"
ADDRESS = "<IP_ADDRESS>"

_MAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+"
    r"(?:com|org|net|edu|gov|mil|int|info|biz|dev|io|ai|app|name|me|[a-z]{2})(?![\w(-])(?!\.\w)"
)
_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){3,7})(?![\w:]|\.\d)"
)
_IN_MAIL = np.array([chr(byte).isalnum() or chr(byte) in "._%+-" for byte in range(256)])
_DIGITS = np.array([48 <= byte < 58 for byte in range(256)])


def redact(text: str) -> str:
    """Replace mail addresses and public network addresses."""
    if "@" in text:
        text = _MAIL.sub(MAIL, text)
    return _ADDRESS.sub(_of_address, text)


def redacted(texts: Any) -> Any:
    """Redact a `large_string` array."""
    buffer = TextBuffer.of(texts)
    hints_P = np.sort(_hints(buffer.data))
    places_of: dict[int, list[int]] = {}
    for place, number in zip(hints_P.tolist(), buffer.document_of(hints_P).tolist(), strict=True):
        places_of.setdefault(number, []).append(place - int(buffer.offsets[number]))
    changed = {}
    for number, places in places_of.items():
        source = buffer.document(number)
        text = _with_lines_redacted(source, places)
        if text != source:
            changed[number] = text
    return buffer.replaced(changed) if changed else texts


def _with_lines_redacted(source: bytes, places: list[int]) -> bytes:
    """Redact the lines of a text in which there are some places, in order: no address has two."""
    pieces: list[bytes] = []
    done = 0
    for place in places:
        if place >= done:
            first = source.rfind(b"\n", done, place) + 1 or done
            end = source.find(b"\n", place) + 1 or len(source)
            pieces += (source[done:first], redact(source[first:end].decode()).encode())
            done = end
    return b"".join((*pieces, source[done:]))


def _hints(data_N: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return places at which there may be an address: what it has around its separators."""
    if not len(data_N):
        return np.empty(0, np.int64)
    mails = np.flatnonzero(data_N == ord("@"))
    mails = mails[_between(data_N, mails, _IN_MAIL)]
    dots = np.flatnonzero(data_N == ord("."))
    dots = dots[_between(data_N, dots, _DIGITS)]
    colons = np.flatnonzero(data_N == ord(":"))
    return np.concatenate((mails, _close(dots, 2, 4), _close(colons, 1, 5)))


def _between(
    data_N: NDArray[np.uint8], places_P: NDArray[np.int64], members: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    before, after = data_N[places_P - 1], data_N[(places_P + 1) % len(data_N)]
    return np.logical_and(members[before], members[after])


def _close(places_P: NDArray[np.int64], least: int, most: int) -> NDArray[np.int64]:
    """Keep places that have two more behind them, at such distances."""
    distances = np.diff(places_P)
    is_close = (distances >= least) & (distances <= most)
    return places_P[:-2][is_close[:-1] & is_close[1:]]


def _of_address(match: re.Match[str]) -> str:
    try:
        is_public = ipaddress.ip_address(match[0]).is_global
    except ValueError:
        return match[0]
    return ADDRESS if is_public else match[0]
