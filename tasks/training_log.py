"""`train.jsonl`: one line a step or a spike, appended as it happens, read while it grows.

Rows consumed only ever grow from line to line, also where a spike undid steps: the lines of steps
that were undone stay, and the line of the spike says back to which step it went.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from tasks.step_watch import BACK_TO, SPIKE

TRAIN_LOG = "train.jsonl"


@dataclass(slots=True)
class LogTail:
    """Reads the lines that were added since the last look."""

    path: Path
    _offset: int = 0
    _file: int = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows completed since the last call; a line still being written waits."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if number != self._file:
                # A resumed training replaced the log: what was read is no longer in it.
                self._file, self._offset = number, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield orjson.loads(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a whole log as it was written."""
    return list(LogTail(path).rows())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the steps of which a training is made: those that no spike undid."""
    return steps_of(read_lines(path))


def steps_of(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps among a log's lines that no spike undid."""
    steps: list[dict[str, Any]] = []
    for line in lines:
        if BACK_TO in line:
            steps = [step for step in steps if step["step"] <= line[BACK_TO]]
        if SPIKE not in line:
            steps.append(line)
    return steps


def read_spikes(path: Path) -> list[dict[str, Any]]:
    """Read the batches that were not learnt from."""
    return spikes_of(read_lines(path))


def spikes_of(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the spikes among a log's lines."""
    return [line for line in lines if SPIKE in line]


def append_row(file: IO[str], row: dict[str, Any]) -> None:
    """Append a row and hand it to the operating system, so that a reader sees it."""
    file.write(json.dumps(row, allow_nan=False) + "\n")
    file.flush()


def truncate(path: Path, cursor_rows: int) -> None:
    """Drop the lines after a cursor: work that the resumed training will do again."""
    if not path.is_file():
        return
    kept = [line for line in read_lines(path) if line["cursor_rows"] <= cursor_rows]
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        for line in kept:
            append_row(file, line)
    partial.replace(path)
