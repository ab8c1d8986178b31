"""Do the checks of models over: read batches again, score again, trace again."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import batches
from data.rows import PADDING, open_rows
from data.shard import ShardsIndex
from evidence.canonical import read_object
from evidence.refs import CheckpointRef, ShardsRef, TrainingRef, parse_ref
from model.batch import count_targets
from model.evaluation import evaluate, round_weights
from tasks import bisection
from tasks.errors import NotFoundError
from tasks.loss_evaluation import mean_loss
from tasks.models import APR, load_apr
from tasks.recheck_written import Draw, written_again
from tasks.rechecked import Rechecked
from tasks.scored_model import (
    OpenModel,
    Scored,
    ScoredCheckpoint,
    ScoredTraining,
    best_snapshot,
    train_settings,
)
from tasks.snapshots import Snapshot, complete_snapshots
from tasks.store import Artefact, Store
from tasks.thresholds import Thresholds
from tasks.training_log import TRAIN_LOG, read_rows
from tasks.validation import Validation

SAMPLE_STEPS = 50
REPLAY_BAR = 1e-3
"Of a step's loss: training may round to bfloat16, and other kernels add in another order."
TAP_BAR = 1e-3
DRIFT = "max_reload_drift"


def training_again(store: Store, record: Mapping[str, Any], device: str) -> Iterator[Rechecked]:
    """Count the targets of steps again, replay the step after every epoch, score the best epoch.

    Raises: NotFoundError, ArtefactDamagedError.
    """
    training = store.open(parse_ref(record["output"]))
    shards = store.open(parse_ref(record["recipe"]["inputs"]["shards"]))
    steps = read_rows(training.directory / TRAIN_LOG)
    chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, SAMPLE_STEPS, dtype=int))]
    found = sum(count_targets(_batch(training, shards, row)) for row in chosen)
    yield Rechecked(
        check="tokens of steps", recorded=sum(row["tokens"] for row in chosen), measured=found,
        bar=0, n=len(chosen),
    )  # fmt: skip
    for snapshot in complete_snapshots(training.directory)[:-1]:
        yield _replayed(training, shards, snapshot, steps, device)
    best = best_snapshot(training)
    opened = ScoredTraining(TrainingRef(training.ref.digest)).open(store)
    loss, n = _score(opened, shards, device)
    yield Rechecked(
        check=f"validation loss of epoch {best.epoch}", recorded=best.read()["val_loss"],
        measured=loss, bar=record["thresholds"][DRIFT], n=n,
    )  # fmt: skip


def _batch(training: Artefact, shards: Artefact, row: Mapping[str, Any]) -> Any:
    """Read the rows of a step again.

    Shapes: (B, S).
    """
    train, index = train_settings(training.directory), shards.read_index(ShardsIndex)
    stream = batches(
        open_rows(shards.directory, index, "train"),
        batch_rows=train.batch_rows,
        seed=train.seed,
        max_passes=train.max_passes,
        cursor=row["cursor_rows"] - train.batch_rows,
    )
    return next(stream)


def _replayed(
    training: Artefact,
    shards: Artefact,
    snapshot: Snapshot,
    steps: Sequence[Mapping[str, Any]],
    device: str,
) -> Rechecked:
    """Compute the loss of the first step after an epoch from the weights that ended it."""
    row = next(row for row in steps if row["step"] == snapshot.read()["step"] + 1)
    ids_BS = _batch(training, shards, row)
    end_of_text_id = shards.read_index(ShardsIndex).end_of_text_id
    end = train_settings(training.directory).document_end(end_of_text_id)
    losses_BT = evaluate(load_apr(snapshot.weights, device), ids_BS, device, document_end=end)
    loss = float(losses_BT[ids_BS[:, 1:] != PADDING].mean(dtype=np.float64))
    return Rechecked(
        check=f"loss of step {row['step']}", recorded=row["train_loss"], measured=loss,
        bar=REPLAY_BAR, relative=True, n=row["tokens"],
    )  # fmt: skip


def evaluation_again(
    store: Store, record: Mapping[str, Any], device: str, draw: Draw
) -> Iterator[Rechecked]:
    """Score the model again on the rows that were scored, and have it write again what it wrote.

    Raises: NotFoundError, ArtefactDamagedError, IsolationUnavailableError.
    """
    evaluation = store.open(parse_ref(record["output"]))
    shards = store.open(parse_ref(record["recipe"]["inputs"]["shards"]))
    opened = _named(record["recipe"]["inputs"], store).open(store)
    facts = opened.facts(ShardsRef(shards.ref.digest))
    content = evaluation.index["content"]
    yield Rechecked(
        check="digest of the model", recorded=content["model_sha256"],
        measured=facts["model_sha256"], bar=0, n=1,
    )  # fmt: skip
    yield _scored_again(opened, evaluation, shards, record, device)
    if draw.number != 0:
        model = round_weights(opened.load(device), content["precision"])
        yield from written_again(store, record, evaluation, model, shards, draw)


def _named(inputs: Mapping[str, str], store: Store) -> Scored:
    """Return the model that a recipe names.

    Raises: NotFoundError if that was a file, of which only the digest is known.
    """
    if "training" in inputs:
        return ScoredTraining(TrainingRef(inputs["training"].partition(":")[2]))
    if "checkpoint" in inputs:
        return ScoredCheckpoint(CheckpointRef(inputs["checkpoint"].partition(":")[2]))
    raise NotFoundError(f"model {inputs['model'][:19]}: it was a file from elsewhere", store.where)


def checkpoint_again(store: Store, record: Mapping[str, Any], device: str) -> Iterator[Rechecked]:
    """Score the sealed model on the rows on which its evaluation scored the trained one.

    Raises: NotFoundError, ArtefactDamagedError.
    """
    sealed = store.open(parse_ref(record["output"]))
    evaluation = store.open(parse_ref(record["recipe"]["inputs"]["evaluation"]))
    shards = store.open(parse_ref(evaluation.index["content"]["shards"]))
    opened = ScoredCheckpoint(CheckpointRef(sealed.ref.digest)).open(store)
    yield _scored_again(opened, evaluation, shards, record, device, name=f" of {APR}")


def _scored_again(
    opened: OpenModel,
    evaluation: Artefact,
    shards: Artefact,
    record: Mapping[str, Any],
    device: str,
    name: str = "",
) -> Rechecked:
    content, said = evaluation.index["content"], mean_loss(evaluation).mean_nats
    loss, n = _score(opened, shards, device, content["rows"], content["precision"])
    return Rechecked(
        check=f"validation loss{name}", recorded=said, measured=loss,
        bar=record["thresholds"][DRIFT], n=n,
    )  # fmt: skip


def _score(
    opened: OpenModel,
    shards: Artefact,
    device: str,
    num_rows: int = 0,
    precision: Any = "float32",
) -> tuple[float, int]:
    """Return a model's validation loss and the number of tokens that it is of."""
    index = shards.read_index(ShardsIndex)
    validation = Validation.open(
        shards.directory,
        index,
        device=device,
        document_end=index.end_of_text_id if opened.document_masking else None,
        num_rows=num_rows,
    )
    found = validation.count(round_weights(opened.load(device), precision)).statistics()
    return found.mean_nats, found.num_tokens


def trace_again(store: Store, record: Mapping[str, Any], device: str) -> Iterator[Rechecked]:
    """Trace both models again, and compare every operation's values with the recorded ones.

    Raises: NotFoundError, ArtefactDamagedError.
    """
    kept: Any = read_object(store.open(parse_ref(record["output"])).directory / bisection.RESULT)
    checkpoint = store.open(parse_ref(record["recipe"]["inputs"]["checkpoint"]))
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        bisection.trace_checkpoint(
            store, checkpoint, device, Thresholds(**record["thresholds"]), out
        )
        found: Any = read_object(out / bisection.RESULT)
        traced = Artefact(parse_ref(record["output"]), out, {})
        measured = bisection.measure(traced)
    said = record["measurements"]
    for name in ("sites", "differing_sites"):
        yield Rechecked(check=name, recorded=said[name], measured=measured[name] or 0, bar=0,
                        n=len(found["taps"]))  # fmt: skip
    for ours, theirs in zip(kept["taps"], found["taps"], strict=True):
        yield Rechecked(
            check=f"spread of {ours['site']}", recorded=ours["statistics"]["std"],
            measured=theirs["statistics"]["std"], bar=TAP_BAR, relative=True,
            n=ours["num_elements"],
        )  # fmt: skip
