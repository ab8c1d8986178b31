"""Round the steps of a super-block's groups to its whole scales, and mend what rounding costs.

Rounded one by one, scales are not the best ones: a group's nearest scale is not always the one that
errs least, another unit may suit all groups better, and once they are rounded the best unit can be
solved for. All of it is tried, and kept where the error falls.

A block's units multiply the whole scales and the whole offsets of its groups.

Shapes: N blocks, G groups of a block, V values of a group, L = N * G lanes.
"""

from dataclasses import dataclass

import numpy as np

from model.block_search import Floats, nearest, normal_equations, search_scales


@dataclass(frozen=True, slots=True)
class Grid:
    """What the numbers of a format can be, and which are tried."""

    q_range: tuple[np.float32, np.float32]
    scale_range: tuple[np.float32, np.float32]
    """The whole scales of a group; offsets start from zero."""
    reaches: tuple[int, ...]
    """Whole scales that the largest group of a block is given in turn."""
    change_C2: Floats
    """Changes of a group's whole scale and offset, none first."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Units of every block, whole scales and offsets of its groups, and the error they leave."""

    unit_2N: Floats
    scale_2NG: Floats
    error_N: Floats

    def q(self, grid: Grid, x_VL: Floats) -> Floats:
        """Give the whole number nearest to every value."""
        step_L, offset_L = (self.unit_2N[:, :, None] * self.scale_2NG).reshape(2, -1)
        return nearest(x_VL, step_L, offset_L, grid.q_range)

    def or_better(self, other: "Fit") -> "Fit":
        """Take of every block the fit that errs less."""
        is_other_N = other.error_N < self.error_N
        return Fit(
            np.where(is_other_N, other.unit_2N, self.unit_2N),
            np.where(is_other_N[:, None], other.scale_2NG, self.scale_2NG),
            np.where(is_other_N, other.error_N, self.error_N),
        )


def fit_scales(
    grid: Grid, x_VL: Floats, weight_VL: Floats, plain_2NG: Floats, best_2NG: Floats
) -> Fit:
    """Find units and whole scales for groups that want these steps and offsets.

    The best ones of every group are not always the best ones together; where values are almost held
    exactly, those that span a group plainly lose less in rounding.

    Precision: the units are float32 numbers that half precision holds.
    """
    found = _attempt(grid, x_VL, weight_VL, plain_2NG, grid.reaches[0])
    for reach in grid.reaches:
        found = found.or_better(_attempt(grid, x_VL, weight_VL, best_2NG, reach))
    solved_2N = _solve_units(found, x_VL, weight_VL, found.q(grid, x_VL))
    return found.or_better(_search(grid, x_VL, weight_VL, solved_2N, found.scale_2NG))


def _attempt(grid: Grid, x_VL: Floats, weight_VL: Floats, wanted_2NG: Floats, reach: int) -> Fit:
    """Give the largest step of a block the whole scale `reach`, and round the others to match."""
    step_NG, offset_NG = wanted_2NG
    largest_N1 = np.abs(step_NG).argmax(1)[:, None]
    largest_N = np.take_along_axis(step_NG, largest_N1, 1)[:, 0]
    units = largest_N / np.float32(reach), offset_NG.max(1) / grid.scale_range[1]
    unit_2N = to_half(np.stack(units))
    inverse_2N = np.divide(1, unit_2N, out=np.zeros_like(unit_2N), where=unit_2N != 0)
    start_2NG = np.rint(wanted_2NG * inverse_2N[:, :, None])
    return _search(grid, x_VL, weight_VL, unit_2N, start_2NG)


def to_half(values: Floats) -> Floats:
    """Round to what half precision holds."""
    return values.astype(np.float16).astype(np.float32)


def _search(grid: Grid, x_VL: Floats, weight_VL: Floats, unit_2N: Floats, start_2NG: Floats) -> Fit:
    unit_2L = np.repeat(unit_2N, start_2NG.shape[2], axis=1)
    start_2L = start_2NG.reshape(2, -1)
    scale_2L, error_L = search_scales(
        x_VL, weight_VL, unit_2L, start_2L, grid.change_C2, grid.q_range, grid.scale_range
    )
    scale_2NG = scale_2L.reshape(start_2NG.shape)
    return Fit(unit_2N, scale_2NG, _sum_groups(error_L.reshape(scale_2NG.shape[1:])))


def _solve_units(fit: Fit, x_VL: Floats, weight_VL: Floats, q_VL: Floats) -> Floats:
    """Solve for the units of every block; without offsets, for that of the scales alone."""
    sums_5L = normal_equations(x_VL, weight_VL, q_VL, fit.scale_2NG.reshape(2, -1))
    pp, po, oo, px, ox = _sum_groups(sums_5L.reshape(5, *fit.scale_2NG.shape[1:]))
    scale_unit_N, offset_unit_N = fit.unit_2N.copy()
    np.divide(px, pp, out=scale_unit_N, where=(pp > 0) & (oo == 0))
    determinant = pp * oo - po * po
    has_both = determinant > 0
    np.divide(px * oo - ox * po, determinant, out=scale_unit_N, where=has_both)
    np.divide(px * po - pp * ox, determinant, out=offset_unit_N, where=has_both)
    return to_half(np.stack([scale_unit_N, np.maximum(offset_unit_N, 0)]))


def _sum_groups(values_G: Floats) -> Floats:
    """Sum over the last axis in one order on every machine."""
    total: Floats = values_G[..., 0].copy()
    for group in range(1, values_G.shape[-1]):
        total += values_G[..., group]
    return total
