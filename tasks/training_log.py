"""`train.jsonl`: one line a step, appended as it happens, read while it grows."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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
                yield json.loads(line)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a whole log."""
    return list(LogTail(path).rows())


def append_row(file: IO[str], row: dict[str, Any]) -> None:
    """Append a row and hand it to the operating system, so that a reader sees it."""
    file.write(json.dumps(row, allow_nan=False) + "\n")
    file.flush()


def truncate(path: Path, step: int) -> None:
    """Drop the rows after a step: work that the resumed training will do again."""
    if not path.is_file():
        return
    kept = [row for row in read_rows(path) if row["step"] <= step]
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        for row in kept:
            append_row(file, row)
    partial.replace(path)
