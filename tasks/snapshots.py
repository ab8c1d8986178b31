"""Snapshots: what training leaves at the end of every epoch, and where it was told to stop.

`ckpt/epoch-NNN.apr` holds the weights, `epoch-NNN.state/` the optimizer, the random state and the
data cursor, and `epoch-NNN.metadata.json`, written last, makes the epoch complete. A snapshot in
the middle of an epoch is named `step-NNNNNNNN` and goes when the next epoch is complete.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.canonical import file_sha256
from evidence.records import read_record
from model.apr_model import read_model, write_model
from model.llama import LlamaSettings
from model.state_copy import StateCopy, require_same
from tasks.directories import sync, sync_directory
from tasks.train_errors import SnapshotDamagedError

SNAPSHOTS = "ckpt"
MAX_EPOCHS = 1000
"As many as the three digits of a snapshot's name can tell apart."
EPOCH = re.compile(r"epoch-[0-9]{3}")
"The name of a snapshot at the end of an epoch."
FILES = "files"
"The key of a record that holds the sha256 of every other file of the snapshot."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one moment."""

    directory: Path
    name: str

    @classmethod
    def of_epoch(cls, directory: Path, epoch: int) -> "Snapshot":
        """Name the snapshot at the end of an epoch."""
        return cls(directory, f"epoch-{epoch:03d}")

    @classmethod
    def of_step(cls, directory: Path, step: int) -> "Snapshot":
        """Name the snapshot after a step in the middle of an epoch."""
        return cls(directory, f"step-{step:08d}")

    @property
    def epoch(self) -> int:
        """The epoch that it ends."""
        return int(self.name.removeprefix("epoch-"))

    @property
    def weights(self) -> Path:
        """The weights as `.apr`."""
        return self.directory / f"{self.name}.apr"

    @property
    def state(self) -> Path:
        """The directory of everything else that resuming needs."""
        return self.directory / f"{self.name}.state"

    @property
    def record(self) -> Path:
        """The record; its presence makes the snapshot complete."""
        return self.directory / f"{self.name}.metadata.json"

    def read(self) -> dict[str, Any]:
        """Read the record."""
        return read_record(self.record)

    def digests(self) -> dict[str, str]:
        """Compute the sha256 of every file but the record, by its path beside it."""
        paths = [self.weights, *sorted(self.state.glob("*"))]
        return {
            path.relative_to(self.directory).as_posix(): file_sha256(path)
            for path in paths
            if path.is_file()
        }

    def require_whole(self) -> dict[str, Any]:
        """Read the record and hold every file to it.

        Raises: SnapshotDamagedError, BrokenSealError, MalformedJsonError.
        """
        record, found = self.read(), self.digests()
        for name, expected in record[FILES].items():
            if found.get(name) != expected:
                is_now = f"sha256 {found[name][:12]}" if name in found else "no file"
                raise SnapshotDamagedError(self.directory / name, is_now, expected[:12], self.name)
        return record

    def remove(self) -> None:
        """Remove it, the record first: half a snapshot is none."""
        self.record.unlink()
        self.weights.unlink(missing_ok=True)
        shutil.rmtree(self.state, ignore_errors=True)


def write_snapshot(
    snapshot: Snapshot,
    copy: StateCopy,
    llama: LlamaSettings,
    *,
    tokenizer_json: str,
    source: str,
    write_more: Callable[[Path], None],
) -> dict[str, str]:
    """Write all but the record: under another name, synced, read again, and only then renamed.

    `write_more` adds to the directory of the state.

    Returns the sha256 of every file.

    Raises: CorruptFileError if the disk gives back another bit than it was given.
    """
    work = snapshot.directory / f".{snapshot.name}.partial"
    weights, state = work / snapshot.weights.name, work / snapshot.state.name
    shutil.rmtree(work, ignore_errors=True)
    state.mkdir(parents=True)
    write_model(
        weights,
        llama,
        copy.weights,
        tokenizer_json=tokenizer_json,
        provenance={"name": f"step-{copy.step}", "source": source},
    )
    copy.save(state)
    write_more(state)
    sync(work)
    _forget(weights, *state.iterdir())
    require_same(weights, read_model(weights)[1], copy.weights)
    copy.require_saved(state)
    digests = Snapshot(work, snapshot.name).digests()
    for path in (weights, state):
        path.rename(snapshot.directory / path.name)
    work.rmdir()
    sync_directory(snapshot.directory)
    return digests


def _forget(*paths: Path) -> None:
    """Have files read from the disk next time, not from the memory that cached them."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def complete_snapshots(training: Path) -> list[Snapshot]:
    """List the complete epochs of a training directory, oldest first."""
    return _complete(training, "epoch-[0-9][0-9][0-9]")


def latest_snapshot(training: Path) -> Snapshot | None:
    """Return the complete snapshot that training came farthest to, in an epoch or at its end."""
    found = [*complete_snapshots(training), *stopped_snapshots(training)]
    return max(found, key=lambda each: int(each.read()["cursor_rows"]), default=None)


def stopped_snapshots(training: Path) -> list[Snapshot]:
    """List the complete snapshots in the middle of epochs, oldest first."""
    return _complete(training, "step-" + "[0-9]" * 8)


def _complete(training: Path, pattern: str) -> list[Snapshot]:
    directory, suffix = training / SNAPSHOTS, ".metadata.json"
    found = sorted(directory.glob(f"{pattern}{suffix}"))
    return [Snapshot(directory, path.name.removesuffix(suffix)) for path in found]


def best_record(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the epoch of the lowest validation loss, the earliest of equals."""
    return min(records, key=lambda record: float(record["val_loss"]))


def drop_incomplete(training: Path) -> None:
    """Remove what a killed process left of an unfinished snapshot."""
    found = [*complete_snapshots(training), *stopped_snapshots(training)]
    kept = {path for each in found for path in (each.weights, each.state, each.record)}
    for path in (training / SNAPSHOTS).glob("*"):
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
