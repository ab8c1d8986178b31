from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from model.errors import WrongSettingError
from model.llama import Llama, LlamaSettings, RMSNorm, Rope, initialise, num_parameters
from model.loss import token_losses
from tests.model import tiny

# The relative distance that two orders of summation may cause.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-6}


def ours(dtype: torch.dtype, settings: LlamaSettings = tiny.LLAMA) -> Llama:
    model = Llama(settings)
    initialise(model, seed=3)
    return model.to(dtype)


def theirs(model: Llama, dtype: torch.dtype) -> nn.Module:
    settings = model.settings
    config = LlamaConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        max_position_embeddings=settings.max_position_embeddings,
        rms_norm_eps=settings.rms_norm_eps,
        rope_parameters={"rope_theta": settings.rope_theta, "rope_type": "default"},
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    reference: nn.Module = LlamaForCausalLM(config).to(dtype)
    if dtype == torch.float64:
        use_float64_norms(reference, settings)
    reference.load_state_dict(model.state_dict())
    return reference


def use_float64_norms(reference: nn.Module, settings: LlamaSettings) -> None:
    """Theirs falls back to float32 inside every norm; torch's own does not."""
    for name, _ in list(reference.named_modules()):
        if name.endswith("norm"):
            parent = reference.get_submodule(name.rpartition(".")[0])
            norm = nn.RMSNorm(settings.hidden_size, settings.rms_norm_eps, dtype=torch.float64)
            setattr(parent, name.rpartition(".")[2], norm)


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


def example_ids() -> Tensor:
    return torch.from_numpy(tiny.rows(1)[0])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_logits_loss_and_every_gradient_are_those_of_hugging_face(
    dtype: torch.dtype, num_kv_heads: int
) -> None:
    model = ours(dtype, replace(tiny.LLAMA, num_kv_heads=num_kv_heads))
    reference = theirs(model, dtype)
    ids = example_ids()

    logits = model(ids[:, :-1])
    loss = token_losses(logits, ids[:, 1:]).mean()
    torch.autograd.backward(loss)
    expected = reference(input_ids=ids[:, :-1]).logits
    expected_loss = nn.functional.cross_entropy(expected.flatten(0, 1), ids[:, 1:].flatten())
    torch.autograd.backward(expected_loss)

    assert relative(logits, expected) < TOLERANCE[dtype]
    assert relative(loss, expected_loss) < TOLERANCE[dtype]
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        gradient, expected_gradient = parameter.grad, gradients[name]
        assert gradient is not None
        assert expected_gradient is not None
        assert relative(gradient, expected_gradient) < TOLERANCE[dtype], name


def test_parameters_are_named_as_hugging_face_names_them() -> None:
    model = ours(torch.float32)

    assert model.state_dict().keys() == theirs(model, torch.float32).state_dict().keys()


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


def test_a_position_does_not_depend_on_later_ones() -> None:
    model = ours(torch.float32)
    ids = example_ids()[:, :-1]
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % tiny.LLAMA.vocab_size

    before, after = model(ids), model(changed)

    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    model = ours(torch.float64)
    ids = example_ids()[:, :-1]

    assert relative(model(ids)[:1], model(ids[:1])) < TOLERANCE[torch.float64]


def test_a_norm_divides_by_the_root_mean_square() -> None:
    norm = RMSNorm(2, eps=0.0)

    assert torch.allclose(
        norm(torch.tensor([[[3.0, 4.0]]])), torch.tensor([[[0.848528, 1.131371]]])
    )


def test_the_first_position_is_not_rotated_and_the_second_by_one_radian() -> None:
    rope = Rope(head_size=2, theta=10_000.0)

    turned = rope(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))

    assert torch.allclose(turned, torch.tensor([[[[1.0, 0.0], [0.540302, 0.841471]]]]))


def test_a_seed_decides_every_weight() -> None:
    first, again, other = Llama(tiny.LLAMA), Llama(tiny.LLAMA), Llama(tiny.LLAMA)
    initialise(first, seed=3)
    initialise(again, seed=3)
    initialise(other, seed=4)

    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_initial_weights_have_the_asked_deviation_and_residual_outputs_a_smaller_one() -> None:
    settings = replace(
        tiny.LLAMA, hidden_size=128, intermediate_size=256, vocab_size=512, num_layers=8
    )
    model = ours(torch.float32, settings)
    tensors = model.state_dict()

    std = settings.initializer_std
    for name, value in tensors.items():
        if value.ndim == 1:
            assert torch.equal(value, torch.ones(128)), name
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        expected = std / 4 if residual else std
        assert value.std().item() == pytest.approx(expected, rel=0.05), name
        assert value.mean().item() == pytest.approx(0.0, abs=0.05 * std), name


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
    changes: dict[str, int], setting: str, found: float
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        replace(tiny.LLAMA, **changes)

    assert caught.value.setting == setting
    assert caught.value.found == found
