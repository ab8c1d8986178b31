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
    """Rows of one update, over all micro-batches and ranks."""
    micro_batch_rows: int
    """Rows that one rank runs forward and backward at a time; gradients add up to the batch's."""
    max_passes: int
    """How often the training split may be read before the batches end; the caller enforces it."""
    optimizer: Literal["adamw", "muon"]
    """Which rule updates the hidden matrices; embeddings, head and gains are always on AdamW."""
    precision: Literal["float32", "tfloat32", "bfloat16"]
    """In what a step multiplies; the weights themselves are float32 in all of them."""
    schedule: Literal["cosine", "wsd"]
    """How the rate falls after the warm-up: at once along a cosine, or late along a line."""
    peak_lr: float
    final_lr_ratio: float
    warmup_steps: int
    decay_steps: int
    """The steps at the end in which `wsd` falls; a cosine has none of its own."""
    weight_decay: float
    beta1: float
    beta2: float
    adam_eps: float
    muon_momentum: float
    clip_norm: float
    spike_response: Literal["stop", "skip", "rollback"]
    """What follows a spike: an error; the next batch; or the last snapshot, then the next batch."""
    spike_window: int
    """Updates whose loss and gradient norm a step is compared with; before so many none spikes."""
    spike_deviations: float
    """Standard deviations above the window's mean from which a value is a spike."""
    max_spikes: int
    """As many are answered; one more is an error."""
    early_stop_patience: int
    """Epochs in a row without an improvement after which training ends."""
    early_stop_min_epochs: int
    """Training goes on at least so long."""
    early_stop_errors: float
    """Standard errors of itself that an improvement must exceed to be one."""
    target_val_loss: float
    """Nats; a training that ends above it has not converged, whatever else it did."""
    document_masking: bool
    """Whether a token sees nothing of the documents before its own in its row."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises: WrongSettingError.
        """
        for name in (
            "num_steps",
            "steps_per_epoch",
            "batch_rows",
            "micro_batch_rows",
            "max_passes",
            "early_stop_patience",
            "early_stop_min_epochs",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("peak_lr", "adam_eps", "clip_norm", "spike_deviations", "target_val_loss"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("beta1", "beta2", "muon_momentum"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        below_budget = f"from 0 to below train.num_steps ({self.num_steps})"
        self._require("warmup_steps", 0 <= self.warmup_steps < self.num_steps, below_budget)
        self._require("final_lr_ratio", 0 < self.final_lr_ratio <= 1, "above 0 and at most 1")
        for name in ("weight_decay", "max_spikes", "early_stop_errors"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("spike_window", self.spike_window >= 2, "at least 2: one has no deviation")
        whole = self.batch_rows % self.micro_batch_rows == 0
        self._require(
            "micro_batch_rows", whole, f"a divisor of train.batch_rows ({self.batch_rows})"
        )
        self._require_decay()

    def _require_decay(self) -> None:
        if self.schedule == "cosine":
            self._require("decay_steps", self.decay_steps == 0, "0 under train.schedule cosine")
        else:
            longest = self.num_steps - self.warmup_steps
            expected = f"from 1 to the {longest} steps after the warm-up"
            self._require("decay_steps", 1 <= self.decay_steps <= longest, expected)

    def ends_epoch(self, step: int) -> bool:
        """Tell whether an epoch ends with a step; the last epoch may be short."""
        return step % self.steps_per_epoch == 0 or step == self.num_steps

    def document_end(self, end_of_text_id: int) -> int | None:
        """Return the id behind which a token sees nothing of its row, None if it sees all."""
        return end_of_text_id if self.document_masking else None

    def _require(self, name: str, holds: bool, expected: str) -> None:  # noqa: FBT001
        if not holds:
            setting = f"train.{name}"
            raise WrongSettingError(setting, getattr(self, name), expected)
