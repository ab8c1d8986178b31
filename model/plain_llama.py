"""The Llama decoder once more, as plainly as it can be written: numpy, float64, one row at a time.

It shares nothing with the model that trains but the names of the weights, so that a fault in one
shows beside the other. It is far too slow for anything but a few tokens.

Legend: T positions, D hidden channels, N query heads, H channels of a head, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.llama import LlamaSettings

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def plain_logits(weights: Weights, settings: LlamaSettings, ids_T: NDArray[np.int64]) -> Array:
    """Score every next token of one row.

    Shapes: (T,) -> (T, V).
    """
    x_TD = weights["model.embed_tokens.weight"][ids_T]
    for number in range(settings.num_layers):
        layer = f"model.layers.{number}."
        normed_TD = _norm(x_TD, weights[f"{layer}input_layernorm.weight"], settings)
        x_TD = x_TD + _attend(normed_TD, weights, f"{layer}self_attn.", settings)
        normed_TD = _norm(x_TD, weights[f"{layer}post_attention_layernorm.weight"], settings)
        gate_TF = _project(normed_TD, weights, f"{layer}mlp.gate_proj")
        up_TF = _project(normed_TD, weights, f"{layer}mlp.up_proj")
        opened_TF = gate_TF / (1 + np.exp(-gate_TF)) * up_TF
        x_TD = x_TD + _project(opened_TF, weights, f"{layer}mlp.down_proj")
    head = "model.embed_tokens" if settings.tie_embeddings else "lm_head"
    return _project(_norm(x_TD, weights["model.norm.weight"], settings), weights, head)


def plain_loss(weights: Weights, settings: LlamaSettings, ids_BS: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of all next tokens of some rows, in nats."""
    losses = []
    for ids_S in ids_BS:
        logits_TV = plain_logits(weights, settings, ids_S[:-1])
        largest_T1 = logits_TV.max(-1, keepdims=True)
        total_T = np.log(np.exp(logits_TV - largest_T1).sum(-1)) + largest_T1[:, 0]
        losses.append(total_T - logits_TV[np.arange(len(ids_S) - 1), ids_S[1:]])
    return float(np.mean(losses))


def _project(x_TD: Array, weights: Weights, name: str) -> Array:
    projected_TD: Array = x_TD @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)
    return projected_TD


def _norm(x_TD: Array, gain_D: Array, settings: LlamaSettings) -> Array:
    mean_square_T1 = (x_TD**2).mean(-1, keepdims=True)
    normed_TD: Array = x_TD / np.sqrt(mean_square_T1 + settings.rms_norm_eps) * gain_D
    return normed_TD


def _attend(x_TD: Array, weights: Weights, name: str, settings: LlamaSettings) -> Array:
    size, num_heads = settings.head_size, settings.num_heads
    shared = num_heads // settings.num_kv_heads
    q_TD, k_TD, v_TD = (_project(x_TD, weights, f"{name}{each}_proj") for each in "qkv")
    heads = []
    for head in range(num_heads):
        own, kv = slice(head * size, (head + 1) * size), head // shared
        read = slice(kv * size, (kv + 1) * size)
        q_TH, k_TH = (_rotate(each_TH, settings) for each_TH in (q_TD[:, own], k_TD[:, read]))
        scores_TT = q_TH @ k_TH.T / np.sqrt(size)
        scores_TT[np.triu_indices(len(x_TD), 1)] = -np.inf
        opened_TT = np.exp(scores_TT - scores_TT.max(-1, keepdims=True))
        heads.append(opened_TT / opened_TT.sum(-1, keepdims=True) @ v_TD[:, read])
    return _project(np.concatenate(heads, -1), weights, f"{name}o_proj")


def _rotate(x_TH: Array, settings: LlamaSettings) -> Array:
    """Turn the pair of channels i and i + H/2, as a complex number, by position times frequency."""
    half = settings.head_size // 2
    frequency_P = settings.rope_theta ** (-np.arange(half) / half)
    angle_TP = np.arange(len(x_TH))[:, None] * frequency_P
    turned_TP = (x_TH[:, :half] + 1j * x_TH[:, half:]) * np.exp(1j * angle_TP)
    return np.concatenate((turned_TP.real, turned_TP.imag), -1)
