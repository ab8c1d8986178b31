"""Snapshots: what training leaves at the end of every epoch.

`ckpt/epoch-NNN.apr` holds the weights, `epoch-NNN.state/` the optimizer, the random state and the
data cursor, and `epoch-NNN.metadata.json`, written last, makes the epoch complete.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.records import read_record

SNAPSHOTS = "ckpt"
MAX_EPOCHS = 1000
"As many as the three digits of a snapshot's name can tell apart."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One epoch's files."""

    directory: Path
    epoch: int

    @property
    def weights(self) -> Path:
        """The weights as `.apr`."""
        return self.directory / f"epoch-{self.epoch:03d}.apr"

    @property
    def state(self) -> Path:
        """The directory of everything else that resuming needs."""
        return self.directory / f"epoch-{self.epoch:03d}.state"

    @property
    def record(self) -> Path:
        """The epoch's record; its presence makes the snapshot complete."""
        return self.directory / f"epoch-{self.epoch:03d}.metadata.json"

    def read(self) -> dict[str, Any]:
        """Read the epoch's record."""
        return read_record(self.record)


def complete_snapshots(training: Path) -> list[Snapshot]:
    """List the complete snapshots of a training directory, oldest first."""
    directory = training / SNAPSHOTS
    epochs = (
        int(path.name[6:9])
        for path in sorted(directory.glob("epoch-[0-9][0-9][0-9].metadata.json"))
    )
    return [Snapshot(directory, epoch) for epoch in epochs]


def best_record(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the epoch of the lowest validation loss, the earliest of equals."""
    return min(records, key=lambda record: float(record["val_loss"]))


def drop_incomplete(training: Path) -> None:
    """Remove what a killed process left of an unfinished epoch."""
    complete = {snapshot.epoch for snapshot in complete_snapshots(training)}
    for path in (training / SNAPSHOTS).glob("*"):
        number = path.name.removeprefix(".").removeprefix("epoch-")[:3]
        if not number.isdigit() or int(number) not in complete or path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
