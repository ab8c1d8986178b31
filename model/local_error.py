"""How far a value is from the reference's, position by position.

One norm over a whole site would let a massive activation at one position hide every other, and a
ratio of standard deviations is blind to nearly everything.

Shapes: B rows, T positions, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteError:
    """Distances of one site, over its positions."""

    site: str
    max_relative_l2: float
    """Of the worst position; NaN or infinity where something is not finite."""
    median_relative_l2: float
    worst_position: tuple[int, int]
    max_abs_diff: float
    min_cosine: float
    scale: float
    """Factor by which the reference would have to be multiplied to come closest."""
    num_not_finite: int
    num_positions: int
    num_positions_beyond: int
    """Positions farther than the bar that was given."""


def site_error(site: str, reference_BTC: Tensor, found_BTC: Tensor, *, bar: float) -> SiteError:
    """Measure one site.

    Precision: differences, norms and products in float64.
    """
    left_BTC, right_BTC = (each.to(torch.float64) for each in (reference_BTC, found_BTC))
    relative_BT = relative_l2(left_BTC, right_BTC)
    row, position = divmod(int(relative_BT.argmax()), relative_BT.shape[1])
    square = float((left_BTC * left_BTC).sum())
    return SiteError(
        site=site,
        max_relative_l2=float(relative_BT.max()),
        median_relative_l2=float(relative_BT.median()),
        worst_position=(row, position),
        max_abs_diff=float((right_BTC - left_BTC).abs().max()),
        min_cosine=float(functional.cosine_similarity(left_BTC, right_BTC, dim=-1).min()),
        scale=float((left_BTC * right_BTC).sum()) / square if square else 1.0,
        num_not_finite=int((~right_BTC.isfinite()).sum()),
        num_positions=relative_BT.numel(),
        # Not "above the bar": NaN is no number below it.
        num_positions_beyond=int((~(relative_BT <= bar)).sum()),
    )


def relative_l2(reference_BTC: Tensor, found_BTC: Tensor) -> Tensor:
    """Return every position's distance over the reference's norm there.

    Zero on both sides agrees; zero in the reference alone is infinitely far.

    Shapes: (B, T, C), (B, T, C) -> (B, T).
    """
    distance_BT = (found_BTC - reference_BTC).norm(dim=-1)
    return torch.where(distance_BT == 0, 0.0, distance_BT / reference_BTC.norm(dim=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsDistance:
    """How far two models' predictions are apart."""

    max_relative_l2: float
    mean_kl_nats: float
    max_kl_nats: float
    top1_agreement: float
    max_abs_diff: float


def logits_distance(reference_BTV: Tensor, found_BTV: Tensor) -> LogitsDistance:
    """Compare the predictions of two models after the same tokens.

    Precision: float64.
    Source: Kullback and Leibler 1951; the reference's distribution is the first.
    """
    left_BTV, right_BTV = (each.to(torch.float64) for each in (reference_BTV, found_BTV))
    log_p, log_q = left_BTV.log_softmax(-1), right_BTV.log_softmax(-1)
    # Rounding can leave the sum a hair below zero, which no divergence is.
    kl_BT = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0)
    agree_BT = left_BTV.argmax(-1) == right_BTV.argmax(-1)
    return LogitsDistance(
        max_relative_l2=float(relative_l2(left_BTV, right_BTV).max()),
        mean_kl_nats=float(kl_BT.mean()),
        max_kl_nats=float(kl_BT.max()),
        top1_agreement=float(agree_BT.double().mean()),
        max_abs_diff=float((right_BTV - left_BTV).abs().max()),
    )
