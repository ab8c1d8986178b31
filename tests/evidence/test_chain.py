"""Tampering with the chain: what each edit is called, and what a crash is not mistaken for."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evidence.chain import Chain, Head, append, complete, parse_head, read_chain
from evidence.errors import BrokenChainError, WrongHeadError

TIMES = ("2026-01-02T00:00:00", "2026-01-02T00:00:01", "2026-01-02T00:00:02")
RECORDS = ("a" * 64, "b" * 64, "c" * 64)


def chained(directory: Path, records: tuple[str, ...] = RECORDS) -> Chain:
    chain = read_chain(directory)
    for number, record in enumerate(records):
        chain = append(chain, "recorded", f"run-{number}", record, TIMES[number % 3])
    return chain


def texts(directory: Path) -> list[str]:
    return (directory / "CHAIN.jsonl").read_text().splitlines()


def rewrite(directory: Path, lines: list[str]) -> None:
    (directory / "CHAIN.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_chain_that_was_only_written_has_no_faults(tmp_path: Path) -> None:
    chain = chained(tmp_path)
    assert read_chain(tmp_path) == chain
    assert (chain.faults, chain.unfinished) == ((), ())
    lines = texts(tmp_path)
    assert json.loads(lines[1]) == {
        "seq": 2,
        "event": "recorded",
        "run": "run-1",
        "record_sha256": "b" * 64,
        "time": TIMES[1],
        "prev": hashlib.sha256(lines[0].encode()).hexdigest(),
    }
    last = hashlib.sha256(lines[2].encode()).hexdigest()
    assert (tmp_path / "HEAD").read_text() == f"3:{last}\n"
    assert chain.head == Head(3, last)
    assert chain.parent_of(chain.lines[0]) is None
    assert chain.parent_of(chain.lines[2]) == "b" * 64


def test_no_chain_is_an_empty_chain(tmp_path: Path) -> None:
    chain = read_chain(tmp_path)
    assert (chain.lines, chain.faults, chain.unfinished, chain.head) == ((), (), (), None)


def test_a_withdrawal_stays_beside_what_it_withdraws(tmp_path: Path) -> None:
    chain = append(chained(tmp_path), "withdrawn", "run-1", "b" * 64, TIMES[0], "other tokens")
    assert read_chain(tmp_path) == chain
    line = chain.withdrawn("b" * 64)
    assert line is not None
    assert line.reason == "other tokens"
    assert chain.withdrawn("a" * 64) is None
    assert len(chain.recorded) == 3


def edit_middle(lines: list[str]) -> list[str]:
    return [lines[0], lines[1].replace("run-1", "run-9"), lines[2]]


TAMPERED: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "E1 the middle line is edited": (edit_middle, "line 3 names"),
    "E2 the last line is edited": (
        lambda lines: [*lines[:2], lines[2].replace("run-2", "run-9")],
        "HEAD: names line 3:",
    ),
    "E3 the last line is deleted": (lambda lines: lines[:2], "HEAD: names line 3:"),
    "E3 the middle line is deleted": (
        lambda lines: [lines[0], lines[2]],
        "line 2 has seq 3, should be 2",
    ),
    "E3 all lines are deleted": (lambda lines: [], "is empty or missing"),
    "E4 two lines are swapped": (
        lambda lines: [lines[1], lines[0], lines[2]],
        "line 1 has seq 2, should be 1",
    ),
    "E5 a line is inserted": (
        lambda lines: [lines[0], lines[0].replace("run-0", "run-9"), *lines[1:]],
        "line 2 has seq 1, should be 2",
    ),
    "E8 a key is there twice": (
        lambda lines: [lines[0].replace("{", '{"run":"x",', 1), *lines[1:]],
        "holds a duplicate key",
    ),
    "E8 a number is NaN": (
        lambda lines: [lines[0].replace('"seq":1', '"seq":NaN'), *lines[1:]],
        "holds NaN",
    ),
    "E8 a number is beyond all": (
        lambda lines: [lines[0].replace('"seq":1', '"seq":1e400'), *lines[1:]],
        "holds 1e400",
    ),
    "E8 a byte order mark": (lambda lines: ["\ufeff" + lines[0], *lines[1:]], "line 1: cannot be"),
    "E8 line ends of another system": (
        lambda lines: [f"{line}\r" for line in lines],
        "not in canonical form",
    ),
    "E8 nested without end": (lambda lines: ["[" * 100_000, *lines], "line 1: cannot be read"),
    "E8 an unknown event": (
        lambda lines: [lines[0].replace("recorded", "approved"), *lines[1:]],
        "not in canonical form",
    ),
    "E8 an unknown key": (
        lambda lines: [lines[0].replace("{", '{"note":"x",', 1), *lines[1:]],
        "line 1 has other fields than a line of a chain",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_named_and_nothing_is_written_after_it(tmp_path: Path, case: str) -> None:
    edit, expected = TAMPERED[case]
    chained(tmp_path)
    rewrite(tmp_path, edit(texts(tmp_path)))
    before = (tmp_path / "CHAIN.jsonl").read_bytes()
    chain = read_chain(tmp_path)
    assert any(expected in fault for fault in chain.faults), chain.faults
    with pytest.raises(BrokenChainError):
        append(chain, "recorded", "run-3", "d" * 64, TIMES[0])
    assert (tmp_path / "CHAIN.jsonl").read_bytes() == before


def test_a_removed_or_garbled_head_is_named(tmp_path: Path) -> None:
    chained(tmp_path)
    (tmp_path / "HEAD").write_text("newest\n")
    assert "'newest' names no head" in read_chain(tmp_path).faults[0]
    (tmp_path / "HEAD").unlink()
    assert read_chain(tmp_path).faults == ("HEAD: missing, CHAIN.jsonl has lines: 3",)


def test_a_rewritten_chain_is_sound_and_contradicts_a_pin(tmp_path: Path) -> None:
    """E6: nothing in the directory shows it; what was noted elsewhere does."""
    pin = chained(tmp_path).head
    assert pin is not None
    (tmp_path / "CHAIN.jsonl").unlink()
    (tmp_path / "HEAD").unlink()
    forged = chained(tmp_path, ("a" * 64, "d" * 64, "c" * 64))
    assert read_chain(tmp_path).faults == ()
    assert forged.contradiction(pin) is not None
    assert "a pin says" in str(forged.contradiction(pin))
    assert forged.contradiction(Head(4, pin.sha256)) == (
        "CHAIN.jsonl: ends with line 3, a pin names line 4"
    )


def test_a_chain_that_grew_still_agrees_with_an_old_pin(tmp_path: Path) -> None:
    pin = chained(tmp_path, RECORDS[:2]).head
    assert pin is not None
    grown = append(read_chain(tmp_path), "recorded", "run-2", RECORDS[2], TIMES[2])
    assert grown.contradiction(pin) is None


def test_a_crash_between_line_and_head_is_completed(tmp_path: Path) -> None:
    chain = chained(tmp_path)
    (tmp_path / "HEAD").write_text(f"{chain.lines[1].head}\n")
    found = read_chain(tmp_path)
    assert found.faults == ()
    assert found.unfinished == ("HEAD: names line 2, CHAIN.jsonl goes on to 3",)
    complete(found)
    assert read_chain(tmp_path) == chain


def test_a_crash_within_a_line_is_completed_without_touching_the_others(tmp_path: Path) -> None:
    chain = chained(tmp_path)
    whole = (tmp_path / "CHAIN.jsonl").read_bytes()
    (tmp_path / "CHAIN.jsonl").write_bytes(whole + b'{"event":"reco')
    found = read_chain(tmp_path)
    assert found.faults == ()
    assert found.unfinished == ("CHAIN.jsonl: line 4 is not complete",)
    complete(found)
    assert (tmp_path / "CHAIN.jsonl").read_bytes() == whole
    assert read_chain(tmp_path) == chain


def test_a_crash_before_the_first_head_is_completed(tmp_path: Path) -> None:
    chain = chained(tmp_path, RECORDS[:1])
    (tmp_path / "HEAD").unlink()
    assert read_chain(tmp_path).unfinished == ("HEAD: missing, CHAIN.jsonl has lines: 1",)
    complete(read_chain(tmp_path))
    assert read_chain(tmp_path) == chain


def test_a_clock_that_went_back_is_recorded_and_the_order_is_that_of_the_lines(
    tmp_path: Path,
) -> None:
    """E11."""
    chain = append(read_chain(tmp_path), "recorded", "first", "a" * 64, TIMES[2])
    chain = append(chain, "recorded", "second", "b" * 64, TIMES[0])
    found = read_chain(tmp_path)
    assert found.faults == ()
    assert [line.time for line in found.lines] == [TIMES[2], TIMES[0]]
    assert [line.seq for line in found.lines] == [1, 2]


@pytest.mark.parametrize("text", ["", "3", "0:" + "a" * 64, "3:" + "A" * 64, "3:" + "a" * 63])
def test_text_that_names_no_head_is_refused(text: str) -> None:
    with pytest.raises(WrongHeadError):
        parse_head(text)


def test_a_head_reads_as_it_is_written() -> None:
    head = Head(12, "0123456789abcdef" * 4)
    assert parse_head(f"{head}\n") == head
