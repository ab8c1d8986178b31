from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.llama import Llama
from model.teacher_forcing import capture
from model.torch_side import TorchSide, llama_side
from tasks import forward_values
from tasks.forward_values import keeping, value_bytes
from tests.model.small_llama import small_settings, small_tensors

IDS = torch.tensor([[1, 2, 3]])


def side(dtype: torch.dtype = torch.float32) -> TorchSide:
    model = Llama(small_settings())
    model.load_state_dict(small_tensors())
    return llama_side("side", model.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_values_need_is_what_a_pass_shows(dtype: torch.dtype) -> None:
    shown = capture(side(dtype), IDS, list(side(dtype).declarations))

    assert value_bytes(side(dtype), 3) == sum(value.nbytes for value in shown.values())


def test_370_million_parameters_take_two_megabytes_a_token() -> None:
    declared = llama_side("large", Llama(replace(small_settings(), num_layers=24))).declarations
    large = replace(
        small_settings(),
        num_layers=24,
        vocab_size=50_257,
        hidden_size=1024,
        num_heads=16,
        num_kv_heads=4,
        intermediate_size=2816,
    )

    assert value_bytes(replace(side(), settings=large, declarations=declared), 1) == 2_249_028


def test_values_that_fit_are_kept_in_memory_and_others_in_a_file_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_STORE", str(tmp_path))
    with keeping(side(), 3) as keep_in:
        assert keep_in is dict
        assert not list(tmp_path.rglob("values-*"))

    monkeypatch.setattr(forward_values, "MEMORY_SHARE", 0.0)
    with keeping(side(), 3) as keep_in:
        values = capture(side(), IDS, ["embed"], keep_in)
        assert not isinstance(values, dict)
        assert list(tmp_path.rglob("*values-*"))
    assert not list(tmp_path.rglob("*values-*"))
