"""What a training directory says, computed from its raw files each time it is asked."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evidence.gates import Measurements
from evidence.refs import TrainingRef
from model.flops import training_flops_per_token
from model.llama import Llama, LlamaSettings, num_parameters
from model.train import VERSION, TrainSettings
from model.training_state import OPTIMIZER_FILE
from tasks.snapshots import FILES, Snapshot, best_record, complete_snapshots
from tasks.stage import Stage
from tasks.step_watch import Row
from tasks.store import Artefact
from tasks.train_gates import EPOCH_GATES, START_GATES, STEP_GATES, TRAIN_GATES, worst
from tasks.train_judge import watch_epochs, watch_steps
from tasks.train_outcome import success
from tasks.training_log import TRAIN_LOG, read_lines, read_rows, read_spikes
from tasks.training_start import STARTS

SETTINGS = "settings.json"
OPTIMIZER = "optimizer_state_sha"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """A training directory, read once."""

    directory: Path
    train: TrainSettings
    llama: LlamaSettings
    context_length: int
    rows: Sequence[Row]
    snapshots: Sequence[Snapshot]
    epochs: Sequence[Mapping[str, Any]]


def measure(artefact: Artefact) -> Measurements:
    """Compute everything again from the logs, the epoch records and the files."""
    training = _read(artefact.directory)
    _, lines = watch_steps(training.directory, training.train, training.context_length)
    epochs, ends = watch_epochs(training.directory, training.train)
    starts = read_lines(training.directory / STARTS)
    return {
        **_results(training, ended_early=epochs.ended),
        **_rates(training),
        **_identities(training),
        **worst(START_GATES, starts),
        **worst(STEP_GATES, lines),
        **worst(EPOCH_GATES, ends),
    }


def _read(directory: Path) -> _Training:
    settings = json.loads((directory / SETTINGS).read_text())
    snapshots = complete_snapshots(directory)
    return _Training(
        directory=directory,
        train=TrainSettings(**settings["train"]),
        llama=LlamaSettings(**settings["model"]),
        context_length=settings["context_length"],
        rows=read_rows(directory / TRAIN_LOG),
        snapshots=snapshots,
        epochs=[snapshot.read() for snapshot in snapshots],
    )


def _results(training: _Training, *, ended_early: bool) -> dict[str, float | int | str]:
    """Say how the training ended and what it reached."""
    rows, epochs, train = training.rows, training.epochs, training.train
    best = best_record(epochs)
    return {
        "outcome": success(best["val_loss"], train.target_val_loss, ended_early=ended_early),
        "steps": len(rows),
        "steps_planned": train.num_steps,
        "steps_due": epochs[-1]["step"] if ended_early else train.num_steps,
        "epochs": len(epochs),
        "spikes": len(read_spikes(training.directory / TRAIN_LOG)),
        "first_train_loss": rows[0]["train_loss"],
        "train_loss": epochs[-1]["train_loss"],
        "val_loss": epochs[-1]["val_loss"],
        "best_val_loss": best["val_loss"],
        "best_epoch": best["epoch"],
        "target_val_loss": train.target_val_loss,
        "val_bits_per_byte": best["val_bits_per_byte"],
        "grad_norm_max": max(row["grad_norm"] for row in rows),
        "corpus_passes": epochs[-1]["corpus_passes"],
    }


def _rates(training: _Training) -> dict[str, float]:
    """Say how much was done, and how fast."""
    tokens = sum(row["tokens"] for row in training.rows)
    per_second = tokens / math.fsum(row["wall_seconds"] for row in training.rows)
    flops = training_flops_per_token(training.llama, training.context_length)
    return {
        "tokens_seen": tokens,
        "tokens_per_parameter": tokens / _num_parameters(training.llama),
        "tokens_per_second": per_second,
        "useful_gflops_per_second": per_second * flops / 1e9,
    }


def _num_parameters(settings: LlamaSettings) -> int:
    with torch.device("meta"):
        return num_parameters(Llama(settings))


def _identities(training: _Training) -> dict[str, int]:
    """Hold the recorded digests to the files, and the weights of the epochs to each other."""
    found = [snapshot.digests() for snapshot in training.snapshots]
    wrong = sum(
        ours != epoch[FILES] or ours[f"{snapshot.state.name}/{OPTIMIZER_FILE}"] != epoch[OPTIMIZER]
        for ours, epoch, snapshot in zip(found, training.epochs, training.snapshots, strict=True)
    )
    num_different = len(
        {ours[each.weights.name] for ours, each in zip(found, training.snapshots, strict=True)}
    )
    return {"wrong_digests": wrong, "repeated_weights": len(found) - num_different}


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return (
        f"{measured['steps']} steps, {measured['tokens_seen']:,} tokens; "
        f"validation loss {measured['best_val_loss']:.3f} nats, {measured['outcome']}"
    )


STAGE = Stage(
    name="train",
    version=VERSION,
    ref_type=TrainingRef,
    measure=measure,
    summary=summary,
    gates=TRAIN_GATES,
)
