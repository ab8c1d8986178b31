"""Why a file is not a document: each filter returns the reason, or nothing.

Filters judge one candidate at a time; what needs memory of earlier candidates is a class.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from data.source import SourceFile, SourceListing


@dataclass(frozen=True)
class Candidate:
    """A listed file, read only when a filter looks inside."""

    listing: SourceListing
    file: SourceFile

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file, which are the listed ones."""
        return self.listing.read(self.file)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that did not become a document, and why."""

    path: str
    sha256: str
    num_bytes: int
    filter: str
    reason: str


Filter: TypeAlias = Callable[[Candidate], str | None]


def judge(candidate: Candidate, filters: Iterable[tuple[str, Filter]]) -> Rejection | None:
    """Return the rejection by the first filter that gives a reason.

    Later filters never see a rejected file: a duplicate is always one of a document.
    """
    file = candidate.file
    for name, reason_of in filters:
        if reason := reason_of(candidate):
            return Rejection(file.path, file.sha256, file.num_bytes, name, reason)
    return None


def too_large(max_bytes: int) -> Filter:
    """Reject files of more than so many bytes, unread."""

    def reason(candidate: Candidate) -> str | None:
        found = candidate.file.num_bytes
        return f"{found} bytes, at most {max_bytes} wanted" if found > max_bytes else None

    return reason


def too_small(min_bytes: int) -> Filter:
    """Reject files of fewer than so many bytes."""

    def reason(candidate: Candidate) -> str | None:
        found = candidate.file.num_bytes
        return f"{found} bytes, at least {min_bytes} wanted" if found < min_bytes else None

    return reason


def binary(candidate: Candidate) -> str | None:
    """Reject files with a NUL byte, which no source file has."""
    position = candidate.content.find(b"\0")
    return f"NUL byte at {position}" if position >= 0 else None


def not_utf8(candidate: Candidate) -> str | None:
    """Reject files that are not UTF-8; guessing their encoding would invent characters."""
    try:
        candidate.content.decode()
    except UnicodeDecodeError as error:
        return f"{error.reason} at {error.start}"
    return None


def duplicate() -> Filter:
    """Reject files whose content was already seen, under whatever path."""
    path_of: dict[str, str] = {}

    def reason(candidate: Candidate) -> str | None:
        path = candidate.file.path
        first = path_of.setdefault(candidate.file.sha256, path)
        return f"same content as {first}" if first != path else None

    return reason
