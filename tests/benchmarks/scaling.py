"""How training scales over the GPUs of one machine: `python -m tests.benchmarks.scaling SHARDS`.

Every number of ranks trains the 370M in the real worker, at as many tokens a GPU and step
(65,536); efficiency is the rate of a GPU beside that of one rank alone on the same machine. So that
it can be told what ranks cost and what GPUs side by side do, one rank a GPU trains for itself
too, all at once: ranks that wait for each other are at best as fast as the slowest of these.
Then as many ranks as there are train on the rows of one rank, through a warm-up as every training
begins with one, and their first losses are compared. Prints a line a training; the last says how
they compare.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.ranks import Parallelism
from tasks.rank_processes import run_ranks
from tasks.training_log import read_rows
from tests.benchmarks.throughput import CONTEXT, job, settings

RANK_ROWS = 32
"Rows of a GPU and step: 65,536 tokens."
AGREE_STEPS, TIMED_STEPS, WARM_STEPS = 50, 25, 5
PEAK_RATE, WARMUP_STEPS = 1e-3, 200
"AdamW's best rate here, and the steps to come to it; what is trained ends before."
TOLERANCE = 1e-2
"Relative: only the order of sums differs, in bfloat16."


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training showed."""

    num_ranks: int
    parallelism: str
    batch_rows: int
    tokens_per_second: float
    "Of all ranks, by the median step."
    seconds_to_the_first_step: float
    losses: list[float]

    @property
    def of_a_gpu(self) -> float:
        """Tokens a second of one GPU."""
        return self.tokens_per_second / self.num_ranks


def training(
    shards: Path,
    num_ranks: int,
    parallelism: Parallelism,
    batch_rows: int,
    num_steps: int,
    micro_batch_rows: int = RANK_ROWS,
) -> Trained:
    """Train for some steps, in processes of their own."""
    _, recipe = settings(
        batch_rows=batch_rows,
        micro_batch_rows=min(micro_batch_rows, batch_rows // num_ranks),
        num_steps=num_steps,
        steps_per_epoch=num_steps,
        peak_lr=PEAK_RATE * num_steps / WARMUP_STEPS,
        warmup_steps=num_steps - 1,
        decay_steps=1,
        max_passes=99,
    )
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.time()
        ranks: dict[str, Any] = {"num_ranks": num_ranks, "parallelism": parallelism}
        run_ranks(job(Path(scratch), shards, recipe, **ranks), lambda _pulse: None)
        rows = read_rows(Path(scratch) / "train.jsonl")
    seconds = statistics.median(row["wall_seconds"] for row in rows[WARM_STEPS:])
    return Trained(
        num_ranks,
        parallelism if num_ranks > 1 else "none",
        batch_rows,
        batch_rows * CONTEXT / seconds,
        rows[0]["time"] - begin,
        [row["train_loss"] for row in rows],
    )


def all_at_once(shards: Path, num_gpus: int) -> list[float]:
    """Train with one rank a GPU, each for itself; return their tokens a second."""
    command = [sys.executable, "-m", __spec__.name, str(shards), "--alone"]
    begun = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
        )
        for gpu in range(num_gpus)
    ]
    ended = [json.loads(process.communicate()[0].splitlines()[-1]) for process in begun]
    return [found["tokens_per_second"] for found in ended]


def said(trained: Trained) -> Trained:
    """Print a training at once: a later one may not come to its end."""
    facts = {**asdict(trained), "losses": trained.losses[::10]}
    print(json.dumps(facts), flush=True)
    return trained


def main() -> int:
    """Train with one rank, with more on more rows, and with most on the same rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--ranks", type=int, nargs="*", help="default: 2, 4, ... to all GPUs")
    parser.add_argument("--parallelism", nargs="*", default=["ddp", "fsdp"])
    parser.add_argument(
        "--micro-batch-rows",
        type=int,
        default=RANK_ROWS,
        help="of ranks that train together; FSDP needs more memory for a row than DDP",
    )
    parser.add_argument("--alone", action="store_true", help="train with one rank, and no more")
    arguments = parser.parse_args()
    if arguments.alone:
        said(training(arguments.shards, 1, "ddp", RANK_ROWS, TIMED_STEPS))
        return 0
    available = torch.cuda.device_count()
    ranks = arguments.ranks or [2**power for power in range(1, 9) if 2**power <= available]
    if not ranks or max(ranks) > available:
        sys.exit(f"{available} CUDA devices answer here, should be two or more")
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}))
    alone = said(training(arguments.shards, 1, "ddp", RANK_ROWS, AGREE_STEPS))
    found: dict[str, Any] = {"all at once": all_at_once(arguments.shards, max(ranks))}
    print(json.dumps(found), flush=True)
    for parallelism in arguments.parallelism:
        for number in ranks:
            more = training(
                arguments.shards,
                number,
                parallelism,
                number * RANK_ROWS,
                TIMED_STEPS,
                arguments.micro_batch_rows,
            )
            efficiency = said(more).of_a_gpu / alone.of_a_gpu
            found[f"{parallelism}, {number}"] = round(efficiency, 4)
    together = said(training(arguments.shards, max(ranks), "ddp", RANK_ROWS, AGREE_STEPS))
    worst = max(abs(a - b) / b for a, b in zip(together.losses, alone.losses, strict=True))
    found |= {"worst_loss_difference": worst, "agrees": worst <= TOLERANCE}
    print(json.dumps(found))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
