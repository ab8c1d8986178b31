"""The validation loss of every document after an epoch, kept so that epochs can be compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from model.loss_statistics import LossCounter, LossStatistics, loss_statistics

VAL_LOSSES = "val_losses.safetensors"


@dataclass(frozen=True, slots=True)
class ValLosses:
    """Sums by document, in the order of the shards.

    Units: nats, target tokens.
    """

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, counter: LossCounter) -> "ValLosses":
        """Take over what was counted."""
        return cls(*counter.by_document)

    @classmethod
    def read(cls, directory: Path) -> "ValLosses":
        """Read what `write` left in a snapshot's state."""
        found = load_file(directory / VAL_LOSSES)
        return cls(found["nats"], found["tokens"])

    def write(self, directory: Path) -> None:
        """Write both, the same bytes for the same numbers."""
        save_file({"nats": self.nats, "tokens": self.tokens}, directory / VAL_LOSSES)

    def statistics(self) -> LossStatistics:
        """Return the mean loss and its error."""
        return loss_statistics(self.nats, self.tokens)
