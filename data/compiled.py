"""Loops over bytes that are compiled to machine code.

numpy is as fast where one operation goes over all bytes; where what comes next depends on what was
found, it has to look at everything several times and a loop does not. Machine code is kept beside
the source, or in the user's cache; where neither can be written, every process compiles anew.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """Compile a function of arrays and numbers when it is first called."""
    try:
        found: Loop = numba.njit(cache=True, nogil=True)(loop)
    except RuntimeError:
        found = numba.njit(nogil=True)(loop)
    return found
