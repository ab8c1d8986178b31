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
from model.flops import peak_flops_per_second
from model.plain_llama import Array
from model.precision import in_precision, matmul_precision
from model.ranks import Ranks
from model.self_check import (
    attentive,
    forward_error,
    measure_spread,
    read_gradients,
    slope_error,
)
from model.train import TrainSettings, accumulate
from model.training_state import TrainingState, whole_model
from tasks.gpu import device_name, gpu_meter
from tasks.probe import probe_ids, probe_loss, read_probe_loss
from tasks.shared_documents import num_shared_documents
from tasks.snapshots import latest_snapshot
from tasks.step_watch import FIELDS, MFU

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
        "fields": sorted(fields),
        "uniform_nats": baselines["uniform_nats"],
        "unigram_nats": baselines["unigram_nats"],
        **({"peak_flops_per_second": peak} if peak else {}),
        "misplaced_tensors": _num_misplaced(state, places.device),
        "shared_documents": num_shared_documents(places.shards, places.index),
        "val_batches": len(places.validation) / settings.batch_rows,
        **_model(state, settings, places),
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
            measured["forward_error"] = forward_error(model, ids_BS)
            measured["gradient_error"] = slope_error(model, gradients, ids_BS)
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
) -> dict[str, Array]:
    """Run the loop's own forward and backward passes, and drop what they leave.

    One row at a time: what is looked at is also how micro-batches add up. Twice: a gradient that
    was not dropped in between has twice its size.
    """
    apart = replace(settings, micro_batch_rows=1)
    module = places.ranks.distribute(in_precision(state.model, settings.precision))
    with matmul_precision(settings.precision):
        for _ in range(2):
            accumulate(state, ids_BS, apart, module, places.ranks)
    gradients = read_gradients(state.model)
    state.optimizer.zero_grad()
    return gradients


def _plain_rows(places: Surroundings) -> NDArray[np.int64]:
    """Take two rows a rank: fewer could not show how rows add up."""
    wanted = np.arange(2 * places.ranks.size) % len(places.validation)
    return places.validation.ids(wanted)[:, : PROBE_TOKENS + 1]
