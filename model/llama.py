"""The Llama decoder, as Hugging Face's LlamaForCausalLM computes it and names its parameters.

With attention biases it is Qwen2ForCausalLM. Every numerically significant operation is a module,
so that forward hooks see its result.

Shapes: B rows, T positions, D hidden channels, F feed-forward channels, V vocabulary,
N query heads, K key/value heads, H channels of a head.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.documents import Separation, separate
from model.errors import WrongSettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSettings:
    """The architecture, under Hugging Face's names where they have one."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    initializer_std: float
    attention_bias: bool
    """Biases on the query, key and value projections, and nowhere else: the Qwen2 family."""
    tie_embeddings: bool
    """Whether the head scores with the rows of the embedding, instead of a matrix of its own."""

    def __post_init__(self) -> None:
        """Refuse shapes that no head layout can realise.

        Raises: WrongSettingError.
        """
        self._refuse_what_is_not_positive()
        if self.hidden_size % self.num_heads:
            expected = f"a multiple of model.num_heads ({self.num_heads})"
            raise WrongSettingError("model.hidden_size", self.hidden_size, expected)
        if self.num_heads % self.num_kv_heads:
            expected = f"a multiple of model.num_kv_heads ({self.num_kv_heads})"
            raise WrongSettingError("model.num_heads", self.num_heads, expected)
        if self.head_size % 2:
            expected = f"an even number of channels for each of {self.num_heads} heads"
            raise WrongSettingError("model.hidden_size", self.hidden_size, expected)

    def _refuse_what_is_not_positive(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not isinstance(value, bool) and not value > 0:
                raise WrongSettingError(f"model.{name}", value, "positive")

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads


class RMSNorm(nn.Module):
    """Divide each position by its root mean square, then scale every channel.

    Precision: float32 at least, as Hugging Face does; float64 stays float64.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise every position."""
        wide_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
        scale_BT1 = torch.rsqrt(wide_BTD.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide_BTD * scale_BT1).to(x_BTD.dtype)


class Rope(nn.Module):
    """Rotate channels i and i + H/2 of every head by an angle that grows with position.

    Precision: angles in float32, rotation in the dtype of the input; both as in Hugging Face.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34, in the rotate-half pairing.
    """

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        self.head_size = head_size
        self.theta = theta

    def forward(self, x_BNTH: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Rotate every position as its number says, or positions 0, 1, ... where none is given."""
        cos, sin = rope_tables(self.head_size, self.theta, x_BNTH.shape[-2], x_BNTH.device)
        if positions_BT is not None:
            cos, sin = cos[positions_BT][:, None], sin[positions_BT][:, None]
        # Swapping the halves and negating half of the sines equals concatenating (-high, low) to
        # the bit, in half the passes over memory.
        swapped_BNTH = x_BNTH.roll(self.head_size // 2, -1)
        return x_BNTH * cos.to(x_BNTH.dtype) + swapped_BNTH * sin.to(x_BNTH.dtype)


def rope_tables(
    head_size: int, theta: float, num_positions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the cosines, and the sines with the signs of the first half turned.

    Shapes: (T, H), (T, H).
    """
    pairs = torch.arange(0, head_size, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / theta ** (pairs / head_size)
    positions = torch.arange(num_positions, dtype=torch.float32, device=device)
    angles = positions[:, None] * frequencies
    return angles.cos().repeat(1, 2), torch.cat((-angles.sin(), angles.sin()), dim=-1)


class CausalAttention(nn.Module):
    """Mix values over this and earlier positions by softmax of scaled query-key products.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al. 2023, arXiv:2305.13245.
    """

    def forward(
        self, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible_B1TT: Tensor | None = None
    ) -> Tensor:
        """Attend to what is visible, or to all earlier positions; heads come back concatenated.

        Shapes: (B, N, T, H), (B, K, T, H), (B, K, T, H), (B, 1, T, T) -> (B, T, N*H).
        """
        return attended(q_BNTH, k_BKTH, v_BKTH, visible_B1TT)


def attended(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible_B1TT: Tensor | None) -> Tensor:
    """Attend to what is visible, or to all earlier positions; heads come back concatenated.

    Shapes: (B, N, T, H), (B, K, T, H), (B, K, T, H), (B, 1, T, T) -> (B, T, N*H).
    """
    group = q_BNTH.shape[1] // k_BKTH.shape[1]
    if visible_B1TT is not None and group > 1:
        # The fused kernels that take a mask take no groups: theirs would be computed unfused.
        k_BKTH, v_BKTH = (each.repeat_interleave(group, dim=1) for each in (k_BKTH, v_BKTH))
        group = 1
    mix_BNTH = functional.scaled_dot_product_attention(
        q_BNTH,
        k_BKTH,
        v_BKTH,
        attn_mask=visible_B1TT,
        is_causal=visible_B1TT is None,
        enable_gqa=group > 1,
    )
    return mix_BNTH.transpose(1, 2).flatten(2)


class Add(nn.Module):
    """Add a branch to the residual stream."""

    def forward(self, stream_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        """Add."""
        return stream_BTD + branch_BTD


class Product(nn.Module):
    """Multiply the opened gate with the up projection."""

    def forward(self, gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
        """Multiply."""
        return gate_BTF * up_BTF


class Attention(nn.Module):
    """Project to heads, rotate, attend, project back."""

    def __init__(self, settings: LlamaSettings) -> None:
        super().__init__()
        self.head_size = settings.head_size
        kv_channels = settings.num_kv_heads * settings.head_size
        bias = settings.attention_bias
        self.q_proj = nn.Linear(settings.hidden_size, settings.hidden_size, bias=bias)
        self.k_proj = nn.Linear(settings.hidden_size, kv_channels, bias=bias)
        self.v_proj = nn.Linear(settings.hidden_size, kv_channels, bias=bias)
        self.q_rope = Rope(settings.head_size, settings.rope_theta)
        self.k_rope = Rope(settings.head_size, settings.rope_theta)
        self.mix = CausalAttention()
        self.o_proj = nn.Linear(settings.hidden_size, settings.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, separation: Separation | None) -> Tensor:
        """Let every position read from this and earlier positions."""
        positions_BT, visible_B1TT = separation or (None, None)
        q_BNTH = self.q_rope(self._heads(self.q_proj(x_BTD)), positions_BT)
        k_BKTH = self.k_rope(self._heads(self.k_proj(x_BTD)), positions_BT)
        v_BKTH = self._heads(self.v_proj(x_BTD))
        out_BTD: Tensor = self.o_proj(self.mix(q_BNTH, k_BKTH, v_BKTH, visible_B1TT))
        return out_BTD

    def _heads(self, x_BTD: Tensor) -> Tensor:
        num_rows, num_positions, _ = x_BTD.shape
        return x_BTD.view(num_rows, num_positions, -1, self.head_size).transpose(1, 2)


class FeedForward(nn.Module):
    """The gated feed-forward block.

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6 (SwiGLU).
    """

    def __init__(self, settings: LlamaSettings) -> None:
        super().__init__()
        inner = settings.intermediate_size
        self.gate_proj = nn.Linear(settings.hidden_size, inner, bias=False)
        self.up_proj = nn.Linear(settings.hidden_size, inner, bias=False)
        self.act_fn = nn.SiLU()
        self.product = Product()
        self.down_proj = nn.Linear(inner, settings.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform every position by itself."""
        gate_BTF = self.act_fn(self.gate_proj(x_BTD))
        out_BTD: Tensor = self.down_proj(self.product(gate_BTF, self.up_proj(x_BTD)))
        return out_BTD


class Layer(nn.Module):
    """Attention, then feed-forward, each on a normalised copy of the residual stream."""

    def __init__(self, settings: LlamaSettings) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(settings.hidden_size, settings.rms_norm_eps)
        self.self_attn = Attention(settings)
        self.attn_residual = Add()
        self.post_attention_layernorm = RMSNorm(settings.hidden_size, settings.rms_norm_eps)
        self.mlp = FeedForward(settings)
        self.mlp_residual = Add()

    def forward(self, x_BTD: Tensor, separation: Separation | None) -> Tensor:
        """Add both branches to the stream."""
        branch_BTD = self.self_attn(self.input_layernorm(x_BTD), separation)
        x_BTD = self.attn_residual(x_BTD, branch_BTD)
        out_BTD: Tensor = self.mlp_residual(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)))
        return out_BTD


class Decoder(nn.Module):
    """Everything but the head; the extra level exists in Hugging Face's parameter names."""

    def __init__(self, settings: LlamaSettings) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(settings.vocab_size, settings.hidden_size)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.num_layers))
        self.norm = RMSNorm(settings.hidden_size, settings.rms_norm_eps)

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Embed, run every layer, normalise."""
        separation = None if documents_BT is None else separate(documents_BT)
        x_BTD = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, separation)
        out_BTD: Tensor = self.norm(x_BTD)
        return out_BTD


class TiedHead(nn.Module):
    """Score with the rows of the embedding, which stays the only owner of its matrix.

    Source: Press and Wolf 2017, arXiv:1608.05859.
    """

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        """Score every token of the vocabulary."""
        return functional.linear(x_BTD, embedding_VD)


class Llama(nn.Module):
    """A decoder and its head."""

    def __init__(self, settings: LlamaSettings) -> None:
        super().__init__()
        self.settings = settings
        self.model = Decoder(settings)
        self.lm_head = (
            TiedHead()
            if settings.tie_embeddings
            else nn.Linear(settings.hidden_size, settings.vocab_size, bias=False)
        )

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Score every next token at every position.

        Given the document of every token, no token sees another document's.

        Shapes: (B, T), (B, T) -> (B, T, V).
        """
        x_BTD = self.model(ids_BT, documents_BT)
        tied = (self.model.embed_tokens.weight,) if self.settings.tie_embeddings else ()
        logits_BTV: Tensor = self.lm_head(x_BTD, *tied)
        return logits_BTV


def num_parameters(model: nn.Module) -> int:
    """Count the elements of every parameter."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def initialise(model: Llama, seed: int) -> torch.Generator:
    """Draw every weight anew, in the order of the parameters, and return the used generator.

    Draws happen on the CPU, so that a seed means the same weights on every device. Matrices that
    write to the residual stream are smaller, so that its variance does not grow with depth. Gains
    begin at one and biases at zero.

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            drawn = torch.empty(parameter.shape)
            drawn.normal_(0.0, planned_std(name, model.settings), generator=generator)
            parameter.copy_(drawn)
    return generator


def planned_std(name: str, settings: LlamaSettings) -> float:
    """Return the standard deviation with which a matrix is drawn."""
    is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    return settings.initializer_std / (math.sqrt(2 * settings.num_layers) if is_residual else 1)
