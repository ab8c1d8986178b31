"""Search the steps and offsets with which few whole numbers come closest to many values.

Values are held to `step * q - offset`, q a whole number. A lane is one group of values that share
step and offset; lanes lie side by side, so that a processor works on many at once and every sum
still has one order.

Shapes: V values of a lane, L lanes, C candidates.
Source: the grid of candidates, each with its least-squares step and offset, is that of llama.cpp's
`make_qkx2_quants` and `make_qx_quants`; the search around rounded scales and the refit are ours.
"""

import numpy as np
from numpy.typing import NDArray

from model.compiled import compiled

Floats = NDArray[np.float32]

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
Q8_HIGHEST = np.float32(127)
LEAST_DETERMINANT = np.float32(1e-5)
"""Below this share of its terms a determinant is their rounding: all q are equal."""
LEAST_GAIN = np.float32(1e-6)
"""Below this share a gain is rounding: of candidates as good as each other the first is kept."""


@compiled
def affine_through(
    w: np.float32, wx: np.float32, wq: np.float32, wqq: np.float32, wqx: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """Give the step and the low end, not above zero, of least weighted error, and their gain.

    The gain is what the error falls by from that of zeros. The arguments are sums of products.
    """
    step, low = wqx / wqq if wqq > ZERO else ZERO, ZERO
    determinant = w * wqq - wq * wq
    if determinant > LEAST_DETERMINANT * w * wqq:
        free_low = (wqq * wx - wq * wqx) / determinant
        if free_low < ZERO:
            step, low = (w * wqx - wx * wq) / determinant, free_low
    gain = TWO * (step * wqx + low * wx - step * low * wq) - step * step * wqq - low * low * w
    return step, low, gain


@compiled
def search_affine(
    x_VL: Floats, weight_VL: Floats, stretch_C: Floats, highest: np.float32
) -> Floats:
    """Find the step and the offset, neither negative, of least weighted error with q from 0.

    Shapes: (V, L), (V, L), (C,) -> (2, L).
    """
    num_values, num_lanes = x_VL.shape
    low_L, high_L = np.zeros(num_lanes, np.float32), x_VL[0].copy()
    w_L, wx_L = np.zeros(num_lanes, np.float32), np.zeros(num_lanes, np.float32)
    for v in range(num_values):
        for lane in range(num_lanes):
            low_L[lane] = min(low_L[lane], x_VL[v, lane])
            high_L[lane] = max(high_L[lane], x_VL[v, lane])
            w_L[lane] += weight_VL[v, lane]
            wx_L[lane] += weight_VL[v, lane] * x_VL[v, lane]
    step_L, gain_L = np.zeros(num_lanes, np.float32), np.full(num_lanes, -np.inf, np.float32)
    inverse_L = np.empty(num_lanes, np.float32)
    wq_L, wqq_L, wqx_L = np.empty_like(w_L), np.empty_like(w_L), np.empty_like(w_L)
    for stretch in stretch_C:
        for lane in range(num_lanes):
            span = high_L[lane] - low_L[lane]
            inverse_L[lane] = (highest + stretch) / span if span > ZERO else ZERO
        wq_L[:], wqq_L[:], wqx_L[:] = ZERO, ZERO, ZERO
        for v in range(num_values):
            for lane in range(num_lanes):
                q = min(np.rint(inverse_L[lane] * (x_VL[v, lane] - low_L[lane])), highest)
                wq = weight_VL[v, lane] * q
                wq_L[lane] += wq
                wqq_L[lane] += wq * q
                wqx_L[lane] += wq * x_VL[v, lane]
        for lane in range(num_lanes):
            step, low, gain = affine_through(
                w_L[lane], wx_L[lane], wq_L[lane], wqq_L[lane], wqx_L[lane]
            )
            if gain - gain_L[lane] > LEAST_GAIN * abs(gain) and step > ZERO:
                # The next candidates count from here, which ends lower than a fixed start.
                gain_L[lane], step_L[lane], low_L[lane] = gain, step, low
    return np.stack((step_L, -low_L))


@compiled
def search_symmetric(
    x_VL: Floats, weight_VL: Floats, stretch_C: Floats, q_range: tuple[np.float32, np.float32]
) -> Floats:
    """Find the step, of either sign, of least weighted error without an offset.

    Shapes: (V, L), (V, L), (C,) -> (2, L), the second of them zeros.
    """
    num_values, num_lanes = x_VL.shape
    lowest, highest = q_range
    peak_L = x_VL[0].copy()
    for v in range(num_values):
        for lane in range(num_lanes):
            if abs(x_VL[v, lane]) > abs(peak_L[lane]):
                peak_L[lane] = x_VL[v, lane]
    step_L, gain_L = np.zeros(num_lanes, np.float32), np.zeros(num_lanes, np.float32)
    inverse_L, wqq_L, wqx_L = np.empty_like(peak_L), np.empty_like(peak_L), np.empty_like(peak_L)
    for stretch in stretch_C:
        for lane in range(num_lanes):
            # The lowest q reaches further than the highest, so that is where the peak goes.
            inverse_L[lane] = (lowest - stretch) / peak_L[lane] if peak_L[lane] != ZERO else ZERO
        wqq_L[:], wqx_L[:] = ZERO, ZERO
        for v in range(num_values):
            for lane in range(num_lanes):
                q = max(min(np.rint(inverse_L[lane] * x_VL[v, lane]), highest), lowest)
                wq = weight_VL[v, lane] * q
                wqq_L[lane] += wq * q
                wqx_L[lane] += wq * x_VL[v, lane]
        for lane in range(num_lanes):
            step = wqx_L[lane] / wqq_L[lane] if wqq_L[lane] > ZERO else ZERO
            gain = step * wqx_L[lane]
            if gain - gain_L[lane] > LEAST_GAIN * gain:
                gain_L[lane], step_L[lane] = gain, step
    return np.stack((step_L, np.zeros_like(step_L)))


@compiled
def search_scales(
    x_VL: Floats,
    weight_VL: Floats,
    unit_2L: Floats,
    start_2L: Floats,
    change_C2: Floats,
    q_range: tuple[np.float32, np.float32],
    scale_range: tuple[np.float32, np.float32],
) -> tuple[Floats, Floats]:
    """Change the whole scale and offset of every lane by a little, to where its values err least.

    Step and offset of a lane are units times these; the first of equal candidates is kept.

    Shapes: (V, L), (V, L), (2, L), (2, L), (C, 2) -> (2, L), errors (L,).
    """
    num_values, num_lanes = x_VL.shape
    best_2L, best_error_L = start_2L.copy(), np.full(num_lanes, np.inf, np.float32)
    scale_L, whole_offset_L = np.empty(num_lanes, np.float32), np.empty(num_lanes, np.float32)
    step_L, inverse_L = np.empty(num_lanes, np.float32), np.empty(num_lanes, np.float32)
    offset_L, error_L = np.empty(num_lanes, np.float32), np.empty(num_lanes, np.float32)
    for c in range(len(change_C2)):
        for lane in range(num_lanes):
            scale = start_2L[0, lane] + change_C2[c, 0]
            scale_L[lane] = max(min(scale, scale_range[1]), scale_range[0])
            whole_offset = start_2L[1, lane] + change_C2[c, 1]
            whole_offset_L[lane] = max(min(whole_offset, scale_range[1]), ZERO)
            step_L[lane] = unit_2L[0, lane] * scale_L[lane]
            inverse_L[lane] = ONE / step_L[lane] if step_L[lane] != ZERO else ZERO
            offset_L[lane] = unit_2L[1, lane] * whole_offset_L[lane]
        error_L[:] = ZERO
        for v in range(num_values):
            for lane in range(num_lanes):
                shifted = x_VL[v, lane] + offset_L[lane]
                q = max(min(np.rint(shifted * inverse_L[lane]), q_range[1]), q_range[0])
                difference = step_L[lane] * q - shifted
                error_L[lane] += weight_VL[v, lane] * difference * difference
        for lane in range(num_lanes):
            if error_L[lane] < best_error_L[lane]:
                best_error_L[lane] = error_L[lane]
                best_2L[0, lane], best_2L[1, lane] = scale_L[lane], whole_offset_L[lane]
    return best_2L, best_error_L


@compiled
def nearest(
    x_VL: Floats, step_L: Floats, offset_L: Floats, q_range: tuple[np.float32, np.float32]
) -> Floats:
    """Choose the q nearest to every value.

    Shapes: (V, L), (L,), (L,) -> (V, L).
    """
    inverse_L = np.zeros_like(step_L)
    for lane in range(len(step_L)):
        if step_L[lane] != ZERO:
            inverse_L[lane] = ONE / step_L[lane]
    q_VL = np.empty_like(x_VL)
    for v in range(x_VL.shape[0]):
        for lane in range(len(step_L)):
            q = np.rint((x_VL[v, lane] + offset_L[lane]) * inverse_L[lane])
            q_VL[v, lane] = max(min(q, q_range[1]), q_range[0])
    return q_VL


@compiled
def normal_equations(x_VL: Floats, weight_VL: Floats, q_VL: Floats, scale_2L: Floats) -> Floats:
    """Sum what determines the best units of a lane, its whole scale and offset given.

    With p = scale * q and o = offset: sums of w*p*p, w*p*o, w*o*o, w*p*x and w*o*x.

    Shapes: (V, L), (V, L), (V, L), (2, L) -> (5, L).
    """
    num_values, num_lanes = x_VL.shape
    sums_5L = np.zeros((5, num_lanes), np.float32)
    for v in range(num_values):
        for lane in range(num_lanes):
            w, p, o = weight_VL[v, lane], scale_2L[0, lane] * q_VL[v, lane], scale_2L[1, lane]
            sums_5L[0, lane] += w * p * p
            sums_5L[1, lane] += w * p * o
            sums_5L[2, lane] += w * o * o
            sums_5L[3, lane] += w * p * x_VL[v, lane]
            sums_5L[4, lane] += w * o * x_VL[v, lane]
    return sums_5L


@compiled
def round_q8_0(x_NV: Floats) -> tuple[Floats, NDArray[np.int8]]:
    """Scale every block by its largest magnitude; halves are rounded away from zero.

    Shapes: (N, 32) -> (N,), (N, 32).
    """
    num_blocks, num_values = x_NV.shape
    scale_N, q_NV = np.empty(num_blocks, np.float32), np.empty((num_blocks, num_values), np.int8)
    for block in range(num_blocks):
        peak = ZERO
        for v in range(num_values):
            peak = max(peak, abs(x_NV[block, v]))
        scale = peak / Q8_HIGHEST
        inverse = ONE / scale if scale > ZERO else ZERO
        scale_N[block] = scale
        for v in range(num_values):
            scaled = x_NV[block, v] * inverse
            whole = np.trunc(scaled)
            # Doubling is exact where adding a half is not.
            q_NV[block, v] = np.int8(whole + np.trunc(TWO * (scaled - whole)))
    return scale_N, q_NV
