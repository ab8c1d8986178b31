"""What every operation of a forward pass computed: name, shape, digest, statistics.

A site is a canonical name for a place in the architecture, whoever computes it; a tap is what one
forward pass left there. Two traces may be compared only where they are of the same computation.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from model.llama import Llama

EMBED = "embed"
FINAL_NORM = "final_norm"
LOGITS = "logits"
LAYER_SITES = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_rope": "self_attn.q_rope",
    "k_rope": "self_attn.k_rope",
    "attn_mix": "self_attn.mix",
    "attn_out": "self_attn.o_proj",
    "ffn_inp": "attn_residual",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_silu": "mlp.act_fn",
    "ffn_swigl": "mlp.product",
    "ffn_out": "mlp.down_proj",
    "output": "mlp_residual",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Moments of the finite elements, and counts of the special ones."""

    min: float
    max: float
    mean: float
    std: float
    nan_count: int
    inf_count: int
    zero_count: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """One value of a forward pass."""

    site: str
    module: str
    execution_index: int
    shape: tuple[int, ...]
    dtype: str
    num_elements: int
    sha256: str
    """Of the little-endian bytes, in row-major order."""
    statistics: Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """All taps of one forward pass, in the order of execution."""

    ids: tuple[tuple[int, ...], ...]
    taps: tuple[Tap, ...]
    tensors: dict[str, Tensor]
    """Site to value with shape (B, T, channels); empty unless asked for."""
    last_logits: tuple[float, ...]
    """The scores after the last position of the first row."""


def sites(num_layers: int) -> dict[str, str]:
    """Map every site to the path of the module whose output it is.

    >>> list(sites(1))[:3]
    ['embed', 'layers.0.attn_norm', 'layers.0.q']
    """
    layers = {
        f"layers.{layer}.{site}": f"model.layers.{layer}.{path}"
        for layer in range(num_layers)
        for site, path in LAYER_SITES.items()
    }
    return {
        EMBED: "model.embed_tokens",
        **layers,
        FINAL_NORM: "model.norm",
        LOGITS: "lm_head",
    }


@torch.inference_mode()
def trace(model: Llama, ids_BT: Tensor, *, keep_tensors: bool) -> Trace:
    """Run the model once and describe what every site computed."""
    paths = sites(model.settings.num_layers)
    order: list[str] = []
    values: dict[str, Tensor] = {}
    taps: list[Tap] = []

    def observe(site: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        taps.append(_tap(site, paths[site], len(order), output))
        order.append(site)
        if keep_tensors:
            values[site] = _positions_second(output).cpu().clone()

    with ExitStack() as hooks:
        for site, path in paths.items():
            hook = model.get_submodule(path).register_forward_hook(partial(observe, site))
            hooks.callback(hook.remove)
        logits_BTV = model(ids_BT)
    assert sorted(order) == sorted(paths), "every site is executed exactly once"
    return Trace(
        ids=tuple(tuple(int(i) for i in row) for row in ids_BT.tolist()),
        taps=tuple(taps),
        tensors=values,
        last_logits=tuple(float(value) for value in logits_BTV[0, -1].tolist()),
    )


def statistics(value: Tensor) -> Statistics:
    """Summarise a tensor.

    Precision: float64 sums over finite elements; the standard deviation divides by n - 1.
    """
    wide = value.detach().to("cpu", torch.float64).flatten()
    finite = wide[wide.isfinite()]
    nan = math.nan
    return Statistics(
        min=finite.min().item() if len(finite) else nan,
        max=finite.max().item() if len(finite) else nan,
        mean=finite.mean().item() if len(finite) else nan,
        std=finite.std().item() if len(finite) > 1 else nan,
        nan_count=int(wide.isnan().sum()),
        inf_count=int(wide.isinf().sum()),
        zero_count=int((wide == 0).sum()),
        count=wide.numel(),
    )


def layer_taps(trace: Trace) -> Iterator[dict[str, Tap]]:
    """Group the taps of every layer under their names within it, first layer first."""
    by_site = {tap.site: tap for tap in trace.taps}
    num_layers = sum(site.endswith(".output") for site in by_site)
    for layer in range(num_layers):
        yield {name: by_site[f"layers.{layer}.{name}"] for name in LAYER_SITES}


def _tap(site: str, module: str, execution_index: int, value: Tensor) -> Tap:
    return Tap(
        site=site,
        module=module,
        execution_index=execution_index,
        shape=tuple(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        num_elements=value.numel(),
        sha256=hashlib.sha256(_little_endian(value)).hexdigest(),
        statistics=statistics(value),
    )


def _little_endian(value: Tensor) -> bytes:
    raw = value.detach().cpu().contiguous().flatten()
    # As bytes of the integer of the same width, because numpy has no bfloat16.
    widths = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    integers = raw.view(widths[raw.element_size()]).numpy()
    return integers.astype(integers.dtype.newbyteorder("<"), copy=False).tobytes()


def _positions_second(value: Tensor) -> Tensor:
    """Bring (B, heads, T, H) to (B, T, channels)."""
    return value.transpose(1, 2).flatten(2) if value.ndim == 4 else value
