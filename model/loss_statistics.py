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
    """Sums losses by document, batch by batch."""

    def __init__(self, num_documents: int) -> None:
        self._nats = np.zeros(num_documents, dtype=np.float64)
        self._tokens = np.zeros(num_documents, dtype=np.int64)

    def add(self, losses_BT: NDArray[np.float32], documents_BT: NDArray[np.integer[Any]]) -> None:
        """Count the losses of more target tokens under the documents they belong to.

        Shapes: any, of equal size.
        """
        documents = documents_BT.reshape(-1)
        length = len(self._nats)
        self._nats += np.bincount(
            documents, weights=losses_BT.reshape(-1).astype(np.float64), minlength=length
        )
        self._tokens += np.bincount(documents, minlength=length)

    @property
    def by_document(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The sum of losses and the number of target tokens of every document."""
        return self._nats, self._tokens

    def statistics(self) -> LossStatistics:
        """Return the mean and its cluster-robust standard error."""
        return loss_statistics(self._nats, self._tokens)


def loss_statistics(
    nats_of_document: NDArray[np.float64], tokens_of_document: NDArray[np.int64]
) -> LossStatistics:
    """Return the mean loss and its cluster-robust standard error, documents being the clusters.

    Source: Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference",
    eq. 11, for a mean, with the factor C / (C - 1).
    """
    seen = tokens_of_document > 0
    nats, tokens = nats_of_document[seen], tokens_of_document[seen]
    num_tokens, num_documents = int(tokens.sum()), int(seen.sum())
    mean = math.fsum(nats) / num_tokens
    residuals = nats - tokens * mean
    error = None
    if num_documents > 1:
        correction = num_documents / (num_documents - 1)
        error = math.sqrt(correction * math.fsum(residuals**2)) / num_tokens
    return LossStatistics(
        mean_nats=mean,
        standard_error_nats=error,
        num_tokens=num_tokens,
        num_documents=num_documents,
    )


def bits_per_byte(mean_nats: float, num_tokens: int, num_bytes: int) -> float:
    """Convert nats per token to bits per byte of the text that those tokens stand for."""
    return mean_nats * num_tokens / math.log(2.0) / num_bytes
