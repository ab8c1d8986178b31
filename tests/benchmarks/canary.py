"""Train our model and transformers' on the same batches and compare the two loss curves.

Both begin with the same weights and follow the same recipe. Ours goes through the training loop
that every run goes through; theirs through a loop as plain as it can be written, with torch's own
AdamW, clipping and, in bfloat16, autocast. They can only agree if model, loss, accumulation,
clipping, schedule and optimizer all do.

    python -m tests.benchmarks.canary                   a small model in float64, on the CPU
    python -m tests.benchmarks.canary --device cuda     the preset llama-370m in bfloat16

Exit status 1 if they do not.
"""

import argparse
import math
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.llama import Llama, LlamaSettings, initialise
from model.reports import StepReport
from model.train import train
from model.train_settings import TrainSettings
from model.training_state import new_state
from tests.model.oracle import theirs

PRESETS = Path(__file__).resolve().parents[2] / "flows" / "presets"
NUM_STEPS = 300
NUM_BYTES = 256
TOLERANCES = {"float64": (1e-9, 1e-10), "tfloat32": (0.1, 0.01), "bfloat16": (0.2, 0.05)}
"""Nats by which two curves may differ: at most, and in the mean.

Not in float32: another order of sums grows there to as much as a small fault makes.

What was measured, and how far faults part the curves: evidence/decisions/0003.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far two curves are from each other."""

    max_nats: float
    mean_nats: float

    def within(self, tolerances: tuple[float, float]) -> bool:
        """Whether both bounds hold."""
        return self.max_nats <= tolerances[0] and self.mean_nats <= tolerances[1]


def difference(one: list[float], other: list[float]) -> Difference:
    """Compare step by step."""
    apart = np.abs(np.array(one) - np.array(other))
    return Difference(max_nats=float(apart.max()), mean_nats=float(apart.mean()))


def small() -> tuple[LlamaSettings, TrainSettings, int]:
    """A model, a recipe and a context length for some seconds on one core."""
    values = _preset("smoke")
    llama = replace(LlamaSettings(**values["model"]), vocab_size=NUM_BYTES)
    recipe = replace(_recipe(values), batch_rows=8, micro_batch_rows=4, precision="float32")
    return llama, recipe, 64


def large(precision: Any) -> tuple[LlamaSettings, TrainSettings, int]:
    """The model and the recipe of the preset `llama-370m`, but for the number of steps."""
    values = _preset("llama-370m")
    recipe = replace(_recipe(values), precision=precision)
    return LlamaSettings(**values["model"]), recipe, int(values["shard"]["context_length"])


def _preset(name: str) -> dict[str, Any]:
    return tomllib.loads((PRESETS / f"{name}.toml").read_text())


def _recipe(values: dict[str, Any]) -> TrainSettings:
    return replace(
        TrainSettings(**values["train"]),
        num_steps=NUM_STEPS,
        warmup_steps=NUM_STEPS // 10,
        steps_per_epoch=NUM_STEPS,
        # Nothing spikes before the window is full.
        spike_window=NUM_STEPS + 1,
    )


def batches(context_length: int, batch_rows: int) -> Iterator[np.ndarray]:
    """Yield rows from random places of the standard library, a token a byte.

    Shapes: each (batch_rows, context_length + 1).
    """
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)
    generator = np.random.default_rng(0)
    window_S = np.arange(context_length + 1)
    while True:
        starts = generator.integers(0, len(text) - context_length - 1, (batch_rows, 1))
        yield text[starts + window_S].astype(np.int64)


def our_losses(
    llama: LlamaSettings, recipe: TrainSettings, context_length: int, device: str
) -> list[float]:
    """Train our model through the real loop."""
    stream = batches(context_length, recipe.batch_rows)
    state = new_state(llama, recipe, device)
    if recipe.precision == "float32":
        state.model.double()
    # As the worker does by default: compiled on a GPU.
    compiled = device != "cpu"
    reports = train(state, stream, recipe, compiled=compiled)
    return [report.train_loss for report in reports if isinstance(report, StepReport)]


def their_losses(
    llama: LlamaSettings, recipe: TrainSettings, context_length: int, device: str
) -> list[float]:
    """Train transformers' model, with AdamW alone, in a loop that owes ours nothing."""
    drawn = Llama(llama)
    initialise(drawn, recipe.seed)
    in_float64 = recipe.precision == "float32"
    model: Any = theirs(drawn.double() if in_float64 else drawn).to(device)
    stream = batches(context_length, recipe.batch_rows)
    optimizer = torch.optim.AdamW(
        _groups(model, recipe), betas=(recipe.beta1, recipe.beta2), eps=recipe.adam_eps
    )
    losses = []
    for step in range(1, recipe.num_steps + 1):
        ids = torch.from_numpy(next(stream)).to(device)
        in_bfloat16 = recipe.precision == "bfloat16"
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=in_bfloat16):
            logits_BTV = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        wide_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
        loss = nn.functional.cross_entropy(wide_BTV, ids[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = _cosine(step, recipe)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _groups(model: nn.Module, recipe: TrainSettings) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim == 2 and name != "model.embed_tokens.weight"
        (decayed if decays else exempt).append(parameter)
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]


def _cosine(step: int, recipe: TrainSettings) -> float:
    if step <= recipe.warmup_steps:
        return recipe.peak_lr * step / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / (recipe.num_steps - recipe.warmup_steps)
    lowest = recipe.peak_lr * recipe.final_lr_ratio
    return lowest + (recipe.peak_lr - lowest) * (1 + math.cos(math.pi * done)) / 2


def main() -> int:
    """Train both, print the curves, compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=("tfloat32", "bfloat16"), default="bfloat16", help="on a GPU"
    )
    arguments = parser.parse_args()
    large_enough = arguments.device != "cpu"
    llama, recipe, context_length = large(arguments.precision) if large_enough else small()
    torch.set_float32_matmul_precision("highest" if recipe.precision == "float32" else "high")
    curves = {}
    for name, losses in (("ours", our_losses), ("transformers", their_losses)):
        begin = time.perf_counter()
        curves[name] = losses(llama, recipe, context_length, arguments.device)
        seconds = time.perf_counter() - begin
        print(f"{name}: {NUM_STEPS} steps in {recipe.precision}, {seconds:.1f} s", flush=True)
    print("\n| step | ours | transformers |\n|---|---|---|")
    for step in (1, 2, 5, 10, 20, 50, 100, 150, 200, 250, NUM_STEPS):
        print(
            f"| {step} | {curves['ours'][step - 1]:.5f} | {curves['transformers'][step - 1]:.5f} |"
        )
    found = difference(curves["ours"], curves["transformers"])
    allowed = TOLERANCES["float64" if recipe.precision == "float32" else recipe.precision]
    verdict = found.within(allowed)
    print(
        f"\n{'PASS' if verdict else 'FAIL'}: at most {found.max_nats:.2g} nats apart (allowed "
        f"{allowed[0]}), {found.mean_nats:.2g} in the mean (allowed {allowed[1]})"
    )
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit(main())
