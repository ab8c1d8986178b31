"""Recipes and records: what was asked, and what happened.

A record is a JSON file written once. Its last key, `record_sha256`, is the digest of everything
before it, so an edit shows without any other file; a run's record lists the sha256 of every other
file of its directory, and names its predecessor.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence.canonical import digest, pretty, read_object
from evidence.errors import BrokenSealError, MalformedJsonError

STAGE_SCHEMA = "assay.stage/1"
RUN_SCHEMA = "assay.run/1"
RUN_RECORD = "metadata.json"
SEAL = "record_sha256"

STAGES = ("pretokenize", "shard", "train", "evaluate", "checkpoint", "bisect")

EPOCH_FIELDS = (
    "epoch",
    "train_loss",
    "val_loss",
    "train_ppl",
    "val_ppl",
    "optimizer_state_sha",
    "wall_seconds",
    "tokens_seen",
    "grad_norm_max",
)
"The reference's nine fields, in its order."


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that determines a stage's result; its digest is the cache key."""

    stage: str
    version: int
    settings: Mapping[str, object]
    inputs: Mapping[str, str]
    "Input name to the ref or digest of its content."

    def as_record(self) -> dict[str, object]:
        """Write the recipe as plain values."""
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
        }

    @property
    def digest(self) -> str:
        """The sha256 of the recipe's canonical JSON."""
        return digest(self.as_record())


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two recipes differ."""

    key: str
    before: object
    after: object


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[Difference]:
    """List what differs between two plain mappings, by dotted key."""
    left, right = flatten(before), flatten(after)
    return [
        Difference(key, left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def flatten(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Turn nested mappings into one mapping with dotted keys."""
    flat: dict[str, object] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(item) if isinstance(item, tuple) else item
    return flat


def epoch_fields(
    *,
    epoch: int,
    train_losses: Sequence[float],
    val_loss: float,
    optimizer_state_sha: str,
    wall_seconds: float,
    tokens_seen: int,
    grad_norms: Sequence[float],
) -> dict[str, object]:
    """Compute the nine fields of an epoch from its steps.

    Units: losses in nats per token.
    """
    train_loss = math.fsum(train_losses) / len(train_losses)
    values = (
        epoch,
        train_loss,
        val_loss,
        math.exp(train_loss),
        math.exp(val_loss),
        optimizer_state_sha,
        wall_seconds,
        tokens_seen,
        max(grad_norms),
    )
    return dict(zip(EPOCH_FIELDS, values, strict=True))


def seal(record: Mapping[str, object]) -> dict[str, object]:
    """Add the record's own digest as its last key."""
    return {**record, SEAL: digest(record)}


def write_record(path: Path, record: Mapping[str, object]) -> dict[str, object]:
    """Seal a record and write it at once: the file is whole or absent."""
    sealed = seal(record)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(pretty(sealed))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return sealed


def read_record(path: Path) -> dict[str, object]:
    """Read a record and check its seal, and that it is written as `write_record` does.

    Raises: MalformedJsonError, BrokenSealError.
    """
    record = read_object(path)
    body = {key: value for key, value in record.items() if key != SEAL}
    recorded, found = str(record.get(SEAL)), digest(body)
    if recorded != found:
        raise BrokenSealError(str(path), recorded[:12], found[:12])
    if path.read_bytes() != pretty(record):
        raise MalformedJsonError(str(path), "is not laid out as a record is")
    return record


def stage_file(stage: str) -> str:
    """Name a stage's record inside a run's directory."""
    return f"{stage}.metadata.json"


def epoch_file(epoch: int) -> str:
    """Name an epoch's record inside a run's directory."""
    return f"epoch-{epoch:03d}.metadata.json"
