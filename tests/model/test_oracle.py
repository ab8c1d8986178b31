"""Our model beside transformers' with the same weights, in every precision.

`TOLERANCES` are relative L2 distances, for gradients the largest of all. Where both multiply in the
same format they make the same roundings: on an AMD EPYC, torch 2.13 and transformers 5.23 both gave
the same bits in float32 and bfloat16, and in float64 at most 2e-15. What is allowed beyond is for
another order of summation, and is still below what a fault of rounding makes: rotary frequencies
in bfloat16 alone move logits by 6e-3. `ROUNDING` is how far a format is from float64 at all:
measured up to 3e-7, 1e-7 and 9e-7 in float32, 7e-3, 2e-4 and 3e-2 in bfloat16.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.llama import Llama, LlamaSettings, RMSNorm, Rope, rope_tables
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES, distances, ours, relative, theirs

QUANTITIES = ("logits", "loss", "gradients")
TOLERANCES = {
    torch.float64: (1e-10, 1e-10, 1e-10),
    torch.float32: (2e-6, 2e-6, 2e-6),
    torch.bfloat16: (1e-3, 1e-4, 5e-3),
}
ROUNDING = {
    torch.float32: (1e-6, 5e-7, 5e-6),
    torch.bfloat16: (2e-2, 1e-3, 6e-2),
}

each_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
each_architecture = pytest.mark.parametrize(
    "settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)


def example_ids() -> Tensor:
    return torch.from_numpy(tiny.rows(1)[0])


def beyond(found: dict[str, float], allowed: tuple[float, ...]) -> dict[str, float]:
    """What is farther away than allowed."""
    bounds = zip(QUANTITIES, allowed, strict=True)
    return {name: found[name] for name, bound in bounds if not found[name] <= bound}


@each_dtype
@each_architecture
def test_logits_loss_and_every_gradient_are_those_of_transformers(
    settings: LlamaSettings, dtype: torch.dtype
) -> None:
    model = ours(settings, dtype)

    found = distances(model, theirs(model), example_ids())

    assert beyond(found, TOLERANCES[dtype]) == {}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@each_architecture
def test_a_narrower_format_is_as_far_from_float64_as_it_rounds(
    settings: LlamaSettings, dtype: torch.dtype
) -> None:
    exact = theirs(ours(settings, dtype).double())

    found = distances(ours(settings, dtype), exact, example_ids())

    assert beyond(found, ROUNDING[dtype]) == {}
    assert found["logits"] > 0.01 * ROUNDING[dtype][0]


@each_architecture
def test_parameters_are_named_as_transformers_names_them(settings: LlamaSettings) -> None:
    model = ours(settings)

    expected = {name: p.shape for name, p in theirs(model).named_parameters()}
    assert {name: p.shape for name, p in model.named_parameters()} == expected


def interleaved(self: Rope, x_BNTH: Tensor, positions_BT: Tensor | None = None) -> Tensor:
    """Rotate neighbouring channels, as the paper writes it and GGML's first kind does."""
    cos, sin = rope_tables(self.head_size, self.theta, x_BNTH.shape[-2], x_BNTH.device)
    half = self.head_size // 2
    cos, sin = (each[:, -half:].repeat_interleave(2, -1).to(x_BNTH.dtype) for each in (cos, sin))
    even, odd = x_BNTH[..., 0::2], x_BNTH[..., 1::2]
    return x_BNTH * cos + torch.stack((-odd, even), -1).flatten(-2) * sin


def without_rotation(self: Rope, x_BNTH: Tensor, positions_BT: Tensor | None = None) -> Tensor:
    return x_BNTH


def without_mask(q_BNTH: Tensor, *others: Any, **options: Any) -> Tensor:
    return nn.functional.scaled_dot_product_attention(
        q_BNTH, *others, **{**options, "is_causal": False}
    )


def other_eps(model: Llama) -> None:
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.eps = 1e-4


def without_biases(model: Llama) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()


@each_dtype
@pytest.mark.parametrize("rotate", [interleaved, without_rotation])
def test_another_pairing_of_rotated_channels_is_seen(
    dtype: torch.dtype, rotate: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ours(tiny.LLAMA, dtype)
    reference = theirs(model)
    monkeypatch.setattr(Rope, "forward", rotate)

    found = distances(model, reference, example_ids())

    assert beyond(found, TOLERANCES[dtype]).keys() == set(QUANTITIES)
    assert found["logits"] > 0.01


@each_dtype
def test_a_missing_causal_mask_is_seen(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ours(tiny.LLAMA, dtype)
    expected = theirs(model)(example_ids()[:, :-1]).logits

    class Functional:
        scaled_dot_product_attention = staticmethod(without_mask)

    monkeypatch.setattr("model.llama.functional", Functional)

    assert relative(model(example_ids()[:, :-1]), expected) > 0.1


@each_dtype
@pytest.mark.parametrize("fault", [other_eps, without_biases])
def test_a_small_fault_is_seen(dtype: torch.dtype, fault: Callable[[Llama], None]) -> None:
    model = ours(tiny.QWEN2, dtype)
    reference = theirs(model)
    fault(model)

    found = distances(model, reference, example_ids())

    assert beyond(found, TOLERANCES[dtype]).keys() >= {"logits", "gradients"}


def test_rotary_frequencies_in_bfloat16_are_seen() -> None:
    model = ours(tiny.LLAMA, torch.bfloat16)

    found = distances(model, theirs(model).to(torch.bfloat16), example_ids())

    assert beyond(found, TOLERANCES[torch.bfloat16]).keys() >= {"logits", "gradients"}
