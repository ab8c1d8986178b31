"""Honest evidence of a training, small enough to change one thing in it."""

import hashlib
import json
import math
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evidence.audit import Finding, audit
from evidence.audit_evidence import read_evidence

GPU = "NVIDIA GeForce RTX 4090"
PEAKS = {GPU: 1e12}
LOSSES = ((6.0, 5.3), (5.0, 4.6), (4.4, 4.2), (4.1, 4.05), (3.95, 3.98))
BESIDE = {
    "git_commit": "0123456789abcdef",
    "seed": 7,
    "shards": "shards:00ff",
    "num_steps": 500,
    "lr_max": 3e-4,
    "warmup_steps": 10,
    "batch_size": 16,
    "seq_length": 64,
    "vocab_size": 1024,
    "num_parameters": 1_000_000,
    "unigram_nats": 5.9,
    "target_val_loss": 4.2,
    "gpu": GPU,
    "status": "CONVERGED",
}


def rows(losses: tuple[tuple[float, float], ...] = LOSSES, run: str = "a") -> list[dict[str, Any]]:
    return [
        {
            "epoch": number,
            "train_loss": train,
            "val_loss": val,
            "train_ppl": math.exp(train),
            "val_ppl": math.exp(val),
            "optimizer_state_sha": hashlib.sha256(f"state {run} {number}".encode()).hexdigest(),
            "wall_seconds": 100.0 + number,
            "tokens_seen": 102_400 * (number + 1),
            "grad_norm_max": 1.5 - 0.11 * number,
        }
        for number, (train, val) in enumerate(losses)
    ]


def steps(num: int = 24) -> list[dict[str, Any]]:
    noise = [(number * 37 % 11) / 50 for number in range(num)]
    return [
        {
            "step": number,
            "train_loss": 6.0 - 0.02 * number + noise[number],
            "grad_norm": 1.0 + noise[number] + number / 1000,
            "gpu_util_pct": 90 + number % 7,
            "wall_ms": 260.0,
        }
        for number in range(num)
    ]


@dataclass
class Told:
    """What somebody tells of trainings: file names and what is in them."""

    rows: list[dict[str, Any]] = field(default_factory=rows)
    steps: list[dict[str, Any]] = field(default_factory=steps)
    beside: dict[str, Any] = field(default_factory=lambda: deepcopy(BESIDE))
    summaries: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)

    def set(self, epoch: int, **fields: Any) -> None:
        """Change an epoch; perplexities follow losses."""
        row = self.rows[epoch]
        row.update(fields)
        for kind in {"train", "val"} & {name.removesuffix("_loss") for name in fields}:
            row[f"{kind}_ppl"] = math.exp(row[f"{kind}_loss"])

    def audit(self, directory: Path) -> list[Finding]:
        folder = directory / "run"
        folder.mkdir(parents=True)
        for number, row in enumerate(self.rows):
            (folder / f"epoch-{number:03d}.metadata.json").write_text(json.dumps(row))
        (folder / "train.jsonl").write_text("".join(json.dumps(step) + "\n" for step in self.steps))
        (folder / "plan.json").write_text(json.dumps(self.beside))
        for name, content in self.summaries.items():
            (directory / name).write_text(json.dumps(content))
        for name, text in self.tables.items():
            (directory / name).write_text(text)
        return audit(read_evidence(directory), PEAKS)
