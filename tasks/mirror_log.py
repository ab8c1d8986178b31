"""What the mirror sends for each part of a run, as plain values.

Everything here is read from the evidence and from artefacts; nothing is known to MLflow alone.
"""

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.records import flatten
from tasks.snapshots import Snapshot, complete_snapshots
from tasks.step_watch import GPU_FIELDS, MFU
from tasks.telemetry import TELEMETRY
from tasks.training_log import TRAIN_LOG, LogTail, read_rows

STEP_METRICS = (
    "train_loss",
    "grad_norm",
    "update_norm",
    "learning_rate",
    "tokens_per_second",
    "tokens_seen",
)
DEVICE_METRICS = (MFU, *sorted(GPU_FIELDS))
"What not every device tells."
TREND_METRICS = (
    "val_loss",
    "val_loss_standard_error",
    "val_perplexity",
    "val_bits_per_byte",
    "loss_to_five_gram",
)
"What every epoch's evaluation adds to the trend of its run."
EPOCH_METRICS = ("val_loss", "val_bits_per_byte", "val_loss_standard_error", "corpus_passes")


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


def step_points(training: Path, after_step: int) -> Iterator[Point]:
    """Yield the metrics of every step after the last one sent."""
    for row in read_rows(training / TRAIN_LOG):
        if row["step"] > after_step:
            for key in (*STEP_METRICS, *(key for key in DEVICE_METRICS if key in row)):
                yield Point(key, row[key], int(row["time"] * 1000), row["step"])


def epoch_points(training: Path, after_epoch: int) -> Iterator[tuple[Snapshot, list[Point]]]:
    """Yield each epoch after the last one sent, with its metrics at its last step."""
    for snapshot in complete_snapshots(training):
        if snapshot.epoch > after_epoch:
            record = snapshot.read()
            time_ms = int(snapshot.record.stat().st_mtime * 1000)
            yield (
                snapshot,
                [
                    Point(key, record[key], time_ms, record["step"])
                    for key in EPOCH_METRICS
                    if record[key] is not None
                ],
            )


def system_points(training: Path, after_sample: int) -> list[Point]:
    """List the machine's samples after the last one sent, under MLflow's system metric names."""
    rows = list(LogTail(training / TELEMETRY).rows())
    return [
        Point(f"system/{key}", value, int(row["time"] * 1000), number)
        for number, row in enumerate(rows, start=1)
        if number > after_sample
        for key, value in row.items()
        if key != "time"
    ]


def result_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Name a stage's measurements so that two runs compare on the same names."""
    measured = {
        f"{record['stage']}.{name}": float(value)
        for name, value in record["measurements"].items()
        if isinstance(value, int | float)
    }
    return {**measured, f"{record['stage']}.wall_seconds": float(record["wall_seconds"])}


def trend_points(record: Mapping[str, Any], epoch: int) -> list[Point]:
    """List what an epoch's evaluation adds to the trend of its run, at the epoch."""
    time_ms = milliseconds(record["started"])
    measured = record["measurements"]
    return [
        Point(name, measured[name], time_ms, epoch)
        for name in TREND_METRICS
        if measured.get(name) is not None
    ]


def params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Write settings as parameters."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flatten(settings).items()
    }


def milliseconds(time: str) -> int:
    """Convert a record's time to MLflow's."""
    return int(datetime.datetime.fromisoformat(time).timestamp() * 1000)
