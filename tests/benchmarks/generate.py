"""Tokens a second of generation, beside a forward pass for every token and beside transformers.

python -m tests.benchmarks.generate --device cuda
python -m tests.benchmarks.generate --rows 1 --precisions float32 --tokens 32
python -m tests.benchmarks.generate --checkpoint DIRECTORY --gguf MODEL.gguf --rows 1

Weights are drawn at random in the shape of a preset, or a checkpoint's. Every way to decode starts
from the same prompts and draws the likeliest tokens; the tokens of all are compared, and the place
where one first differs stands beside its speed. In bfloat16 other roundings choose otherwise.
llama.cpp is compared where a GGUF file is named and llama-cpp-python can be imported.
"""

import argparse
import json
import platform
import statistics
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.decoding import CachedLlama
from model.decoding_slots import Slots
from model.llama import Llama, LlamaSettings, initialise, num_parameters
from model.sampling import Sampling
from tasks.gpu import device_name
from tasks.models import APR, load_apr
from tests.model.oracle import theirs

PRESETS = Path(__file__).parents[2] / "flows" / "presets"
GREEDY = Sampling(temperature=0.0, top_p=1.0, seed=0)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS = ("eager", "graph", "compiled", "transformers", "no cache")
RECOMPUTED_TOKENS = 8
"""A forward pass over everything for each token is measured on few of them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is decoded."""

    model: Llama
    prompts_BT: Tensor
    num_tokens: int
    block_tokens: int

    @property
    def device(self) -> torch.device:
        return self.model.model.embed_tokens.weight.device


@dataclass(frozen=True)
class Decoded:
    """Tokens that a way drew, and what they took."""

    ids_BT: Tensor
    seconds: float
    cpu_seconds: float


@contextmanager
def timed(device: torch.device) -> Iterator[Callable[[], tuple[float, float]]]:
    """Measure until the device has done everything: by the wall clock, and of the processor."""
    wait(device)
    begin, cpu = time.perf_counter(), time.process_time()
    yield lambda: (time.perf_counter() - begin, time.process_time() - cpu)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_slots(case: Case, **how: bool) -> Callable[[], Decoded]:
    """Prepare our decoding; what is prepared once is not timed."""
    num_rows, num_prompt = case.prompts_BT.shape
    cached = CachedLlama(case.model, num_rows=num_rows, num_positions=num_prompt + case.num_tokens)
    slots = Slots(cached, GREEDY, block_tokens=case.block_tokens, **how)
    windows = dict(enumerate(case.prompts_BT.tolist()))

    def decode() -> Decoded:
        slots.place(windows)
        drawn = []
        with timed(case.device) as seconds:
            for first in range(0, case.num_tokens, case.block_tokens):
                block = min(case.block_tokens, case.num_tokens - first)
                uniforms_CB = torch.zeros(block, num_rows, dtype=torch.float64)
                drawn.append(slots.draw(uniforms_CB, num_prompt + first)[0])
            return Decoded(torch.cat(drawn).T, *seconds())

    return decode


def with_transformers(case: Case) -> Callable[[], Decoded]:
    """Prepare transformers with the same weights and a cache of its own.

    It reads the prompts within the measured time, as it offers no other way.
    """
    reference: Any = theirs(case.model).eval()
    reference.config.use_cache = reference.generation_config.use_cache = True

    def decode() -> Decoded:
        with timed(case.device) as seconds:
            ids_BT = reference.generate(
                case.prompts_BT,
                attention_mask=torch.ones_like(case.prompts_BT),
                max_new_tokens=case.num_tokens,
                min_new_tokens=case.num_tokens,
                do_sample=False,
                pad_token_id=0,
            )
            wait(case.device)
            return Decoded(ids_BT[:, case.prompts_BT.shape[1] :].cpu(), *seconds())

    return decode


def without_cache(case: Case) -> Callable[[], Decoded]:
    """Prepare a forward pass over everything for every token."""

    @torch.no_grad()
    def decode() -> Decoded:
        ids_BT = case.prompts_BT
        with timed(case.device) as seconds:
            for _ in range(min(RECOMPUTED_TOKENS, case.num_tokens)):
                next_B = case.model(ids_BT)[:, -1].argmax(-1)
                ids_BT = torch.cat((ids_BT, next_B[:, None]), 1)
            wait(case.device)
            return Decoded(ids_BT[:, case.prompts_BT.shape[1] :].cpu(), *seconds())

    return decode


def prepare(way: str, case: Case) -> Callable[[], Decoded]:
    match way:
        case "eager":
            return with_slots(case, captured=False)
        case "graph":
            return with_slots(case)
        case "compiled":
            return with_slots(case, compiled=True)
        case "transformers":
            return with_transformers(case)
    return without_cache(case)


def measure(way: str, case: Case, repeats: int) -> dict[str, Any]:
    """Decode once to warm up and then so many times."""
    decode = prepare(way, case)
    decode()
    runs = [decode() for _ in range(repeats)]
    ids_BT = runs[0].ids_BT
    assert all(torch.equal(run.ids_BT, ids_BT) for run in runs), f"{way} differs from itself"
    rates = [run.ids_BT.numel() / run.seconds for run in runs]
    cpu_rates = [run.ids_BT.numel() / run.cpu_seconds for run in runs]
    rate = statistics.median(rates)
    size = case.model.model.embed_tokens.weight.element_size()
    read_bytes = (num_parameters(case.model) - case.model.model.embed_tokens.weight.numel()) * size
    return {
        "tokens_per_second": rate,
        "least": min(rates),
        "most": max(rates),
        "tokens_per_cpu_second": statistics.median(cpu_rates),
        "weights_gb_per_second": read_bytes * rate / len(ids_BT) / 1e9,
        "ids": ids_BT,
    }


def with_llama_cpp(path: Path, prompt: list[int], num_tokens: int, repeats: int) -> dict[str, Any]:
    """Draw the likeliest tokens with llama.cpp, on as many threads as torch has."""
    from llama_cpp import Llama as LlamaCpp

    engine = LlamaCpp(
        model_path=str(path),
        n_ctx=len(prompt) + num_tokens,
        n_threads=torch.get_num_threads(),
        n_threads_batch=torch.get_num_threads(),
        verbose=False,
    )
    rates, cpu_rates, ids = [], [], []
    for _ in range(repeats + 1):
        drawn = engine.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        # The first of them comes with the reading of the prompt.
        ids = [next(drawn)]
        begin, cpu = time.perf_counter(), time.process_time()
        ids += [next(drawn) for _ in range(num_tokens - 1)]
        rates.append((num_tokens - 1) / (time.perf_counter() - begin))
        cpu_rates.append((num_tokens - 1) / (time.process_time() - cpu))
    return {
        "tokens_per_second": statistics.median(rates[1:]),
        "least": min(rates[1:]),
        "most": max(rates[1:]),
        "tokens_per_cpu_second": statistics.median(cpu_rates[1:]),
        "file": path.name,
        "ids": torch.tensor([ids]),
    }


def compare(arguments: argparse.Namespace, model: Llama, num_rows: int) -> dict[str, Any]:
    """Measure every way on the same prompts."""
    generator = torch.Generator().manual_seed(num_rows)
    shape = (num_rows, arguments.prompt_tokens)
    ids_BT = torch.randint(0, model.settings.vocab_size, shape, generator=generator)
    case = Case(
        model=model,
        prompts_BT=ids_BT.to(arguments.device),
        num_tokens=arguments.tokens,
        block_tokens=arguments.block_tokens,
    )
    found: dict[str, Any] = {}
    for way in arguments.ways:
        if way == "graph" and case.device.type != "cuda":
            continue
        found[way] = measure(way, case, arguments.repeats)
        print(f"{way}: {found[way]['tokens_per_second']:.1f} tokens/s", file=sys.stderr)
    if arguments.gguf and num_rows == 1:
        prompt = case.prompts_BT[0].tolist()
        found["llama.cpp"] = with_llama_cpp(
            arguments.gguf, prompt, arguments.tokens, arguments.repeats
        )
    return _plain(found, is_cpu=case.device.type == "cpu")


def _plain(found: Mapping[str, dict[str, Any]], *, is_cpu: bool) -> dict[str, Any]:
    """Leave the ids out, and say how much faster the fastest of ours is than each other way.

    On a processor that others use, the seconds that it gave say more than those that passed.
    """
    rate = "tokens_per_cpu_second" if is_cpu else "tokens_per_second"
    ours = [found[way][rate] for way in WAYS[:3] if way in found]
    expected_BT = next(iter(found.values()))["ids"]
    return {
        way: {
            **{key: value for key, value in facts.items() if key != "ids"},
            "first_difference": _first_difference(facts["ids"], expected_BT),
            **({"fastest_of_ours_to_this": max(ours) / facts[rate]} if ours else {}),
        }
        for way, facts in found.items()
    }


def _first_difference(ids_BT: Tensor, expected_BT: Tensor) -> int | None:
    differs_T = (ids_BT != expected_BT[:, : ids_BT.shape[1]]).any(0).tolist()
    return differs_T.index(True) if True in differs_T else None


def load(arguments: argparse.Namespace, dtype: torch.dtype) -> Llama:
    if arguments.checkpoint:
        return load_apr(arguments.checkpoint / APR, arguments.device).to(dtype)
    preset = tomllib.loads((PRESETS / f"{arguments.preset}.toml").read_text())
    settings = LlamaSettings(**preset["model"])
    room = max(settings.max_position_embeddings, arguments.prompt_tokens + arguments.tokens)
    model = Llama(replace(settings, max_position_embeddings=room))
    initialise(model, seed=1)
    return model.to(arguments.device, dtype).eval()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="llama-370m")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--block-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    results = [
        {"precision": name, "rows": num_rows, **compare(arguments, model, num_rows)}
        for name in arguments.precisions
        for model in [load(arguments, PRECISIONS[name])]
        for num_rows in arguments.rows
    ]
    report = {
        "device": device_name(torch.device(arguments.device)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {
            name: _version(name) for name in ("torch", "transformers", "llama_cpp_python")
        },
        "model": str(arguments.checkpoint or arguments.preset),
        "prompt_tokens": arguments.prompt_tokens,
        "tokens": arguments.tokens,
        "results": results,
    }
    print(json.dumps(report, indent=1))
    return 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
