"""The content gates: each fails for its own fault, and a trained tensor fails none."""

import pytest
import torch
from torch import Tensor

from model.data_quality import CHUNK_ELEMENTS, faults


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def with_zeros(share: float) -> Tensor:
    values = drawn(1000)
    values[: round(1000 * share)] = 0
    return values.reshape(100, 10)


def with_value(value: float) -> Tensor:
    values = drawn(100, 10)
    values[3, 4] = value
    return values


EMPTY_ROW = drawn(100, 10)
EMPTY_ROW[7] = 1e-8

NOT_FINITE = ["002: 1 of 1000 values are NaN or infinite, finite"]

CASES = [
    ("q_proj.weight", drawn(4, 4), []),
    ("q_proj.weight", with_zeros(0.8), []),
    ("q_proj.weight", with_zeros(0.801), ["001: 80.1% of the values are zero, at most 80%"]),
    ("embed_tokens.weight", with_zeros(0.5).T.contiguous(), []),
    (
        "model.embed_tokens.weight",
        with_zeros(0.6).T.contiguous(),
        ["001: 60.0% of the values are zero, at most 50%"],
    ),
    (
        "lm_head.weight",
        with_value(float("nan")),
        NOT_FINITE,
    ),
    (
        "q_proj.weight",
        with_value(float("inf")),
        NOT_FINITE,
    ),
    ("q_proj.weight", drawn(10, 10).sign() * 2**-30, ["003: L2 norm 9.31e-09, at least 1e-06"]),
    ("q_proj.weight", torch.full((4, 4), 0.5), ["003: all values are 0.5, different values"]),
    ("model.norm.weight", torch.ones(64), []),
    ("q_proj.bias", torch.full((64,), 0.5), []),
    (
        "output.weight",
        EMPTY_ROW,
        ["007: 1 of 100 rows have an L2 norm below 1e-06, none"],
    ),
    ("q_proj.weight", EMPTY_ROW, []),
    (
        "q_proj.weight",
        torch.zeros(8, 8),
        ["001: 100.0% of the values are zero, at most 80%", "003: L2 norm 0, at least 1e-06"],
    ),
    ("q_proj.weight", torch.zeros(0, 8), ["003: L2 norm 0, at least 1e-06"]),
    ("scale", torch.tensor(2.0), []),
]


@pytest.mark.parametrize(("name", "tensor", "expected"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_fails_for_its_own_fault(
    name: str, tensor: Tensor, expected: list[str], dtype: torch.dtype
) -> None:
    found = list(faults(name, tensor.to(dtype)))
    said = [f"{fault.gate.removeprefix('F-DATA-QUALITY-')}: {fault.found}, {fault.expected}"
            for fault in found]  # fmt: skip
    assert said == expected
    assert all(fault.tensor == name for fault in found)


def test_a_fault_is_a_sentence() -> None:
    (fault,) = faults("lm_head.weight", EMPTY_ROW)
    assert str(fault) == (
        "F-DATA-QUALITY-007: lm_head.weight: 1 of 100 rows have an L2 norm below 1e-06, "
        "should be none"
    )


def test_a_fault_in_the_last_part_of_a_large_tensor_is_found() -> None:
    tensor = torch.ones(3, CHUNK_ELEMENTS // 2)
    tensor[0, 0], tensor[2, -1] = 2.0, torch.nan
    (fault,) = faults("w", tensor)
    assert fault.found == f"1 of {tensor.numel()} values are NaN or infinite"


def test_a_large_value_does_not_hide_in_an_infinite_sum_of_squares() -> None:
    tensor = torch.full((2, 2), 3e38)
    tensor[0, 0] = 1
    assert list(faults("w", tensor)) == []


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_what_is_no_number_with_a_fraction_is_unreadable(dtype: torch.dtype) -> None:
    (fault,) = faults("step", torch.ones(3).to(dtype))
    assert fault.gate == "F-DATA-QUALITY: unreadable"
    assert fault.found == str(dtype).removeprefix("torch.")
