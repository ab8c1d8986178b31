"""The Llama decoder once more, as plainly as it can be written: numpy, float64, head after head.

It shares nothing with the model that trains but the names of the weights, so that a fault in one
shows beside the other. It is far too slow for anything but a few tokens. All rows go through a
weight at once: reading the weights is most of the work.

Legend: B rows, T positions, D hidden channels, N query heads, H channels of a head, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.llama import LlamaSettings

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def plain_logits(weights: Weights, settings: LlamaSettings, ids_BT: NDArray[np.int64]) -> Array:
    """Score every next token of some rows.

    Shapes: (B, T) -> (B, T, V).
    """
    x_BTD = weights["model.embed_tokens.weight"][ids_BT]
    for number in range(settings.num_layers):
        layer = f"model.layers.{number}."
        normed_BTD = _norm(x_BTD, weights[f"{layer}input_layernorm.weight"], settings)
        x_BTD = x_BTD + _attend(normed_BTD, weights, f"{layer}self_attn.", settings)
        normed_BTD = _norm(x_BTD, weights[f"{layer}post_attention_layernorm.weight"], settings)
        gate_BTF = _project(normed_BTD, weights, f"{layer}mlp.gate_proj")
        up_BTF = _project(normed_BTD, weights, f"{layer}mlp.up_proj")
        opened_BTF = gate_BTF / (1 + np.exp(-gate_BTF)) * up_BTF
        x_BTD = x_BTD + _project(opened_BTF, weights, f"{layer}mlp.down_proj")
    head = "model.embed_tokens" if settings.tie_embeddings else "lm_head"
    return _project(_norm(x_BTD, weights["model.norm.weight"], settings), weights, head)


def plain_loss(weights: Weights, settings: LlamaSettings, ids_BS: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of all next tokens of some rows, in nats."""
    logits_BTV = plain_logits(weights, settings, ids_BS[:, :-1])
    largest_BT1 = logits_BTV.max(-1, keepdims=True)
    total_BT1 = np.log(np.exp(logits_BTV - largest_BT1).sum(-1, keepdims=True)) + largest_BT1
    return float(np.mean(total_BT1 - np.take_along_axis(logits_BTV, ids_BS[:, 1:, None], -1)))


def _project(x_BTD: Array, weights: Weights, name: str) -> Array:
    # As one product: numpy would take the weight anew for every row.
    projected: Array = x_BTD.reshape(-1, x_BTD.shape[-1]) @ weights[f"{name}.weight"].T
    return projected.reshape(*x_BTD.shape[:2], -1) + weights.get(f"{name}.bias", 0.0)


def _norm(x_BTD: Array, gain_D: Array, settings: LlamaSettings) -> Array:
    mean_square_BT1 = (x_BTD**2).mean(-1, keepdims=True)
    normed_BTD: Array = x_BTD / np.sqrt(mean_square_BT1 + settings.rms_norm_eps) * gain_D
    return normed_BTD


def _attend(x_BTD: Array, weights: Weights, name: str, settings: LlamaSettings) -> Array:
    size, num_heads = settings.head_size, settings.num_heads
    shared = num_heads // settings.num_kv_heads
    q_BTD, k_BTD, v_BTD = (_project(x_BTD, weights, f"{name}{each}_proj") for each in "qkv")
    later_TT = np.triu(np.ones((x_BTD.shape[1], x_BTD.shape[1]), bool), 1)
    heads = []
    for head in range(num_heads):
        own, kv = slice(head * size, (head + 1) * size), head // shared
        read = slice(kv * size, (kv + 1) * size)
        q_BTH, k_BTH = (
            _rotate(each_BTH, settings) for each_BTH in (q_BTD[..., own], k_BTD[..., read])
        )
        scores_BTT = q_BTH @ k_BTH.swapaxes(1, 2) / np.sqrt(size)
        scores_BTT[:, later_TT] = -np.inf
        opened_BTT = np.exp(scores_BTT - scores_BTT.max(-1, keepdims=True))
        heads.append(opened_BTT / opened_BTT.sum(-1, keepdims=True) @ v_BTD[..., read])
    return _project(np.concatenate(heads, -1), weights, f"{name}o_proj")


def _rotate(x_BTH: Array, settings: LlamaSettings) -> Array:
    """Turn the pair of channels i and i + H/2, as a complex number, by position times frequency."""
    half = settings.head_size // 2
    frequency_P = settings.rope_theta ** (-np.arange(half) / half)
    angle_TP = np.arange(x_BTH.shape[1])[:, None] * frequency_P
    turned_BTP = (x_BTH[..., :half] + 1j * x_BTH[..., half:]) * np.exp(1j * angle_TP)
    return np.concatenate((turned_BTP.real, turned_BTP.imag), -1)
