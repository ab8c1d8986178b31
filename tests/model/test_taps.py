import hashlib
import math

import pytest
import torch

from model.llama import Llama
from model.taps import LAYER_SITES, Trace, layer_taps, sites, statistics, trace
from tests.model import tiny
from tests.model.oracle import ours

IDS = torch.from_numpy(tiny.rows(1)[0, :2, :5])


def traced(model: Llama | None = None) -> Trace:
    return trace(model or tiny.state().model, IDS, keep_tensors=True)


def test_sites_are_executed_in_the_canonical_order() -> None:
    found = traced()

    assert [tap.site for tap in found.taps][:4] == [
        "embed",
        "layers.0.attn_norm",
        "layers.0.q",
        "layers.0.q_rope",
    ]
    assert {tap.site for tap in found.taps} == set(sites(2))
    assert [tap.execution_index for tap in found.taps] == list(range(2 * 16 + 3))


def test_a_tied_head_and_biases_are_at_the_same_sites() -> None:
    model = ours(tiny.QWEN2)

    found = traced(model)

    assert [tap.site for tap in found.taps] == [tap.site for tap in traced().taps]
    assert torch.equal(found.tensors["logits"], model(IDS).detach())
    query = model.get_submodule("model.layers.0.self_attn.q_proj")
    with torch.inference_mode():
        expected = query(found.tensors["layers.0.attn_norm"])
    assert torch.equal(found.tensors["layers.0.q"], expected)
    assert float(query.get_parameter("bias").detach().abs().min()) > 0


def test_a_tap_describes_the_output_of_its_module() -> None:
    model = tiny.state().model
    found = {tap.site: tap for tap in traced(model).taps}
    expected = model.model.embed_tokens(IDS).detach()

    tap = found["embed"]
    assert tap.module == "model.embed_tokens"
    assert tap.shape == (2, 5, 32)
    assert tap.dtype == "float32"
    assert tap.num_elements == 320
    assert tap.sha256 == hashlib.sha256(expected.numpy().astype("<f4").tobytes()).hexdigest()
    assert tap.statistics == statistics(expected)


def test_heads_keep_their_shape_in_the_tap_and_join_in_the_tensor() -> None:
    found = traced()
    shapes = {tap.site: tap.shape for tap in found.taps}

    assert shapes["layers.0.q_rope"] == (2, 4, 5, 8)
    assert shapes["layers.0.k_rope"] == (2, 2, 5, 8)
    assert found.tensors["layers.0.q_rope"].shape == (2, 5, 32)
    assert found.tensors["layers.0.k_rope"].shape == (2, 5, 16)
    assert all(value.shape[:2] == (2, 5) for value in found.tensors.values())


def test_the_sites_obey_the_equations_of_the_layer() -> None:
    found = traced().tensors
    at = {site: found[f"layers.1.{site}"] for site in LAYER_SITES}

    assert torch.equal(at["ffn_silu"] * at["ffn_up"], at["ffn_swigl"])
    assert torch.equal(torch.nn.functional.silu(at["ffn_gate"]), at["ffn_silu"])
    assert torch.equal(at["ffn_inp"] + at["ffn_out"], at["output"])
    assert torch.equal(found["layers.0.output"] + at["attn_out"], at["ffn_inp"])


def test_half_precision_is_digested_by_its_own_bytes() -> None:
    model = tiny.state().model.to(torch.bfloat16)

    tap = trace(model, IDS, keep_tensors=False).taps[0]

    raw = model.model.embed_tokens(IDS).detach().view(torch.int16).numpy().astype("<i2").tobytes()
    assert (tap.dtype, tap.num_elements, len(raw)) == ("bfloat16", 320, 640)
    assert tap.sha256 == hashlib.sha256(raw).hexdigest()


def test_tracing_keeps_no_tensors_unless_asked_and_leaves_no_hooks() -> None:
    model = tiny.state().model

    found = trace(model, IDS, keep_tensors=False)

    assert found.tensors == {}
    assert not any(module._forward_hooks for module in model.modules())
    assert found.ids == tuple(map(tuple, IDS.tolist()))
    assert found.last_logits == tuple(model(IDS)[0, -1].tolist())


def test_statistics_cover_finite_elements_and_count_the_others() -> None:
    found = statistics(torch.tensor([1.0, 0.0, -0.0, 5.0, math.nan, math.inf, -math.inf]))

    assert (found.min, found.max, found.mean) == (0.0, 5.0, 1.5)
    assert found.std == pytest.approx(math.sqrt((0.25 + 2.25 + 2.25 + 12.25) / 3))
    assert (found.nan_count, found.inf_count, found.zero_count, found.count) == (1, 2, 2, 7)


def test_statistics_of_nothing_finite_are_not_numbers() -> None:
    found = statistics(torch.tensor([math.nan]))

    assert all(map(math.isnan, (found.min, found.max, found.mean, found.std)))
    assert (found.nan_count, found.count) == (1, 1)


def test_layers_come_in_order_with_all_their_sites() -> None:
    layers = list(layer_taps(traced()))

    assert [layer["q"].site for layer in layers] == ["layers.0.q", "layers.1.q"]
    assert all(layer.keys() == LAYER_SITES.keys() for layer in layers)
