"""What the content of a tensor must be like for a model that was trained rather than padded.

Source: the content gates F-DATA-QUALITY-001, -002, -003 and -007 of aprender's `apr validate`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ALL_ZERO, NOT_FINITE, DEGENERATE, EMPTY_ROW = (
    f"F-DATA-QUALITY-{number}" for number in ("001", "002", "003", "007")
)
UNREADABLE = "F-DATA-QUALITY: unreadable"
MAX_ZERO_SHARE = 0.8
MAX_ZERO_SHARE_OF_EMBEDDING = 0.5
MIN_NORM = 1e-6
EMBEDDINGS = ("embed", "wte", "wpe", "lm_head")
GGUF_EMBEDDINGS = ("token_embd.weight", "output.weight")
EXEMPT_FROM_CONSTANT = ("norm", "bias")
CHUNK_ELEMENTS = 1 << 22
"How many values are widened at a time."


@dataclass(frozen=True, slots=True)
class Fault:
    """A gate that a tensor fails."""

    gate: str
    tensor: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.tensor}: {self.found}, should be {self.expected}"


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one pass over a tensor tells."""

    count: int
    zeros: int
    not_finite: int
    norm: float
    low: float
    high: float
    empty_rows: int


def faults(name: str, tensor: Tensor) -> Iterator[Fault]:
    """Yield every gate that a tensor fails."""
    if not tensor.is_floating_point():
        found = str(tensor.dtype).removeprefix("torch.")
        yield Fault(UNREADABLE, name, found, "numbers that float32 can stand for")
        return
    facts = _measure(tensor)
    if facts.not_finite:
        found = f"{facts.not_finite} of {facts.count} values are NaN or infinite"
        yield Fault(NOT_FINITE, name, found, "finite")
        return
    share = facts.zeros / max(facts.count, 1)
    most = MAX_ZERO_SHARE_OF_EMBEDDING if _is_embedding(name) else MAX_ZERO_SHARE
    if share > most:
        yield Fault(ALL_ZERO, name, f"{share:.1%} of the values are zero", f"at most {most:.0%}")
    if facts.norm < MIN_NORM:
        yield Fault(DEGENERATE, name, f"L2 norm {facts.norm:.3g}", f"at least {MIN_NORM:g}")
    elif facts.low == facts.high and facts.count > 1 and not _may_be_constant(name):
        yield Fault(DEGENERATE, name, f"all values are {facts.low:.6g}", "different values")
    if facts.empty_rows and tensor.ndim == 2 and _is_embedding(name):
        found = f"{facts.empty_rows} of {len(tensor)} rows have an L2 norm below {MIN_NORM:g}"
        yield Fault(EMPTY_ROW, name, found, "none")


def _is_embedding(name: str) -> bool:
    return any(part in name for part in EMBEDDINGS) or name in GGUF_EMBEDDINGS


def _may_be_constant(name: str) -> bool:
    return any(part in name for part in EXEMPT_FROM_CONSTANT)


def _measure(tensor: Tensor) -> _Facts:
    if not tensor.numel():
        return _Facts(0, 0, 0, 0.0, 0.0, 0.0, 0)
    rows = tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor.reshape(1, -1)
    step = max(1, CHUNK_ELEMENTS // rows.shape[1])
    parts = [_measure_rows(rows[start : start + step]) for start in range(0, len(rows), step)]
    return _Facts(
        count=rows.numel(),
        zeros=sum(part.zeros for part in parts),
        not_finite=sum(part.not_finite for part in parts),
        norm=sum(part.norm**2 for part in parts) ** 0.5,
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        empty_rows=sum(part.empty_rows for part in parts),
    )


def _measure_rows(rows: Tensor) -> _Facts:
    # In float64, in which the square of no float32 is lost.
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    low, high = rows.aminmax()
    # The sum tells that all are finite; counting them takes longer.
    whole = bool(norms.isfinite().all()) and bool(low.isfinite()) and bool(high.isfinite())
    return _Facts(
        count=rows.numel(),
        zeros=rows.numel() - int(torch.count_nonzero(rows)),
        not_finite=0 if whole else int((~rows.isfinite()).sum()),
        norm=float(torch.linalg.vector_norm(norms)) if whole else 0.0,
        low=low.item(),
        high=high.item(),
        empty_rows=int((norms < MIN_NORM).sum()),
    )
