"""Personal data in source text: mail and network addresses, replaced by fixed words.

Addresses that lead to nobody stay: networks that are private, reserved or for documentation.
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
    r"(?:com|org|net|edu|gov|mil|int|info|biz|dev|io|ai|app|name|me|[a-z]{2})(?![\w(-])"
    r"(?!\.\w)"
)
_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)"
)
_TABLE = np.array([chr(byte).isalnum() or chr(byte) in "._%+-" for byte in range(256)])


def redact(text: str) -> str:
    """Replace mail addresses and public network addresses."""
    if "@" in text:
        text = _MAIL.sub(MAIL, text)
    return _ADDRESS.sub(_of_address, text)


def redacted(texts: Any) -> Any:
    """Redact a `large_string` array."""
    buffer = TextBuffer.of(texts)
    changed = {}
    for number in np.unique(buffer.document_of(_hints(buffer.data))).tolist():
        source = buffer.document(number)
        text = redact(source.decode()).encode()
        if text != source:
            changed[number] = text
    return buffer.replaced(changed) if changed else texts


def _hints(data_N: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return places near which there may be an address: at signs, and separators close together."""
    mails = np.flatnonzero(data_N == ord("@"))
    is_word = (
        _TABLE[data_N[np.maximum(mails - 1, 0)]] & _TABLE[data_N[(mails + 1) % len(data_N)]]
        if len(mails)
        else np.empty(0, np.bool_)
    )
    found = [mails[is_word]]
    for separator, least, most, num_gaps in ((b".", 2, 4, 2), (b":", 1, 5, 1)):
        places = np.flatnonzero(data_N == separator[0])
        close = np.diff(places)
        is_close = (close >= least) & (close <= most)
        for _ in range(num_gaps - 1):
            is_close = is_close[1:] & is_close[:-1]
        found.append(places[: len(is_close)][is_close])
    return np.concatenate(found)


def _of_address(match: re.Match[str]) -> str:
    found = match[0]
    # Slices look like short addresses of version 6: those have more parts, or a long first one.
    if ":" in found and found.count(":") < 3 and not re.match("[0-9]*[A-Fa-f]", found.zfill(4)):
        return found
    try:
        is_public = ipaddress.ip_address(found).is_global
    except ValueError:
        return found
    return ADDRESS if is_public else found
