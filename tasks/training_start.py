"""What is found out about a training before its next step; one line each time a worker starts.

The model is held to a plain implementation on this device, a new one to its plan, a resumed one to
what it scored when it was saved.
"""

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.baselines import BASELINES
from data.rows import Rows
from data.shard import ShardsIndex
from evidence.canonical import read_object
from model.accumulate import accumulate
from model.flops import peak_flops_per_second
from model.loss import PADDING
from model.passes import passes_of
from model.precision import matmul_precision
from model.ranks import Ranks, is_sharded
from model.self_check import (
    attentive,
    forward_error,
    measure_spread,
    plain_weights,
    read_gradients,
)
from model.slopes import Gradient, slope_error
from model.state_digest import state_digest
from model.train import TrainSettings
from model.training_state import TrainingState, whole_model
from tasks.gpu import device_name, gpu_meter
from tasks.probe import probe_ids, probe_loss, read_probe_loss
from tasks.shared_documents import num_shared_documents
from tasks.snapshots import latest_snapshot
from tasks.step_watch import DIGEST_STEPS, FIELDS, MFU, STATE_DIGEST
from tasks.training_log import TRAIN_LOG, read_rows

STARTS = "starts.jsonl"
PROBE_TOKENS = 16
"""Of each row that the plain implementation is asked about: it is slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where a training takes place."""

    directory: Path
    shards: Path
    index: ShardsIndex
    validation: Rows
    device: torch.device
    ranks: Ranks
    compiled: bool


def look_around(
    state: TrainingState, settings: TrainSettings, places: Surroundings
) -> dict[str, Any]:
    """Measure what must hold before the next step."""
    baselines = read_object(places.shards / BASELINES)
    peak = peak_flops_per_second(device_name(places.device), settings.precision)
    fields = FIELDS | gpu_meter(places.device)().keys() | ({MFU} if peak else set())
    return {
        "step": state.step,
        "cursor_rows": state.cursor_rows,
        "time": time.time(),
        "pid": os.getpid(),
        "device": str(places.device),
        "device_name": device_name(places.device),
        "num_ranks": places.ranks.size,
        "compiled": places.compiled,
        "fields": sorted(fields),
        "uniform_nats": baselines["uniform_nats"],
        "unigram_nats": baselines["unigram_nats"],
        **({"peak_flops_per_second": peak} if peak else {}),
        "misplaced_tensors": _num_misplaced(state, places.device),
        "shared_documents": num_shared_documents(places.shards, places.index),
        "val_batches": len(places.validation) / settings.batch_rows,
        **_model(state, settings, places),
    }


def digest_facts(state: TrainingState, every: int, places: Surroundings) -> dict[str, Any]:
    """Digest the state, and compare it with what the log says of the same step; all must ask.

    What ranks hold in parts has another digest on another number of them.
    """
    found = state_digest(state, places.ranks, compiled=places.compiled)
    logged = [
        row[STATE_DIGEST]
        for row in read_rows(places.directory / TRAIN_LOG)
        if row["step"] == state.step and STATE_DIGEST in row
    ]
    compared = logged and not is_sharded(state.model)
    return {
        DIGEST_STEPS: every,
        STATE_DIGEST: found,
        **({"changed_states": int(found != logged[-1])} if compared else {}),
    }


def _num_misplaced(state: TrainingState, device: torch.device) -> int:
    tensors = [*state.model.parameters(), *state.model.buffers()]
    return sum(tensor.device.type != device.type for tensor in tensors)


def _model(state: TrainingState, settings: TrainSettings, places: Surroundings) -> dict[str, float]:
    """Hold the model to what it should be; the first rank alone compares."""
    ids_BS = _plain_rows(places)
    measured = {}
    with attentive(state.model):
        gradients = _gradients(state, settings, places, ids_BS)
        model = whole_model(state.model)
        if places.ranks.rank == 0:
            weights = plain_weights(model)
            measured["forward_error"] = forward_error(model, ids_BS, weights)
            measured["gradient_error"] = slope_error(model.settings, weights, gradients, ids_BS)
    model = whole_model(state.model)
    if places.ranks.rank:
        return {}
    if state.step == 0:
        return measured | asdict(measure_spread(model))
    if saved := latest_snapshot(places.directory):
        now = probe_loss(model, probe_ids(places.validation))
        measured["resume_drift"] = abs(now - read_probe_loss(saved.state))
    return measured


def _gradients(
    state: TrainingState,
    settings: TrainSettings,
    places: Surroundings,
    ids_BS: NDArray[np.int64],
) -> dict[str, Gradient]:
    """Run the loop's own forward and backward passes, and drop what they leave.

    A row a micro-batch: what is looked at is also how micro-batches add up. Twice: a gradient that
    was not dropped in between has twice its size.
    """
    apart = replace(settings, micro_batch_rows=1)
    if places.compiled:
        apart = settings
        ids_BS = _padded(ids_BS, settings.micro_batch_rows, places.index.context_length + 1)
    passes = passes_of(state.model, settings.precision, compiled=places.compiled)
    with matmul_precision(settings.precision):
        for _ in range(2):
            accumulate(state, ids_BS, apart, passes, places.ranks)
    gradients = {}
    if places.ranks.rank == 0 or is_sharded(state.model):
        gradients = read_gradients(state.model)
    state.optimizer.zero_grad()
    return gradients


def _padded(ids_BS: NDArray[np.int64], micro_rows: int, row_tokens: int) -> NDArray[np.int64]:
    """Make every row the first of a micro-batch of full size, of which nothing else is a target.

    Compiled code is made for one size: the one that trains is to be looked at.
    """
    full_MRS = np.full((len(ids_BS), micro_rows, row_tokens), PADDING)
    full_MRS[:, 0, : ids_BS.shape[1]] = ids_BS
    return full_MRS.reshape(-1, row_tokens)


def _plain_rows(places: Surroundings) -> NDArray[np.int64]:
    """Take two rows a rank: fewer could not show how rows add up."""
    wanted = np.arange(2 * places.ranks.size) % len(places.validation)
    return places.validation.ids(wanted)[:, : PROBE_TOKENS + 1]
