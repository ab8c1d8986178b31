"""The model of training steps beside the plain one, which is held to transformers."""

import copy
import shutil

import pytest
import torch
from torch import Tensor

from model.fast_llama import FastLlama
from model.head_loss import HeadLoss, positions_at_a_time
from model.llama import Llama, LlamaSettings, initialise
from model.loss import PADDING, row_losses, token_losses
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES

SCALE = 0.125
END_OF_TEXT = 7

each_architecture = pytest.mark.parametrize(
    "settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)
masked_or_not = pytest.mark.parametrize("document_end", [None, END_OF_TEXT], ids=["open", "masked"])


def model_of(settings: LlamaSettings) -> Llama:
    """Draw a model with wide scores and gains other than one: a fault would show."""
    model = Llama(settings)
    initialise(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.linspace(1, 4, parameter.numel()).view_as(parameter))
    return model.double()


def example_ids() -> Tensor:
    ids_BS = torch.from_numpy(tiny.rows(1, batch_rows=4)[0])
    ids_BS[:, 4] = END_OF_TEXT
    ids_BS[0, 6:] = PADDING
    return ids_BS


def gradients_of(model: Llama) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name], parameter.grad = parameter.grad, None
    return found


def plain(model: Llama, document_end: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    loss = row_losses(model, example_ids(), document_end).sum() * SCALE
    torch.autograd.backward(loss)
    return loss.detach(), gradients_of(model)


def fast(
    model: Llama, document_end: int | None, *, dtype: torch.dtype, compiled: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    passes = FastLlama(model, dtype, compiled=compiled)
    passes.refresh()
    loss = passes(example_ids(), document_end, SCALE)
    torch.autograd.backward(loss)
    return loss.detach(), gradients_of(model)


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm()) for name in found
    )


@each_architecture
@masked_or_not
def test_loss_and_every_gradient_are_those_of_the_plain_model(
    settings: LlamaSettings, document_end: int | None
) -> None:
    model = model_of(settings)

    loss, gradients = plain(model, document_end)
    found, handed_over = fast(model, document_end, dtype=torch.float64)

    assert float(found) == pytest.approx(float(loss), rel=1e-12)
    assert worst(handed_over, gradients) < 1e-12


def test_masking_documents_matters_to_what_is_compared() -> None:
    open_loss, _ = plain(model_of(tiny.LLAMA), None)
    masked_loss, _ = plain(model_of(tiny.LLAMA), END_OF_TEXT)
    assert abs(float(open_loss - masked_loss)) > 1e-3


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with g++")
# torch's compiler warns of its own code.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dtype", "loss_error", "gradient_error"),
    [(torch.float32, 5e-7, 5e-6), (torch.bfloat16, 1e-3, 6e-2)],
    ids=str,
)
def test_compiled_it_is_as_far_from_float64_as_the_format_rounds(
    dtype: torch.dtype, loss_error: float, gradient_error: float
) -> None:
    model = Llama(tiny.LLAMA)
    initialise(model, 1)
    loss, gradients = plain(copy.deepcopy(model).double(), None)

    found, handed_over = fast(model, None, dtype=dtype, compiled=True)

    assert float(found) == pytest.approx(float(loss), rel=loss_error)
    assert worst(handed_over, gradients) < gradient_error
    assert {gradient.dtype for gradient in handed_over.values()} == {torch.float32}


def test_gradients_add_up_and_none_stays_behind() -> None:
    model = model_of(tiny.LLAMA)
    passes = FastLlama(model, torch.float64, compiled=False)
    passes.refresh()
    for _ in range(2):
        torch.autograd.backward(passes(example_ids(), None, SCALE))
    twice = gradients_of(model)

    _, once = plain(model, None)

    assert worst(twice, {name: 2 * gradient for name, gradient in once.items()}) < 1e-12
    assert all(parameter.grad is None for parameter in passes.parameters())


def test_moved_weights_count_once_they_are_taken_over() -> None:
    model = model_of(tiny.LLAMA)
    passes = FastLlama(model, torch.float64, compiled=False)
    passes.refresh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    expected, _ = plain(model, None)

    before = passes(example_ids(), None, SCALE).item()
    passes.refresh()
    after = passes(example_ids(), None, SCALE).item()

    assert after == pytest.approx(float(expected), rel=1e-12)
    assert before != pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize("settings", [tiny.LLAMA, tiny.QWEN2], ids=["llama", "qwen2"])
def test_whoever_asks_is_handed_the_gradients_of_every_layer_once(settings: LlamaSettings) -> None:
    model = model_of(settings)
    passes = FastLlama(model, torch.float64, compiled=False)
    for _ in range(2):
        model.zero_grad()
        passes.refresh()
        told: list[Tensor] = []
        for last in (False, True):
            passes.tell(told.append if last else None)
            torch.autograd.backward(passes(example_ids(), None, SCALE))

        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.cat([each.flatten() for each in gradients]).norm()
        assert len(told) == settings.num_layers + 2
        assert sum(each.numel() for each in told) == sum(each.numel() for each in gradients)
        assert torch.cat(told).norm().item() == pytest.approx(norm.item(), rel=1e-12)
        for each in told:
            each.zero_()
        assert not any(gradient.any() for gradient in gradients)


def test_gradients_that_were_not_dropped_are_not_handed_on() -> None:
    model = model_of(tiny.LLAMA)
    for _ in range(2):
        passes = FastLlama(model, torch.float64, compiled=False)
        passes.refresh()
        torch.autograd.backward(passes(example_ids(), None, SCALE))
    passes.tell(lambda _flat: None)

    with pytest.raises(AssertionError, match="were not dropped"):
        torch.autograd.backward(passes(example_ids(), None, SCALE))


def test_scores_are_made_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    states_PD, head_VD = torch.randn(37, 8).double(), torch.randn(50, 8).double()
    targets_P = torch.randint(0, 50, (37,))
    targets_P[-3:] = PADDING
    inputs = [each.requires_grad_() for each in (states_PD, head_VD)]
    expected = token_losses((states_PD @ head_VD.T)[None], targets_P[None]).sum() * SCALE
    gradients = torch.autograd.grad(expected, inputs)

    for at_a_time in (1, 4, 64):
        monkeypatch.setattr("model.head_loss.SCORES_AT_A_TIME", {"cpu": at_a_time * 50})
        found = HeadLoss.apply(states_PD, head_VD, targets_P, SCALE, False)  # type: ignore[no-untyped-call]
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)
        for mine, theirs in zip(torch.autograd.grad(found, inputs), gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("vocab_size", [256, 50_304, 151_936])
def test_on_a_gpu_no_part_is_beyond_32_bit_indices(vocab_size: int) -> None:
    positions = positions_at_a_time(vocab_size, torch.device("cuda"))
    assert positions * vocab_size < 2**31
    assert positions & (positions - 1) == 0
