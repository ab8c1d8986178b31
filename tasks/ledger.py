"""The chain of an evidence directory: kept by whoever ends a run, completed after a crash."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from evidence.chain import Chain, append, complete, read_chain
from evidence.errors import EvidenceError
from evidence.records import RUN_RECORD, SEAL, read_record
from tasks.store import locked

LOCK = "CHAIN.lock"
_SEAL = re.compile(rb'"%s": "([0-9a-f]{64})"\n}\n\Z' % SEAL.encode())
_SEAL_BYTES = 128


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[Chain]:
    """Hold the chain alone, completed after a crash; one that was edited is left as it is."""
    with locked(directory / LOCK, what="the chain", wait=True):
        chain = read_chain(directory)
        yield chain if chain.faults else settle(chain)


def settle(chain: Chain) -> Chain:
    """Complete what a crash left: the last line, the head, a record without its line.

    Raises: BrokenChainError.
    """
    complete(chain)
    chain = read_chain(chain.directory)
    while found := _next_orphan(chain):
        run, record_sha256, finished = found
        chain = append(chain, "recorded", run, record_sha256, finished)
    return chain


def orphans(chain: Chain) -> Iterator[tuple[Path, str]]:
    """Yield every run's record that no line names, with its seal."""
    known = {line.record_sha256 for line in chain.recorded}
    for path in sorted(chain.directory.glob(f"*/{RUN_RECORD}")):
        seal = _seal(path)
        if seal not in known:
            yield path, seal


def unfit(chain: Chain) -> Iterator[str]:
    """Say which lines name no record of the directory, and which records no line names."""
    found = {_seal(path) for path in chain.directory.glob(f"*/{RUN_RECORD}")}
    for line in chain.recorded:
        if line.record_sha256 not in found:
            yield f"{line.run}: the record of line {line.seq} is missing or was edited"
    for path, _ in orphans(chain):
        yield f"{path.parent.name}: has a record that no line of the chain names"


def _next_orphan(chain: Chain) -> tuple[str, str, str] | None:
    """Find the record that was to follow the last line."""
    recorded = chain.recorded
    last = recorded[-1].record_sha256 if recorded else None
    for path, seal in orphans(chain):
        with contextlib.suppress(EvidenceError):
            record = read_record(path)
            if record[SEAL] == seal and record.get("parent") == last:
                return str(record["run"]), seal, str(record["finished"])
    return None


def _seal(path: Path) -> str:
    """Read a record's seal from its end, without what comes before."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _SEAL_BYTES))
        match = _SEAL.search(file.read())
    return match.group(1).decode() if match else "none"
