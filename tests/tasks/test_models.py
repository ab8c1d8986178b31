"""A model is made of a file's tensors: all of them, and nothing that was drawn."""

import torch

from tasks.models import build_model
from tests.model.small_llama import small_qwen2, small_tensors


def test_a_model_is_its_tensors_and_draws_none() -> None:
    tensors = small_tensors(small_qwen2())
    before = torch.random.get_rng_state()
    model = build_model(small_qwen2(), tensors, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    held = dict(model.named_parameters())
    assert held.keys() == tensors.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in tensors.items())


def test_tensors_in_float32_are_taken_without_a_copy() -> None:
    tensors = small_tensors(small_qwen2())
    model = build_model(small_qwen2(), tensors, "cpu")
    assert all(p.data_ptr() == tensors[name].data_ptr() for name, p in model.named_parameters())


def test_half_precision_is_widened() -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in small_tensors(small_qwen2()).items()}
    model = build_model(small_qwen2(), tensors, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.model.norm.weight, tensors["model.norm.weight"].float())
