"""What the facts of a step cost, and what its passes gain: three loops that make the same updates.

python -m tests.benchmarks.facts --preset the-stack-v2 --device cuda --steps 30

The plain loop runs the model as it stands, the bare one as training does (`model.fast_llama`);
both look at nothing and wait for the device at their end alone. The third is `model.train.train`
with all that the worker adds to a step: the GPU's sample, the row, its comparison with the rows
before. They run in turns, and the median of the turns counts. With `--compile` there is no plain
loop: without the passes' own memory a large model would not fit.
"""

import argparse
import json
import os
import statistics
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from model.accumulate import accumulate
from model.flops import CONVENTION, peak_flops_per_second, training_flops_per_token
from model.llama import LlamaSettings
from model.optimizer import set_learning_rate
from model.passes import Passes, ShardedPasses, passes_of
from model.precision import matmul_precision
from model.ranks import Ranks
from model.reports import StepReport
from model.schedule import learning_rate
from model.state_digest import state_digest
from model.train import TrainSettings, train
from model.training_state import TrainingState, new_state
from tasks.gpu import device_name, gpu_meter
from tasks.step_clock import StepClock
from tasks.step_watch import DIGEST_STEPS, FIELDS, STATE_DIGEST, StepPlan, StepWatch

PRESETS = Path(__file__).parents[2] / "flows" / "presets"
TURNS = 3


def batches(llama: LlamaSettings, settings: TrainSettings, context: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    while True:
        yield generator.integers(0, llama.vocab_size, (settings.batch_rows, context + 1))


def bare(
    state: TrainingState,
    stream: Iterator[np.ndarray],
    settings: TrainSettings,
    passes: Passes,
    *,
    first: int = 1,
    last: int | None = None,
) -> None:
    """Make the updates from one step to another, the budget's last, and look at nothing."""
    with matmul_precision(settings.precision):
        for step in range(first, (last or settings.num_steps) + 1):
            accumulate(state, next(stream), settings, passes, Ranks())
            parameters = list(state.model.parameters())
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
            clip_grads_with_norm_(parameters, settings.clip_norm, norm)
            set_learning_rate(state.optimizer, learning_rate(step, settings))
            state.optimizer.step()


def measured(
    state: TrainingState,
    stream: Iterator[np.ndarray],
    settings: TrainSettings,
    context: int,
    *,
    compiled: bool,
    digest_steps: int,
) -> float:
    """Make the updates as the worker does, but for the disk; return the seconds of a digest."""
    device = next(state.model.parameters()).device
    sample = gpu_meter(device)
    fields = sorted(FIELDS | sample().keys())
    plan = StepPlan(train=settings, context_length=context, uniform_nats=11.0)
    start = {"cursor_rows": 0, "fields": fields, DIGEST_STEPS: digest_steps}
    watch, clock = StepWatch(plan, [start]), StepClock(device)
    for report in train(
        state,
        stream,
        settings,
        compiled=compiled,
        digest_steps=digest_steps,
        ahead=device.type != "cpu",
        step_queued=clock.end_step,
    ):
        if isinstance(report, StepReport):
            seconds = clock.next_seconds()
            row: dict[str, Any] = {
                **asdict(report),
                "tokens_seen": state.tokens_seen,
                "leaked_rows": 0,
                "tokens_per_second": report.tokens / seconds,
                "wall_seconds": seconds,
                "time": time.time(),
                **sample(),
            }
            if report.state_digest is None:
                del row[STATE_DIGEST]
            assert watch.measure(row)["flawed_fields"] == 0
            json.dumps(row)
    return _digest_seconds(state, compiled=compiled)


def _digest_seconds(state: TrainingState, *, compiled: bool) -> float:
    seconds = []
    for _ in range(5):
        wait(next(state.model.parameters()).device)
        begin = time.perf_counter()
        state_digest(state, Ranks(), compiled=compiled)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--micro-batch-rows", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "tfloat32", "bfloat16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    arguments = parser.parse_args()
    preset = tomllib.loads((PRESETS / f"{arguments.preset}.toml").read_text())
    llama, context = LlamaSettings(**preset["model"]), preset["shard"]["context_length"]
    settings = replace(
        TrainSettings(**preset["train"]),
        num_steps=arguments.steps,
        warmup_steps=1,
        decay_steps=min(1, preset["train"]["decay_steps"]),
        # Rows at random are learnt from no better than at random: spikes mean nothing.
        spike_window=10 * arguments.steps,
    )
    if arguments.micro_batch_rows:
        settings = replace(settings, micro_batch_rows=arguments.micro_batch_rows)
    if arguments.precision:
        settings = replace(settings, precision=arguments.precision)
    torch.set_num_threads(arguments.threads or os.cpu_count() or 1)
    device, compiled = torch.device(arguments.device), arguments.compile
    every, digests = preset["runtime"]["state_digest_steps"], []
    loops = ("bare", "measured") if compiled else ("plain", "bare", "measured")
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    # The first turn warms up, and is not counted.
    for turn in range(TURNS + 1):
        for name in seconds:
            state = new_state(llama, settings, device)
            stream = batches(llama, settings, context)
            wait(device)
            begin = time.perf_counter()
            if name == "plain":
                bare(state, stream, settings, ShardedPasses(state.model))
            elif name == "bare":
                fast = passes_of(state.model, settings.precision, compiled=compiled)
                bare(state, stream, settings, fast)
            else:
                digests.append(
                    measured(
                        state, stream, settings, context, compiled=compiled, digest_steps=every
                    )
                )
            wait(device)
            spent = time.perf_counter() - begin
            if name == "measured":
                spent -= 5 * digests[-1]
            if turn:
                seconds[name].append(spent / arguments.steps)
            del state
    digest = {"state_digest_seconds": statistics.median(digests), "state_digest_steps": every}
    _report(seconds, digest, llama, settings, context, device)
    return 0


def _report(
    seconds: dict[str, list[float]],
    digest: dict[str, float],
    llama: LlamaSettings,
    settings: TrainSettings,
    context: int,
    device: torch.device,
) -> None:
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    tokens = settings.batch_rows * context
    flops = training_flops_per_token(llama, context)
    peak = peak_flops_per_second(device_name(device), settings.precision)
    result = {
        "device": device_name(device),
        "tokens_a_step": tokens,
        "seconds_a_step": medians,
        "turns": seconds,
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "cost_of_facts": medians["measured"] / medians["bare"] - 1,
        **digest,
        "cost_of_digests": digest["state_digest_seconds"]
        / digest["state_digest_steps"]
        / medians["bare"],
        **({"gain_of_passes": medians["plain"] / medians["bare"]} if "plain" in medians else {}),
        "tokens_per_second": tokens / medians["measured"],
        "gflops_per_second": tokens * flops / medians["measured"] / 1e9,
        **({"mfu_c1": tokens * flops / medians["measured"] / peak} if peak else {}),
        "convention": CONVENTION,
        "gpu": gpu_meter(device)(),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def wait(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
