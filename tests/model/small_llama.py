"""A Llama small enough to write out in a test, and a tokenizer that fits it."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from model.apr_model import expected_tensors
from model.llama import LlamaSettings

END_OF_TEXT = "<|endoftext|>"


def small_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=264,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["def f(x):\n    return x\n", "def g(y): pass\n"], trainer)
    return tokenizer


def small_settings() -> LlamaSettings:
    return LlamaSettings(
        vocab_size=264,
        hidden_size=8,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=12,
        max_position_embeddings=32,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        initializer_std=0.02,
        attention_bias=False,
        tie_embeddings=False,
    )


def small_qwen2() -> LlamaSettings:
    """As in the Qwen2 family: biases on query, key and value, and a head tied to the embedding."""
    return replace(small_settings(), attention_bias=True, tie_embeddings=True)


def small_tensors(settings: LlamaSettings | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = expected_tensors(settings or small_settings())
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
