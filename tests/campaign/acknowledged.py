"""What a run has acknowledged: whatever it said was done must still be there, byte for byte."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evidence.canonical import file_sha256

KINDS = ("tokens", "shards", "training", "evaluation", "checkpoint", "trace", "units")
SNAPSHOT_RECORD = "ckpt/*.metadata.json"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Files that are complete by the rules of the store, of snapshots and of evidence."""

    files: dict[str, tuple[int, str]]
    "Bytes and sha256 by path."
    snapshots: dict[str, tuple[int, str]]
    "The same of unfinished trainings' snapshots of epochs, by name within the training."
    chain: bytes


def acknowledged(home: Path) -> Acknowledged:
    """List what must not be lost from here on."""
    files = {
        str(path.relative_to(home)): _content(path)
        for path in (*_stored(home), *_recorded(home))
        if path.is_file()
    }
    snapshots = {
        str(path.relative_to(training)): _content(path)
        for training in (home / "store" / "tmp").glob("train-*")
        if training.is_dir()
        for path in _snapshots(training)
    }
    chain = home / "evidence" / "CHAIN.jsonl"
    whole, _, _torn = chain.read_bytes().rpartition(b"\n") if chain.is_file() else (b"", b"", b"")
    return Acknowledged(files, snapshots, whole)


def lost_bytes(before: Acknowledged, home: Path, training: Path | None) -> int:
    """Count the bytes that were acknowledged and are not there any more.

    Units may be thrown away and made again: what they were is compared, not when.
    """
    lost = 0
    for name, said in before.files.items():
        lost += _lost(home / name, said)
    for name, said in before.snapshots.items():
        lost += _lost(training / name, said) if training else said[0]
    if not (home / "evidence" / "CHAIN.jsonl").read_bytes().startswith(before.chain):
        lost += len(before.chain)
    return lost


def _stored(home: Path) -> Iterator[Path]:
    """Yield the files of complete artefacts and units: those that have their name."""
    for kind in KINDS:
        for index in (home / "store" / kind).glob("*/*/*.json"):
            if index.name in ("index.json", "unit.json"):
                yield from (path for path in index.parent.rglob("*") if path.is_file())


def _recorded(home: Path) -> Iterator[Path]:
    """Yield what the records of ended runs list, and the records."""
    for record in (home / "evidence").glob("*/metadata.json"):
        yield record
        yield from (record.parent / name for name in json.loads(record.read_bytes())["files"])


def _snapshots(training: Path) -> Iterator[Path]:
    for record in training.glob(SNAPSHOT_RECORD):
        if record.name.startswith("epoch-"):
            yield record
            yield from (record.parent / name for name in json.loads(record.read_bytes())["files"])


def _lost(path: Path, said: tuple[int, str]) -> int:
    return 0 if path.is_file() and _content(path) == said else said[0]


def _content(path: Path) -> tuple[int, str]:
    return path.stat().st_size, file_sha256(path)
