"""Hashes of many short runs of bytes at once.

A run is a polynomial of its bytes modulo 2**64, so that the products of a whole block with the
powers of the base give the hash of each run in it by one segmented sum.

Shape letters: N bytes, R runs.
"""

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

U64: TypeAlias = NDArray[np.uint64]
BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(BASE, -1, 2**64)
_BLOCK = 2**15


def polynomials(data_N: NDArray[np.uint8], starts_R: NDArray[np.int64]) -> U64:
    """Sum byte times power of its place in the run, over the bytes from each start to the next.

    Blocks are cut anywhere; the head of a block belongs to the last run of the one before.
    """
    powers, inverses = _powers()
    sums_R = np.zeros(len(starts_R), np.uint64)
    first = 0
    for begin in range(0, len(data_N), _BLOCK):
        block = data_N[begin : begin + _BLOCK]
        products = block * powers[: len(block)]
        end = int(np.searchsorted(starts_R, begin + len(block)))
        local = starts_R[first:end] - begin
        if first > 0:
            head = products[: local[0]] if len(local) else products
            shift = pow(BASE, begin - int(starts_R[first - 1]), 2**64)
            sums_R[first - 1 : first] += np.multiply(head.sum(keepdims=True), np.uint64(shift))
        if len(local):
            sums_R[first:end] = np.add.reduceat(products, local) * inverses[local]
        first = end
    return sums_R


def mix(values: U64) -> U64:
    """Spread every bit over all others.

    Source: finaliser of splitmix64, Steele, Lea and Flood 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def windows(values_R: U64, num_values: int) -> U64:
    """Combine each value with those that follow it, in order, where enough of them follow.

    Shapes: result (R - num_values + 1,).
    """
    combined, combined_size = values_R, 0
    block, block_size = values_R, 1
    # By the bits of the number: windows of one, two, four values and so on are put together.
    while num_values:
        if num_values & 1:
            combined = _joined(combined, block, combined_size, block_size)
            combined_size += block_size
        num_values >>= 1
        if num_values:
            block = _joined(block, block, block_size, block_size)
            block_size *= 2
    return mix(combined)


def _joined(left: U64, right: U64, left_size: int, right_size: int) -> U64:
    """Combine windows of one size with those of another that begin where they end."""
    if not left_size:
        return right
    right = right[left_size:]
    return left[: len(right)] * np.uint64(pow(BASE, right_size, 2**64)) + right[: len(left)]


@cache
def _powers() -> tuple[U64, U64]:
    """Return the powers of the base and of its inverse, as many as a block has bytes."""
    tables = []
    for base in (BASE, _INVERSE):
        factors = np.full(_BLOCK, base, np.uint64)
        factors[0] = 1
        tables.append(np.multiply.accumulate(factors))
    return tables[0], tables[1]
