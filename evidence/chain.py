"""The chain: one line for every record, each naming the line before, and the head beside it.

`CHAIN.jsonl` only grows: a line of canonical JSON whose `prev` is the sha256 of the line before.
`HEAD` holds the number and the sha256 of the last line. Whoever writes holds a lock, writes the
record, then its line, then the head; a crash between two of them leaves a state that the next
writer completes, and that differs from every edit. Somebody who rewrites all of it is found out
only by a head that was pinned elsewhere.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from evidence.canonical import dumps, loads
from evidence.errors import BrokenChainError, EvidenceError, WrongHeadError

CHAIN = "CHAIN.jsonl"
HEAD = "HEAD"
Event = Literal["planned", "recorded", "withdrawn"]
EVENTS = get_args(Event)
FIELDS = frozenset({"seq", "event", "run", "record_sha256", "time", "prev"})
_HEAD = re.compile(r"([1-9][0-9]{0,11}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain: its number and its sha256."""

    seq: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: a plan or a record that was added, or a record withdrawn with a reason."""

    seq: int
    event: Event
    run: str
    record_sha256: str
    time: str
    prev: str | None
    reason: str | None = None

    def encoded(self) -> bytes:
        """Write the line as it stands in the file, without its end."""
        names = FIELDS | ({"reason"} if self.event == "withdrawn" else set())
        return dumps({name: getattr(self, name) for name in names})

    @property
    def head(self) -> Head:
        """The head of a chain that ends here."""
        return Head(self.seq, hashlib.sha256(self.encoded()).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain as it was read."""

    directory: Path
    lines: tuple[Line, ...]
    faults: tuple[str, ...]
    "What no crash explains."
    unfinished: tuple[str, ...]
    "What a crash left open, and the next writer completes."

    @property
    def head(self) -> Head | None:
        """The last line's number and sha256; None of an empty chain."""
        return self.lines[-1].head if self.lines else None

    @property
    def recorded(self) -> list[Line]:
        """The lines that add a record."""
        return [line for line in self.lines if line.event == "recorded"]

    def line_of(self, record_sha256: str) -> Line | None:
        """Find the line that added a record."""
        return next((line for line in self.recorded if line.record_sha256 == record_sha256), None)

    def parent_of(self, line: Line) -> str | None:
        """Name the record that was added before a line."""
        earlier = [each.record_sha256 for each in self.recorded if each.seq < line.seq]
        return earlier[-1] if earlier else None

    def planned(self, record_sha256: str) -> Line | None:
        """Find the line that added a plan."""
        found = (line for line in self.lines if line.event == "planned")
        return next((line for line in found if line.record_sha256 == record_sha256), None)

    def withdrawn(self, record_sha256: str) -> Line | None:
        """Find the line that withdrew a record."""
        found = (line for line in self.lines if line.event == "withdrawn")
        return next((line for line in found if line.record_sha256 == record_sha256), None)

    def require_sound(self) -> None:
        """Refuse a chain that was edited.

        Raises: BrokenChainError.
        """
        if self.faults:
            raise BrokenChainError(str(self.directory / CHAIN), self.faults)

    def contradiction(self, pin: Head) -> str | None:
        """Say how the chain differs from a head that was noted elsewhere; None if it does not."""
        if pin.seq > len(self.lines):
            return f"{CHAIN}: ends with line {len(self.lines)}, a pin names line {pin.seq}"
        found = self.lines[pin.seq - 1].head.sha256
        if found == pin.sha256:
            return None
        return f"{CHAIN}: line {pin.seq} has sha256 {found[:12]}, a pin says {pin.sha256[:12]}"


def parse_head(text: str) -> Head:
    """Read `SEQ:SHA256`.

    Raises: WrongHeadError.
    """
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise WrongHeadError(text.strip()[:80])
    return Head(int(match.group(1)), match.group(2))


def read_chain(directory: Path) -> Chain:
    """Read a directory's chain and its head, and find everything that is wrong with them."""
    path = directory / CHAIN
    # Before the lines: then another process that adds some meanwhile only leaves it behind.
    head = _read_head(directory / HEAD)
    *texts, torn = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    lines, faults = _lines(texts)
    faults += _broken_links(lines) if not faults else []
    unfinished = [f"{CHAIN}: line {len(texts) + 1} is not complete"] if torn else []
    if not faults:
        head_faults, behind = _compare_head(head, lines)
        faults += head_faults
        unfinished += behind
    return Chain(
        directory=directory,
        lines=tuple(lines),
        faults=tuple(faults),
        unfinished=tuple(unfinished),
    )


def append(
    chain: Chain, event: Event, run: str, record_sha256: str, time: str, reason: str | None = None
) -> Chain:
    """Add a line and move the head; the caller holds the lock.

    Raises: BrokenChainError.
    """
    complete(chain)
    line = Line(
        seq=len(chain.lines) + 1,
        event=event,
        run=run,
        record_sha256=record_sha256,
        time=time,
        prev=chain.head.sha256 if chain.head else None,
        reason=reason,
    )
    with (chain.directory / CHAIN).open("ab") as file:
        file.write(line.encoded() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _write_head(chain.directory, line.head)
    return Chain(directory=chain.directory, lines=(*chain.lines, line), faults=(), unfinished=())


def complete(chain: Chain) -> None:
    """Drop a line that was not written to its end, and move the head to the last one.

    Raises: BrokenChainError.
    """
    chain.require_sound()
    if not chain.unfinished:
        return
    with (chain.directory / CHAIN).open("r+b") as file:
        file.truncate(sum(len(line.encoded()) + 1 for line in chain.lines))
        os.fsync(file.fileno())
    if chain.head:
        _write_head(chain.directory, chain.head)


def _lines(texts: Sequence[bytes]) -> tuple[list[Line], list[str]]:
    """Read lines up to the first that is none."""
    lines: list[Line] = []
    for seq, text in enumerate(texts, start=1):
        try:
            lines.append(_line(text, f"{CHAIN}: line {seq}"))
        except EvidenceError as error:
            return lines, [str(error)]
        except TypeError:
            return lines, [f"{CHAIN}: line {seq} has other fields than a line of a chain"]
        except ValueError as error:
            return lines, [f"{CHAIN}: line {seq} is no line of a chain ({error})"]
    return lines, []


def _line(text: bytes, where: str) -> Line:
    found = loads(text, where)
    if not isinstance(found, dict):
        raise TypeError(type(found).__name__)
    line = Line(**found)
    if line.event not in EVENTS or line.encoded() != text:
        raise ValueError("not in canonical form")
    if not all(isinstance(each, str) for each in (line.run, line.record_sha256, line.time)):
        raise ValueError("a value of another type")
    return line


def _broken_links(lines: Sequence[Line]) -> list[str]:
    faults = [
        f"{CHAIN}: line {place} has seq {line.seq}, should be {place}"
        for place, line in enumerate(lines, start=1)
        if line.seq != place
    ]
    if lines and lines[0].prev is not None:
        faults.append(f"{CHAIN}: line 1 names a line before, should be the first")
    return faults + [
        f"{CHAIN}: line {place} names {str(line.prev)[:12]} as the line before, which has sha256 "
        f"{before.head.sha256[:12]}"
        for place, (before, line) in enumerate(pairwise(lines), start=2)
        if line.prev != before.head.sha256
    ]


def _read_head(path: Path) -> Head | str | None:
    """Read the head; text that is none as it stands."""
    if not path.is_file():
        return None
    text = path.read_text(errors="replace")
    try:
        return parse_head(text)
    except WrongHeadError:
        return text


def _compare_head(head: Head | str | None, lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """Return what is wrong with the head, and what a crash explains."""
    if isinstance(head, str):
        return [f"{HEAD}: {WrongHeadError(head.strip()[:80])}"], []
    if head is None:
        missing = [f"{HEAD}: missing, {CHAIN} has lines: {len(lines)}"] if lines else []
        # The first line of all may have been written just before a crash.
        return ([], missing) if len(lines) == 1 else (missing, [])
    if lines and head == lines[-1].head:
        return [], []
    if head.seq < len(lines) and head == lines[head.seq - 1].head:
        return [], [f"{HEAD}: names line {head.seq}, {CHAIN} goes on to {len(lines)}"]
    found = "is empty or missing"
    if lines:
        found = f"ends with {len(lines)}:{lines[-1].head.sha256[:12]}"
    return [f"{HEAD}: names line {head.seq}:{head.sha256[:12]}, {CHAIN} {found}"], []


def _write_head(directory: Path, head: Head) -> None:
    partial = directory / f".{HEAD}.partial"
    with partial.open("w") as file:
        file.write(f"{head}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / HEAD)
