"""Mean loss of a set of rows, with an error bar that knows tokens of one document are alike.

Legend: B batch, T targets of a row.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LossStatistics:
    """A mean over target tokens and how sure it is.

    Units: nats per token.
    """

    mean_nats: float
    standard_error_nats: float | None
    "Absent with fewer than two documents: there is no spread to see."
    num_tokens: int
    num_documents: int


class LossCounter:
    """Sums losses by document and by position, row by row.

    Precision: float64, one token after the other in the order in which they come: the sums are the
        same bits however the rows are cut into pieces.
    """

    def __init__(self, num_documents: int, num_positions: int) -> None:
        self._documents = _Sums.of(num_documents)
        self._positions = _Sums.of(num_positions)

    def add(
        self,
        losses_BT: NDArray[np.float32],
        documents_BT: NDArray[np.integer[Any]],
        is_target_BT: NDArray[np.bool_],
    ) -> None:
        """Count the losses of more rows, where there is a target.

        Shapes: (B, T) each; `documents_BT` names the document of every target.
        """
        losses, (_, positions) = losses_BT[is_target_BT], is_target_BT.nonzero()
        self._documents.add(losses, documents_BT[is_target_BT])
        self._positions.add(losses, positions)

    @property
    def by_document(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The sum of losses and the number of target tokens of every document."""
        return self._documents.nats, self._documents.tokens

    @property
    def by_position(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The sum of losses and the number of target tokens at every position of a row."""
        return self._positions.nats, self._positions.tokens

    def statistics(self) -> LossStatistics:
        """Return the mean and its cluster-robust standard error."""
        return loss_statistics(*self.by_document)


@dataclass(frozen=True, slots=True)
class _Sums:
    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, length: int) -> "_Sums":
        return cls(np.zeros(length), np.zeros(length, np.int64))

    def add(self, losses: NDArray[np.float32], places: NDArray[np.integer[Any]]) -> None:
        np.add.at(self.nats, places, losses.astype(np.float64))
        np.add.at(self.tokens, places, 1)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two sums over documents, and how sure it is."""

    mean: float
    standard_error: float | None
    "Absent with fewer than two documents: there is no spread to see."


def ratio(sums: NDArray[np.float64], weights: NDArray[np.int64]) -> Ratio:
    """Divide a sum over documents by another, with the cluster-robust error of that.

    Source: Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference",
    eq. 11, for a mean, with the factor C / (C - 1).
    """
    mean = math.fsum(sums) / int(weights.sum())
    return Ratio(mean, _cluster_error(influence(sums, weights)))


def ratio_difference(
    before: tuple[NDArray[np.float64], NDArray[np.int64]],
    now: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> Ratio:
    """Subtract one ratio from another over the same documents, with the error of that.

    Sums and weights of a document may differ: a text in the tokens of two tokenizers.

    Source: as `ratio`, by the delta method for the difference of two ratios.
    """
    means = [math.fsum(sums) / int(weights.sum()) for sums, weights in (before, now)]
    return Ratio(means[1] - means[0], _cluster_error(influence(*now) - influence(*before)))


def influence(sums: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return by how much each document moves the ratio of the sums."""
    total = int(weights.sum())
    return np.asarray((sums - weights * (math.fsum(sums) / total)) / total)


def _cluster_error(influences: NDArray[np.float64]) -> float | None:
    num_documents = len(influences)
    if num_documents < 2:
        return None
    correction = num_documents / (num_documents - 1)
    return math.sqrt(correction * math.fsum(influences**2))


def loss_statistics(
    nats_of_document: NDArray[np.float64], tokens_of_document: NDArray[np.int64]
) -> LossStatistics:
    """Return the mean loss and its cluster-robust standard error, documents being the clusters."""
    seen = tokens_of_document > 0
    nats, tokens = nats_of_document[seen], tokens_of_document[seen]
    found = ratio(nats, tokens)
    return LossStatistics(
        mean_nats=found.mean,
        standard_error_nats=found.standard_error,
        num_tokens=int(tokens.sum()),
        num_documents=len(tokens),
    )


def bits_per_byte(mean_nats: float, num_tokens: int, num_bytes: int) -> float:
    """Convert nats per token to bits per byte of the text that those tokens stand for."""
    return mean_nats * num_tokens / math.log(2.0) / num_bytes
