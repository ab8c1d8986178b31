"""What is asked of an evaluation."""

from dataclasses import dataclass
from typing import Literal, get_args

from model.errors import WrongSettingError

ScoredPrecision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """How much is scored, and in which format the weights are."""

    rows: int
    "Validation rows, spread evenly over all of them; 0 scores every one."
    precision: ScoredPrecision

    def __post_init__(self) -> None:
        """Refuse what cannot be scored.

        Raises: WrongSettingError.
        """
        if self.rows < 0:
            raise WrongSettingError("evaluate.rows", self.rows, "at least 0")
        if self.precision not in get_args(ScoredPrecision):
            expected = f"one of {', '.join(get_args(ScoredPrecision))}"
            raise WrongSettingError("evaluate.precision", self.precision, expected)
