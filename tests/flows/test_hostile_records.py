"""Commands about a run whose records somebody has written by hand: a sentence and a code."""

from typing import Any

import pytest

from flows.cli import run
from tests.tasks.tampering import reseal
from tests.tasks.tiny import Finished

COMMANDS = ("report", "export", "status", "inspect", "compare", "audit", "runs")
PLAN, RECORD, STAGE = "plan.json", "metadata.json", "train.metadata.json"
EPOCH, CHAIN, HEAD = "epoch-000.metadata.json", "../CHAIN.jsonl", "../HEAD"
BYTES = {
    "nothing": b"",
    "a list": b"[]",
    "an empty object": b"{}",
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a":' + b"[" * 100_000,
    "a long number": b'{"a": ' + b"9" * 6000 + b"}",
    "nulls": bytes(1000),
}
SEALED: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "a digest that is none": (RECORD, ("files", "plan.json"), None),
    "files that are none": (RECORD, ("files",), [[]]),
    "gates that are none": (RECORD, ("gates",), {"x": 1}),
    "an outcome of no kind": (RECORD, ("outcome",), ["completed"]),
    "refs that are none": (RECORD, ("refs",), 5),
    "inputs that are none": (STAGE, ("recipe", "inputs"), 1e308),
    "a recipe that is none": (STAGE, ("recipe",), "x"),
    "measurements that are none": (STAGE, ("measurements",), [1]),
    "an output that is a path": (STAGE, ("output",), "../../x"),
    "a time that is none": (STAGE, ("started",), -1),
    "an error that is none": (STAGE, ("error",), "x"),
    "settings that are none": (PLAN, ("settings",), None),
    "a request that is none": (PLAN, ("request",), [{"flow": 1}]),
    "packages that are none": (PLAN, ("provenance", "packages"), True),
    "a loss that is none": (EPOCH, ("val_loss",), {}),
}


def refused(finished: Finished, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """Run every command, hold what it says to the form of a sentence, and return the codes."""
    codes = {}
    for command in COMMANDS:
        subject = str(finished.run.directory) if command == "audit" else finished.run.name
        line = {"runs": [command], "compare": [command, subject, subject]}
        codes[command] = run(line.get(command, [command, subject]))
        said = capsys.readouterr().err
        if codes[command]:
            assert "Traceback" not in said
            assert "error: " in said or command == "audit"
    return codes


@pytest.mark.parametrize("file", [PLAN, RECORD, STAGE, EPOCH, CHAIN, HEAD])
def test_bytes_that_are_no_record_are_refused(
    copied: Finished, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    for content in BYTES.values():
        (copied.run.directory / file).write_bytes(content)
        assert set(refused(copied, capsys).values()) <= {0, 3, 4, 5}


@pytest.mark.parametrize(("file", "keys", "value"), SEALED.values(), ids=SEALED)
def test_sealed_records_of_another_shape_are_refused(
    copied: Finished,
    capsys: pytest.CaptureFixture[str],
    file: str,
    keys: tuple[str, ...],
    value: Any,
) -> None:
    def forge(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    reseal(copied.run.directory / file, forge)

    codes = refused(copied, capsys)

    assert set(codes.values()) <= {0, 3, 4, 5}
    if file != EPOCH and value != "../../x":
        assert codes["export"] == 4
        assert codes["report"] == (4 if file == PLAN else 0)
