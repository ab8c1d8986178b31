"""Two models on the same documents: how much better one is, and how sure that is.

Most of what makes a validation loss uncertain is which documents were held out, and both models saw
the same ones: the error of a difference is far smaller than that of either loss.
"""

import numpy as np
from numpy.typing import NDArray

from model.loss_statistics import LossStatistics, loss_statistics


def improvement(
    nats_before: NDArray[np.float64],
    nats_now: NDArray[np.float64],
    tokens_of_document: NDArray[np.int64],
) -> LossStatistics:
    """Return by how much the mean loss fell, with the cluster-robust error of that difference.

    Shapes: one value a document, in the same order.
    Units: sums of nats in, nats per token out.
    """
    return loss_statistics(nats_before - nats_now, tokens_of_document)


def line_end(losses: NDArray[np.float64]) -> tuple[float, float]:
    """Return where a straight line through the losses ends, and the standard error of that.

    A mean would lag behind a loss that falls. On a curve that flattens out the line ends low.

    Raises: ValueError with fewer than three losses: a line through two has no error.
    Source: ordinary least squares, standard error of the fitted mean.
    """
    if len(losses) < 3:
        message = f"{len(losses)} losses, should be 3 at least"
        raise ValueError(message)
    steps = np.arange(len(losses)) - (len(losses) - 1) / 2
    spread = float(steps @ steps)
    slope = float(steps @ losses) / spread
    mean = float(losses.mean())
    residuals = losses - mean - slope * steps
    variance = float(residuals @ residuals) / (len(losses) - 2)
    last = float(steps[-1])
    return mean + slope * last, float(np.sqrt(variance * (1 / len(losses) + last**2 / spread)))
