"""Loops over numbers that are compiled to machine code, without any licence to reorder arithmetic.

The same input therefore gives the same bits on every processor. Machine code is kept beside the
source, or in the user's cache; where neither can be written, every process compiles anew.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """Compile a function of arrays and numbers when it is first called."""
    try:
        found: Loop = numba.njit(cache=True, nogil=True, error_model="numpy")(loop)
    except RuntimeError:
        found = numba.njit(nogil=True, error_model="numpy")(loop)
    return found
