"""The Llama of `model.llama` for decoding: one token a row at a time, beside keys and values kept.

It computes what the model computes, with fewer and larger operations: projections that read the
same input are one matrix, made once. Rows stand at positions of their own, so prompts of different
lengths share a batch without padding that anyone sees.

Shapes: B rows, R rows of them that are read in, T positions, S positions kept, D hidden channels,
V vocabulary, K key/value heads, G query heads to each of them, C heads of all three, H channels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.llama import Layer, Llama, rope_tables


@dataclass(frozen=True, slots=True)
class _FusedLayer:
    """The weights of a layer; queries, keys and values lie together, as do gate and up."""

    input_gain: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    mlp_gain: Tensor
    gate_up: Tensor
    down: Tensor


class CachedLlama:
    """A model with room for the keys and values of so many rows and positions.

    Precision: that of the model's weights; norms and softmax in float32 at least.
    """

    @torch.no_grad()
    def __init__(self, model: Llama, *, num_rows: int, num_positions: int) -> None:
        self.settings = model.settings
        self.num_rows = num_rows
        self.num_positions = num_positions
        self._embedding_VD = model.model.embed_tokens.weight.detach()
        head = model.lm_head
        self._head_VD = _laid_out(
            head.weight.detach() if isinstance(head, nn.Linear) else self._embedding_VD
        )
        self._gain = model.model.norm.weight.detach()
        self._layers = [_fuse(layer) for layer in cast("Iterable[Layer]", model.model.layers)]
        shape = (num_rows, self.settings.num_kv_heads, num_positions, self.settings.head_size)
        self._keys = [self._embedding_VD.new_zeros(shape) for _ in self._layers]
        self._values = [torch.zeros_like(keys) for keys in self._keys]
        head_size, theta = self.settings.head_size, self.settings.rope_theta
        tables = rope_tables(head_size, theta, num_positions, self.device)
        self._cos_SH, self._sin_SH = (each.to(self._embedding_VD.dtype) for each in tables)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding_VD.device

    @torch.no_grad()
    def forget(self, rows_R: Tensor) -> None:
        """Clear rows: a value that is no number would outlive its row, as none times NaN is NaN."""
        for values_BKSH in self._values:
            values_BKSH[rows_R] = 0

    @torch.no_grad()
    def read(self, rows_R: Tensor, ids_RT: Tensor) -> None:
        """Keep keys and values of the first positions of some rows, in place of what was there.

        What stands behind the end of a row may be anything: nobody looks at it before it is
        overwritten.
        """
        num_read = ids_RT.shape[1]
        x_RTD = functional.embedding(ids_RT, self._embedding_VD)
        cos_TH, sin_TH = self._cos_SH[:num_read], self._sin_SH[:num_read]
        for layer, keys_BKSH, values_BKSH in self._each_layer():
            qkv_RCTH = self._heads(layer, x_RTD).transpose(1, 2)
            q_RNTH, k_RKTH, v_RKTH = self._rotated(qkv_RCTH, cos_TH, sin_TH)
            keys_BKSH[rows_R, :, :num_read] = k_RKTH
            values_BKSH[rows_R, :, :num_read] = v_RKTH
            if layer is self._layers[-1]:
                # What it makes of the prompt nobody reads.
                return
            is_grouped = self.settings.num_heads > self.settings.num_kv_heads
            mix_RNTH = functional.scaled_dot_product_attention(
                q_RNTH, k_RKTH, v_RKTH, is_causal=True, enable_gqa=is_grouped
            )
            x_RTD = x_RTD + functional.linear(mix_RNTH.transpose(1, 2).flatten(2), layer.out)
            x_RTD = x_RTD + self._feed_forward(layer, x_RTD)

    @torch.no_grad()
    def step(self, ids_B: Tensor, positions_B: Tensor, num_seen: int) -> Tensor:
        """Keep one more token of every row and score what follows it.

        `num_seen` is more than the largest position; what lies beyond costs nothing.

        Shapes: (B,), (B,) -> (B, V).
        """
        x_BD = functional.embedding(ids_B, self._embedding_VD)
        cos_B1H, sin_B1H = self._cos_SH[positions_B][:, None], self._sin_SH[positions_B][:, None]
        rows_B = torch.arange(self.num_rows, device=self.device)
        places_S = torch.arange(num_seen, device=self.device)
        unseen_B11S = places_S > positions_B[:, None, None, None]
        for layer, keys_BKSH, values_BKSH in self._each_layer():
            qkv_BCH = self._heads(layer, x_BD)
            q_BNH, k_BKH, v_BKH = self._rotated(qkv_BCH, cos_B1H, sin_B1H)
            keys_BKSH[rows_B, :, positions_B] = k_BKH
            values_BKSH[rows_B, :, positions_B] = v_BKH
            q_BKGH = q_BNH.view(
                self.num_rows, self.settings.num_kv_heads, -1, self.settings.head_size
            )
            mix_BKGH = _attend(
                q_BKGH, keys_BKSH[:, :, :num_seen], values_BKSH[:, :, :num_seen], unseen_B11S
            )
            x_BD = torch.addmm(x_BD, mix_BKGH.flatten(1), layer.out.t())
            x_BD = x_BD + self._feed_forward(layer, x_BD)
        return functional.linear(self._norm(x_BD, self._gain), self._head_VD)

    def _each_layer(self) -> Iterator[tuple[_FusedLayer, Tensor, Tensor]]:
        return zip(self._layers, self._keys, self._values, strict=True)

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return functional.rms_norm(x, gain.shape, gain, self.settings.rms_norm_eps)

    def _heads(self, layer: _FusedLayer, x: Tensor) -> Tensor:
        """Project to queries, keys and values of all heads. Shapes: (..., D) -> (..., C, H)."""
        normed = self._norm(x, layer.input_gain)
        joint = functional.linear(normed, layer.qkv, layer.qkv_bias)
        return joint.view(*joint.shape[:-1], -1, self.settings.head_size)

    def _rotated(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate queries and keys as `model.llama.Rope` does; return all three apart.

        Shapes: (B, C, ..., H) -> (B, K * G, ..., H), (B, K, ..., H), (B, K, ..., H).
        """
        num_q = self.settings.num_heads
        num_qk = num_q + self.settings.num_kv_heads
        qk, v = qkv[:, :num_qk], qkv[:, num_qk:]
        qk = qk * cos + qk.roll(self.settings.head_size // 2, -1) * sin
        return qk[:, :num_q], qk[:, num_q:], v

    def _feed_forward(self, layer: _FusedLayer, x: Tensor) -> Tensor:
        joint = functional.linear(self._norm(x, layer.mlp_gain), layer.gate_up)
        gate, up = joint.chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, layer.down)


def _attend(q_BKGH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, unseen_B11S: Tensor) -> Tensor:
    """Mix what a row has kept. Shapes: (B, K, G, H) -> (B, K, G, H)."""
    scores_BKGS = (q_BKGH * q_BKGH.shape[-1] ** -0.5) @ keys_BKSH.transpose(-1, -2)
    scores_BKGS = scores_BKGS.masked_fill(unseen_B11S, float("-inf"))
    wide = torch.promote_types(scores_BKGS.dtype, torch.float32)
    return torch.softmax(scores_BKGS, -1, dtype=wide).to(values_BKSH.dtype) @ values_BKSH


def _fuse(layer: Layer) -> _FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [each.bias.detach() for each in projections if each.bias is not None]
    return _FusedLayer(
        input_gain=layer.input_layernorm.weight.detach(),
        qkv=_laid_out(torch.cat([each.weight.detach() for each in projections])),
        qkv_bias=torch.cat(biases) if biases else None,
        out=_laid_out(attention.o_proj.weight.detach()),
        mlp_gain=layer.post_attention_layernorm.weight.detach(),
        gate_up=_laid_out(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])),
        down=_laid_out(mlp.down_proj.weight.detach()),
    )


def _laid_out(weight: Tensor) -> Tensor:
    """Lay a matrix out column by column where a single row is multiplied faster so.

    That is float32 on a CPU (decision 0008); a matrix that stays as it is is not copied.
    """
    is_faster = weight.device.type == "cpu" and weight.dtype == torch.float32
    return weight.t().contiguous().t() if is_faster else weight
