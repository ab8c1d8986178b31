"""Check on GPUs what training promises there: `python -m tests.benchmarks.resume_gpu`.

Prints PASS or FAIL for every claim with what was measured, and exits with the number of failures:
the deterministic mode gives the same bits again, also across a stop; two ranks learn what one
learns; a snapshot holds training up for a copy only. Needs torch, numpy and safetensors alone; with
one GPU what is said of two ranks is skipped. Takes some two minutes.
"""

import argparse
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.apr_file import open_apr, write_apr
from model.fast_llama import FastLlama
from model.llama import LlamaSettings, num_parameters
from model.memory import learnt_row_bytes, step_bytes
from model.precision import product_dtype
from model.ranks import RankGroup, Ranks
from model.reports import StepReport
from model.state_copy import Staging, StateCopy, require_same
from model.train import TrainSettings, train
from model.training_state import TrainingState, load_training_state, new_state
from tasks.determinism import repeat_every_bit

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS, MIDDLE = 50, 25
CONTEXT = 512
TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-2}
"Relative difference of any loss that another order of sums may make in so many steps."
BATCH_ROWS = 16
WEIGHTS = "weights.apr"
MEMORY_SHARE = 0.5
"Of the GPU: so many rows that what a step takes beside them is little."
LARGE_STEPS = 12
"Steps of the large model while nothing is written; as many are timed while a snapshot is."


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one process does."""

    precision: str = "bfloat16"
    first: int = 0
    last: int = STEPS
    parallelism: str = "ddp"
    deterministic: bool = True
    resume_from: str = ""
    save_to: str = ""
    large: bool = False
    memory: bool = False


def settings_of(work: Work) -> tuple[LlamaSettings, TrainSettings]:
    """Take the large preset, made smaller unless it is asked for."""
    preset = tomllib.loads((ROOT / "flows" / "presets" / "the-stack-v2.toml").read_text())
    llama = LlamaSettings(**preset["model"])
    if not work.large:
        llama = replace(
            llama, vocab_size=8192, hidden_size=512, num_layers=8, num_heads=8, num_kv_heads=2,
            intermediate_size=1408,
        )  # fmt: skip
    given = {**preset["train"], "precision": work.precision, "batch_rows": BATCH_ROWS}
    given |= {"micro_batch_rows": 8, "num_steps": 1000, "warmup_steps": 10}
    return llama, TrainSettings(**given)


def rows(llama: LlamaSettings, first: int) -> Iterator[np.ndarray]:
    """Yield batches that can be learnt: every row counts up from somewhere."""
    for step in range(first, 10**6):
        starts = np.random.default_rng([1, step]).integers(0, llama.vocab_size, (BATCH_ROWS, 1))
        yield (starts + np.arange(CONTEXT + 1) * 7) % llama.vocab_size


def main() -> int:
    """Do one part of the work, or all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # What a process of its own is asked for.
    parser.add_argument("work", nargs="?", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args().work
    if asked:
        work = Work(**asked)
        measure = _measure_memory if work.memory else _measure_snapshot
        found = measure(work) if work.large else _train(work)
        if found:
            sys.stdout.write(json.dumps(found) + "\n")
        return 0
    if not torch.cuda.is_available():
        sys.exit("no CUDA device answers here")
    names = [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]
    print(f"torch {torch.__version__}, {', '.join(names)}")
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for claim in (*_same_bits(Path(scratch)), *_two_ranks(), _snapshot(), _memory()):
            print(claim, flush=True)
            failures += claim.startswith("FAIL")
    return failures


def _same_bits(scratch: Path) -> Iterator[str]:
    for precision in TOLERANCES:
        work = Work(precision=precision)
        straight, again = _known(work), _run(work)
        yield _claim(straight["bits"] == again["bits"], f"{precision}: twice the same bits")
        saved = scratch / precision
        saved.mkdir()
        begun = _run(replace(work, last=MIDDLE, save_to=str(saved)))
        ended = _run(replace(work, first=MIDDLE, resume_from=str(saved)))
        same = begun["losses"] + ended["losses"] == straight["losses"]
        told = f"{precision}: a stop after step {MIDDLE} changes no loss and no weight"
        yield _claim(same and ended["bits"] == straight["bits"], told)
        fast = _run(replace(work, deterministic=False))
        cost = straight["step_seconds"] / fast["step_seconds"]
        told = f"{precision}: deterministic steps take {cost:.3f} times as long"
        yield f"NOTE {told} ({1e3 * straight['step_seconds']:.1f} ms)"


def _two_ranks() -> Iterator[str]:
    for precision, tolerance in TOLERANCES.items():
        work = Work(precision=precision)
        one = _known(work)
        for parallelism in ("ddp", "fsdp"):
            told = f"{precision}: losses of 2 ranks ({parallelism}, nccl) are those of 1"
            if torch.cuda.device_count() < 2:
                yield f"SKIP {told}: one GPU here"
                continue
            two = _run(replace(work, parallelism=parallelism), ranks=2)
            pairs = zip(one["losses"], two["losses"], strict=True)
            worst = max(abs(a / b - 1) for a, b in pairs)
            yield _claim(worst <= tolerance, f"{told}: {worst:.1e}, at most {tolerance:.0e}")


def _snapshot() -> str:
    found = _run(Work(large=True, deterministic=False))
    told = (
        f"a snapshot of {found['parameters']:,} parameters ({found['gigabytes']:.1f} GB) blocks "
        f"for {found['first_copy_seconds']:.2f} s at first, then {found['copy_seconds']:.2f} s; "
        f"writing and reading it back takes {found['write_seconds']:.1f} s beside training, whose "
        f"{found['steps_meanwhile']} steps meanwhile take {found['slowdown']:.3f} times as long "
        f"as {1e3 * found['step_seconds']:.1f} ms"
    )
    return _claim(found["copy_seconds"] < 1 and found["slowdown"] < 1.5, told)


def _memory() -> str:
    found = _run(Work(large=True, deterministic=False, memory=True))
    told = (
        f"of {found['said']:.0f} rows at a time that are said to fit, nine tenths do "
        f"({found['row_megabytes']:.0f} MB each), and a quarter more do not"
    )
    return _claim(bool(found["fewer_fit"] and not found["more_fit"]), told)


def _claim(holds: bool, told: str) -> str:
    return f"{'PASS' if holds else 'FAIL'} {told}"


def _run(work: Work, ranks: int = 1) -> dict[str, Any]:
    """Run a part of the work in a process of its own, or in several."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(launcher if ranks > 1 else []), "-m", __spec__.name]
    done = subprocess.run(
        [*command, json.dumps(asdict(work))], stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


_known = functools.cache(_run)


def _train(work: Work) -> dict[str, Any]:
    """Train, and say what came of it; only the first rank says anything."""
    if work.deterministic:
        repeat_every_bit()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    ranks = Ranks()
    if "RANK" in os.environ:
        torch.distributed.init_process_group("nccl")
        ranks = RankGroup("fsdp" if work.parallelism == "fsdp" else "ddp")
    llama, settings = settings_of(work)
    state = _load(work, llama, settings, device) if work.resume_from else None
    state = state or new_state(llama, settings, device, ranks)
    losses, times = [], [time.perf_counter()]
    for report in train(state, rows(llama, work.first), settings, ranks):
        if isinstance(report, StepReport):
            losses.append(report.train_loss)
            times.append(time.perf_counter())
        if report.step == work.last:
            break
    copy = Staging().copy(state, ranks)
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()
    if copy is None:
        return {}
    if work.save_to:
        _save(copy, Path(work.save_to))
    return {
        "losses": losses,
        "bits": _bits(copy),
        "step_seconds": float(np.median(np.diff(times)[5:])),
    }


def _save(copy: StateCopy, directory: Path) -> None:
    write_apr(directory / WEIGHTS, {"name": "snapshot"}, copy.weights)
    copy.save(directory)


def _read_weights(directory: Path) -> dict[str, torch.Tensor]:
    file = open_apr(directory / WEIGHTS)
    file.verify()
    return {name: file.tensor(name) for name in file.tensors}


def _load(
    work: Work, llama: LlamaSettings, settings: TrainSettings, device: torch.device
) -> TrainingState:
    directory = Path(work.resume_from)
    return load_training_state(llama, settings, _read_weights(directory), directory, device)


def _bits(copy: StateCopy) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted({**copy.weights, **copy.optimizer}.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _measure_snapshot(work: Work) -> dict[str, float]:
    """Time steps of the large model alone, and while its snapshot is written and read back."""
    llama, settings = settings_of(work)
    state = new_state(llama, settings, "cuda")
    steps = train(state, rows(llama, 0), settings)
    staging = Staging()
    alone = [_seconds(lambda: next(steps)) for _ in range(3 + LARGE_STEPS)][3:]
    first = _seconds(lambda: staging.copy(state, Ranks()))
    copies: list[StateCopy | None] = []
    again = _seconds(lambda: copies.append(staging.copy(state, Ranks())))
    copy = copies[0]
    assert copy is not None
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as threads:
        begin = time.perf_counter()
        written = threads.submit(_write_and_read, copy, Path(scratch))
        meanwhile = []
        while not written.done():
            meanwhile.append(_seconds(lambda: next(steps)))
        written.result()
        write_seconds = time.perf_counter() - begin
    tensors = [*copy.weights.values(), *copy.optimizer.values()]
    return {
        "parameters": num_parameters(state.model),
        "gigabytes": sum(tensor.nbytes for tensor in tensors) / 1e9,
        "first_copy_seconds": first,
        "copy_seconds": again,
        "write_seconds": write_seconds,
        "steps_meanwhile": len(meanwhile),
        "step_seconds": float(np.median(alone)),
        "slowdown": float(np.mean(meanwhile) / np.mean(alone)),
    }


def _measure_memory(work: Work) -> dict[str, float]:
    """Ask how many rows fit into a share of the GPU's memory, and try."""
    llama, settings = settings_of(work)
    state = new_state(llama, settings, "cuda")
    next(train(state, rows(llama, 0), settings))
    state.optimizer.zero_grad()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    limit = int(MEMORY_SHARE * total)
    torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE)
    of_a_row = learnt_row_bytes(state.model, CONTEXT, None, settings.precision)
    weights = sum(p.nbytes for p in state.model.parameters())
    # Gradients come back with the first rows.
    needed = torch.cuda.memory_allocated() + weights + step_bytes(state.model, settings.precision)
    fits = (limit - needed) // of_a_row
    passes = FastLlama(
        state.model, product_dtype(settings.precision, torch.float32), compiled=False
    )
    passes.refresh()

    def fit(num_rows: int) -> float:
        torch.cuda.empty_cache()
        ids_BS = torch.zeros((num_rows, CONTEXT + 1), dtype=torch.int64, device="cuda")
        try:
            torch.autograd.backward(passes(ids_BS, None, 1.0))
        except torch.OutOfMemoryError:
            return 0.0
        return 1.0

    return {
        "said": fits,
        "row_megabytes": of_a_row / 1e6,
        "fewer_fit": fit(int(0.9 * fits)),
        "more_fit": fit(int(1.25 * fits) + 1),
    }


def _write_and_read(copy: StateCopy, directory: Path) -> None:
    _save(copy, directory)
    require_same(directory / WEIGHTS, _read_weights(directory), copy.weights)
    copy.require_saved(directory)


def _seconds(work: Any) -> float:
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
