"""Which recipe learns most from as many tokens: `python -m tests.benchmarks.recipes SHARDS`.

Every recipe trains the same model from the same weights on as many tokens in the same order, and is
scored on the same rows of held-out packages. First every recipe with one seed, then the best of
each optimizer with others. One line of JSON a training, with what it had learnt at some points and
how long that took. A recipe is written OPTIMIZER:RATE:ROWS.
"""

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from data.batches import batches
from data.rows import Rows, open_rows
from data.shard import ShardsIndex
from model.llama import LlamaSettings
from model.loss import PADDING, row_losses
from model.reports import EpochReport, StepReport
from model.train import TrainSettings, train
from model.training_state import new_state
from tests.benchmarks.facts import PRESETS

SMALL = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 2,
         "intermediate_size": 1408}  # fmt: skip
RECIPES = ("adamw:1e-3:32", "muon:2e-3:32", "muon:4e-3:32", "adamw:5e-4:32", "muon:1e-3:32",
           "adamw:2e-3:32", "muon:2e-3:64", "adamw:1e-3:64")  # fmt: skip
POINTS = 4
"""How often a training is scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Shards that are read again and again."""

    index: ShardsIndex
    train: Rows
    val_ids: torch.Tensor


def open_corpus(shards: Path, num_val_rows: int, device: str) -> Corpus:
    content = json.loads((shards / "index.json").read_text())["content"]
    index = TypeAdapter(ShardsIndex).validate_python(content)
    val = open_rows(shards, index, "val")
    chosen = np.linspace(0, len(val) - 1, min(num_val_rows, len(val))).astype(np.int64)
    ids = torch.from_numpy(val.take(chosen)).to(device)
    return Corpus(index=index, train=open_rows(shards, index, "train"), val_ids=ids)


@torch.inference_mode()
def val_loss(model: torch.nn.Module, ids_BS: torch.Tensor) -> float:
    """Return the mean loss of all held-out tokens; a GPU multiplies in TF32."""
    torch.set_float32_matmul_precision("high")
    parts = torch.split(ids_BS, 8)
    nats = sum(row_losses(model, part, None).double().sum().item() for part in parts)
    torch.set_float32_matmul_precision("highest")
    return nats / int((ids_BS[:, 1:] != PADDING).sum())


def run(corpus: Corpus, llama: LlamaSettings, recipe: TrainSettings, device: str) -> dict[str, Any]:
    state = new_state(llama, recipe, device)
    stream: Iterator[np.ndarray] = batches(
        corpus.train, batch_rows=recipe.batch_rows, seed=recipe.seed, max_passes=recipe.max_passes
    )
    points, seconds, last, losses = [], 0.0, time.perf_counter(), []
    for report in train(state, stream, recipe, compiled=device == "cuda"):
        if isinstance(report, StepReport):
            losses.append(report.train_loss)
            # What is compiled before the first step is not the recipe's.
            seconds += time.perf_counter() - last if report.step > 1 else 0
        elif isinstance(report, EpochReport):
            nats = val_loss(state.model, corpus.val_ids)
            points.append({"tokens": state.tokens_seen, "seconds": seconds, "val_nats": nats})
        last = time.perf_counter()
    return {
        "optimizer": recipe.optimizer,
        "peak_lr": recipe.peak_lr,
        "batch_rows": recipe.batch_rows,
        "seed": recipe.seed,
        "points": points,
        "last_train_nats": float(np.mean(losses[-10:])),
    }


def named(text: str, recipe: TrainSettings, num_rows: int) -> TrainSettings:
    """Change optimizer, rate and rows of a step; what is trained on stays as much."""
    optimizer, rate, batch_rows = text.split(":")
    steps = num_rows // int(batch_rows)
    changed: dict[str, Any] = {
        "optimizer": optimizer,
        "peak_lr": float(rate),
        "batch_rows": int(batch_rows),
        "micro_batch_rows": min(int(batch_rows), recipe.micro_batch_rows),
        "num_steps": steps,
        "steps_per_epoch": -(-steps // POINTS),
        "warmup_steps": steps // 10,
        "decay_steps": steps // 3,
        "max_passes": 8,
        "spike_window": 10 * steps,
    }
    return replace(recipe, **changed)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", type=Path)
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--large", action="store_true", help="The 370M instead of a small model.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9, help="Begin no training after that.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--val-rows", type=int, default=128)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    corpus = open_corpus(arguments.shards, arguments.val_rows, arguments.device)
    preset = tomllib.loads((PRESETS / "python-packages.toml").read_text())
    shape = {} if arguments.large else SMALL
    llama = LlamaSettings(**{**preset["model"], **shape, "vocab_size": corpus.index.vocab_size})
    usual = TrainSettings(**preset["train"])
    num_rows = arguments.tokens // corpus.index.context_length

    def tried(recipe: TrainSettings) -> float:
        if time.perf_counter() - begin > arguments.seconds:
            return float("inf")
        found = run(corpus, llama, recipe, arguments.device)
        print(json.dumps(found), flush=True)
        return float(found["points"][-1]["val_nats"])

    best: dict[str, tuple[float, TrainSettings]] = {}
    for text in arguments.recipes:
        recipe = named(text, usual, num_rows)
        nats = tried(recipe)
        if nats < best.get(recipe.optimizer, (float("inf"),))[0]:
            best[recipe.optimizer] = nats, recipe
    for seed in range(2, arguments.seeds + 1):
        for _, recipe in best.values():
            tried(replace(recipe, seed=seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
