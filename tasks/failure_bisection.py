"""Look for the fault of a run whose training or evaluation failed a gate: without Prefect.

The last snapshot is held to the model that was in the trainer's memory, operation by operation and
bit for bit, and to transformers with the same weights; where that is not installed, to the plain
implementation. The first says whether what was saved is what was trained, the second whether what
was trained is the model that was meant: with neither, data and settings are left.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.rows import open_rows
from data.shard import ShardsIndex
from data.tokenizer import TOKENIZER, Tokenizer
from evidence.canonical import finite, pretty
from evidence.records import SEAL, write_record
from evidence.refs import parse_ref
from model.apr_model import read_model
from model.bisection import FAULT, NO_FAULT, bisect
from model.bisection_text import bisection_text
from model.hugging_face import write_directory
from model.self_check import forward_error
from model.taps import trace
from tasks.errors import FeatureError
from tasks.logins import without_login
from tasks.model_bisection import write_bisection
from tasks.models import load_apr
from tasks.probe import probe_ids, read_fingerprint
from tasks.recorded_training import RecordedTraining
from tasks.recording import recording_the_end
from tasks.run_record import Run, start_run
from tasks.sides import TRANSFORMERS, open_side
from tasks.snapshots import Snapshot, best_record, complete_snapshots
from tasks.store import open_store

LINK = "after-failure.json"
"""In the evidence of the run that failed: where its bisection is, and what that said."""
FOUND = "failure.json"
NO_SNAPSHOT = "no snapshot to compare: the training failed before its first epoch was saved"
UNLIKE_MEMORY = "the snapshot is not the model that was trained"
PLAIN_TOKENS = 16
MAX_PLAIN_ERROR = 1e-4
"""Relative L2 of logits; float32 leaves a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What a bisection after a failure left."""

    run: Run
    verdict: str


def bisect_failure(failed: Run, cause: str, device: str) -> Explained:
    """Compare the snapshot that a failed run judged with what it should be, and record it.

    Raises: NotFoundError if it trained nothing, and those of reading a model.
    """
    training = RecordedTraining.of(failed.name)
    request = {"flow": "bisect a failure", "failed_run": failed.name, "cause": cause}
    run = start_run(f"{failed.name}-bisect", {}, {**request, "device": device})
    with recording_the_end(run):
        snapshot = _judged_snapshot(training, cause)
        found: dict[str, Any] = {"verdict": NO_SNAPSHOT}
        if snapshot is not None:
            snapshot.require_whole()
            found = _compare(run, training, snapshot, device)
        (run.directory / FOUND).write_bytes(pretty(finite(found)))
    return Explained(run, str(found["verdict"]))


def link(failed: Run, cause: str, explained: Explained | None, error: str | None) -> dict[str, Any]:
    """Write into a failed run's evidence where its bisection is, or why there is none."""
    told: dict[str, Any] = {"cause": cause, "error": error and without_login(error)}
    if explained:
        record = explained.run.record() or {}
        told |= {
            "run": explained.run.name,
            "run_record_sha256": record.get(SEAL),
            "verdict": explained.verdict,
        }
    return write_record(failed.directory / LINK, told)


def _judged_snapshot(training: RecordedTraining, cause: str) -> Snapshot | None:
    """Return the snapshot that an evaluation scored, or else the last one."""
    snapshots = complete_snapshots(training.directory)
    if not snapshots:
        return None
    if not cause.startswith("evaluate"):
        return snapshots[-1]
    best = best_record([each.read() for each in snapshots])["epoch"]
    return next(each for each in snapshots if each.epoch == best)


def _compare(
    run: Run, training: RecordedTraining, snapshot: Snapshot, device: str
) -> dict[str, Any]:
    shards = open_store().open(parse_ref(training.shards))
    index = shards.read_index(ShardsIndex)
    ids_BT = probe_ids(open_rows(shards.directory, index, "val"))
    differing = _unlike_memory(snapshot, ids_BT, device)
    told: dict[str, Any] = {
        "snapshot": snapshot.name,
        "sites_unlike_memory": differing,
        "ids": ids_BT.tolist(),
    }
    try:
        verdict = _against_transformers(run, shards.directory, snapshot, ids_BT, device)
    except FeatureError as error:
        distance = _plain_error(snapshot, ids_BT, device)
        told |= {"plain_forward_error": distance, "transformers": str(error)}
        is_same = distance <= MAX_PLAIN_ERROR
        verdict = f"{NO_FAULT if is_same else FAULT}: logits {distance:.0e} from the plain ones"
    if differing:
        verdict = f"{UNLIKE_MEMORY}, first at {differing[0]}; {verdict}"
    return {"verdict": verdict, **told}


def _unlike_memory(snapshot: Snapshot, ids_BT: Tensor, device: str) -> list[str]:
    """Name the operations that give other bits than they gave in the trainer."""
    found = trace(load_apr(snapshot.weights, device), ids_BT.to(device), keep_tensors=False)
    in_memory: Mapping[str, str] = read_fingerprint(snapshot.state)
    return [tap.site for tap in found.taps if in_memory.get(tap.site) != tap.sha256]


def _against_transformers(
    run: Run, shards: Path, snapshot: Snapshot, ids_BT: Tensor, device: str
) -> str:
    settings, tensors = read_model(snapshot.weights)
    tokenizer = Tokenizer.load(shards / TOKENIZER)
    with tempfile.TemporaryDirectory() as scratch:
        write_directory(
            Path(scratch),
            settings,
            tensors,
            tokenizer_json=(shards / TOKENIZER).read_text(),
            end_of_text=tokenizer.end_of_text,
            dtype=torch.float32,
        )
        # Named by what they are: the directory is gone when the record is read.
        reference = replace(open_side(f"{TRANSFORMERS}{scratch}", device), name="transformers")
        candidate = replace(open_side(str(snapshot.weights), device), name=snapshot.name)
        found = bisect(reference, candidate, ids_BT)
    write_bisection(run.directory, found, {"reference": reference, "candidate": candidate}, ids_BT)
    return bisection_text(found).splitlines()[0]


def _plain_error(snapshot: Snapshot, ids_BT: Tensor, device: str) -> float:
    ids_BS = ids_BT[:, : PLAIN_TOKENS + 1].cpu().numpy().astype(np.int64)
    return forward_error(load_apr(snapshot.weights, device), ids_BS)
