"""Logins in URLs: they are used to connect, and never written down."""

import re

HIDDEN = "***"
_LOGIN = re.compile(r"(?<=://)[^/?#\s@]+@")
_ARGUMENT = re.compile(
    r"(?i)(?<=[?&])([a-z0-9_-]*(?:password|passwd|token|secret|signature))=[^&#\s]+"
)


def without_login(text: str) -> str:
    """Hide user names, passwords and tokens in all URLs of a text.

    >>> without_login("cannot reach http://me:mine@host:5000/api?token=x&page=2 today")
    'cannot reach http://***@host:5000/api?token=***&page=2 today'
    """
    return _ARGUMENT.sub(rf"\1={HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", text))


def has_login(text: str) -> bool:
    """Return whether a text has a URL that logs in."""
    return "://" in text and without_login(text) != text
