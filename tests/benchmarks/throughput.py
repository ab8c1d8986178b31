"""How fast a GPU trains the 370M: `python -m tests.benchmarks.throughput`.

One process measures everything in turn, so that ratios are of one card at one time, and writes
every finding at once: whatever ends it early loses the rest alone. Random tokens; the first steps
are not counted, and neither evaluation nor snapshots are in the window. With `--out DIR` the table
of kernels is kept too; with `--seconds N` no further part is begun after so long.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from model.accumulate import accumulate
from model.fast_llama import FastLlama
from model.flops import CONVENTION, peak_flops_per_second, training_flops_per_token
from model.llama import Llama, LlamaSettings, num_parameters
from model.loss import row_losses
from model.passes import ShardedPasses, passes_of
from model.ranks import Ranks
from model.reports import StepReport
from model.train import TrainSettings, train
from model.training_state import TrainingState, new_state
from tasks.rank_processes import run_ranks
from tasks.thresholds import Thresholds
from tasks.train_job import Job
from tasks.training_log import read_rows
from tests.benchmarks.facts import PRESETS, bare

DEVICE = "cuda"
CONTEXT = 2048
VOCABULARY = 50_304
"""A multiple of 128."""
WARM_STEPS, STEPS = 5, 10
LENIENT = {
    "min_val_batches": 0.0,
    "max_leaked_rows": 1e9,
    "max_val_below_train_errors": 1e9,
    "max_improvement_error_nats": 1e9,
    "max_loss_to_unigram": 1e9,
    "max_loss_to_bigram": 1e9,
    "max_val_loss_growth": 1e9,
    "max_gap_growth_errors": 1e9,
}
"""Thresholds for fewer rows than a training has."""


@dataclass(slots=True)
class Bench:
    """Measures part after part, as long as there is time."""

    out: Path | None
    limit_seconds: float
    only: list[str]
    begin: float

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Measure, and say what was found or what went wrong."""
        if self.only and not any(name.startswith(each) for each in self.only):
            return
        if time.perf_counter() - self.begin > self.limit_seconds:
            self.say(name, {"skipped": "no time left"})
            return
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # noqa: BLE001  the parts behind it are still worth their time
            found = {"error": f"{type(error).__name__}: {error}"[:600]}
        found["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        self.say(name, {**found, "part_seconds": time.perf_counter() - began})

    def say(self, name: str, found: dict[str, Any]) -> None:
        """Print a line, and keep it."""
        line = json.dumps({"part": name, **found})
        print(line, flush=True)
        if self.out:
            with (self.out / "throughput.jsonl").open("a") as file:
                file.write(line + "\n")


def settings(**changes: Any) -> tuple[LlamaSettings, TrainSettings]:
    """Return the model of the preset `llama-370m-best`, and its recipe at 131,072 tokens a step."""
    preset = tomllib.loads((PRESETS / "llama-370m-best.toml").read_text())
    llama = LlamaSettings(**{**preset["model"], "vocab_size": VOCABULARY})
    recipe = {
        **preset["train"],
        "batch_rows": 64,
        "micro_batch_rows": 16,
        "optimizer": "adamw",
        "num_steps": 10_000,
        # Rows at random are learnt from no better than at random: spikes mean nothing.
        "spike_window": 100_000,
    }
    return llama, TrainSettings(**{**recipe, **changes})


def rows(train_settings: TrainSettings) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    while True:
        yield generator.integers(0, VOCABULARY, (train_settings.batch_rows, CONTEXT + 1))


def speed(train_settings: TrainSettings, seconds: list[float]) -> dict[str, Any]:
    llama, _ = settings()
    tokens = train_settings.batch_rows * CONTEXT
    median = statistics.median(seconds)
    useful = tokens * training_flops_per_token(llama, CONTEXT) / median
    peak = peak_flops_per_second(torch.cuda.get_device_name(), "bfloat16")
    return {
        "tokens_per_second": tokens / median,
        "useful_tflops": useful / 1e12,
        **({"mfu_c1": useful / peak} if peak else {}),
        "step_milliseconds": [1e3 * value for value in statistics.quantiles(seconds, n=4)],
    }


def steps(*, compiled: bool, num_steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    """Train through the real loop, with every fact that it reports."""
    llama, recipe = settings(**changes)
    state = new_state(llama, recipe, DEVICE)
    facts = train(state, rows(recipe), recipe, compiled=compiled)
    begin = time.perf_counter()
    losses, seconds, last = [], [], begin
    for report in facts:
        now = time.perf_counter()
        if isinstance(report, StepReport):
            losses.append(report.train_loss)
            seconds.append(now - last)
        last = now
        if len(seconds) == WARM_STEPS + num_steps:
            break
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = speed(recipe, seconds[WARM_STEPS:])
    return {**found, "first_step_seconds": seconds[0], "graphs": graphs, "losses": losses[:3]}


def bare_steps() -> dict[str, Any]:
    """Make the same updates and look at nothing until the end."""
    llama, recipe = settings()
    state, times = new_state(llama, recipe, DEVICE), []
    passes = passes_of(state.model, recipe.precision, compiled=True)
    for number in (WARM_STEPS, STEPS):
        begin = time.perf_counter()
        short = replace(recipe, num_steps=number, warmup_steps=1, decay_steps=1)
        bare(state, rows(recipe), short, passes)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / number)
    return speed(recipe, [times[1]] * 3)


def plain_steps() -> dict[str, Any]:
    """Run the plain model in bfloat16 by torch's own autocast, eagerly: what one writes first."""
    llama, recipe = settings()
    state = new_state(llama, recipe, DEVICE)
    passes, seconds = Autocast(state.model), []
    for number, ids_BS in enumerate(rows(recipe)):
        begin = time.perf_counter()
        accumulate(state, ids_BS, recipe, passes, Ranks())
        state.optimizer.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        if number == 5:
            return speed(recipe, seconds[2:])
    raise AssertionError


class Autocast(ShardedPasses):
    def __call__(
        self, ids_BS: torch.Tensor, document_end: int | None, scale: float
    ) -> torch.Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return super().__call__(ids_BS, document_end, scale)


def agreement() -> dict[str, Any]:
    """Compare loss and gradients of two full rows with the plain model's in float32."""
    llama, recipe = settings()
    state = new_state(llama, recipe, DEVICE)
    ids_BS = torch.from_numpy(next(rows(recipe))[:2]).to(DEVICE)
    loss = row_losses(state.model, ids_BS, None).mean()
    torch.autograd.backward(loss)
    expected = gradients(state)
    passes = FastLlama(state.model, torch.bfloat16, compiled=False)
    passes.refresh()
    fast = passes(ids_BS, None, 1 / (2 * CONTEXT))
    torch.autograd.backward(fast)
    errors = [
        float((gradient - expected[name]).norm() / expected[name].norm())
        for name, gradient in gradients(state).items()
    ]
    return {
        "plain_loss": float(loss.detach()),
        "fast_loss": float(fast.detach()),
        "worst_gradient_error": max(errors),
        "num_gradients": len(errors),
    }


def gradients(state: TrainingState) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
    state.optimizer.zero_grad()
    return found


def worker(shards: Path) -> dict[str, Any]:
    """Train as a run does: in a process of its own, with its checks, its log and a snapshot."""
    _, recipe = settings(
        num_steps=WARM_STEPS + 2 * STEPS,
        steps_per_epoch=WARM_STEPS + STEPS,
        warmup_steps=1,
        decay_steps=1,
        max_passes=9,
    )
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.time()
        run_ranks(job(Path(scratch), shards, recipe), lambda _pulse: None)
        steps_taken = read_rows(Path(scratch) / "train.jsonl")
        epochs = [
            json.loads(path.read_text()) for path in sorted(Path(scratch).rglob("epoch-*.json"))
        ]
    seconds = [row["wall_seconds"] for row in steps_taken]
    first, last = WARM_STEPS, WARM_STEPS + STEPS
    return {
        **speed(recipe, seconds[first:last]),
        "beside_a_snapshot": statistics.median(seconds[last:])
        / statistics.median(seconds[first:last]),
        "seconds_to_the_first_step": steps_taken[0]["time"] - begin,
        "losses": [row["train_loss"] for row in steps_taken[::5]],
        "val_losses": [epoch["val_loss"] for epoch in epochs],
    }


def job(scratch: Path, shards: Path, recipe: TrainSettings, **changes: Any) -> Job:
    """Return what trains the 370M on some shards, for a while."""
    preset = tomllib.loads((PRESETS / "llama-370m-best.toml").read_text())
    index = json.loads((shards / "index.json").read_text())["content"]
    llama, _ = settings()
    facts = {
        "directory": str(scratch),
        "shards": str(shards),
        "shards_ref": "shards:" + 64 * "0",
        "shards_index": index,
        "model": replace(llama, vocab_size=index["vocab_size"]),
        "train": recipe,
        "thresholds": Thresholds(**{**preset["thresholds"], **LENIENT}),
        "num_threads": 8,
        "device": DEVICE,
        "num_ranks": 1,
        "num_nodes": 1,
        "rendezvous": "",
        "parallelism": "ddp",
        "deterministic": False,
        "compiled": True,
        "start_timeout_seconds": 300.0,
        "step_timeout_seconds": 300.0,
        "state_digest_steps": 20,
    }
    return Job(**{**facts, **changes})


def clocked(work: Callable[[], object], repeats: int = 10) -> float:
    """Return the median seconds of some work, by events on the device."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(times))


def products() -> dict[str, Any]:
    """Multiply in the shapes of the model, at 16 rows, and at the size that is easiest."""
    found = {}
    tokens = 16 * CONTEXT
    shapes = {
        "ceiling": (8192, 8192, 8192),
        "qkv": (tokens, 1536, 1024),
        "output": (tokens, 1024, 1024),
        "gate_up": (tokens, 5632, 1024),
        "down": (tokens, 1024, 2816),
        "head": (8192, VOCABULARY, 1024),
        "qkv_weights": (1536, 1024, tokens),
        "gate_up_weights": (5632, 1024, tokens),
        "down_weights": (1024, 2816, tokens),
        "head_weights": (VOCABULARY, 1024, 8192),
        "gate_up_inputs": (tokens, 1024, 5632),
    }
    for name, (m, n, k) in shapes.items():
        a = torch.randn(m, k, device=DEVICE, dtype=torch.bfloat16)
        b = torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16)
        if name.endswith("weights"):
            a, b = a.T.contiguous().T, b.T.contiguous().T
        seconds = clocked(partial(torch.matmul, a, b.T))
        found[name] = round(2 * m * n * k / seconds / 1e12)
    return {"tflops": found}


def product(m: int, n: int, k: int, *, eight_bits: bool = False) -> Callable[[], object]:
    """Return what multiplies (m, k) by (k, n) into bfloat16."""
    a_MK = torch.randn(m, k, device=DEVICE, dtype=torch.bfloat16)
    b_NK = torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16)
    if not eight_bits:
        return partial(torch.matmul, a_MK, b_NK.T)
    one = torch.ones((), device=DEVICE)
    a_MK, b_NK = (each.to(torch.float8_e4m3fn) for each in (a_MK, b_NK))
    return lambda: torch._scaled_mm(
        a_MK, b_NK.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


@torch.compile
def both_layouts(x_MN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to 8 bits as the forward and the backward products each read it."""
    eight_MN = (x_MN * 0.5).to(torch.float8_e4m3fn)
    return eight_MN, eight_MN.T.contiguous()


def float8() -> dict[str, Any]:
    """Bound what 8 bits would gain: all products of a micro-batch, and the casts that they need.

    A bound from above: scales are taken as known, so that no cast looks for the largest value.
    """
    tokens, layers = 16 * CONTEXT, 24
    shapes = {
        "qkv": (tokens, 1536, 1024, layers),
        "output": (tokens, 1024, 1024, layers),
        "gate_up": (tokens, 5632, 1024, layers),
        "down": (tokens, 1024, 2816, layers),
        "head": (8192, VOCABULARY, 1024, tokens // 8192),
    }
    found: dict[str, Any] = {}
    totals = dict.fromkeys(("bfloat16", "float8", "casts"), 0.0)
    for name, (m, n, k, count) in shapes.items():
        x_MK = torch.randn(m, k, device=DEVICE, dtype=torch.bfloat16)
        grad_MN = torch.randn(m, n, device=DEVICE, dtype=torch.bfloat16)
        # Forward, the gradient of the inputs, the gradient of the weights.
        trio = [(m, n, k), (m, k, n), (n, k, m)]
        seconds = {
            "bfloat16": sum(clocked(product(*each)) for each in trio),
            "float8": sum(clocked(product(*each, eight_bits=True)) for each in trio),
            "casts": clocked(partial(both_layouts, x_MK)) + clocked(partial(both_layouts, grad_MN)),
        }
        found[name] = {key: 1e3 * value * count for key, value in seconds.items()}
        totals = {key: total + found[name][key] for key, total in totals.items()}
    return {"milliseconds": found, "milliseconds_in_all": totals}


def attention() -> dict[str, Any]:
    """Attend forward and backward as the model does, by every kernel that torch has."""
    found: dict[str, Any] = {}
    shape = {"query": 16, "key": 4, "value": 4}
    inputs = {
        name: torch.randn(16, heads, CONTEXT, 64, device=DEVICE, dtype=torch.bfloat16)
        .transpose(1, 2)
        .contiguous()
        .transpose(1, 2)
        .requires_grad_()
        for name, heads in shape.items()
    }
    # Half of the products of forward (2) and backward (5).
    flops = 7 * 16 * 16 * CONTEXT * CONTEXT * 64

    def run(*, expand: bool) -> None:
        q, k, v = inputs.values()
        if expand:
            k, v = (each.repeat_interleave(4, dim=1) for each in (k, v))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not expand)
        torch.autograd.backward((out,), (out.detach(),))

    choose = cast("Any", torch._fused_sdp_choice)
    found["chosen"] = str(choose(*inputs.values(), is_causal=True, enable_gqa=True))
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        for expand in (False, True):
            key = f"{backend.name}{' expanded' if expand else ''}"
            try:
                with sdpa_kernel(backend):
                    found[key] = round(flops / clocked(partial(run, expand=expand)) / 1e12)
            except RuntimeError as error:
                found[key] = str(error)[:80]
    return {"tflops": found}


def kernels(out: Path | None) -> dict[str, Any]:
    """Profile one micro-batch and update."""
    llama, recipe = settings(batch_rows=16)
    state: TrainingState = new_state(llama, recipe, DEVICE)
    facts = train(state, rows(recipe), recipe, compiled=True)
    for _ in range(4):
        next(facts)
    with torch.profiler.profile() as profile:
        next(facts)
        torch.cuda.synchronize()
    on_device = [e for e in profile.key_averages() if str(e.device_type).endswith("CUDA")]
    events = [e for e in on_device if e.self_device_time_total > 0]
    events.sort(key=lambda e: -e.self_device_time_total)
    lines = [f"{e.self_device_time_total / 1e3:9.3f} ms {e.count:5d} {e.key[:150]}" for e in events]
    if out:
        (out / "kernels.txt").write_text("\n".join(lines) + "\n")
    return {"total_milliseconds": sum(e.self_device_time_total for e in events) / 1e3}


def main() -> int:
    """Measure all parts in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shards", type=Path, help="Shards that the real worker trains on.")
    parser.add_argument("--only", nargs="*", default=[], help="First words of parts.")
    parser.add_argument("--seconds", type=float, default=1e9)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device answers here")
    bench = Bench(arguments.out, arguments.seconds, arguments.only, time.perf_counter())
    with torch.device("meta"):
        parameters = num_parameters(Llama(settings()[0]))
    bench.say(
        "machine",
        {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "parameters": parameters,
            "convention": CONVENTION,
        },
    )
    bench.part("products", products)
    bench.part("attention", attention)
    bench.part("float8", float8)
    bench.part("agreement", agreement)
    bench.part("compiled, 16 rows", lambda: steps(compiled=True))
    bench.part("kernels", lambda: kernels(arguments.out))
    bench.part("bare, compiled, 16 rows", bare_steps)
    if shards := arguments.shards:
        bench.part("worker", lambda: worker(shards))
    bench.part("compiled, 16 rows, muon", lambda: steps(compiled=True, optimizer="muon"))
    bench.part("not compiled, 16 rows", lambda: steps(compiled=False, num_steps=3))
    bench.part("compiled, 32 rows", lambda: steps(compiled=True, micro_batch_rows=32))
    bench.part("compiled, 8 rows", lambda: steps(compiled=True, micro_batch_rows=8))
    bench.part("plain model, autocast", plain_steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
