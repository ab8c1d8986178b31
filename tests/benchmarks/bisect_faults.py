"""Plant faults of eighteen kinds in a model and see what names them.

`python -m tests.benchmarks.bisect_faults [--seeds 3] [--trained]` prints one line a fault, and the
totals of `assay bisect` beside those of four rules that need less. The reference is transformers,
the candidate ours.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.bisection import Bisection, bisect
from model.gguf_names import interleave
from model.k_quants import BlockKind, decode, encode
from model.llama import Llama, LlamaSettings, initialise
from model.local_error import SiteError
from model.sides import Side
from model.taps import LAYER_SITES, Trace, trace
from model.torch_side import llama_side
from model.transformers_side import transformers_side
from tests.model.oracle import theirs

SETTINGS = LlamaSettings(
    vocab_size=256,
    hidden_size=128,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=384,
    max_position_embeddings=64,
    rope_theta=10_000.0,
    rms_norm_eps=1e-5,
    initializer_std=0.06,
    attention_bias=False,
    tie_embeddings=False,
)
NUM_TOKENS = 32
SPIKE_CHANNEL = 17
SPIKE_OPENING = 48.0
"""Of gate and up each; the activation is nearly its square."""
FREE_FLOOR = 2e-6
"""Of a free pass, measured on these models: what the simplest rule that works has to know."""
Weights = dict[str, Tensor]
Change = Callable[[Weights], dict[str, object] | None]
"""Changes weights in place, and returns the settings that it changes."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One kind of fault, and the sites at which it is."""

    name: str
    sites: tuple[str, ...]
    change: Change


FAULTS: list[Planted] = []


def planted(name: str, *sites: str) -> Callable[[Change], Change]:
    """Add a fault to the list."""

    def add(change: Change) -> Change:
        FAULTS.append(Planted(name, sites, change))
        return change

    return add


def every(*kinds: str) -> tuple[str, ...]:
    """Name sites in every layer."""
    return tuple(f"layers.{n}.{kind}" for n in range(SETTINGS.num_layers) for kind in kinds)


def swap(weights: Weights, first: str, second: str) -> None:
    """Exchange two tensors."""
    weights[first], weights[second] = weights[second], weights[first]


@planted("k rows interleaved, layer 2", "layers.2.k")
def _(weights: Weights) -> None:
    name = "model.layers.2.self_attn.k_proj.weight"
    weights[name] = interleave(weights[name], SETTINGS.num_kv_heads)


@planted("gate and up swapped, layer 3", "layers.3.ffn_gate", "layers.3.ffn_up")
def _(weights: Weights) -> None:
    swap(weights, *(f"model.layers.3.mlp.{name}_proj.weight" for name in ("gate", "up")))


@planted("rope theta 1e4 -> 5e5", *every("q_rope", "k_rope"))
def _(weights: Weights) -> dict[str, object]:
    return {"rope_theta": 5e5}


@planted("rms eps 1e-5 -> 1e-6", *every("attn_norm", "ffn_norm"), "final_norm")
def _(weights: Weights) -> dict[str, object]:
    return {"rms_norm_eps": 1e-6}


@planted("rms eps 1e-5 -> 1e-3", *every("attn_norm", "ffn_norm"), "final_norm")
def _(weights: Weights) -> dict[str, object]:
    return {"rms_norm_eps": 1e-3}


@planted("ffn_norm x 1.05, layer 2", "layers.2.ffn_norm")
def _(weights: Weights) -> None:
    weights["model.layers.2.post_attention_layernorm.weight"].mul_(1.05)


@planted("ffn_norm x 1.001, layer 2", "layers.2.ffn_norm")
def _(weights: Weights) -> None:
    weights["model.layers.2.post_attention_layernorm.weight"].mul_(1.001)


@planted("down_proj row zero, layer 1", "layers.1.ffn_out")
def _(weights: Weights) -> None:
    weights["model.layers.1.mlp.down_proj.weight"][7] = 0.0


@planted("one exponent bit of v, layer 4", "layers.4.v")
def _(weights: Weights) -> None:
    weights["model.layers.4.self_attn.v_proj.weight"].view(torch.int32)[5, 9] ^= 1 << 23


@planted("up in four bits, layer 3", "layers.3.ffn_up")
def _(weights: Weights) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    blocks = weights[name].reshape(-1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 7
    weights[name] = ((blocks / scale).round() * scale).reshape(weights[name].shape)


@planted("head tied to the embedding", "logits")
def _(weights: Weights) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


@planted("o_proj transposed, layer 2", "layers.2.attn_out")
def _(weights: Weights) -> None:
    name = "model.layers.2.self_attn.o_proj.weight"
    weights[name] = weights[name].T.contiguous()


@planted("embedding off by one row", "embed")
def _(weights: Weights) -> None:
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].roll(1, 0)


@planted("norms swapped, layer 3", "layers.3.attn_norm", "layers.3.ffn_norm")
def _(weights: Weights) -> None:
    swap(
        weights,
        *(f"model.layers.3.{name}_layernorm.weight" for name in ("input", "post_attention")),
    )


@planted(
    "layers 2 and 3 swapped",
    *(
        f"layers.{layer}.{kind}"
        for layer in (2, 3)
        for kind in (
            *("attn_norm", "q", "k", "v", "attn_out", "ffn_norm"),
            *("ffn_gate", "ffn_up", "ffn_out"),
        )
    ),
)
def _(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("model.layers.2.")]:
        swap(weights, name, name.replace("layers.2.", "layers.3."))


@planted("a weight is NaN, layer 3", "layers.3.ffn_gate")
def _(weights: Weights) -> None:
    weights["model.layers.3.mlp.gate_proj.weight"][3, 3] = torch.nan


@planted("final norm all ones", "final_norm")
def _(weights: Weights) -> None:
    weights["model.norm.weight"].fill_(1.0)


@planted("two faults, layers 1 and 4", "layers.1.ffn_out", "layers.4.v")
def _(weights: Weights) -> None:
    weights["model.layers.1.mlp.down_proj.weight"][7] = 0.0
    weights["model.layers.4.self_attn.v_proj.weight"][3] *= 1.5


def random_model(seed: int) -> Llama:
    """Build a model whose gains are unlike those of a new one, which would hide faults."""
    model = Llama(SETTINGS)
    generator = initialise(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def trained_model(seed: int, num_steps: int = 150) -> Llama:
    """Train a model for a minute on the bytes of a program."""
    model, text = random_model(seed), program()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        starts = torch.randint(len(text) - NUM_TOKENS - 1, (16,), generator=generator)
        rows = torch.stack([text[start : start + NUM_TOKENS + 1] for start in starts])
        loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model.requires_grad_(False)


def program() -> Tensor:
    """Return the bytes of a module of the standard library as token ids."""
    source = Path(argparse.__file__).read_bytes()
    return torch.frombuffer(bytearray(source), dtype=torch.uint8).long()


def faulty(model: Llama, fault: Planted) -> Llama:
    """Build a copy of a model with a fault."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    changed: Any = fault.change(weights) or {}
    copy = Llama(replace(model.settings, **changed))
    copy.load_state_dict(weights)
    return copy.eval()


@torch.no_grad()
def stored_as(model: Llama, kind: str) -> Llama:
    """Round a model in place as a file of some type would."""
    if kind == "bfloat16":
        return model.to(torch.bfloat16)
    for parameter in model.parameters():
        if kind == "Q8_0" and parameter.ndim == 2 and bool(parameter.isfinite().all()):
            blocks = encode(BlockKind.Q8_0, parameter)
            parameter.copy_(decode(BlockKind.Q8_0, blocks, tuple(parameter.shape)))
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What each rule says about one planted fault."""

    neighbours: str
    std_ratio: str
    cosine: str
    free: str
    found: Bisection


def judge(
    model: Llama,
    fault: Planted,
    ids_BT: Tensor,
    kind: str = "float32",
    engine: Callable[[str, Llama], Side] = llama_side,
) -> Outcome:
    """Bisect one planted fault, and ask the other rules too."""
    candidate = stored_as(faulty(model, fault), kind)
    reference = transformers_side("transformers", theirs(model))
    found = bisect(reference, engine("candidate", candidate), ids_BT)
    traced = [trace(each, ids_BT, keep_tensors=False) for each in (model, candidate)]
    free_bar = 10 * FREE_FLOOR
    return Outcome(
        neighbours=neighbour_rule(traced[1]),
        std_ratio=ratio_rule(*traced),
        cosine=first(found, lambda error: not error.min_cosine >= 0.99),
        free=first(found, lambda error: not error.max_relative_l2 <= free_bar),
        found=found,
    )


def neighbour_rule(candidate: Trace) -> str:
    """Name the first site above ten times the mean of the layers before: the reference system's."""
    stds = {tap.site: tap.statistics for tap in candidate.taps}
    for layer in range(SETTINGS.num_layers):
        for kind in LAYER_SITES:
            own = stds[f"layers.{layer}.{kind}"]
            before = [stds[f"layers.{each}.{kind}"].std for each in range(layer)]
            is_large = before and not own.std <= 10 * sum(before) / len(before)
            if is_large or own.nan_count:
                return f"layers.{layer}.{kind}"
    return ""


def ratio_rule(reference: Trace, candidate: Trace) -> str:
    """Name the first site whose deviation is not between half and twice the reference's."""
    for left, right in zip(reference.taps, candidate.taps, strict=True):
        ratio = right.statistics.std / left.statistics.std
        if right.statistics.nan_count or not 0.5 <= ratio <= 2.0:
            return left.site
    return ""


def first(found: Bisection, is_wrong: Callable[[SiteError], bool]) -> str:
    """Name the first site of the free pass that a rule objects to."""
    return next((site for site, error in found.free.items() if is_wrong(error)), "")


def right(fault: Planted, outcome: Outcome) -> dict[str, bool]:
    """Say which rules name the first faulty site, and what ours says beyond that."""
    named = [fault.error.site for fault in outcome.found.faults]
    proof = outcome.found.proof
    order = {site: place for place, site in enumerate(outcome.found.local)}
    earliest = min(fault.sites, key=lambda site: order[site])
    return {
        "neighbour std > 10x": outcome.neighbours == earliest,
        "std ratio in [0.5, 2]": outcome.std_ratio == earliest,
        "cosine < 0.99": outcome.cosine == earliest,
        "free-run L2": outcome.free == earliest,
        "first site": bool(named) and named[0] == earliest,
        "exact set": set(named) == set(fault.sites),
        "recovered": proof is not None and proof.is_sufficient,
        "controlled": proof is not None and proof.is_controlled is True,
    }


def header() -> str:
    """Head the columns of `lines`."""
    rules = ("neighbours", "std ratio", "cosine", "free-run")
    return f"{'fault':<30}{'KL':>9}{''.join(f'{rule:>13}' for rule in rules)}  forced set"


@torch.no_grad()
def with_spike(model: Llama, ids_BT: Tensor) -> Llama:
    """Open one channel of layer 3 for the first token alone, as trained models do by themselves."""
    copy = faulty(model, Planted("none", (), lambda _: None))
    values: dict[str, Tensor] = {}
    llama_side("", copy).run(ids_BT, lambda site, value: values.update({site: value.clone()}))
    first, others = values["layers.3.ffn_norm"][0].tensor_split([1])
    span = torch.linalg.qr(others.T).Q
    towards = first[0] - span @ (span.T @ first[0])
    for name in ("gate_proj", "up_proj"):
        weight = copy.get_parameter(f"model.layers.3.mlp.{name}.weight")
        weight[SPIKE_CHANNEL] = SPIKE_OPENING * towards / towards.square().sum()
    return copy


def lines(fault: Planted, outcome: Outcome) -> Iterator[str]:
    """Show one fault as a row of the table."""
    found, proof = outcome.found, outcome.found.proof
    named = [each.error.site.removeprefix("layers.") for each in found.faults]
    shown = ", ".join(named) if len(named) < 4 else f"{len(named)} of {len(fault.sites)} sites"
    cells = [outcome.neighbours, outcome.std_ratio, outcome.cosine, outcome.free]
    after = proof.patched.mean_kl_nats if proof else float("nan")
    yield (
        f"{fault.name:<30}{found.unpatched.mean_kl_nats:>9.1e}"
        + "".join(f"{cell.removeprefix('layers.') or '-':>13}" for cell in cells)
        + f"  {shown:<28}{after:>9.1e}"
    )


def main(arguments: Sequence[str]) -> int:
    """Print the table and the totals; return 1 if a fault is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trained", action="store_true", help="train each model for a minute")
    parser.add_argument("--stored-as", choices=("float32", "bfloat16", "Q8_0"), default="float32")
    options = parser.parse_args(arguments)
    totals: Counter[str] = Counter()
    print(header())
    for seed in range(options.seeds):
        model = trained_model(seed) if options.trained else random_model(seed)
        ids_BT = program()[1000 * seed :][:NUM_TOKENS][None]
        for fault in FAULTS:
            outcome = judge(model, fault, ids_BT, options.stored_as)
            totals.update({rule: int(is_right) for rule, is_right in right(fault, outcome).items()})
            print(*lines(fault, outcome), sep="\n", flush=True)
    num_runs = options.seeds * len(FAULTS)
    for rule, number in totals.items():
        print(f"{rule:<24}{number:>3} of {num_runs}")
    return int(totals["first site"] < num_runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
