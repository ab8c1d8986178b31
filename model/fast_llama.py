"""A Llama for training steps: the same mathematics as `model.llama`, arranged for speed.

It computes on a copy of the weights in the dtype of the products, with matrices that read the same
input joined into one, and makes the gradient of the logits while it scores them, so that they are
never all in memory. Gradients are handed to the model's own parameters as they come.

Shapes: B rows, T positions, S = T + 1 ids of a row, D hidden channels, F feed-forward channels,
N query heads, K key/value heads, H channels of a head, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.documents import documents_of, separate
from model.head_loss import HeadLoss
from model.llama import Layer, Llama, LlamaSettings, RMSNorm, attended, rope_tables
from model.swiglu import Gate, gate_for

Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines of the angle of every position: each (T, 1, H), or (B, T, 1, H)."""


class FastLayer(nn.Module):
    """A decoder layer whose projections of one input are one product."""

    def __init__(self, settings: LlamaSettings, dtype: torch.dtype, gate: Gate) -> None:
        super().__init__()
        self.gate = gate
        hidden, inner = settings.hidden_size, settings.intermediate_size
        channels = (settings.num_heads + 2 * settings.num_kv_heads) * settings.head_size
        self.heads = [settings.num_heads, settings.num_kv_heads, settings.num_kv_heads]
        self.head_size = settings.head_size
        self.attention_norm = _norm(settings, dtype)
        self.qkv = _empty(dtype, channels, hidden)
        self.qkv_bias = _empty(dtype, channels) if settings.attention_bias else None
        self.output = _empty(dtype, hidden, hidden)
        self.mlp_norm = _norm(settings, dtype)
        self.gate_up = _empty(dtype, 2 * inner, hidden)
        self.down = _empty(dtype, hidden, inner)

    def forward(self, x_BTD: Tensor, rotation: Rotation, visible_B1TT: Tensor | None) -> Tensor:
        """Add both branches to the stream."""
        x_BTD = x_BTD + self._attend(self.attention_norm(x_BTD), rotation, visible_B1TT)
        opened_BTF = self.gate(functional.linear(self.mlp_norm(x_BTD), self.gate_up))
        return x_BTD + functional.linear(opened_BTF, self.down)

    def _attend(self, x_BTD: Tensor, rotation: Rotation, visible_B1TT: Tensor | None) -> Tensor:
        joined = functional.linear(x_BTD, self.qkv, self.qkv_bias)
        heads = joined.view(*joined.shape[:2], -1, self.head_size)
        q_BTNH, k_BTKH, v_BTKH = torch.split(heads, self.heads, dim=2)
        # Rotated as they lie in memory, so that the heads' results lie side by side too.
        turned = (_rotated(q_BTNH, rotation), _rotated(k_BTKH, rotation), v_BTKH)
        q_BNTH, k_BKTH, v_BKTH = (each.transpose(1, 2) for each in turned)
        mix_BTD = attended(q_BNTH, k_BKTH, v_BKTH, visible_B1TT)
        return functional.linear(mix_BTD, self.output)


class FastLlama(nn.Module):
    """Runs a model's training steps on a copy of its weights.

    Precision: products in `dtype`; norms, losses and sums over micro-batches as wide as the model's
        own weights.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1 (master weights).
    """

    def __init__(self, model: Llama, dtype: torch.dtype, *, compiled: bool) -> None:
        super().__init__()
        self.settings = settings = model.settings
        device = next(model.parameters()).device
        gate = gate_for(device, compiled=compiled)
        with device:
            self.embedding = _empty(dtype, settings.vocab_size, settings.hidden_size)
            self.layers = nn.ModuleList(
                FastLayer(settings, dtype, gate) for _ in range(settings.num_layers)
            )
            self.norm = _norm(settings, dtype)
            self.head = self.embedding
            if not settings.tie_embeddings:
                self.head = _empty(dtype, settings.vocab_size, settings.hidden_size)
        self.buckets = [Bucket(pairs) for pairs in self._pairs(model)]
        self.compiled = compiled
        if compiled:
            # Layer by layer: they are alike, so that one is compiled for all of them.
            for part in (*self.layers, self.norm):
                part.compile(fullgraph=True, dynamic=False)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's weights."""
        views = [v for bucket in self.buckets for each in bucket.receivers for v in each.views]
        torch._foreach_copy_(views, [s for bucket in self.buckets for s in bucket.sources])
        for bucket in self.buckets:
            bucket.begin()

    def tell(self, ready: Callable[[Tensor], None] | None) -> None:
        """Have the gradients of each layer handed on as soon as all are whole, or not.

        They are the memory of the model's own: what is done to them is done to those.
        """
        for bucket in self.buckets:
            bucket.ready = ready

    def forward(self, ids_BS: Tensor, document_end: int | None, scale: float) -> Tensor:
        """Return the scaled sum of the losses of some rows; padding costs nothing.

        Its gradients reach the parameters of the model that this is a copy of.

        Units: nats.
        """
        states_BTD = self.states(ids_BS[:, :-1], document_end)
        found: Tensor = HeadLoss.apply(  # type: ignore[no-untyped-call]
            states_BTD.flatten(0, 1), self.head, ids_BS[:, 1:].flatten(), scale, self.compiled
        )
        return found

    def states(self, inputs_BT: Tensor, document_end: int | None) -> Tensor:
        """Return what the head scores.

        Shapes: (B, T) -> (B, T, D).
        """
        rotation, visible_B1TT = self._positions(inputs_BT, document_end)
        # Padding is only ever followed by padding: what stands there reaches no target.
        x_BTD = functional.embedding(inputs_BT.clamp(min=0), self.embedding)
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotation, visible_B1TT)
        states_BTD: Tensor = self.norm(x_BTD)
        return states_BTD

    def _positions(
        self, inputs_BT: Tensor, document_end: int | None
    ) -> tuple[Rotation, Tensor | None]:
        settings, dtype = self.settings, self.embedding.dtype
        cos, sin = rope_tables(
            settings.head_size, settings.rope_theta, inputs_BT.shape[1], inputs_BT.device
        )
        cos, sin = cos.to(dtype)[:, None], sin.to(dtype)[:, None]
        if document_end is None:
            return (cos, sin), None
        positions_BT, visible_B1TT = separate(documents_of(inputs_BT, document_end))
        return (cos[positions_BT], sin[positions_BT]), visible_B1TT

    def _pairs(self, model: Llama) -> Iterator[list[tuple[Tensor, ...]]]:
        """Name every matrix of this copy together with what stands in it, layer by layer."""
        yield [(self.embedding, model.model.embed_tokens.weight)]
        for mine, layer in zip(self.layers, model.model.layers, strict=True):
            assert isinstance(mine, FastLayer)
            assert isinstance(layer, Layer)
            yield list(_layer_pairs(mine, layer))
        last: list[tuple[Tensor, ...]] = [(self.norm.weight, model.model.norm.weight)]
        if not self.settings.tie_embeddings:
            assert isinstance(model.lm_head, nn.Linear)
            last.append((self.head, model.lm_head.weight))
        yield last


def _layer_pairs(mine: FastLayer, layer: Layer) -> Iterator[tuple[Tensor, ...]]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    yield mine.attention_norm.weight, layer.input_layernorm.weight
    yield mine.qkv, *(projection.weight for projection in projections)
    if mine.qkv_bias is not None:
        yield mine.qkv_bias, *(projection.bias for projection in projections)
    yield mine.output, attention.o_proj.weight
    yield mine.mlp_norm.weight, layer.post_attention_layernorm.weight
    yield mine.gate_up, mlp.gate_proj.weight, mlp.up_proj.weight
    yield mine.down, mlp.down_proj.weight


class Bucket:
    """The gradients of some parameters, side by side in memory: one sum over ranks for all.

    Source: Li et al. 2020, arXiv:2006.15704, section 3.2.3 (gradient bucketing).
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, ...]]) -> None:
        self.receivers = [Receiver(copy, tuple(sources), self) for copy, *sources in pairs]
        self.sources = [source for each in self.receivers for source in each.sources]
        self.ready: Callable[[Tensor], None] | None = None
        self._flat: Tensor | None = None
        self._views: dict[Tensor, Tensor] = {}
        self._num_whole = 0

    def begin(self) -> None:
        """Begin a step; gradients that were dropped leave their memory to others until then."""
        self._num_whole = 0
        if all(source.grad is None for source in self.sources):
            self._flat, self._views = None, {}

    def add(self, source: Tensor, part: Tensor) -> None:
        """Add to the gradient of a parameter, or begin it."""
        if source.grad is None:
            if self._flat is None:
                self._allocate()
            source.grad = self._views[source].copy_(part)
        else:
            source.grad.add_(part)

    def count(self) -> None:
        """Take note that a receiver handed all over; with the last one, hand them on."""
        self._num_whole += 1
        if self._num_whole == len(self.receivers):
            self._num_whole = 0
            if self.ready:
                assert self._flat is not None, "gradients of another step were not dropped"
                self.ready(self._flat)

    def _allocate(self) -> None:
        sizes = [source.numel() for source in self.sources]
        self._flat = self.sources[0].new_empty(sum(sizes))
        parts = torch.split(self._flat, sizes)
        self._views = {s: part.view_as(s) for s, part in zip(self.sources, parts, strict=True)}


class Receiver:
    """Hands the gradient of a copied matrix over to those parameters that stand in it."""

    def __init__(self, copy: Any, sources: tuple[Tensor, ...], bucket: Bucket) -> None:
        self.sources = sources
        self.sizes = [len(source) for source in sources]
        self.views = torch.split(copy.detach(), self.sizes)
        self.bucket = bucket
        copy.register_post_accumulate_grad_hook(self._hand_over)

    @torch.no_grad()
    def _hand_over(self, copy: Tensor) -> None:
        """Add a gradient that is whole to those of the model, and forget it."""
        assert copy.grad is not None
        parts = torch.split(copy.grad, self.sizes)
        for source, part in zip(self.sources, parts, strict=True):
            self.bucket.add(source, part)
        copy.grad = None
        self.bucket.count()


def _norm(settings: LlamaSettings, dtype: torch.dtype) -> RMSNorm:
    return RMSNorm(settings.hidden_size, settings.rms_norm_eps).to(dtype)


def _empty(dtype: torch.dtype, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype))


def _rotated(x_BTNH: Tensor, rotation: Rotation) -> Tensor:
    cos, sin = rotation
    return x_BTNH * cos + x_BTNH.roll(x_BTNH.shape[-1] // 2, -1) * sin
