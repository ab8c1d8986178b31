from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.k_quants import BlockKind, decode, encode
from model.tensor_diff import (
    SettingDifference,
    TensorDifference,
    diff_weights,
    differing_settings,
    stored_in_fewer_bits,
)
from tests.model import tiny


def matrix(seed: int, rows: int = 64, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def one(left: Tensor, right: Tensor) -> TensorDifference:
    (found,) = diff_weights({"a": left, "b": matrix(9)}, {"a": right, "b": matrix(9)})
    return found


def flipped(bit: int) -> Tensor:
    changed = matrix(1)
    changed.view(torch.int32)[3, 4] ^= 1 << bit
    return changed


def changed(rows: Tensor | slice, value: float | Tensor) -> Tensor:
    copy = matrix(1)
    copy[rows] = value
    return copy


@pytest.mark.parametrize(
    ("right", "explanation"),
    [
        (matrix(1).T.contiguous(), "transposed"),
        (matrix(9), "equals b"),
        (matrix(1).roll(1, 0), "rows moved by +1"),
        (matrix(1).roll(-1, 0), "rows moved by -1"),
        (matrix(1)[torch.arange(64).reshape(2, 32).T.flatten()], "62 of 64 rows in another order"),
        (flipped(23), "bit 23 of one value is flipped"),
        (flipped(0), "bit 0 of one value is flipped"),
        (changed(torch.tensor([7]), 0.0), "row 7 is zero"),
        (changed(torch.tensor([7, 9]), 0.0), "2 rows are zero"),
        (matrix(1) * 1.05, "4096 of 4096 values times 1.05"),
        (changed(torch.tensor([2]), matrix(1)[2] * 3), "64 of 4096 values times 3"),
        (changed(torch.tensor([2]), float("nan")), "64 values are not finite"),
        (matrix(1).to(torch.float16).float(), "rounded to float16 and back"),
        (matrix(1).to(torch.bfloat16).float(), "rounded to bfloat16 and back"),
        (matrix(3), ""),
    ],
)
def test_the_way_in_which_a_tensor_is_another_is_named(right: Tensor, explanation: str) -> None:
    found = one(matrix(1), right)

    assert (found.name, found.explanation) == ("a", explanation)


@pytest.mark.parametrize("kind", list(BlockKind), ids=lambda kind: kind.label)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_quantised_and_back_is_recognised_and_a_scaled_one_is_not(
    kind: BlockKind, seed: int
) -> None:
    left = matrix(seed, 64, 512) * 0.02
    right = decode(kind, encode(kind, left), (64, 512))

    assert one(left, right).rounded_to == kind.label
    assert one(left, right * 1.05).rounded_to == ""
    assert one(left, right.roll(1, 0)).rounded_to == ""


def test_a_doubled_value_is_not_what_q8_0_does() -> None:
    left = matrix(1)
    right = decode(BlockKind.Q8_0, encode(BlockKind.Q8_0, left), (64, 64))
    right[5, 6] = 2 * left[5, 6]

    assert one(left, right).rounded_to != "Q8_0"


def test_equal_tensors_are_no_difference_and_lacking_ones_are() -> None:
    assert diff_weights({"a": matrix(1)}, {"a": matrix(1)}) == []
    found = diff_weights({"a": matrix(1)}, {"b": matrix(2)})
    assert [(each.name, each.explanation) for each in found] == [
        ("a", "missing"),
        ("b", "the reference has none"),
    ]


def test_sizes_of_a_difference_are_counted() -> None:
    found = one(torch.ones(2, 8), torch.tensor([[1.0] * 8, [1.0] * 7 + [3.0]]))

    assert (found.num_differing, found.num_elements, found.relative_l2) == (1, 16, 0.5)


def test_a_model_is_stored_in_fewer_bits_if_most_of_it_is_and_no_tensor_in_fewer_still() -> None:
    names = ("Q8_0", "Q8_0", "bfloat16", "Q4_K", "")
    found = [
        replace(one(matrix(1), matrix(2)), name=f"t{at}", rounded_to=name)
        for at, name in enumerate(names)
    ]

    assert stored_in_fewer_bits(found, num_matrices=5) == ["t0", "t1", "t2"]
    assert stored_in_fewer_bits(found, num_matrices=8) == []


def test_settings_that_change_the_computation_are_listed() -> None:
    other = replace(tiny.LLAMA, rope_theta=5e5, initializer_std=0.5)

    assert differing_settings(tiny.LLAMA, other) == [
        SettingDifference(name="rope_theta", reference=1e4, candidate=5e5)
    ]
