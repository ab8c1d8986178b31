"""A trace in the reference system's text format, and its table of feed-forward deviations."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.llama import LlamaSettings
from model.taps import EMBED, FINAL_NORM, LOGITS, Statistics, Tap, Trace, layer_taps

CSV_SITES = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out")
NUM_TOP_PREDICTIONS = 5
SLOTS = ("attn_norm", "qkv", "attn_out", *CSV_SITES, "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """What the text says about the model and the prompt before it shows numbers."""

    model_path: str
    contract: str
    file_format: str
    tokenizer: str
    prompt: str


def trace_text(header: TraceHeader, settings: LlamaSettings, trace: Trace) -> str:
    """Render a whole trace."""
    by_site = {tap.site: tap.statistics for tap in trace.taps}
    lines = [
        *_introduction(header, settings, trace),
        *_embedding(by_site[EMBED]),
        *_layers(list(layer_taps(trace))),
        *_final_norm(by_site[FINAL_NORM]),
        *_head(trace.last_logits),
        *_summary(trace),
    ]
    return "\n".join(lines) + "\n"


def sub_ffn_csv(trace: Trace) -> str:
    """Tabulate the standard deviations of the feed-forward block, one row a layer."""
    rows = [",".join(("layer", *CSV_SITES))]
    for layer, taps in enumerate(layer_taps(trace)):
        deviations = (f"{taps[site].statistics.std:.4f}" for site in CSV_SITES)
        rows.append(",".join((str(layer), *deviations)))
    return "\n".join(rows) + "\n"


def _introduction(header: TraceHeader, settings: LlamaSettings, trace: Trace) -> Iterator[str]:
    yield ""
    yield "=== Traced Inference (APR-TRACE-001) ==="
    yield f"Model: {header.model_path}"
    yield f"Contract: {header.contract}"
    yield f"Format: {header.file_format}"
    yield "Architecture:"
    yield f"  Layers: {settings.num_layers}"
    yield f"  Hidden dim: {settings.hidden_size}"
    yield f"  Vocab size: {settings.vocab_size}"
    yield f"  Heads: {settings.num_heads}"
    yield header.tokenizer
    yield f'Test prompt: "{header.prompt}"'
    yield f"Encoded tokens: {list(trace.ids[0])}"
    yield "FORWARD PASS (with layer tracing):"


def _embedding(found: Statistics) -> Iterator[str]:
    yield "EMBEDDING:"
    yield f"  Range: [{found.min:.4f}, {found.max:.4f}]"
    yield f"  Mean: {found.mean:.4f}, Std: {found.std:8.4f}"


def _layers(layers: Sequence[dict[str, Tap]]) -> Iterator[str]:
    yield "LAYER-BY-LAYER ACTIVATIONS:"
    yield "  Legend: std>100=RED, std>50=YELLOW, std>10=BLUE, else=GREEN"
    for layer, taps in enumerate(layers):
        found = {site: tap.statistics for site, tap in taps.items()}
        found["qkv"] = pooled([found["q"], found["k"], found["v"]])
        healthy = all(one.nan_count == one.inf_count == 0 for one in found.values())
        yield f"  Layer {layer:2d}/{len(layers)} [{'OK' if healthy else 'NON-FINITE'}]"
        for slot in SLOTS:
            yield f"    {slot:<9}: mean={found[slot].mean:8.4f} std={found[slot].std:8.4f}"


def _final_norm(found: Statistics) -> Iterator[str]:
    yield "FINAL LAYER NORM:"
    yield f"  Range: [{found.min:.6f}, {found.max:.6f}]"
    yield f"  Mean: {found.mean:.6f}, Std: {found.std:.6f}"


def _head(logits: Sequence[float]) -> Iterator[str]:
    yield "LM_HEAD output:"
    yield f"  Vocab size: {len(logits)}"
    yield f"  L2 norm: {math.sqrt(math.fsum(value * value for value in logits)):.4f}"
    yield f"  Range: [{min(logits):.6f}, {max(logits):.6f}]"
    yield f"  Mean: {math.fsum(logits) / len(logits):.6f}"
    yield f"Top {NUM_TOP_PREDICTIONS} predictions:"
    best = sorted(range(len(logits)), key=lambda token: -logits[token])
    for rank, token in enumerate(best[:NUM_TOP_PREDICTIONS], start=1):
        yield f"  {rank}. token_id={token}, logit={logits[token]:.4f}"


def _summary(trace: Trace) -> Iterator[str]:
    num_layers = sum(tap.site.endswith(".output") for tap in trace.taps)
    num_special = sum(tap.statistics.nan_count + tap.statistics.inf_count for tap in trace.taps)
    logits = next(tap for tap in trace.taps if tap.site == LOGITS)
    yield "TRACE SUMMARY:"
    yield f"  {num_layers} layers, {len(trace.taps)} taps, {num_special} non-finite elements"
    yield f"  logits sha256 {logits.sha256}"


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Combine the statistics of disjoint samples into those of their union.

    Source: Chan, Golub and LeVeque 1983, The American Statistician 37(3), eq. 1.5.
    """
    finite = [part.count - part.nan_count - part.inf_count for part in parts]
    total = sum(finite)
    mean = math.fsum(part.mean * n for part, n in zip(parts, finite, strict=True)) / total
    squares = math.fsum(
        part.std**2 * (n - 1) + (part.mean - mean) ** 2 * n
        for part, n in zip(parts, finite, strict=True)
    )
    return Statistics(
        min=min(part.min for part in parts),
        max=max(part.max for part in parts),
        mean=mean,
        std=math.sqrt(squares / (total - 1)),
        nan_count=sum(part.nan_count for part in parts),
        inf_count=sum(part.inf_count for part in parts),
        zero_count=sum(part.zero_count for part in parts),
        count=sum(part.count for part in parts),
    )
