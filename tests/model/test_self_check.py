import math
from typing import Any

import pytest
import torch

from model.llama import Llama, LlamaSettings, initialise
from model.loss import token_losses
from model.plain_llama import plain_logits, plain_loss
from model.self_check import (
    decoding_error,
    forward_error,
    measure_spread,
    plain_weights,
    read_gradients,
)
from model.slopes import slope_error
from tests.model import tiny

IDS_BS = tiny.rows(1)[0][:, :9]


def new_model(seed: int = 1, settings: LlamaSettings = tiny.LLAMA) -> Llama:
    model = Llama(settings)
    initialise(model, seed)
    return model


def plain(model: Llama) -> dict[str, Any]:
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def gradients(model: Llama, factor: float = 1.0) -> dict[str, Any]:
    ids = torch.from_numpy(IDS_BS)
    loss = token_losses(model(ids[:, :-1]), ids[:, 1:]).mean()
    torch.autograd.backward(factor * loss)
    return read_gradients(model)


def slope(model: Llama, found: dict[str, Any]) -> float:
    return slope_error(model.settings, plain_weights(model), found, IDS_BS)


def test_the_plain_model_agrees_with_the_model_in_float64() -> None:
    model = new_model().double()
    ids_T = IDS_BS[0]

    found = model(torch.from_numpy(ids_T)[None])[0].detach().numpy()

    # Angles are float32 in the model.
    assert plain_logits(plain(model), tiny.LLAMA, ids_T[None])[0] == pytest.approx(
        found, rel=1e-5, abs=1e-7
    )


def test_the_plain_loss_is_the_mean_over_all_targets() -> None:
    model = new_model()
    ids = torch.from_numpy(IDS_BS)

    expected = token_losses(model(ids[:, :-1]), ids[:, 1:]).mean().item()

    assert plain_loss(plain(model), tiny.LLAMA, IDS_BS) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("settings", [tiny.LLAMA, tiny.QWEN2], ids=["llama", "qwen2"])
def test_a_right_model_differs_by_rounding_alone(settings: LlamaSettings) -> None:
    model = new_model(settings=settings)

    assert 0 < forward_error(model, IDS_BS) < 1e-5
    assert 0 < decoding_error(model, IDS_BS[0]) < 1e-5
    assert slope(model, gradients(model)) < 1e-5


@pytest.mark.parametrize("factor", [0.5, 0.95, 2.0, 0.0])
def test_a_gradient_of_another_size_is_seen(factor: float) -> None:
    model = new_model()

    assert slope(model, gradients(model, factor)) > 0.01


NAMES = [name for name in tiny.state().model.state_dict() if ".1." not in name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [0.0, 2.0], ids=["missing", "doubled"])
def test_the_gradient_of_one_weight_alone_is_seen(name: str, factor: float) -> None:
    model = new_model()
    found = gradients(model)

    found[name] = factor * found[name]

    assert slope(model, found) > 0.01


def test_weights_are_moved_in_pieces_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.slopes.PIECE", 7)
    model = new_model()
    weights = plain_weights(model)

    assert slope_error(model.settings, weights, gradients(model), IDS_BS) < 1e-5

    for name, weight in plain(model).items():
        assert abs(weights[name] - weight).max() < 1e-15


def test_a_new_model_has_the_planned_spread() -> None:
    found = measure_spread(new_model())

    assert found.spread_error < 0.1
    assert found.kurtosis_error < 0.6


def test_a_matrix_twice_as_wide_is_seen() -> None:
    model = new_model()
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(2)

    assert measure_spread(model).spread_error == pytest.approx(1.0, abs=0.1)


def test_a_matrix_of_waves_is_seen() -> None:
    model = new_model()
    with torch.no_grad():
        weight = model.get_parameter("lm_head.weight")
        waves = torch.sin(torch.arange(weight.numel()).double()).view_as(weight)
        weight.copy_(waves * math.sqrt(2) * tiny.LLAMA.initializer_std)

    found = measure_spread(model)

    assert found.spread_error < 0.1
    assert found.kurtosis_error == pytest.approx(1.5, abs=0.05)
