"""The useful work of training, as arithmetic on the architecture.

Convention C1: a multiplication and an addition for every matrix parameter that a token passes, the
backward pass twice the forward pass, attention only over positions that causality lets through.
Embedding look-ups, norms and recomputation count nothing.
"""

from model.llama import LlamaSettings

CONVENTION = "C1: 6 x (block and head matrices) + 6 x layers x hidden x context, causal attention"


def num_matmul_parameters(settings: LlamaSettings) -> int:
    """Count the weights that every token is multiplied with."""
    kv_channels = settings.num_kv_heads * settings.head_size
    attention = settings.hidden_size * (2 * settings.hidden_size + 2 * kv_channels)
    feed_forward = 3 * settings.hidden_size * settings.intermediate_size
    head = settings.hidden_size * settings.vocab_size
    return settings.num_layers * (attention + feed_forward) + head


def training_flops_per_token(settings: LlamaSettings, context_length: int) -> int:
    """Count the floating-point operations of forward and backward for one token.

    Source: convention C1; its shape is that of llm.c's estimate.
    """
    attention = settings.num_layers * settings.hidden_size * context_length
    return 6 * (num_matmul_parameters(settings) + attention)
