"""Values kept in a file, and a bisection that keeps all of its values there."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.bisection import bisect
from model.file_values import ValueFile
from model.torch_side import llama_side
from model.transformers_side import transformers_side
from tests.benchmarks.bisect_faults import FAULTS, NUM_TOKENS, faulty, program, random_model
from tests.model.oracle import theirs

IDS = program()[:NUM_TOKENS][None]


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(2, 3, 5),
        torch.randn(2, 3, 5).to(torch.bfloat16),
        torch.tensor([[[math.nan, -math.inf, 0.0]]], dtype=torch.float64),
        torch.randn(4, 2, 3).transpose(0, 1),
    ],
    ids=["float32", "bfloat16", "not finite", "not contiguous"],
)
def test_a_value_comes_back_with_its_bits(value: Tensor, tmp_path: Path) -> None:
    with ValueFile(tmp_path) as file:
        values, others = file.new_values(), file.new_values()
        values["a"], others["a"], values["b"] = torch.zeros(7), torch.ones(1), value

        assert (list(values), len(values), "c" in values) == (["a", "b"], 2, False)
        assert values["b"].dtype == value.dtype
        assert torch.equal(values["b"].nan_to_num(1e9), value.nan_to_num(1e9))
        assert torch.equal(others["a"], torch.ones(1))
        del values["a"]
        assert list(values) == ["b"]


def test_the_file_has_no_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with ValueFile(tmp_path) as file:
        file.new_values()["a"] = torch.ones(1000)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gate and up swapped, layer 3", "two faults, layers 1 and 4"])
def test_a_bisection_through_a_file_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    model = random_model(0)
    fault = next(fault for fault in FAULTS if fault.name == name)
    sides = (
        transformers_side("transformers", theirs(model)),
        llama_side("ours", faulty(model, fault)),
    )

    expected = bisect(*sides, IDS)
    with ValueFile(tmp_path) as file:
        found = bisect(*sides, IDS, file.new_values)

    assert found.faults
    assert asdict(found) == asdict(expected)
