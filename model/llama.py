"""The Llama decoder."""

from dataclasses import dataclass

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

    def __post_init__(self) -> None:
        """Refuse shapes that no head layout can realise.

        Raises: WrongSettingError.
        """
        if self.hidden_size % self.num_heads:
            expected = f"a multiple of model.num_heads ({self.num_heads})"
            raise WrongSettingError("model.hidden_size", self.hidden_size, expected)
        if self.num_heads % self.num_kv_heads:
            expected = f"a multiple of model.num_kv_heads ({self.num_kv_heads})"
            raise WrongSettingError("model.num_heads", self.num_heads, expected)

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads
