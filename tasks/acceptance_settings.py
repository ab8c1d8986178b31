"""The bounds of acceptance: part of a run's settings, fixed in its plan before it starts."""

import math
from dataclasses import dataclass

from model.errors import WrongSettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What a model must reach to be shipped; no run stops for missing it."""

    min_parameters: int
    max_parameters: int
    min_vocab_size: int
    max_vocab_size: int
    min_round_trip_documents: int
    "Documents that were decoded again and compared."
    min_tokens_per_parameter: float
    max_val_loss: float
    "Nats per token."
    max_training_days: float
    min_syntax_completions: int
    min_syntax_valid_share: float
    min_humaneval_problems: int
    min_humaneval_pass_at_1: float
    min_gguf_prompts: int
    "Prompts on which the logits of a GGUF file were compared with the model's."
    max_gguf_cosine_distance: float
    min_decode_tokens_per_second: float
    min_repeated_steps: int
    "Steps of a second training by the same recipe."
    max_repeat_difference_nats: float

    def __post_init__(self) -> None:
        """Refuse bounds that nothing or everything meets.

        Raises: WrongSettingError.
        """
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise WrongSettingError(f"acceptance.{name}", value, "finite and at least 0")
        for name in ("parameters", "vocab_size"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if most < least:
                expected = f"at least acceptance.min_{name} ({least})"
                raise WrongSettingError(f"acceptance.max_{name}", most, expected)
