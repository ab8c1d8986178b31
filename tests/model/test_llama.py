from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.documents import separate
from model.errors import WrongSettingError
from model.llama import (
    CausalAttention,
    FeedForward,
    Llama,
    LlamaSettings,
    RMSNorm,
    Rope,
    TiedHead,
    initialise,
    num_parameters,
)
from model.loss import PADDING, token_losses
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES, ours, relative

FEW_ULPS = 1e-10
"""The relative distance in float64 that two orders of summation may cause."""


def example_ids() -> Tensor:
    return torch.from_numpy(tiny.rows(1)[0])


def test_the_370m_preset_has_219_tensors_of_373509120_parameters() -> None:
    settings = LlamaSettings(
        vocab_size=50_257,
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        num_kv_heads=4,
        intermediate_size=2816,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        initializer_std=0.02,
        attention_bias=False,
        tie_embeddings=False,
    )
    with torch.device("meta"):
        model = Llama(settings)

    assert len(model.state_dict()) == 219
    assert num_parameters(model) == 373_509_120


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("changed", [0, 1, 9, tiny.CONTEXT - 1])
def test_a_position_does_not_depend_on_later_ones(settings: LlamaSettings, changed: int) -> None:
    model = ours(settings)
    ids = example_ids()[:, :-1]
    other = ids.clone()
    other[:, changed:] = (other[:, changed:] + 1) % settings.vocab_size

    before, after = model(ids), model(other)

    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.equal(before[:, changed], after[:, changed])


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    model = ours(tiny.LLAMA, torch.float64)
    ids = example_ids()[:, :-1]

    assert relative(model(ids)[:1], model(ids[:1])) < FEW_ULPS


def test_a_norm_divides_by_the_root_mean_square() -> None:
    norm = RMSNorm(2, eps=0.0)

    assert torch.allclose(
        norm(torch.tensor([[[3.0, 4.0]]])), torch.tensor([[[0.848528, 1.131371]]])
    )


def test_the_first_position_is_not_rotated_and_the_second_by_one_radian() -> None:
    rope = Rope(head_size=2, theta=10_000.0)

    turned = rope(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))

    assert torch.allclose(turned, torch.tensor([[[[1.0, 0.0], [0.540302, 0.841471]]]]))


def test_a_channel_turns_with_the_one_half_a_head_away() -> None:
    rope = Rope(head_size=4, theta=10_000.0)

    turned = rope(torch.tensor([[[[0.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]]))

    # The first pair turns by one radian a position, the second by a hundredth of one.
    assert torch.allclose(turned[0, 0, 1], torch.tensor([0.540302, 0.0, 0.841471, 0.0]))
    assert torch.allclose(turned[0, 0, 2], torch.tensor([0.0, 0.999800, 0.0, 0.0199987]))


def test_a_seed_decides_every_weight() -> None:
    first, again, other = Llama(tiny.LLAMA), Llama(tiny.LLAMA), Llama(tiny.LLAMA)
    initialise(first, seed=3)
    initialise(again, seed=3)
    initialise(other, seed=4)

    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("settings", [tiny.LLAMA, tiny.QWEN2], ids=["llama", "qwen2"])
def test_every_initial_tensor_is_drawn_as_the_rule_says(settings: LlamaSettings) -> None:
    settings = replace(
        settings, hidden_size=128, intermediate_size=256, vocab_size=512, num_layers=8
    )
    model = Llama(settings)
    initialise(model, seed=3)

    std = settings.initializer_std
    for name, value in model.state_dict().items():
        if value.ndim == 1:
            expected = torch.zeros_like(value) if name.endswith("bias") else torch.ones(128)
            assert torch.equal(value, expected), name
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        # Two outputs a layer write to the residual stream.
        planned = std / 4 if residual else std
        # Five standard errors: of a mean, and of a standard deviation.
        error = 5 / value.numel() ** 0.5
        assert value.mean().item() == pytest.approx(0.0, abs=error * planned), name
        assert value.std().item() == pytest.approx(planned, rel=error / 2**0.5), name
        within = (value.abs() < planned).double().mean().item()
        assert within == pytest.approx(0.6827, abs=error / 2), name


def test_a_tied_head_scores_with_the_rows_of_the_embedding() -> None:
    model = ours(replace(tiny.LLAMA, tie_embeddings=True), torch.float64)
    ids = example_ids()[:, :-1]

    expected = model.model(ids) @ model.model.embed_tokens.weight.T

    assert relative(model(ids), expected) < FEW_ULPS
    assert [name for name, _ in model.named_parameters() if "lm_head" in name] == []


def test_biases_are_on_query_key_and_value_alone() -> None:
    model = Llama(tiny.QWEN2)

    modules = {name.split(".")[-2] for name, _ in model.named_parameters() if "bias" in name}
    assert modules == {"q_proj", "k_proj", "v_proj"}


def in_float64(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)


def parts() -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Every module of ours that is more than one of torch's, with inputs."""
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    visible = separate(documents).visible_B1TT
    norm, rope, mix = RMSNorm(4, 1e-5).double(), Rope(4, 10_000.0), CausalAttention()
    return {
        "norm": (norm, (in_float64(2, 3, 4),)),
        "rope": (rope, (in_float64(1, 2, 5, 4),)),
        "rope, restarting": (
            lambda x: rope(x, separate(documents).positions_BT),
            (in_float64(1, 2, 5, 4),),
        ),
        "attention": (
            mix,
            (in_float64(1, 4, 5, 4), in_float64(1, 2, 5, 4), in_float64(1, 2, 5, 4)),
        ),
        "attention, documents apart": (
            lambda *qkv: mix(*qkv, visible),
            (in_float64(1, 4, 5, 4), in_float64(1, 2, 5, 4), in_float64(1, 2, 5, 4)),
        ),
        "feed-forward": (FeedForward(tiny.LLAMA).double(), (in_float64(1, 2, 32),)),
        "tied head": (TiedHead(), (in_float64(1, 2, 4), in_float64(7, 4))),
        "loss, with padding": (
            lambda logits: token_losses(logits, torch.tensor([[3, 0, PADDING]])),
            (in_float64(1, 3, 5),),
        ),
    }


@pytest.mark.parametrize("part", parts())
def test_the_gradient_of_a_part_is_its_slope(part: str) -> None:
    function, inputs = parts()[part]

    assert torch.autograd.gradcheck(function, inputs, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "setting", "found"),
    [
        ({"hidden_size": 30}, "model.hidden_size", 30),
        ({"num_heads": 4, "num_kv_heads": 3}, "model.num_heads", 4),
        ({"hidden_size": 36}, "model.hidden_size", 36),
        ({"num_layers": 0}, "model.num_layers", 0),
        ({"rms_norm_eps": 0.0}, "model.rms_norm_eps", 0.0),
    ],
)
def test_an_impossible_architecture_is_refused(
    changes: dict[str, Any], setting: str, found: float
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        replace(tiny.LLAMA, **changes)

    assert caught.value.setting == setting
    assert caught.value.found == found
