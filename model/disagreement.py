"""Where two traces of one computation part.

The verdict is taken per position, against the reference, and only between taps of the same site,
shape, type and ids: two different samples of activations must never be compared.

Shapes: B rows, T positions, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import DifferentProgramsError
from model.taps import Tap, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """How far one site of a candidate is from the reference's."""

    site: str
    relative_l2: float
    """The worst position's distance over the reference's norm there; NaN or infinity departs."""
    worst_position: tuple[int, int]
    max_abs_diff: float
    is_bitwise: bool


def compare(reference: Trace, candidate: Trace) -> list[Disagreement]:
    """Measure every site, in the order of the reference's execution.

    Precision: differences and norms in float64.
    Raises: DifferentProgramsError if the traces are of two computations, or hold no tensors.
    """
    _refuse_different_programs(reference, candidate)
    return [
        _disagreement(left, right, reference.tensors[left.site], candidate.tensors[left.site])
        for left, right in zip(reference.taps, candidate.taps, strict=True)
    ]


def first_departure(
    disagreements: Sequence[Disagreement], *, max_relative_l2: float
) -> Disagreement | None:
    """Name the first site beyond the bar, or nothing.

    Measure the bar: it is a multiple of how far the reference is from itself under another
    precision or another number of threads.
    """
    # Not "above the bar": NaN is no number below it.
    departed = (found for found in disagreements if not found.relative_l2 <= max_relative_l2)
    return next(departed, None)


def _refuse_different_programs(reference: Trace, candidate: Trace) -> None:
    _refuse("ids", reference.ids, candidate.ids)
    _refuse("number of taps", len(reference.taps), len(candidate.taps))
    for left, right in zip(reference.taps, candidate.taps, strict=True):
        _refuse(left.site, left.site, right.site)
        _refuse(left.site, left.shape, right.shape)
        _refuse(left.site, left.dtype, right.dtype)
        _refuse(left.site, left.num_elements, right.num_elements)
    for side in (reference, candidate):
        _refuse("sites with tensors", {tap.site for tap in side.taps}, set(side.tensors))


def _refuse(site: str, left: object, right: object) -> None:
    if left != right:
        raise DifferentProgramsError(site, str(left), str(right))


def _disagreement(left: Tap, right: Tap, left_BTC: Tensor, right_BTC: Tensor) -> Disagreement:
    reference_BTC = left_BTC.to(torch.float64)
    difference_BTC = right_BTC.to(torch.float64) - reference_BTC
    norm_BT = reference_BTC.norm(dim=-1)
    distance_BT = difference_BTC.norm(dim=-1)
    # Zero on both sides agrees; zero in the reference alone is infinitely far.
    relative_BT = torch.where(distance_BT == 0, 0.0, distance_BT / norm_BT)
    # max() and argmax() of torch return NaN where there is one.
    row, position = divmod(int(relative_BT.argmax()), relative_BT.shape[1])
    return Disagreement(
        site=left.site,
        relative_l2=relative_BT.max().item(),
        worst_position=(row, position),
        max_abs_diff=difference_BTC.abs().max().item(),
        is_bitwise=left.sha256 == right.sha256,
    )
