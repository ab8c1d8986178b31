"""What is asked of training."""

from dataclasses import dataclass
from typing import Literal

from model.errors import WrongSettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Everything that decides what the weights become, beside the model and the data."""

    seed: int
    num_steps: int
    steps_per_epoch: int
    batch_rows: int
    max_passes: int
    """How often the training split may be read before the batches end; the caller enforces it."""
    optimizer: Literal["adamw", "muon"]
    """Which rule updates the hidden matrices; embeddings, head and gains are always on AdamW."""
    matmul_precision: Literal["float32", "tfloat32", "bfloat16"]
    """To what the inputs of float32 products may be rounded where the hardware gains from it."""
    peak_lr: float
    final_lr_ratio: float
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    adam_eps: float
    muon_momentum: float
    clip_norm: float

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises: WrongSettingError.
        """
        for name in ("num_steps", "steps_per_epoch", "batch_rows", "max_passes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("peak_lr", "adam_eps", "clip_norm"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("beta1", "beta2", "muon_momentum"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        below_budget = f"from 0 to below train.num_steps ({self.num_steps})"
        self._require("warmup_steps", 0 <= self.warmup_steps < self.num_steps, below_budget)
        self._require("final_lr_ratio", 0 < self.final_lr_ratio <= 1, "above 0 and at most 1")
        self._require("weight_decay", self.weight_decay >= 0, "at least 0")

    def _require(self, name: str, holds: bool, expected: str) -> None:  # noqa: FBT001
        if not holds:
            setting = f"train.{name}"
            raise WrongSettingError(setting, getattr(self, name), expected)
