"""Verify where a run stands in the chain, and the chain against heads that were pinned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.chain import CHAIN, Head, parse_head, read_chain
from evidence.records import RUN_RECORD, SEAL
from tasks import places
from tasks.ledger import unfit
from tasks.run_record import CHAIN_HEAD, PLAN, Run
from tasks.verify_report import Report


def check_place(
    report: Report, run: Run, plan: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Check that the chain is whole, has the run's record, and gives it the parent that it says."""
    directory = run.directory.parent
    if not (directory / CHAIN).is_file() and directory != places.evidence():
        report.notes.append(f"no {CHAIN} beside the run: its place is not checked")
        return
    chain = read_chain(directory)
    report.check(holds=not chain.faults, failure="\n  ".join(chain.faults))
    line = chain.line_of(record[SEAL])
    if line is None:
        report.check(holds=False, failure=f"{CHAIN}: has no line for {run.name}'s {RUN_RECORD}")
        return
    report.compare(CHAIN, "run", line.run, run.name)
    report.compare(RUN_RECORD, "parent", chain.parent_of(line), record["parent"])
    if head := plan[CHAIN_HEAD]:
        check_pins(report, directory, {PLAN: parse_head(head)})
    if withdrawn := chain.withdrawn(record[SEAL]):
        report.notes.append(f"withdrawn on {withdrawn.time[:10]}: {withdrawn.reason}")


def check_pins(report: Report, directory: Path, pins: Mapping[str, Head]) -> None:
    """Check the chain against heads that were noted elsewhere, each under the name of its place."""
    chain = read_chain(directory)
    for where, pin in pins.items():
        contradiction = chain.contradiction(pin)
        report.check(holds=contradiction is None, failure=f"{contradiction} ({where})")


def verify_chain(directory: Path, pins: Mapping[str, Head]) -> Report:
    """Check the chain, every record that it names, and every pin."""
    report = Report(str(directory / CHAIN), 0, [])
    chain = read_chain(directory)
    report.num_checks += len(chain.lines) + 1
    report.failures += [*chain.faults, *chain.unfinished]
    with report.surviving(CHAIN):
        report.failures += unfit(chain)
        for line in chain.recorded:
            _check_parent(report, chain.directory / line.run, chain.parent_of(line), line.seq)
    check_pins(report, directory, pins)
    return report


def _check_parent(report: Report, directory: Path, parent: str | None, seq: int) -> None:
    record = Run(directory).record() if directory.is_dir() else None
    if record is not None:
        said = record.get("parent")
        report.compare(f"{directory.name}/{RUN_RECORD}, line {seq}", "parent", parent, said)
