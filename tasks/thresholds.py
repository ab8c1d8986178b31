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
    min_val_batches: float
    "Validation rows by the rows of a training batch, at least."
    max_spread_error: float
    "Largest relative difference of a new matrix's standard deviation to the planned one."
    max_kurtosis_error: float
    "Largest difference of a new matrix's kurtosis to the three of a normal distribution."
    max_forward_error: float
    "Largest relative L2 difference of the logits to those of a plain float64 implementation."
    max_gradient_error: float
    "Largest relative difference of the gradient to the slope of a plain float64 loss."
    max_leaked_rows: float
    "Largest number of validation rows in a training batch."
    max_repeated_values: float
    "How many steps in a row may report one same loss, or one same gradient norm."
    min_loss_nats: float
    "Below which no loss on text is believed."
    max_loss_to_uniform: float
    "Largest ratio of a step's loss to that of a uniform guess; a new model is slightly above one."
    min_wall_to_fastest: float
    "Smallest ratio of a step's time to the shortest of those before."
    min_mfu: float
    "Smallest mean model FLOPs utilisation of an epoch, convention C1, on a device of known peak."
    max_mfu: float
    "Largest model FLOPs utilisation of a step."
    min_gpu_busy_share: float
    "Smallest share of an epoch's steps in which NVML sees the device busy."
    max_val_loss_growth: float
    "Largest ratio of an epoch's validation loss to the one before; to a uniform guess at first."
    max_val_below_train_errors: float
    "By how many standard errors validation may be better than training at an epoch's end."
    max_gap_growth_errors: float
    "The aim: by how many standard errors validation falls behind training, at most."
    max_improvement_error_nats: float
    "Largest standard error of an epoch's improvement: what is smaller goes unseen."
    max_loss_to_unigram: float
    "Largest ratio of the validation loss to the unigram cross-entropy."
    max_loss_to_bigram: float
    "The aim: ratio of the validation loss to the interpolated bigram cross-entropy."
    max_reload_drift: float
    "Largest difference of the validation loss, in nats, after saving and loading."
    max_quantised_error: float
    "Largest relative L2 difference of a sealed file's logits to the model's."
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
