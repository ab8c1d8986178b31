"""The thresholds of a run's gates: part of its settings, fixed in its plan before it starts."""

import math
from dataclasses import dataclass

from model.errors import WrongSettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Bounds on what the stages measure."""

    max_unk_ratio: float
    "Largest share of unknown tokens in the token stream."
    min_entropy_bits: float
    "Smallest entropy of single token ids: a stream of one id has none."
    max_val_loss_growth: float
    "Largest ratio of an epoch's validation loss to the one before."
    max_loss_to_unigram: float
    "Largest ratio of the validation loss to the unigram cross-entropy."
    max_loss_to_bigram: float
    "The aim: ratio of the validation loss to the interpolated bigram cross-entropy."
    max_reload_drift: float
    "Largest difference of the validation loss, in nats, after saving and loading."
    max_trace_error: float
    "Largest relative L2 difference of any tap, of any token."

    def __post_init__(self) -> None:
        """Refuse bounds that every run or no run would pass.

        Raises: WrongSettingError.
        """
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise WrongSettingError(f"thresholds.{name}", value, "finite and at least 0")
        if self.max_val_loss_growth < 1:
            found = self.max_val_loss_growth
            raise WrongSettingError("thresholds.max_val_loss_growth", found, "at least 1")
