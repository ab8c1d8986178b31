from dataclasses import replace

import pytest
import torch

from model.flops import num_matmul_parameters, peak_flops_per_second, training_flops_per_token
from model.llama import Llama, LlamaSettings
from model.precision import Precision
from tests.model import tiny

ALBOR = LlamaSettings(
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


def test_matrix_parameters_are_all_two_dimensional_ones_but_the_embedding() -> None:
    with torch.device("meta"):
        model = Llama(tiny.LLAMA)
    counted = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "embed_tokens" not in name
    )

    assert num_matmul_parameters(tiny.LLAMA) == counted


def test_the_370m_model_needs_2_2_gigaflops_a_token() -> None:
    # 270,532,608 in the blocks and 51,463,168 in the head.
    assert num_matmul_parameters(ALBOR) == 321_995_776
    assert training_flops_per_token(ALBOR, 2048) == 2_233_964_544


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "tfloat32", 494.7e12),
        ("NVIDIA GeForce RTX 4090", "tfloat32", 82.6e12),
        ("NVIDIA H200 of next year", "bfloat16", None),
        ("cpu", "float32", None),
    ],
)
def test_a_peak_is_known_of_devices_that_were_looked_up_alone(
    device: str, precision: Precision, peak: float | None
) -> None:
    assert peak_flops_per_second(device, precision) == peak


def test_attention_work_grows_with_the_context() -> None:
    one_layer = replace(ALBOR, num_layers=1)
    found = training_flops_per_token(one_layer, 101) - training_flops_per_token(one_layer, 100)

    assert found == 6 * 1024
