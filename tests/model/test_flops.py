from dataclasses import replace

import torch

from model.flops import num_matmul_parameters, training_flops_per_token
from model.llama import Llama, LlamaSettings
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


def test_attention_work_grows_with_the_context() -> None:
    one_layer = replace(ALBOR, num_layers=1)
    found = training_flops_per_token(one_layer, 101) - training_flops_per_token(one_layer, 100)

    assert found == 6 * 1024
