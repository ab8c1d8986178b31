"""The useful work of training, as arithmetic on the architecture.

Convention C1: a multiplication and an addition for every matrix parameter that a token passes, the
backward pass twice the forward pass, attention only over positions that causality lets through.
Embedding look-ups, norms and recomputation count nothing. Masking documents is not subtracted.
"""

from collections.abc import Mapping

from model.llama import LlamaSettings
from model.precision import Precision

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


PEAK_TFLOPS: Mapping[str, Mapping[Precision, float]] = {
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312.0, "tfloat32": 156.0, "float32": 19.5},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312.0, "tfloat32": 156.0, "float32": 19.5},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989.4, "tfloat32": 494.7, "float32": 66.9},
    "NVIDIA H100 PCIe": {"bfloat16": 756.0, "tfloat32": 378.0, "float32": 51.2},
    "NVIDIA H200": {"bfloat16": 989.4, "tfloat32": 494.7, "float32": 66.9},
    "NVIDIA GeForce RTX 4090": {"bfloat16": 165.2, "tfloat32": 82.6, "float32": 82.6},
}
"""Dense products a second by device name and format.

Source: NVIDIA's data sheets of the A100, H100 and H200; the Ada architecture white paper, table 2.
"""


def peak_flops_per_second(device_name: str, precision: Precision) -> float | None:
    """Return what a device could do at most; None for one that nobody looked up."""
    peaks = PEAK_TFLOPS.get(device_name)
    return None if peaks is None else peaks[precision] * 1e12
