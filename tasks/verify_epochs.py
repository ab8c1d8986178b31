"""Verify the epochs of a training: every figure again, from the step log, the files, the shards."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.rows import open_rows
from data.shard import ShardsIndex
from evidence.canonical import file_sha256
from evidence.records import epoch_fields
from evidence.refs import parse_ref
from model.loss_statistics import bits_per_byte
from model.train_settings import TrainSettings
from model.training_state import OPTIMIZER_FILE
from tasks import train_measure
from tasks.epoch_end import COMPARED
from tasks.run_record import Run
from tasks.schemas import schema_fault
from tasks.snapshots import FILES, Snapshot, complete_snapshots
from tasks.store import Artefact, open_store
from tasks.train_judge import watch_epochs
from tasks.training_log import TRAIN_LOG, read_rows
from tasks.val_losses import ValLosses
from tasks.validation import Validation
from tasks.verify_report import Report

SHARDS = "shards"


def check_epochs(report: Report, run: Run, record: Mapping[str, Any], artefact: Artefact) -> None:
    """Recompute what every epoch's record says."""
    rows = read_rows(artefact.directory / TRAIN_LOG)
    settings = json.loads((artefact.directory / train_measure.SETTINGS).read_text())
    _, compared = watch_epochs(artefact.directory, TrainSettings(**settings["train"]))
    text = _text(report, record["recipe"]["inputs"][SHARDS])
    previous = 0
    for snapshot, judged in zip(complete_snapshots(artefact.directory), compared, strict=True):
        name, said = snapshot.record.name, snapshot.read()
        own = [row for row in rows if previous < row["step"] <= said["step"]]
        tokens_seen = sum(row["tokens"] for row in rows if row["step"] <= said["step"])
        found = {
            **_recomputed(snapshot, own, tokens_seen),
            **{key: judged.get(key) for key in COMPARED},
            SHARDS: record["recipe"]["inputs"][SHARDS],
            **_in_text(snapshot, own, text),
        }
        for key, value in found.items():
            report.compare(name, key, value, said.get(key))
        fault = schema_fault("epoch", said)
        report.check(holds=fault is None, failure=f"{name}: {fault}")
        copy = run.directory / name
        report.check(
            holds=copy.is_file() and copy.read_bytes() == snapshot.record.read_bytes(),
            failure=f"{name}: not the record that the training left",
        )
        previous = said["step"]


@dataclass(frozen=True, slots=True)
class _Text:
    """What only the shards tell."""

    val_bytes: int
    num_rows: int


def _text(report: Report, ref: str) -> _Text | None:
    """Read what the training read; that it may have been removed since is no failure."""
    try:
        shards = open_store().peek(parse_ref(ref))
    except OSError:
        report.notes.append(f"{ref[:19]} is gone: an epoch's bits per byte and passes stay as said")
        return None
    index = shards.read_index(ShardsIndex)
    validation = Validation.open(shards.directory, index, device="cpu", document_end=None)
    return _Text(validation.num_bytes, len(open_rows(shards.directory, index, "train")))


def _recomputed(
    snapshot: Snapshot, rows: list[dict[str, Any]], tokens_seen: int
) -> dict[str, object]:
    val = ValLosses.read(snapshot.state).statistics()
    fields = epoch_fields(
        epoch=snapshot.epoch,
        train_losses=[row["train_loss"] for row in rows],
        val_loss=val.mean_nats,
        optimizer_state_sha=file_sha256(snapshot.state / OPTIMIZER_FILE),
        wall_seconds=sum(row["wall_seconds"] for row in rows),
        tokens_seen=tokens_seen,
        grad_norms=[row["grad_norm"] for row in rows],
    )
    return {
        **fields,
        "val_loss_standard_error": val.standard_error_nats,
        "val_tokens": val.num_tokens,
        "val_documents": val.num_documents,
        "learning_rate": rows[-1]["learning_rate"],
        "cursor_rows": rows[-1]["cursor_rows"],
        "tokens_per_second": sum(row["tokens"] for row in rows)
        / sum(row["wall_seconds"] for row in rows),
        FILES: snapshot.digests(),
    }


def _in_text(
    snapshot: Snapshot, rows: list[dict[str, Any]], text: _Text | None
) -> dict[str, float]:
    """Recompute what depends on the text and on the number of rows."""
    if text is None:
        return {}
    val = ValLosses.read(snapshot.state).statistics()
    return {
        "val_bits_per_byte": bits_per_byte(val.mean_nats, val.num_tokens, text.val_bytes),
        "corpus_passes": rows[-1]["cursor_rows"] / text.num_rows,
    }
