"""Hashes of sequences of numbers, in code that compiled loops call as well.

A sequence is a polynomial of its members modulo 2**64; mixing spreads what differs over all bits.

Shape letters: P powers.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled

U64: TypeAlias = NDArray[np.uint64]
BASE = 0x9E3779B97F4A7C15


@compiled
def mix(values: Any) -> Any:
    """Spread every bit of a number, or of each number of an array, over all others.

    Source: finaliser of splitmix64, Steele, Lea and Flood 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def powers(num_powers: int) -> U64:
    """Return the powers of the base from the first, which is 1, on.

    Shapes: (P,).
    """
    return np.array([pow(BASE, place, 2**64) for place in range(num_powers)], np.uint64)
