import pytest
import torch
from torch import Tensor

from model.errors import WrongTensorsError
from model.llama import Llama, LlamaSettings, initialise
from model.optimizer import TrainOptimizer, new_optimizer, read_learning_rate, set_learning_rate
from model.train_settings import TrainSettings
from tests.model import tiny

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
GAIN = "model.norm.weight"
HIDDEN = "model.layers.0.mlp.up_proj.weight"
# AdamW computes in float32 here and in float64 in the reference below.
ADAMW_RELATIVE = 1e-5
# Muon computes in float32 here and in float64 in the reference below.
MUON_RELATIVE = 1e-4


def updated(
    settings: TrainSettings, num_updates: int, llama: LlamaSettings = tiny.LLAMA
) -> tuple[Llama, TrainOptimizer]:
    model = Llama(llama)
    initialise(model, seed=3)
    optimizer = new_optimizer(model, settings)
    for update in range(num_updates):
        for name, parameter in model.named_parameters():
            parameter.grad = gradient(name, update, parameter)
        optimizer.step()
    return model, optimizer


def gradient(name: str, update: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(update + 100 * len(name))
    return torch.randn(like.shape, generator=generator)


def before(name: str) -> Tensor:
    return updated(tiny.TRAIN, 0)[0].get_parameter(name).detach().double()


def adamw_by_hand(name: str, num_updates: int, weight_decay: float) -> Tensor:
    """Loshchilov and Hutter 2019, algorithm 2, in float64."""
    settings = tiny.TRAIN
    weight = before(name)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for update in range(num_updates):
        found = gradient(name, update, weight).double()
        mean = settings.beta1 * mean + (1 - settings.beta1) * found
        square = settings.beta2 * square + (1 - settings.beta2) * found**2
        unbiased_mean = mean / (1 - settings.beta1 ** (update + 1))
        unbiased_square = square / (1 - settings.beta2 ** (update + 1))
        direction = unbiased_mean / (unbiased_square.sqrt() + settings.adam_eps)
        weight = weight - settings.peak_lr * (direction + weight_decay * weight)
    return weight


def muon_by_hand(name: str, num_updates: int) -> Tensor:
    """Jordan et al. 2024, with the update scale of Liu et al. 2025, in float64."""
    settings = tiny.MUON
    weight = before(name)
    momentum = torch.zeros_like(weight)
    for update in range(num_updates):
        found = gradient(name, update, weight).double()
        momentum = settings.muon_momentum * momentum + (1 - settings.muon_momentum) * found
        nesterov = settings.muon_momentum * momentum + (1 - settings.muon_momentum) * found
        scale = 0.2 * max(weight.shape) ** 0.5
        shrunk = weight * (1 - settings.peak_lr * settings.weight_decay)
        weight = shrunk - settings.peak_lr * scale * orthogonalised(nesterov)
    return weight


def orthogonalised(matrix: Tensor) -> Tensor:
    """Five steps of the quintic Newton-Schulz iteration."""
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm()
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def assert_close_updates(name: str, found: Tensor, expected: Tensor, relative: float) -> None:
    start = before(name)
    distance = (found.double() - expected).norm()
    assert distance < relative * (expected - start).norm(), name


@pytest.mark.parametrize("name", [HEAD, HIDDEN])
def test_adamw_decays_matrices(name: str) -> None:
    model, _ = updated(tiny.TRAIN, 3)

    expected = adamw_by_hand(name, 3, tiny.TRAIN.weight_decay)
    assert_close_updates(name, model.state_dict()[name], expected, ADAMW_RELATIVE)


@pytest.mark.parametrize("name", [EMBEDDING, GAIN])
def test_embeddings_and_gains_are_exempt_from_decay(name: str) -> None:
    model, _ = updated(tiny.TRAIN, 3)

    expected = adamw_by_hand(name, 3, 0.0)
    assert_close_updates(name, model.state_dict()[name], expected, ADAMW_RELATIVE)


def test_an_embedding_that_is_the_head_decays() -> None:
    model, _ = updated(tiny.TRAIN, 3, tiny.QWEN2)

    expected = adamw_by_hand(EMBEDDING, 3, tiny.TRAIN.weight_decay)
    assert_close_updates(EMBEDDING, model.state_dict()[EMBEDDING], expected, ADAMW_RELATIVE)


@pytest.mark.parametrize("settings", [tiny.TRAIN, tiny.MUON], ids=["adamw", "muon"])
def test_biases_and_a_tied_embedding_are_on_adamw_and_only_matrices_decay(
    settings: TrainSettings,
) -> None:
    model, optimizer = updated(settings, 1, tiny.QWEN2)

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adamw = optimizer.parts[-1]
    decayed, exempt = (
        {names[id(parameter)] for parameter in group["params"]} for group in adamw.param_groups
    )
    vectors = {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    assert exempt == vectors
    assert "model.layers.0.self_attn.q_proj.bias" in vectors
    assert (decayed == {EMBEDDING}) == (settings is tiny.MUON)
    assert EMBEDDING in decayed


@pytest.mark.parametrize("name", [HIDDEN, "model.layers.1.mlp.down_proj.weight"])
def test_muon_moves_hidden_matrices_along_orthogonal_directions(name: str) -> None:
    model, _ = updated(tiny.MUON, 3)

    expected = muon_by_hand(name, 3)
    assert_close_updates(name, model.state_dict()[name], expected, MUON_RELATIVE)


@pytest.mark.parametrize("name", [HEAD, EMBEDDING, GAIN])
def test_muon_leaves_the_rest_to_adamw(name: str) -> None:
    with_muon, _ = updated(tiny.MUON, 3)
    without, _ = updated(tiny.TRAIN, 3)

    assert torch.equal(with_muon.state_dict()[name], without.state_dict()[name])


@pytest.mark.parametrize("settings", [tiny.TRAIN, tiny.MUON])
def test_every_parameter_is_owned_once_and_moves(settings: TrainSettings) -> None:
    model, optimizer = updated(settings, 1)

    owned = [p for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))
    for name, value in model.state_dict().items():
        assert not torch.equal(value.double(), before(name)), name


def test_the_learning_rate_is_read_back_from_every_group() -> None:
    _, optimizer = updated(tiny.MUON, 0)

    set_learning_rate(optimizer, 0.125)

    assert read_learning_rate(optimizer) == 0.125
    optimizer.parts[0].param_groups[0]["lr"] = 0.25
    with pytest.raises(AssertionError):
        read_learning_rate(optimizer)


@pytest.mark.parametrize("settings", [tiny.TRAIN, tiny.MUON])
def test_updates_are_counted_by_the_optimizer(settings: TrainSettings) -> None:
    assert updated(settings, 0)[1].num_updates() == 0
    assert updated(settings, 3)[1].num_updates() == 3


def test_state_tensors_are_named_after_parameter_and_role() -> None:
    _, adamw = updated(tiny.TRAIN, 1)
    _, muon = updated(tiny.MUON, 1)

    assert f"{HIDDEN}.exp_avg" in adamw.tensors()
    assert f"{HIDDEN}.exp_avg_sq" in adamw.tensors()
    assert f"{HIDDEN}.momentum_buffer" in muon.tensors()
    assert f"{HIDDEN}.exp_avg" not in muon.tensors()


def test_the_state_of_another_optimizer_is_refused() -> None:
    _, adamw = updated(tiny.TRAIN, 1)
    _, muon = updated(tiny.MUON, 1)
    tensors = muon.tensors()
    tensors[f"{EMBEDDING}.exp_avg"] = tensors[f"{EMBEDDING}.exp_avg"].half()
    tensors[f"{GAIN}.exp_avg"] = torch.zeros(1)

    with pytest.raises(WrongTensorsError) as caught:
        adamw.load_tensors(tensors, "here")

    assert caught.value.where == "here"
    assert f"{HIDDEN}.exp_avg" in caught.value.missing
    assert f"{HIDDEN}.momentum_buffer" in caught.value.unexpected
    assert caught.value.misshapen == (f"{EMBEDDING}.exp_avg", f"{GAIN}.exp_avg")


def test_loading_copies_so_that_the_source_stays_as_it_was() -> None:
    model, optimizer = updated(tiny.TRAIN, 1)
    tensors = {name: value.clone() for name, value in optimizer.tensors().items()}
    kept = {name: value.clone() for name, value in tensors.items()}
    optimizer.load_tensors(tensors, "here")

    for name, parameter in model.named_parameters():
        parameter.grad = gradient(name, 1, parameter)
    optimizer.step()

    assert all(torch.equal(tensors[name], kept[name]) for name in kept)
