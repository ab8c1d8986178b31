"""The chain under several writers, under kill -9 between any two writes, and after tampering."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evidence.chain import read_chain
from evidence.errors import BrokenChainError, MalformedJsonError
from evidence.records import read_record
from tasks.ledger import settle, unfit, writing
from tasks.run_record import Run, finish_run, start_run
from tests.test_architecture import PROJECT

SETTINGS: dict[str, Any] = {"train": {"seed": 1}}

WRITER = """
import os, signal, sys
from evidence import chain, records
from tasks import run_record
from tasks.run_record import finish_run, start_run

die_at = sys.argv[2]
def dying(name, function):
    def call(*arguments, **keywords):
        if name == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call

run_record.provenance = lambda: {}
for _ in range(int(sys.argv[1])):
    run = start_run("demo", {}, {})
    run_record.write_record = dying("record", run_record.write_record)
    run_record.append = dying("line", run_record.append)
    chain._write_head = dying("head", chain._write_head)
    finish_run(run, "completed", None)
"""


def write(count: int, die_at: str = "never") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(count), die_at]
    return subprocess.Popen(command, cwd=PROJECT, env=dict(os.environ))


def finished(name: str = "demo") -> Run:
    run = start_run(name, SETTINGS, {})
    finish_run(run, "completed", None)
    return run


def test_several_writers_make_one_line_after_the_other(home: Path) -> None:
    """E9."""
    writers = [write(8) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    chain = read_chain(home / "evidence")
    assert (chain.faults, chain.unfinished) == ((), ())
    assert [line.seq for line in chain.lines] == list(range(1, 25))
    assert list(unfit(chain)) == []
    for line in chain.lines:
        record = Run(home / "evidence" / line.run).record()
        assert record is not None
        assert record["parent"] == chain.parent_of(line)


@pytest.mark.parametrize(
    ("die_at", "num_records", "num_lines", "is_unfinished"),
    [("record", 1, 1, False), ("line", 2, 1, False), ("head", 2, 2, True)],
)
def test_a_process_killed_between_two_writes_loses_nothing(
    home: Path, die_at: str, num_records: int, num_lines: int, *, is_unfinished: bool
) -> None:
    """E10: the next run completes what was left, and appends what was recorded."""
    finished()
    assert write(1, die_at).wait() == -signal.SIGKILL
    chain = read_chain(home / "evidence")
    assert (chain.faults, len(chain.lines)) == ((), num_lines)
    assert bool(chain.unfinished) == is_unfinished
    orphaned = [line for line in unfit(chain) if "no line of the chain names" in line]
    assert len(orphaned) == num_records - num_lines
    finished()
    chain = read_chain(home / "evidence")
    assert (chain.faults, chain.unfinished) == ((), ())
    assert len(chain.lines) == num_records + 1
    assert list(unfit(chain)) == []
    parents = [Run(home / "evidence" / line.run).record() for line in chain.lines]
    assert [record and record["parent"] for record in parents] == [
        chain.parent_of(line) for line in chain.lines
    ]


def test_completing_twice_adds_nothing(home: Path) -> None:
    finished()
    assert write(1, "line").wait() == -signal.SIGKILL
    with writing(home / "evidence") as chain:
        assert len(chain.lines) == 2
    before = (home / "evidence" / "CHAIN.jsonl").read_bytes()
    settle(read_chain(home / "evidence"))
    assert (home / "evidence" / "CHAIN.jsonl").read_bytes() == before


def test_an_edited_chain_refuses_the_next_run_before_it_starts(home: Path) -> None:
    finished()
    path = home / "evidence" / "CHAIN.jsonl"
    path.write_text(path.read_text().replace("demo", "memo"))
    with pytest.raises(BrokenChainError) as caught:
        start_run("demo", SETTINGS, {})
    assert "HEAD: names line 1" in str(caught.value)


def test_a_chain_edited_during_a_run_costs_no_record(home: Path) -> None:
    finished()
    run = start_run("demo", SETTINGS, {})
    path = home / "evidence" / "CHAIN.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"demo", b"memo"))
    with pytest.raises(BrokenChainError):
        finish_run(run, "completed", None)
    record = run.record()
    assert record is not None
    assert record["outcome"] == "completed"
    path.write_bytes(whole)
    finished()
    chain = read_chain(home / "evidence")
    assert [line.record_sha256 for line in chain.lines][1] == record["record_sha256"]
    assert list(unfit(chain)) == []


def test_records_that_were_removed_or_sealed_again_are_named(home: Path) -> None:
    runs = [finished() for _ in range(2)]
    path = runs[0].directory / "metadata.json"
    path.write_text(path.read_text().replace("completed", "failed"))
    assert list(unfit(read_chain(home / "evidence"))) == []  # its seal, not the chain, shows this
    (runs[1].directory / "metadata.json").unlink()
    assert list(unfit(read_chain(home / "evidence"))) == [
        f"{runs[1].name}: the record of line 2 is missing or was edited"
    ]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda text: text.replace("{", '{"run": "x",', 1), "holds a duplicate key"),
        (lambda text: text.replace('"parent": null', '"parent": NaN'), "holds NaN"),
        (lambda text: text.replace('"parent": null', '"parent": 1e400'), "holds 1e400"),
        (lambda text: "\ufeff" + text, "cannot be read"),
        (lambda text: text.replace("\n", "\r\n"), "is not laid out as a record is"),
        (lambda text: "[" * 100_000, "cannot be read"),
    ],
)
def test_a_record_that_two_readers_could_read_differently_is_refused(
    home: Path, edit: Any, expected: str
) -> None:
    """E8."""
    path = finished().directory / "metadata.json"
    path.write_bytes(edit(path.read_text()).encode())
    with pytest.raises(MalformedJsonError, match=expected):
        read_record(path)
