"""What is found out about a training before its next step; one line each time a worker starts.

The model is held to a plain implementation on this device, a new one to its plan, a resumed one to
what it scored when it was saved.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from model.precision import in_precision
from model.ranks import Ranks
from model.self_check import forward_error, gradient_error, measure_spread
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


def _model(
    state: TrainingState, settings: TrainSettings, places: Surroundings
) -> Mapping[str, float]:
    ids_BS = _plain_rows(places)
    # One row at a time: what is checked is also how micro-batches add up.
    apart = replace(settings, micro_batch_rows=1)
    module = places.ranks.distribute(in_precision(state.model, settings.precision))

    def gradients(ids_BS: NDArray[np.int64]) -> None:
        accumulate(state, ids_BS, apart, module, places.ranks)

    measured = {
        "forward_error": forward_error(whole_model(state.model), ids_BS),
        "gradient_error": gradient_error(state.model, ids_BS, gradients),
    }
    state.optimizer.zero_grad()
    if state.step == 0:
        spread = measure_spread(state.model)
        return {
            **measured,
            "spread_error": spread.spread_error,
            "kurtosis_error": spread.kurtosis_error,
        }
    saved = latest_snapshot(places.directory)
    if saved is not None:
        before = read_probe_loss(saved.state)
        now = probe_loss(whole_model(state.model), probe_ids(places.validation))
        measured["resume_drift"] = abs(now - before)
    return measured


def _plain_rows(places: Surroundings) -> NDArray[np.int64]:
    """Take two rows a rank: fewer could not show how rows add up."""
    wanted = np.arange(2 * places.ranks.size) % len(places.validation)
    return places.validation.ids(wanted)[:, : PROBE_TOKENS + 1]
