"""What the records of runs mention, and what follows from it: nothing of that is garbage.

A file mentions a ref where `kind:digits` stands in it, whatever the file is: a record, a plan, the
request of a run that has only begun, a plan registered for later. That keeps more than it must and
needs no knowledge of what any file means.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evidence.refs import REF_TYPES
from tasks.remote import Remote
from tasks.run_record import PLAN
from tasks.shared_runs import RUNS

DIGEST_LENGTH = 64
TEXT = (".json", ".jsonl", ".txt", ".md", ".csv")
"Endings of files in which a run may name what it used."
_MENTION = re.compile(rb"\b(%s):([0-9a-f]{2,%d})" % ("|".join(REF_TYPES).encode(), DIGEST_LENGTH))


@dataclass(slots=True)
class Mentions:
    """What records mention, and whose records they are."""

    refs: set[str] = field(default_factory=set)
    "Each `kind:digest`, or the beginning of one."
    runs: set[str] = field(default_factory=set)

    def read(self, content: bytes) -> None:
        """Add what a file mentions."""
        self.refs |= set(mentioned(content))

    def matching(self, existing: Iterable[str]) -> set[str]:
        """Return the refs that are mentioned in full, and those that a beginning may mean."""
        full = {ref for ref in self.refs if len(ref.partition(":")[2]) == DIGEST_LENGTH}
        beginnings = self.refs - full
        lengths = sorted({len(each) for each in beginnings})
        meant = {ref for ref in existing if any(ref[:length] in beginnings for length in lengths)}
        return full | meant


def mentioned(content: bytes) -> list[str]:
    """List the refs in some text, beginnings of refs included."""
    return [f"{kind.decode()}:{digits.decode()}" for kind, digits in _MENTION.findall(content)]


def read_mentions(evidence: Sequence[Path], remote: Remote | None) -> Mentions:
    """Read what all runs mention: those of evidence directories, and those shared by machines.

    Raises: OSError, StoreRefusedError, StoreUnreachableError.
    """
    found = Mentions()
    for directory in evidence:
        found.runs |= {path.parent.name for path in directory.glob(f"*/{PLAN}")}
        for path in directory.rglob("*"):
            if path.suffix in TEXT and path.is_file():
                found.read(path.read_bytes())
    if remote is not None:
        _read_shared(remote, found)
    return found


def _read_shared(remote: Remote, found: Mentions) -> None:
    """Add what the records say that other machines have sent."""
    names = [f"{RUNS}/{name}" for name in remote.listing(RUNS)]
    for name, content in remote.read_all(names).items():
        found.runs.add(name.removeprefix(f"{RUNS}/").partition("/")[0])
        found.read(content)


def reachable(
    roots: Iterable[str],
    inputs: Mapping[str, Iterable[str]],
    read_indexes: Callable[[Iterable[str]], Mapping[str, bytes]],
) -> set[str]:
    """Follow refs to all that they were made of: by recipes, and by what indexes mention."""
    known: set[str] = set()
    level = set(roots)
    while level:
        known |= level
        indexes = read_indexes(level)
        found = {each for content in indexes.values() for each in mentioned(content)}
        for ref in level:
            found.update(inputs.get(ref, ()))
        level = found - known
    return known
