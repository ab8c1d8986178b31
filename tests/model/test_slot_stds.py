import torch

from model.slot_stds import slot_csv, slot_stds
from model.taps import trace
from model.torch_side import llama_side
from model.trace_text import pooled
from tests.model import tiny

IDS = torch.from_numpy(tiny.rows(1)[0, :2, :8])


def test_ten_slots_a_layer_say_of_how_many_elements_and_tokens_they_are() -> None:
    model = tiny.state().model
    taps = {tap.site: tap.statistics for tap in trace(model, IDS, keep_tensors=False).taps}

    found = slot_stds(llama_side("ours", model), IDS)

    assert found.num_tokens == 16
    assert found.num_elements["ffn_swigl"] == [16 * 48] * 2
    assert found.num_elements["qkv"] == [16 * (32 + 16 + 16)] * 2
    assert found.stds["ffn_swigl"][1] == taps["layers.1.ffn_swigl"].std
    expected = pooled([taps[f"layers.0.{part}"] for part in "qkv"]).std
    assert abs(found.stds["qkv"][0] - expected) < 1e-12


def test_the_table_has_the_reference_systems_layout() -> None:
    lines = slot_csv(slot_stds(llama_side("ours", tiny.state().model), IDS)).splitlines()

    assert lines[0] == (
        "layer,attn_norm,qkv,attn_out,ffn_norm,ffn_gate,ffn_up,ffn_silu,ffn_swigl,ffn_out,output"
    )
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1"]
    assert all(len(cell.split(".")[1]) == 4 for cell in lines[1].split(",")[1:])
