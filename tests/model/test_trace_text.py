import math
from dataclasses import replace

import pytest
import torch

from model.taps import Trace, statistics, trace
from model.trace_text import TraceHeader, pooled, sub_ffn_csv, trace_text
from tests.model import tiny

HEADER = TraceHeader(
    model_path="/models/tiny.apr",
    contract="21 tensors pass",
    file_format="APR (native)",
    tokenizer="Tokenizer: embedded",
    prompt="def add",
)
EXPECTED = """
=== Traced Inference (APR-TRACE-001) ===
Model: /models/tiny.apr
Contract: 21 tensors pass
Format: APR (native)
Architecture:
  Layers: 2
  Hidden dim: 32
  Vocab size: 61
  Heads: 4
Tokenizer: embedded
Test prompt: "def add"
Encoded tokens: [1, 2, 3]
FORWARD PASS (with layer tracing):
EMBEDDING:
  Range: [-3.0000, 4.0000]
  Mean: 0.5000, Std:   2.2500
LAYER-BY-LAYER ACTIVATIONS:
  Legend: std>100=RED, std>50=YELLOW, std>10=BLUE, else=GREEN
  Layer  0/2 [OK]
    attn_norm: mean=  0.5000 std=  2.2500
    qkv      : mean=  0.5000 std=  2.2360
"""


def traced() -> Trace:
    return trace(tiny.state().model, torch.tensor([[1, 2, 3]]), keep_tensors=False)


def with_plain_numbers() -> Trace:
    """The real taps under round numbers, so that the text can be written out."""
    found = traced()
    plain = replace(found.taps[0].statistics, min=-3.0, max=4.0, mean=0.5, std=2.25, count=41)
    taps = tuple(replace(tap, statistics=plain) for tap in found.taps)
    return replace(found, taps=taps, last_logits=(3.0, 0.0, -4.0, 1.0, 2.0, 2.0))


def test_the_text_begins_as_the_reference_writes_it() -> None:
    text = trace_text(HEADER, tiny.LLAMA, with_plain_numbers())

    # The pooled deviation: sqrt(3 * 40 / 122) * 2.25, for three equal samples of 41.
    expected = EXPECTED.replace("2.2360", f"{math.sqrt(120 / 122) * 2.25:.4f}")
    assert text.startswith(expected)


def test_every_layer_has_every_slot_in_the_order_of_the_reference() -> None:
    lines = trace_text(HEADER, tiny.LLAMA, traced()).splitlines()

    labels = [line[4:13].rstrip() for line in lines if line.startswith("    ")]
    slots = "attn_norm qkv attn_out ffn_norm ffn_gate ffn_up ffn_silu ffn_swigl ffn_out output"
    assert labels == slots.split() * 2


def test_the_text_ends_with_the_norm_the_head_and_a_summary() -> None:
    lines = trace_text(HEADER, tiny.LLAMA, with_plain_numbers()).splitlines()

    assert lines[-17:-1] == [
        "FINAL LAYER NORM:",
        "  Range: [-3.000000, 4.000000]",
        "  Mean: 0.500000, Std: 2.250000",
        "LM_HEAD output:",
        "  Vocab size: 6",
        "  L2 norm: 5.8310",
        "  Range: [-4.000000, 3.000000]",
        "  Mean: 0.666667",
        "Top 5 predictions:",
        "  1. token_id=0, logit=3.0000",
        "  2. token_id=4, logit=2.0000",
        "  3. token_id=5, logit=2.0000",
        "  4. token_id=3, logit=1.0000",
        "  5. token_id=1, logit=0.0000",
        "TRACE SUMMARY:",
        "  2 layers, 35 taps, 0 non-finite elements",
    ]
    assert lines[-1].startswith("  logits sha256 ")


def test_a_layer_with_a_nan_is_not_ok() -> None:
    found = traced()
    taps = tuple(
        replace(tap, statistics=replace(tap.statistics, nan_count=2))
        if tap.site == "layers.1.q"
        else tap
        for tap in found.taps
    )

    text = trace_text(HEADER, tiny.LLAMA, replace(found, taps=taps))

    assert "Layer  0/2 [OK]" in text
    assert "Layer  1/2 [NON-FINITE]" in text
    assert "2 non-finite elements" in text


def test_the_table_has_one_row_of_deviations_a_layer() -> None:
    found = with_plain_numbers()

    assert sub_ffn_csv(found) == (
        "layer,ffn_norm,ffn_gate,ffn_up,ffn_silu,ffn_swigl,ffn_out\n"
        "0,2.2500,2.2500,2.2500,2.2500,2.2500,2.2500\n"
        "1,2.2500,2.2500,2.2500,2.2500,2.2500,2.2500\n"
    )


def test_the_columns_of_the_table_are_the_sites_they_are_named_after() -> None:
    found = traced()
    by_site = {tap.site: tap.statistics.std for tap in found.taps}

    cells = sub_ffn_csv(found).splitlines()[2].split(",")

    assert cells[0] == "1"
    assert cells[5] == f"{by_site['layers.1.ffn_swigl']:.4f}"


def test_pooled_statistics_are_those_of_the_union() -> None:
    parts = [
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([0.0, -7.0, math.nan, math.inf]),
        torch.linspace(-3, 9, 50),
    ]

    found, expected = pooled([statistics(part) for part in parts]), statistics(torch.cat(parts))

    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    assert (found.min, found.max) == (expected.min, expected.max)
    assert replace(found, mean=0.0, std=0.0) == replace(expected, mean=0.0, std=0.0)
