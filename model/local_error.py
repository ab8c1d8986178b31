"""How far a value is from the reference's, position by position.

One norm over a whole site would let a massive activation at one position hide every other, and a
ratio of standard deviations is blind to nearly everything.

Shapes: B rows, T positions, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_ELEMENTS = 1 << 22
"""Values of either side that are widened at once: few positions where there are many channels."""


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
    relative, cosines, largest, products = [], [], [], []
    num_not_finite = 0
    for left_PC, right_PC in _chunks(reference_BTC, found_BTC):
        relative.append(_relative_l2(left_PC, right_PC))
        cosines.append(functional.cosine_similarity(left_PC, right_PC, dim=-1))
        largest.append((right_PC - left_PC).abs().max())
        products.append(torch.stack(((left_PC * left_PC).sum(), (left_PC * right_PC).sum())))
        num_not_finite += int((~right_PC.isfinite()).sum())
    relative_BT = torch.cat(relative).reshape(found_BTC.shape[:2])
    row, position = divmod(int(relative_BT.argmax()), relative_BT.shape[1])
    square, product = (float(each) for each in torch.stack(products).sum(0))
    return SiteError(
        site=site,
        max_relative_l2=float(relative_BT.max()),
        median_relative_l2=float(relative_BT.median()),
        worst_position=(row, position),
        max_abs_diff=float(torch.stack(largest).max()),
        min_cosine=float(torch.cat(cosines).min()),
        scale=product / square if square else 1.0,
        num_not_finite=num_not_finite,
        num_positions=relative_BT.numel(),
        # Not "above the bar": NaN is no number below it.
        num_positions_beyond=int((~(relative_BT <= bar)).sum()),
    )


def relative_l2(reference_BTC: Tensor, found_BTC: Tensor) -> Tensor:
    """Return every position's distance over the reference's norm there.

    Zero on both sides agrees; zero in the reference alone is infinitely far.

    Shapes: (B, T, C), (B, T, C) -> (B, T).
    Precision: float64.
    """
    relative = [_relative_l2(*each) for each in _chunks(reference_BTC, found_BTC)]
    return torch.cat(relative).reshape(found_BTC.shape[:2])


def _relative_l2(reference_PC: Tensor, found_PC: Tensor) -> Tensor:
    distance_P = (found_PC - reference_PC).norm(dim=-1)
    return torch.where(distance_P == 0, 0.0, distance_P / reference_PC.norm(dim=-1))


def _chunks(left_BTC: Tensor, right_BTC: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Widen both, some positions at a time: those of long texts would not fit into memory."""
    step = max(1, CHUNK_ELEMENTS // left_BTC.shape[-1])
    pairs = zip(
        torch.split(left_BTC.flatten(0, 1), step),
        torch.split(right_BTC.flatten(0, 1), step),
        strict=True,
    )
    for left_PC, right_PC in pairs:
        yield left_PC.to(torch.float64), right_PC.to(left_PC.device, torch.float64)


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
    columns = [_logits_distances(*each) for each in _chunks(reference_BTV, found_BTV)]
    relative_P, kl_P, agree_P, largest_P = torch.cat(columns, dim=1)
    return LogitsDistance(
        max_relative_l2=float(relative_P.max()),
        mean_kl_nats=float(kl_P.mean()),
        max_kl_nats=float(kl_P.max()),
        top1_agreement=float(agree_P.mean()),
        max_abs_diff=float(largest_P.max()),
    )


def _logits_distances(left_PV: Tensor, right_PV: Tensor) -> Tensor:
    log_p, log_q = left_PV.log_softmax(-1), right_PV.log_softmax(-1)
    # Rounding can leave the sum a hair below zero, which no divergence is.
    kl_P = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0)
    agree_P = (left_PV.argmax(-1) == right_PV.argmax(-1)).double()
    largest_P = (right_PV - left_PV).abs().amax(-1)
    return torch.stack((_relative_l2(left_PV, right_PV), kl_P, agree_P, largest_P))
