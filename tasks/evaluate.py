"""Evaluate: score the best snapshot on every validation row, beside models that only count."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.baselines import BASELINES
from data.documents import DOCUMENTS
from data.shard import SUFFIXES, ShardsIndex
from evidence.canonical import read_object
from evidence.gates import Gate, Measurements
from evidence.refs import EvaluationRef, ShardsRef, TrainingRef
from model.loss_statistics import LossCounter, bits_per_byte, loss_statistics
from model.train_settings import TrainSettings
from tasks.device import choose_device, num_threads
from tasks.models import load_apr
from tasks.prefect_task import publish, stage_task, tracking
from tasks.preflight import check_tokenizer
from tasks.run_record import Run
from tasks.runtime import RuntimeSettings
from tasks.snapshots import SNAPSHOTS, Snapshot
from tasks.stage import Stage, perform
from tasks.store import Artefact, open_store
from tasks.thresholds import Thresholds
from tasks.train_measure import SETTINGS
from tasks.validation import Validation

VERSION = 2
LOSSES = "documents.parquet"


def measure(artefact: Artefact) -> Measurements:
    """Compute the loss again from the sums of every document."""
    content = artefact.index["content"]
    table = pd.read_parquet(artefact.directory / LOSSES)
    found = loss_statistics(
        table["nats"].to_numpy(dtype=np.float64), table["target_tokens"].to_numpy(dtype=np.int64)
    )
    baselines = content["baselines"]
    num_bytes = int(baselines["target_bytes"])

    def bits(nats: float) -> float:
        return bits_per_byte(nats, found.num_tokens, num_bytes)

    return {
        "epoch": content["epoch"],
        "val_loss": found.mean_nats,
        "val_loss_standard_error": found.standard_error_nats,
        "val_tokens": found.num_tokens,
        "val_documents": found.num_documents,
        "val_bytes": num_bytes,
        "val_bits_per_byte": bits(found.mean_nats),
        "recorded_val_loss": content["recorded_val_loss"],
        "reload_drift": abs(found.mean_nats - content["recorded_val_loss"]),
        **{name: baselines[name] for name in ("uniform_nats", "unigram_nats", "bigram_nats")},
        "unigram_bits_per_byte": bits(baselines["unigram_nats"]),
        "bigram_bits_per_byte": bits(baselines["bigram_nats"]),
        "loss_to_unigram": found.mean_nats / baselines["unigram_nats"],
        "loss_to_bigram": found.mean_nats / baselines["bigram_nats"],
    }


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return (
        f"{measured['val_loss']:.3f} nats, {measured['val_bits_per_byte']:.3f} bits a byte; "
        f"bigram {measured['bigram_nats']:.3f}, unigram {measured['unigram_nats']:.3f} nats"
    )


STAGE = Stage(
    name="evaluate",
    version=VERSION,
    ref_type=EvaluationRef,
    measure=measure,
    summary=summary,
    gates=(
        Gate(
            id="evaluate.reload",
            sentence="the saved weights score what the model in training scored",
            measured="reload_drift",
            operator="<=",
            threshold="thresholds.max_reload_drift",
        ),
        Gate(
            id="evaluate.unigram",
            sentence="the model predicts better than a table of token frequencies",
            measured="loss_to_unigram",
            operator="<=",
            threshold="thresholds.max_loss_to_unigram",
        ),
        Gate(
            id="evaluate.bigram",
            sentence="the model predicts better than an interpolated bigram",
            measured="loss_to_bigram",
            operator="<=",
            threshold="thresholds.max_loss_to_bigram",
            required=False,
        ),
    ),
)


@stage_task("evaluate", "evaluate {training.short} on {shards.short}")
def evaluate_task(
    run: Run,
    training: TrainingRef,
    shards: ShardsRef,
    thresholds: Thresholds,
    runtime: RuntimeSettings,
) -> EvaluationRef:
    """Score the best snapshot of a training on the validation rows of its shards."""

    def build(out: Path) -> dict[str, Any]:
        store = open_store()
        return score(store.open(training), store.open(shards), runtime, out)

    done = perform(
        run,
        STAGE,
        {},
        {"training": str(training), "shards": str(shards)},
        build,
        thresholds=asdict(thresholds),
        tracking=tracking(),
    )
    publish(run, STAGE, done.record)
    return EvaluationRef(done.ref.digest)


def score(
    training: Artefact, shards: Artefact, runtime: RuntimeSettings, out: Path
) -> dict[str, Any]:
    """Score a training's best snapshot and keep the sums of every document."""
    torch.set_num_threads(num_threads(runtime))
    device = choose_device(runtime)
    snapshot = best_snapshot(training)
    check_tokenizer(snapshot.weights, shards.directory)
    model = load_apr(snapshot.weights, device)
    index = shards.read_index(ShardsIndex)
    validation = Validation.open(
        shards.directory,
        index,
        batch_rows=runtime.evaluate_batch_rows,
        device=device,
        document_end=_train_settings(training).document_end(index.end_of_text_id),
    )
    counter = validation.count(model)
    _write_losses(out / LOSSES, shards.directory, index, counter)
    return {
        "training": str(training.ref),
        "shards": str(shards.ref),
        "epoch": snapshot.epoch,
        "recorded_val_loss": snapshot.read()["val_loss"],
        "baselines": read_object(shards.directory / BASELINES),
    }


def best_snapshot(training: Artefact) -> Snapshot:
    """Return the snapshot with the lowest validation loss."""
    return Snapshot.of_epoch(
        training.directory / SNAPSHOTS, int(training.index["content"]["best_epoch"])
    )


def _train_settings(training: Artefact) -> TrainSettings:
    settings: dict[str, Any] = json.loads((training.directory / SETTINGS).read_text())
    return TrainSettings(**settings["train"])


def _write_losses(path: Path, shards: Path, index: ShardsIndex, counter: LossCounter) -> None:
    """Write the loss of every validation document, in the order of the shards."""
    tables = [
        pq.read_table(shards / f"{each.name}{SUFFIXES[DOCUMENTS]}") for each in index.val.shards
    ]
    documents = pa.concat_tables(tables).to_pandas()
    nats, tokens = counter.by_document
    losses = documents[["sha256"]].assign(nats=nats, target_tokens=tokens)
    losses.to_parquet(path, index=False)
