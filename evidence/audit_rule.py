"""What a rule of an audit is, and what it says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evidence.audit_evidence import AuditedRun, Entry, Evidence


@dataclass(frozen=True, slots=True)
class Seen:
    """A place in the evidence where something is not as it should be."""

    file: str
    field: str
    found: str
    should: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that honest evidence has, or has not."""

    id: str
    resembles: str
    "The reference's failure that looks like this."
    look: Callable[[Evidence], Iterator[Seen]]


def seen(entry: Entry, name: str, found: str, should: str) -> Seen:
    """Name a field of an epoch or a step."""
    return Seen(entry.file, f"{entry.place}{name}", found, should)


def each_run(look: Callable[[AuditedRun], Iterator[Seen]]) -> Callable[[Evidence], Iterator[Seen]]:
    """Look at one run after the other."""

    def look_at_all(evidence: Evidence) -> Iterator[Seen]:
        for run in evidence.runs:
            yield from look(run)

    return look_at_all
