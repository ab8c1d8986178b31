"""Filters of what a source says about a candidate; none of them looks inside.

Shape letters: D candidates, L licences of all of them.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.filters import Objections

NO_LICENCE = "no_license"
"""The entry of the allowed licences that lets candidates pass of which none is known."""
NO_CONTENT = "no_content"
"""What a rejection is called of a file that the source could not give."""


def no_content(candidates: Any) -> Objections:
    """Object to what the source could not give."""
    absences = candidates.column("absence")
    return {
        number: absences[number].as_py() or "the source gave no content and no reason"
        for number in _where(pc.is_null(candidates.column("content")))
    }


def too_large(candidates: Any, most: int) -> Objections:
    """Object to a file of more bytes."""
    lengths = pc.binary_length(candidates.column("content"))
    return {
        number: f"{lengths[number].as_py():,} bytes, at most {most:,}"
        for number in _where(pc.greater(lengths, most))
    }


def empty(candidates: Any) -> Objections:
    """Object to a file of no bytes."""
    lengths = pc.binary_length(candidates.column("content"))
    return dict.fromkeys(_where(pc.equal(lengths, 0)), "0 bytes")


def not_allowed(candidates: Any, allowed: tuple[str, ...]) -> Objections:
    """Object to a candidate with a licence that is not allowed, or with none."""
    if not allowed:
        return {}
    licences = candidates.column("licences")
    wanted = pa.array([name.lower() for name in allowed], pa.string())
    is_allowed_L = pc.is_in(pc.utf8_lower(pc.list_flatten(licences)), value_set=wanted)
    candidate_L = pc.list_parent_indices(licences).to_numpy()
    unwanted = candidate_L[~is_allowed_L.to_numpy(zero_copy_only=False)]
    found = {}
    for number in np.unique(unwanted).tolist():
        found[number] = f"{', '.join(licences[number].as_py())}: not all allowed"
    if NO_LICENCE not in wanted.to_pylist():
        unknown = _where(pc.equal(pc.list_value_length(licences), 0))
        found |= dict.fromkeys(unknown, "no licence known")
    return found


def flagged(candidates: Any, column: str) -> Objections:
    """Object to what the source itself marks."""
    return dict.fromkeys(_where(candidates.column(column)), f"{column} in the source")


def _where(condition: Any) -> list[int]:
    """Return the numbers of the candidates for which a condition holds; null does not."""
    holds = pc.equal(condition, True)  # noqa: FBT003
    return np.flatnonzero(holds.fill_null(False).to_numpy(zero_copy_only=False)).tolist()  # noqa: FBT003
