"""Withdraw the claims of a run: the record stays, and so does the reason."""

from evidence.chain import CHAIN, Line, append, read_chain
from evidence.records import SEAL
from tasks.errors import NotFoundError
from tasks.ledger import settle, writing
from tasks.ledger_errors import WithdrawnError
from tasks.run_record import Run, now


def withdraw(run: Run, reason: str) -> Line:
    """Add a line to the chain that withdraws a run's record, and says why.

    Raises: NotFoundError if the run has not ended, WithdrawnError, BrokenChainError.
    """
    record = run.record()
    if record is None:
        raise NotFoundError("record of a run that ended", str(run.directory))
    with writing(run.directory.parent) as found:
        chain = settle(found)
        if earlier := chain.withdrawn(record[SEAL]):
            raise WithdrawnError(run.name, earlier.seq, str(earlier.reason))
        if chain.line_of(record[SEAL]) is None:
            raise NotFoundError(f"line of {run.name}'s record", str(chain.directory / CHAIN))
        return append(chain, "withdrawn", run.name, record[SEAL], now(), reason).lines[-1]


def reason_of(run: Run) -> str | None:
    """Say why a run's claims were withdrawn; None if they stand."""
    record = run.record()
    line = read_chain(run.directory.parent).withdrawn(record[SEAL]) if record else None
    return line.reason if line else None
